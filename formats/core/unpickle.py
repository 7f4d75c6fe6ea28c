"""An evaluator of pickles that can run nothing: every opcode of protocols 0 to 5, and no import, no call, no attribute set.

A name that the pickle refers to becomes a `Global`; a call becomes a `Record` of what would have been called with what. The only
functions ever applied are the reader's own, from a table by dotted name (`constructors`, see `rebuild.py`), and they only describe.
Opcode meanings are those of CPython's ``pickletools``.

Speed matters, since 100,000 tensors are real: one loop over the bytes with the frequent opcodes first, and the run of some thirty
opcodes that torch writes for a tensor is met many at a time (`tensor_runs.py`).
"""

from __future__ import annotations

from itertools import repeat
from struct import unpack_from

from formats.core.checkpoint import Global
from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded
from formats.core.inert import LAZY, LIMITS, TENSOR, WATCHERS, Limits, PersistentLoad, Place, Rebuilder, SharedPart
from formats.core.rare_opcodes import RareOpcodes, Truncated, python2_text
from formats.core.tensor_runs import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Unpickled:
    """The result: ``value``, the byte offset ``end`` just past STOP, and the names that were referred to."""

    __slots__ = ("called", "end", "names", "value")

    def __init__(self, value: Any, end: int, names: dict[str, Global], called: dict[str, int]) -> None:
        self.value = value
        self.end = end
        self.names = names
        self.called = called

    def globals(self) -> dict[str, int]:
        """Every name with the number of times that it would have been called."""
        return {name: self.called.get(name, 0) for name in self.names}


def unpickle(
    data: bytes,
    *,
    at: int = 0,
    rebuilder: Callable[[], Rebuilder] | None = None,
    persistent_load: PersistentLoad | None = None,
    limits: Limits = LIMITS,
    where: Place | None = None,
) -> Unpickled:
    """Evaluate the pickle that begins at byte ``at`` of ``data``; ``where`` it lies is for `WATCHERS`.

    Raises `Truncated` where the bytes end before STOP, `CorruptCheckpoint` for anything that no pickler writes, `LimitExceeded` past
    one of ``limits``; each names the byte offset.
    """
    if len(data) - at > limits.pickle_bytes:
        raise LimitExceeded(f"pickle of {len(data) - at} bytes, at most {limits.pickle_bytes} are evaluated")
    evaluator = _Evaluator(data, rebuilder, persistent_load, limits)
    try:
        return evaluator.run(at, fast=True)
    except SharedPart:
        # Some part of a tensor's description is used a second time, which torch never writes: evaluate every opcode by itself.
        evaluator = _Evaluator(data, rebuilder, persistent_load, limits)
        return evaluator.run(at, fast=False)
    finally:
        if where is not None:
            for watcher in WATCHERS:
                watcher(where, evaluator)


