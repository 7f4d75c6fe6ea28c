"""The run of opcodes that torch writes for one tensor, met many at a time.

`torch.save` describes each tensor of a state dict by the same thirty-odd opcodes (protocol 2, ``_rebuild_tensor_v2``); only numbers
differ. One regular expression recognises such runs from the second tensor on, and what can be checked of all of them at once is: that
every memo slot is the next one, that names are as long as they say. Every opcode has a fixed length given by its first byte, so there
is one way to match, and anything unusual simply does not match and is evaluated opcode by opcode.

Intermediate values (argument tuples, the empty hooks) get the memo slots that the pickle gives them, filled with `LAZY`: nobody
refers to them again, and if a pickle does, the evaluation starts anew without this step (`SharedPart`).
"""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from struct import pack

from formats.core.inert import LAZY, SharedPart
from formats.core.pattern import pattern
from formats.core.tensor import TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LENGTH = 128  # bytes of a run, about: where to end a search
MOST = 128  # runs taken at once: what is held of them fits in the processor's cache

Run = tuple[bytes, ...]  # what the groups of `_RUN` match
Kind = tuple[bytes, bytes, bytes]  # opcodes that get the storage class, the location and the hooks' type
Form = tuple[Kind, bytes, bytes, bytes, bytes, bytes]  # … and those of numel, offset, size, stride, requires_grad
_EVEN = 8  # memo slots of a tensor with a name and a key of its own, unless a tuple in it is empty


_GET = rb"(?:h.|j.{4})"
_PUT = rb"(?:q.|r.{4})"
_INT = rb"(?:K.|M..|J.{4})"
_TUPLE = rb"(\)|%b\x85|%b{2}\x86|%b{3}\x87|\(%b{4,64}t)(%b)?" % (_INT, _INT, _INT, _INT, _PUT)
_RUN = pattern(
    # A text and the function's name, as between the tensors of a state dict. The text's length, is compared later.
    rb"(?s)((?:X(..\0\0)([ -~]*)(%b)(%b))?" % (_PUT, _GET)
    + rb"\(\((%b%b)" % (_GET, _GET)  # 'storage', storage class
    + rb"(?:X(.)\0\0\0([0-9]{1,20})(%b)|(%b))" % (_PUT, _GET)  # key, written out or used again
    + rb"(%b)(%b)t(%b)Q" % (_GET, _INT, _PUT)  # location, numel
    + rb"(%b)" % _INT  # offset
    + _TUPLE
    + _TUPLE
    + rb"([\x88\x89])(%b)\)R(%b)t(%b)R(%b))" % (_GET, _PUT, _PUT, _PUT)  # requires_grad, OrderedDict(), …
)
_BORDER = b"u(X"  # SETITEMS, MARK, text: between the items that a pickler sets at once and the next ones
_whole = itemgetter(0)


def _number(raw: bytes) -> int:
    """The value of ``h. j.... q. r.... K. M..`` (unsigned) or ``J....`` (signed)."""
    return int.from_bytes(raw[1:], "little", signed=raw[0] == 0x4A)


def _puts(first: int, count: int) -> bytes:
    """The opcodes that every pickler sets ``count`` memo slots by, from ``first`` on."""
    stop = first + count
    short = b"".join([bytes((0x71, slot)) for slot in range(first, min(stop, 256))])
    first = max(first, 256)
    if first >= stop:
        return short
    long = bytearray(b"r\0\0\0\0" * (stop - first))
    slots = pack(f"<{stop - first}I", *range(first, stop))
    for byte in range(4):
        long[1 + byte :: 5] = slots[byte::4]
    return short + long


class _Numbers(dict[bytes, int]):
    """{opcode with its argument: the number}"""

    def __missing__(self, raw: bytes) -> int:
        found = self[raw] = _number(raw)
        return found


class _Shapes(dict[bytes, tuple[int, ...]]):
    """{opcodes of a tuple of numbers: the tuple}, the same object each time: few shapes come again and again."""

    def __missing__(self, raw: bytes) -> tuple[int, ...]:
        found, at = [], 1 if raw[:1] == b"(" else 0
        while at < len(raw) - 1:
            width = 1 if raw[at] == 0x4B else 2 if raw[at] == 0x4D else 4
            found.append(int.from_bytes(raw[at + 1 : at + 1 + width], "little", signed=width == 4))
            at += 1 + width
        numbers = self[raw] = tuple(found)
        return numbers


