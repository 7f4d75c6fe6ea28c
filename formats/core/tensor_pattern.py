"""The run of opcodes that torch writes for one tensor, met in one step.

`torch.save` describes each tensor of a state dict by the same thirty-odd opcodes (protocol 2, ``_rebuild_tensor_v2``); only numbers
differ. One regular expression recognises the run from the second tensor on. Every opcode has a fixed length given by its first
byte, so there is one way to match, and anything unusual simply does not match and is evaluated opcode by opcode.

Intermediate values (argument tuples, the empty hooks) get the memo slots that the pickle gives them, filled with `LAZY`: nobody
refers to them again, and if a pickle does, the evaluation starts anew without this step (`SharedPart`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from formats.core.pattern import pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "torch._utils._rebuild_tensor_v2"


class SharedPart(Exception):
    """A memo slot that this module left unfilled is asked for."""


class _Lazy:
    __slots__ = ()


LAZY = _Lazy()

_GET = rb"(?:h.|j.{4})"
_PUT = rb"(?:q.|r.{4})"
_INT = rb"(?:K.|M..|J.{4})"
_TUPLE = rb"(\)|%b\x85|%b{2}\x86|%b{3}\x87|\(%b{4,64}t)(%b)?" % (_INT, _INT, _INT, _INT, _PUT)
_RUN = pattern(
    rb"\(\((%b%b)" % (_GET, _GET)  # 'storage', storage class
    + rb"(?:X.\0\0\0([0-9]{1,20})(%b)|(%b))" % (_PUT, _GET)  # key, written out or used again
    + rb"(%b)(%b)t(%b)Q" % (_GET, _INT, _PUT)  # location, numel
    + rb"(%b)" % _INT  # offset
    + _TUPLE
    + _TUPLE
    + rb"([\x88\x89])(%b)\)R(%b)t(%b)R(%b)" % (_GET, _PUT, _PUT, _PUT),  # requires_grad, OrderedDict(), …
    re.DOTALL,
)


def _number(raw: bytes) -> int:
    """The value of ``h. j.... q. r.... K. M..`` (unsigned) or ``J....`` (signed)."""
    return int.from_bytes(raw[1:], "little", signed=raw[0] == 0x4A)


def _put(slot: int) -> bytes:
    """The opcode that every pickler sets memo slot ``slot`` by."""
    return bytes((0x71, slot)) if slot < 256 else b"r" + slot.to_bytes(4, "little")


def _puts(first: int) -> bytes:
    """LONG_BINPUT of the 4096 slots from ``first``, a multiple of 256."""
    puts = bytearray(b"r\0\0\0\0" * 4096)
    puts[1::5] = bytes(range(256)) * 16
    for byte in (1, 2, 3):
        puts[1 + byte :: 5] = b"".join([bytes((block >> 8 * byte & 255,)) * 256 for block in range(first, first + 4096, 256)])
    return bytes(puts)


def _numbers(raw: bytes) -> tuple[int, ...]:
    found, at = [], 0
    while at < len(raw):
        width = 1 if raw[at] == 0x4B else 2 if raw[at] == 0x4D else 4
        found.append(int.from_bytes(raw[at + 1 : at + 1 + width], "little", signed=width == 4))
        at += 1 + width
    return tuple(found)


class Step:
    """Matches runs in ``data`` and keeps ``memo`` as the evaluator would have; ``end`` is where the last run ended."""

    def __init__(
        self, data: bytes, memo: list[Any], persistent_load: Callable[[Any], Any], rebuild: Callable[[tuple[Any, ...]], Any]
    ) -> None:
        self.match_at = _RUN.match
        self.data = data
        self.memo = memo
        self.persistent_load = persistent_load
        self.rebuild = rebuild
        self.shapes: dict[bytes, tuple[int, ...]] = {}
        self.numbers: dict[bytes, int] = {}
        self.shared: dict[tuple[bytes, bytes, bytes], tuple[Any, Any]] = {}  # emptied when a memo slot is set again
        self.puts = b""  # the opcodes that set the slots from `puts_from` on
        self.puts_from = 0
        self.end = 0

    def run(self, get: bytes, pos: int, push: Callable[[Any], None], most: int) -> int:
        """Push the tensor described from byte ``pos``, behind the opcode ``get`` of the function's name, and how many were there.

        Where a text and ``get`` follow, as between the tensors of a state dict, the text and the next tensor are pushed too, and so on.
        """
        data, memo, match_at, from_bytes = self.data, self.memo, self.match_at, int.from_bytes
        made = 0
        name: str | None = None
        while made < most:
            found = match_at(data, pos)
            tensor = None if found is None else self._tensor(found, pos, name)
            if found is None or tensor is None:
                break
            made += 1
            if name is not None:
                push(name)
            push(tensor)
            self.end = end = found.end()
            name_at = end + 5
            stop = name_at + from_bytes(data[end + 1 : name_at], "little")
            following = _put(len(memo)) + get
            if data[end : end + 1] != b"X" or not data.startswith(following, stop):
                break
            name = str(data[name_at:stop], "utf-8", "surrogatepass")
            pos = stop + len(following)
        return made

    def _tensor(self, found: re.Match[bytes], pos: int, name: str | None) -> Any:
        """The tensor of a run, behind a text that takes a slot, if there is one; None, and nothing done, where the run is unusual."""
        (opening, key, key_put, key_get, location, numel, pid_put, offset, sizes, sizes_put, strides, strides_put, grad, hooks,
         hooks_put, args_put, put) = found.groups()  # fmt: skip
        # What all tensors of a kind share: storage class, location and the name of the hooks' type.
        shared = self.shared.get((opening, location, hooks)) or self._shared(opening, location, hooks)
        if shared is None:
            return None
        memo = self.memo
        count = len(memo) + (name is not None)
        if key is not None:
            if self.data[pos + 3 + len(opening)] != len(key):
                return None
            key = str(key, "ascii")
            values = [key, LAZY]
        else:
            slot = _number(key_get)
            if slot >= count:
                return None
            key = name if slot == len(memo) else memo[slot]
            if key is LAZY:
                raise SharedPart
            key_put = b""
            values = [LAZY]
        if sizes_put is not None:
            values.append(LAZY)
        if strides_put is not None:
            values.append(LAZY)
        # Slots must follow each other from the first free one, as every pickler numbers them.
        slots = len(values) + 3
        raw = b"".join((key_put, pid_put, sizes_put or b"", strides_put or b"", hooks_put, args_put, put))
        at = 5 * (count - self.puts_from)
        if at < 0 or at + 5 * slots > len(self.puts):
            self.puts_from = count & -256
            self.puts = _puts(self.puts_from)
            at = 5 * (count - self.puts_from)
        if raw != self.puts[at : at + 5 * slots] and raw != b"".join([_put(slot) for slot in range(count, count + slots)]):
            return None
        elements = self.numbers.get(numel)
        if elements is None:
            elements = self.numbers[numel] = _number(numel)
        storage = self.persistent_load(("storage", shared[0], key, shared[1], elements))
        shape = self.shapes.get(sizes) or self._tuple(sizes)
        stride = self.shapes.get(strides) or self._tuple(strides)
        tensor = self.rebuild((storage, 0 if offset == b"K\0" else _number(offset), shape, stride, grad == b"\x88", None))
        values += (LAZY, LAZY, tensor)
        if name is not None:
            memo.append(name)
        memo += values
        return tensor

    def _shared(self, opening: bytes, location: bytes, hooks: bytes) -> tuple[Any, Any] | None:
        memo, cut = self.memo, 2 if opening[:1] == b"h" else 5
        slots = [_number(raw) for raw in (opening[:cut], opening[cut:], location, hooks)]
        if max(slots) >= len(memo):
            return None
        word, cls, place, of_hooks = (memo[slot] for slot in slots)
        if LAZY in (word, cls, place):
            raise SharedPart
        if word != "storage" or getattr(of_hooks, "text", "") != "collections.OrderedDict":
            return None
        found = self.shared[opening, location, hooks] = (cls, place)
        return found

    def _tuple(self, raw: bytes) -> tuple[int, ...]:
        """The numbers of a tuple's opcodes. The same few shapes come again and again."""
        numbers = self.shapes.get(raw)
        if numbers is None:
            numbers = self.shapes[raw] = () if raw == b")" else _numbers(raw[1:-1] if raw[:1] == b"(" else raw[:-1])
        return numbers