class _Evaluator(RareOpcodes):
    def run(self, at: int, *, fast: bool) -> Unpickled:
        self.pos = at
        try:
            value = self._loop(at, fast)
            if self.rebuilder is not None:
                self.rebuilder.finish()
        except IndexError:
            if self._cut_short():
                raise Truncated(f"pickle ends at byte {len(self.data)} without STOP") from None
            raise CorruptCheckpoint(f"pickle takes more from its stack than is there, before byte {self.pos}") from None
        except CheckpointError as error:
            if not isinstance(error, Truncated) and self._cut_short():
                raise Truncated(f"pickle ends at byte {len(self.data)} inside an opcode") from error
            if not isinstance(error, Truncated) and "byte" not in error.what:
                error.what = f"{error.what} (pickle, before byte {self.pos})"
            raise
        except (ValueError, TypeError, OverflowError, AttributeError, KeyError, UnicodeError) as error:
            raise CorruptCheckpoint(
                f"pickle is malformed before byte {self.pos}: {type(error).__name__}: {error!s:.120}"
            ) from error
        self.ended = True
        return Unpickled(value, self.pos, self.names, self.called)

    def _loop(self, pos: int, fast: bool) -> Any:
        data, size = self.data, len(self.data)
        limit = self.limits.objects
        stack: list[Any] = []
        push, pop = stack.append, stack.pop
        marks: list[int] = []
        memo: list[Any] = []
        far: dict[int, Any] = {}
        objects = 0
        met = 0  # tensors met by the step
        step = self._step(memo) if fast else None
        from_bytes = int.from_bytes

        for _ in repeat(None, size - pos + 1):
            op = data[pos]
            pos += 1
            if op == 0x71 or op == 0x72 or op == 0x94 or op == 0x70:  # BINPUT LONG_BINPUT MEMOIZE PUT
                count = len(memo)
                if op == 0x71:
                    slot = data[pos]
                    pos += 1
                elif op == 0x72:
                    slot = from_bytes(data[pos : pos + 4], "little")
                    pos += 4
                elif op == 0x94:
                    slot = count + len(far)
                else:
                    line, pos = self._line(pos)
                    slot = int(line)
                    if slot < 0:
                        raise CorruptCheckpoint(f"memo slot {slot} at byte {pos} is negative")
                if slot == count and not far:
                    memo.append(stack[-1])
                elif slot < count:
                    memo[slot] = stack[-1]
                    if step is not None:
                        step.forget()
                else:  # slots need not follow each other, though every pickler numbers them so
                    far[slot] = stack[-1]
                    objects += 1
            elif op == 0x68 or op == 0x6A or op == 0x67:  # BINGET LONG_BINGET GET
                at = pos - 1
                if op == 0x68:
                    slot = data[pos]
                    pos += 1
                elif op == 0x6A:
                    slot = from_bytes(data[pos : pos + 4], "little")
                    pos += 4
                else:
                    line, pos = self._line(pos)
                    slot = int(line)
                value = memo[slot] if 0 <= slot < len(memo) else far.get(slot, _UNSET)
                if value is _UNSET:
                    self.pos = pos
                    raise CorruptCheckpoint(f"memo slot {slot} is used at byte {pos} before it is set")
                if value is LAZY:
                    raise SharedPart
                if step is not None and not far and value.__class__ is Global and value.text == TENSOR:
                    self.pos = pos
                    made = step.run(data[at:pos], pos, stack, (limit - objects) // 5 + 1)
                    if made:
                        met += made
                        objects += 5 * made
                        if objects > limit:
                            self._too_many(pos)
                        self.pos = pos = step.end
                        continue
                push(value)
            elif op == 0x4B:  # BININT1
                push(data[pos])
                pos += 1
            elif op == 0x58 or op == 0x8C or op == 0x8D:  # BINUNICODE SHORT_BINUNICODE BINUNICODE8
                width = 4 if op == 0x58 else 1 if op == 0x8C else 8
                length = from_bytes(data[pos : pos + width], "little")
                pos += width
                if length > size - pos:
                    self._short(pos, length)
                push(str(data[pos : pos + length], "utf-8", "surrogatepass"))
                pos += length
                objects += 1
            elif op == 0x28:  # MARK
                marks.append(len(stack))
                objects += 1
            elif op == 0x74:  # TUPLE
                start = marks.pop()
                stack[start:] = [tuple(stack[start:])]
                objects += 1
            elif op == 0x86:  # TUPLE2
                last = pop()
                stack[-1] = (stack[-1], last)
                objects += 1
            elif op == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
                objects += 1
            elif op == 0x87:  # TUPLE3
                last, middle = pop(), pop()
                stack[-1] = (stack[-1], middle, last)
                objects += 1
            elif op == 0x29:  # EMPTY_TUPLE
                push(())
            elif op == 0x52:  # REDUCE
                self.pos = pos
                args = pop()
                stack[-1] = self._call(stack[-1], args)
                objects += 1
            elif op == 0x51:  # BINPERSID
                self.pos = pos
                stack[-1] = self._persistent(stack[-1])
            elif op == 0x88 or op == 0x89:  # NEWTRUE NEWFALSE
                push(op == 0x88)
            elif op == 0x4E:  # NONE
                push(None)
            elif op == 0x4D:  # BININT2
                push(data[pos] | data[pos + 1] << 8)
                pos += 2
            elif op == 0x4A:  # BININT
                push(unpack_from("<i", data, self._need(pos, 4))[0])
                pos += 4
                objects += 1
            elif op == 0x47:  # BINFLOAT
                push(unpack_from(">d", data, self._need(pos, 8))[0])
                pos += 8
                objects += 1
            elif op == 0x7D:  # EMPTY_DICT
                push({})
                objects += 1
            elif op == 0x5D:  # EMPTY_LIST
                push([])
                objects += 1
            elif op == 0x75 or op == 0x64:  # SETITEMS DICT
                self.pos = pos
                start = marks.pop()
                if (len(stack) - start) % 2:
                    raise CorruptCheckpoint(f"a key without a value at byte {pos}")
                pairs = stack[start:]
                del stack[start:]
                if op == 0x64:
                    push({})
                    objects += 1
                self._set(stack[-1], pairs)
            elif op == 0x73:  # SETITEM
                self.pos = pos
                last = pop()
                self._set(stack[-2], [pop(), last])
            elif op == 0x65 or op == 0x6C:  # APPENDS LIST
                self.pos = pos
                start = marks.pop()
                values = stack[start:]
                del stack[start:]
                if op == 0x6C:
                    push(values)
                    objects += 1
                else:
                    self._append(stack[-1], values)
            elif op == 0x61:  # APPEND
                self.pos = pos
                last = pop()
                self._append(stack[-1], [last])
            elif op == 0x63 or op == 0x93:  # GLOBAL STACK_GLOBAL
                self.pos = pos
                if op == 0x63:
                    line, pos = self._line(pos)
                    module = line.decode("utf-8")
                    line, pos = self._line(pos)
                    name = line.decode("utf-8")
                else:
                    name, module = pop(), pop()
                push(self._global(module, name))
            elif op == 0x62:  # BUILD
                self.pos = pos
                last = pop()
                self._build(stack[-1], last)
            elif op == 0x81:  # NEWOBJ
                self.pos = pos
                args = pop()
                stack[-1] = self._new(stack[-1], args)
                objects += 1
            elif op == 0x92:  # NEWOBJ_EX
                self.pos = pos
                kwargs, args = pop(), pop()
                if not isinstance(kwargs, dict):
                    raise CorruptCheckpoint(f"NEWOBJ_EX with {type(kwargs).__name__} for keywords at byte {pos}")
                stack[-1] = self._new(stack[-1], args, kwargs)
                objects += 1
            elif op == 0x8A or op == 0x8B:  # LONG1 LONG4
                width = 1 if op == 0x8A else 4
                length = from_bytes(data[pos : pos + width], "little", signed=width == 4)
                pos += width
                if length < 0:
                    raise CorruptCheckpoint(f"integer of {length} bytes at byte {pos}")
                if length > size - pos:
                    self._short(pos, length)
                if length > self.limits.integer_bytes:
                    raise LimitExceeded(f"integer of {length} bytes at byte {pos}, at most {self.limits.integer_bytes} are read")
                push(from_bytes(data[pos : pos + length], "little", signed=True))
                pos += length
                objects += 1
            elif op in _BYTES:  # SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
                width, text = _BYTES[op]
                length = from_bytes(data[pos : pos + width], "little", signed=op == 0x54)
                pos += width
                if length < 0:
                    raise CorruptCheckpoint(f"string of {length} bytes at byte {pos}")
                if length > size - pos:
                    self._short(pos, length)
                raw = data[pos : pos + length]
                push(python2_text(raw) if text else raw)
                pos += length
                objects += 1
            elif op == 0x80:  # PROTO
                if data[pos] > 5:
                    raise CorruptCheckpoint(f"pickle protocol {data[pos]} at byte {pos}, protocols 0 to 5 exist")
                pos += 1
            elif op == 0x95:  # FRAME
                length = from_bytes(data[pos : pos + 8], "little")
                pos += 8
                if length > size - pos:
                    self._short(pos, length)
            elif op == 0x2E:  # STOP
                self.pos = pos
                value = pop()
                if value is LAZY:
                    raise SharedPart
                if met:
                    for called in (TENSOR, "collections.OrderedDict"):  # each run calls both once
                        self.called[called] = self.called.get(called, 0) + met
                return value
            else:
                self.pos = pos
                pos = self._rare(op, pos, stack, marks)
                objects += 1
            if objects > limit:
                self._too_many(pos)
            if marks and marks[-1] > len(stack):
                raise CorruptCheckpoint(f"pickle takes more from its stack than is there, before byte {pos}")
            self.pos = pos
        raise Truncated(f"pickle ends at byte {size} without STOP")

    def _step(self, memo: list[Any]) -> Any:
        rebuild = self.constructors.get(TENSOR)
        if rebuild is None or self.persistent_load is None:
            return None
        return Step(self.data, memo, self.persistent_load, rebuild)

    def _cut_short(self) -> bool:
        """Whether the bytes end inside the opcode that was being evaluated: its argument was then read as less than it is."""
        at = self.pos
        return at >= len(self.data) or at + 1 + _ARGUMENTS.get(self.data[at], 0) > len(self.data)


class _Unset:
    __slots__ = ()


_UNSET = _Unset()
# opcode: bytes of its argument, or of the length of its argument
_ARGUMENTS = {
    **dict.fromkeys(b"Khq\x80\x82UC\x8c\x8a", 1), **dict.fromkeys(b"M\x83", 2), **dict.fromkeys(b"Jjr\x84TXB\x8b", 4),
    **dict.fromkeys(b"G\x8d\x8e\x96\x95", 8),
}  # fmt: skip
# opcode: (width of the length, whether it is Python 2 text)
_BYTES = {0x55: (1, True), 0x54: (4, True), 0x43: (1, False), 0x42: (4, False), 0x8E: (8, False), 0x96: (8, False)}

__all__ = ["Truncated", "Unpickled", "unpickle"]