class Step:
    """Matches runs in ``data`` and keeps ``memo`` as the evaluator would have; ``end`` is where the last run ended."""

    def __init__(
        self, data: bytes, memo: list[Any], persistent_load: Callable[[Any], Any], rebuild: Callable[[tuple[Any, ...]], Any]
    ) -> None:
        self.data = data
        self.memo = memo
        self.persistent_load = persistent_load
        # The same for many at a time, where the storages can be had so (`torch_storages.Storages.several`).
        self.several_storages = getattr(getattr(persistent_load, "__self__", None), "several", None)
        self.rebuild = rebuild
        self.shapes = _Shapes()
        self.numbers = _Numbers()
        self.shared: dict[Kind, tuple[Any, Any]] = {}  # storage class and location
        self.alike: dict[Form, TensorView] = {}  # a tensor of each form
        self.several = MOST  # runs to be tried at once: where that does not hold of many it is tried with fewer
        self.end = 0

    def run(self, get: bytes, pos: int, stack: list[Any], most: int) -> int:
        """Push the tensor described from byte ``pos``, behind the opcode ``get`` of the function's name, and how many were there.

        Where a text and ``get`` follow, as between the tensors of a state dict, the text and the next tensor are pushed too, and so on.
        """
        data = self.data
        first = _RUN.match(data, pos)
        if first is None or first[2] is not None or not self._take([first.groups(b"")], get, stack, named=False):
            return 0
        made = 1
        self.end = first.end()
        while made < most:
            found = self._search(min(self.several, most - made))
            runs = self._together(found)
            if len(runs) < len(found):  # what is searched in vain stays in proportion to what is found
                self.several = max(2 * len(runs), 1)
            if not runs:
                break
            if not self._take(runs, get, stack, named=True):
                if len(runs) == 1:
                    break
                self.several = 1  # one by one, up to the unusual one
                continue
            made += len(runs)
            self.end += sum(map(len, map(_whole, runs)))
            if len(runs) < len(found):
                break
            self.several = min(2 * self.several, MOST)
        return made

    def _search(self, most: int) -> list[Run]:
        """Runs from `end` on, where one begins there; others may lie apart, for a search goes over what does not match."""
        data, start = self.data, self.end
        if most > 1:
            stop = start + most * LENGTH
            border = data.find(_BORDER, start, stop)
            found: list[Run] = _RUN.findall(data, start, stop if border < 0 else border)
            if found:
                return found[:most]
        one = _RUN.match(data, start)
        return [] if one is None else [one.groups(b"")]

    def _together(self, runs: list[Run]) -> list[Run]:
        """Those of ``runs`` that follow each other from `end` on."""
        data, at = self.data, self.end
        if data.startswith(b"".join(map(_whole, runs)), at):
            return runs
        for count, (whole, *_) in enumerate(runs):
            if not data.startswith(whole, at):
                return runs[:count]
            at += len(whole)
        return runs

    def _take(self, runs: list[Run], get: bytes, stack: list[Any], *, named: bool) -> bool:
        """Push what ``runs`` describe, all of it; False, and nothing done, where any of them is unusual.

        ``named``: each begins with a text and the opcode ``get``; else there is one, which does not.
        """
        (_, lengths, texts, text_puts, gets, openings, widths, keys, key_puts, key_gets, locations, numels, pid_puts, offsets, sizes,
         sizes_puts, strides, strides_puts, grads, hooks, hooks_puts, args_puts, puts) = zip(*runs, strict=True)  # fmt: skip
        memo, base = self.memo, len(self.memo)
        if named and (set(gets) != {get} or b"".join(lengths) != pack(f"<{len(runs)}I", *map(len, texts))):
            return False
        written = list(filter(None, keys))
        if b"".join(widths) != bytes(map(len, written)):
            return False
        # Slots must follow each other from the first free one, as every pickler numbers them.
        even = named and len(written) == len(runs) and all(sizes_puts) and all(strides_puts)
        slots = [_EVEN] * len(runs) if even else [
            named + 4 + (key != b"") + (size != b"") + (stride != b"")
            for key, size, stride in zip(keys, sizes_puts, strides_puts, strict=True)
        ]  # fmt: skip
        count = sum(slots)
        in_order = zip(text_puts, key_puts, pid_puts, sizes_puts, strides_puts, hooks_puts, args_puts, puts, strict=True)
        if b"".join(chain.from_iterable(in_order)) != _puts(base, count):
            return False
        # What all tensors of a kind share: storage class, location and the name of the hooks' type.
        kinds = list(zip(openings, locations, hooks, strict=True))
        for kind in set(kinds):
            if kind not in self.shared and not self._share(kind):
                return False
        names = str(b"\n".join(texts), "ascii").split("\n")
        fresh = str(b"\n".join(written), "ascii").split("\n")
        forms = list(zip(kinds, numels, offsets, sizes, strides, grads, strict=True))
        block: list[Any] = [LAZY] * count
        tensors = self._together_made(forms, fresh) if even else None
        if tensors is not None:
            block[::_EVEN] = names
            block[1::_EVEN] = fresh
            block[_EVEN - 1 :: _EVEN] = tensors
        else:
            tensors, at, written_keys = [], 0, iter(fresh)
            for name, key_get, form, width in zip(names, key_gets, forms, slots, strict=True):
                if named:
                    block[at] = name
                if key_get:
                    slot = self.numbers[key_get]
                    if slot >= base + at + named:
                        return False
                    key = memo[slot] if slot < base else block[slot - base]
                    if key is LAZY:
                        raise SharedPart
                else:
                    key = block[at + named] = next(written_keys)
                at += width
                block[at - 1] = tensor = self._made(form, key)
                tensors.append(tensor)
        memo += block
        stack += chain.from_iterable(zip(names, tensors, strict=True)) if named else tensors
        return True

    def _together_made(self, forms: list[Form], keys: list[str]) -> list[Any] | None:
        """A tensor of each of ``forms`` on a storage of its own; None where they have to be made one by one."""
        if self.several_storages is None:
            return None
        found = self.several_storages([form[0] for form in forms], self.shared, keys, [self.numbers[form[1]] for form in forms])
        if found is None:
            return None
        alike = self.alike
        if not alike.keys() >= set(forms):
            for form, key in zip(forms, keys, strict=True):
                if form not in alike:
                    self._made(form, key)
            if not alike.keys() >= set(forms):
                return None
        return [alike[form].on(storage) for form, storage in zip(forms, found, strict=True)]

    def _made(self, form: Form, key: Any) -> Any:
        """The tensor of ``form`` on the storage that is called ``key``."""
        kind, numel, offset, size, stride, grad = form
        cls, place = self.shared[kind]
        typed = self.persistent_load(("storage", cls, key, place, self.numbers[numel]))
        like = self.alike.get(form)
        if like is not None and like.storage.nbytes == typed.storage.nbytes:
            return like.on(typed.storage)
        shapes = self.shapes
        tensor = self.rebuild((typed, self.numbers[offset], shapes[size], shapes[stride], grad == b"\x88", None))
        if type(tensor) is TensorView and tensor.storage is typed.storage:
            self.alike[form] = tensor
        return tensor

    def forget(self) -> None:
        """A memo slot is set again: what was seen in any of them may not be there any more."""
        self.shared.clear()
        self.alike.clear()

    def _share(self, kind: Kind) -> bool:
        """Look at what the opcodes of ``kind`` ask of the memo; False where it is something else than torch puts there."""
        opening, location, hooks = kind
        memo, cut = self.memo, 2 if opening[:1] == b"h" else 5
        slots = [_number(raw) for raw in (opening[:cut], opening[cut:], location, hooks)]
        if max(slots) >= len(memo):
            return False
        word, cls, place, of_hooks = (memo[slot] for slot in slots)
        if LAZY in (word, cls, place):
            raise SharedPart
        if word != "storage" or getattr(of_hooks, "text", "") != "collections.OrderedDict":
            return False
        self.shared[kind] = (cls, place)
        return True
