"""The run of opcodes that torch writes for one tensor, told by its parts.

`torch.save` describes each tensor of a state dict by the same thirty-odd opcodes (protocol 2, ``_rebuild_tensor_v2``)::

    X name PUT  GET ( ( GET GET X key PUT  GET numel (N) t PUT  Q offset sizes PUT  strides PUT  grad GET ) R PUT  t PUT R PUT

A pickler numbers memo slots one after the other, so it is known what each PUT has to be. Cut at the next ones, a run is a name, a key, and
parts that come again and again in others: those are looked at once for each combination (`_describe`). Every part has to be the opcodes
that it stands for from its first byte to its last, and anything else is evaluated opcode by opcode.

Intermediate values (argument tuples, the empty hooks) get the memo slots that the pickle gives them, filled with `LAZY`: nobody
refers to them again, and if a pickle does, the evaluation starts anew without this step (`SharedPart`).
"""

from __future__ import annotations

from itertools import chain
from struct import pack

from formats.core.inert import LAZY, SharedPart
from formats.core.tensor import TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST = 128  # runs taken at once: what is held of them fits in the processor's cache
FIRST = 4  # … at first: what is no state dict has one at a time
SLOTS = 8  # that a run takes at most
LONGEST = 4 << 10  # bytes of a part with a name
SHORT = 400  # bytes of any other
_FEW = 256  # memo slots that PUT and GET name by one byte

Form = tuple[bytes, ...]  # what is looked at once: the parts of a run without name, key and memo slots
_WIDTHS = {0x4B: 1, 0x4D: 2, 0x4A: 4}  # BININT1 BININT2 BININT: bytes of the number
_TUPLE_REDUCE = (0x74, 0x52)
_LAZY = [LAZY] * SLOTS


class _Texts(dict[int, bytes]):
    """{bytes of a text: the opcode that pushes it, as far as the text}"""

    def __missing__(self, length: int) -> bytes:
        found = self[length] = b"X" + length.to_bytes(4, "little") if length >= 0 else b"?"
        return found


_TEXTS = _Texts()


class Described:
    """What all tensors of one form have in common."""

    __slots__ = (
        "cls",
        "following",
        "form",
        "location",
        "more",
        "nbytes",
        "numel",
        "offset",
        "requires_grad",
        "size",
        "stride",
        "view",
    )

    def __init__(
        self,
        form: Form,
        cls: Any,
        location: Any,
        numel: int,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        more: tuple[None, ...],
    ) -> None:
        self.form = form
        self.cls = cls
        self.location = location
        self.numel = numel
        self.nbytes = -1  # of the storage, once its class has been looked at
        self.offset = offset
        self.size = size
        self.stride = stride
        self.requires_grad = requires_grad
        self.more = more  # of the persistent id: before torch 1.6 it ended in None, for no view
        self.view: TensorView | None = None  # one of them
        self.following: Described | None = None  # what came after the last of them: layers repeat

    def opcodes(self, puts: list[bytes], slot: int) -> bytes:
        """All behind the key, with ``puts`` from ``slot`` on."""
        form = self.form
        if len(form) == 3:
            second, third, fourth, last = puts[slot : slot + 4]
            return b"".join((form[1], second, form[2], third, b"t", fourth, b"R", last))
        second, third, fourth, fifth, sixth, last = puts[slot : slot + 6]
        return b"".join((form[1], second, form[2], third, form[3], fourth, form[4], fifth, b"t", sixth, b"R", last))


class Step:
    """Takes runs from ``data`` and keeps ``memo`` as the evaluator would have; ``end`` is where the last run ended."""

    def __init__(
        self, data: bytes, memo: list[Any], persistent_load: Callable[[Any], Any], rebuild: Callable[[tuple[Any, ...]], Any]
    ) -> None:
        self.data = data
        self.memo = memo
        self.persistent_load = persistent_load
        # The same for many at a time, where the storages can be had so (`torch_storages.Storages.several`).
        self.several = getattr(getattr(persistent_load, "__self__", None), "several", None)
        self.rebuild = rebuild
        self.forms: dict[Form, Described] = {}
        self.end = 0

    def forget(self) -> None:
        """A memo slot is set again: what was seen in any of them may not be there any more."""
        self.forms.clear()

    def run(self, get: bytes, pos: int, stack: list[Any], most: int) -> int:
        """Push the tensor described from byte ``pos``, behind the opcode ``get`` of the function's name, and how many were there.

        Where a text and ``get`` follow, as between the tensors of a state dict, the text and the next tensor are pushed too, and so on.
        """
        self.end = pos - len(get)
        made, several = 0, FIRST
        while made < most:
            taken = self._take(get, min(several, most - made), stack, named=made > 0)
            made += taken
            if taken < several:
                break
            several = MOST
        return made

    def _take(self, get: bytes, most: int, stack: list[Any], *, named: bool) -> int:
        """Push what up to ``most`` runs from `end` on describe; how many were there. ``named``: with a text before the first, too."""
        data, at = self.data, self.end
        base = len(self.memo)
        if base < _FEW:  # PUTs of one length at a time
            most = min(most, (_FEW - base) // SLOTS)
        puts = _puts(base, SLOTS * most)
        width = len(puts[0]) if puts else 0
        opening, shared, cut = b"", -1, 0
        described: Described | None = None
        bare = 0 if named else 1  # tensors without a name
        names: list[str] = []
        keys: list[Any] = []
        forms: list[Described] = []
        block: list[Any] = []  # for the memo
        places: list[int] = []  # of the tensors in it
        while len(forms) < most:
            slot = len(block)
            if named:
                stop = data.find(puts[slot], at, at + LONGEST)
                if stop < at + 5 or not data.startswith(_TEXTS[stop - at - 5], at):
                    break
                name = data[at + 5 : stop]
                at = stop + width
                slot += 1
            stop = data.find(puts[slot], at, at + LONGEST)
            if stop < 0:
                break
            part = data[at:stop]
            if shared >= 0 or not opening or not part.startswith(opening):
                opening, shared, cut = _opening(part, get)
                if not opening:
                    break
            if shared < 0:
                if len(part) < cut + 5 or not part.startswith(_TEXTS[len(part) - cut - 5], cut):
                    break
                key: Any = str(part[cut + 5 :], "utf-8", "surrogatepass")
                at = stop + width
                slot += 1
            elif shared < base:
                key = self.memo[shared]
                if key is LAZY:
                    raise SharedPart
                at += cut
            else:
                break
            last, described = described, None if described is None else described.following
            if described is not None and described.form[0] == opening:
                expected = described.opcodes(puts, slot)
                if data.startswith(expected, at):
                    at += len(expected)
                else:
                    described = None
            else:
                described = None
            if described is None:
                described, at = self._rest(opening, at, puts, slot, get)
                if described is None:
                    break
                if last is not None:
                    last.following = described
            if named:
                names.append(str(name, "utf-8", "surrogatepass"))
                block.append(names[-1])
            if shared < 0:
                block.append(key)
            keys.append(key)
            forms.append(described)
            slot += 4 if len(described.form) == 3 else 6
            places.append(slot - 1)
            block += _LAZY[len(block) - slot :]
            named = True
            self.end = at
        if not forms:
            return 0
        tensors = self._tensors(forms, keys)
        for place, tensor in zip(places, tensors, strict=True):
            block[place] = tensor
        self.memo += block
        stack += tensors[:bare]
        stack += chain.from_iterable(zip(names, tensors[bare:], strict=True))
        return len(forms)

    def _rest(self, opening: bytes, at: int, puts: list[bytes], slot: int, get: bytes) -> tuple[Described | None, int]:
        """What the run describes that goes on at byte ``at``, behind its key, with ``slot`` the next one; and where it ends."""
        data, parts, width = self.data, [opening], len(puts[0])
        while len(parts) < 5 and (len(parts) == 1 or parts[-1][-1:] != b"R"):
            stop = data.find(puts[slot], at, at + SHORT)
            if stop < 0:
                return None, at
            parts.append(data[at:stop])
            at = stop + width
            slot += 1
        form = tuple(parts)
        if not data.startswith(b"t" + puts[slot] + b"R" + puts[slot + 1], at):
            return None, at
        return self.forms.get(form) or self._describe(form, get), at + 2 + 2 * width

    def _tensors(self, forms: list[Described], keys: list[Any]) -> list[Any]:
        """A tensor for each of ``forms``, on the storages that are called ``keys``."""
        storages = None if self.several is None else self.several(forms, keys)
        if storages is None:
            return [self._tensor(form, key) for form, key in zip(forms, keys, strict=True)]
        for form, key in zip(forms, keys, strict=True):
            if form.view is None:
                self._tensor(form, key)
            if form.view is None:
                return [self._tensor(form, key) for form, key in zip(forms, keys, strict=True)]
        return [form.view.on(storage) for form, storage in zip(forms, storages, strict=True) if form.view is not None]

    def _tensor(self, form: Described, key: Any) -> Any:
        typed = self.persistent_load(("storage", form.cls, key, form.location, form.numel, *form.more))
        view = form.view
        if view is not None and view.storage.nbytes == typed.storage.nbytes and view.dtype is typed.dtype:
            return view.on(typed.storage)
        tensor = self.rebuild((typed, form.offset, form.size, form.stride, form.requires_grad, None))
        if type(tensor) is TensorView and tensor.storage is typed.storage:
            form.view = tensor
        return tensor

    def _describe(self, form: Form, get: bytes) -> Described | None:
        """What ``form`` describes; None where it is something else than torch writes."""
        memo = self.memo
        try:
            word, at = _slot(form[0], len(get) + 2)
            cls, at = _slot(form[0], at)
            location, at = _slot(form[1], 0)
            numel, at = _integer(form[1], at)
            offset, begin = _integer(form[2], 1)
            rest = form[2][begin:]
            size: tuple[int, ...] = ()
            stride: tuple[int, ...] = ()
            if len(form) == 3:
                last, rest = rest[2:], rest[:2]
            else:
                size, stride, last, rest = _tuple(rest), _tuple(form[3]), form[4], b"))"
            hooks, end = _slot(last, 1)
        except (ValueError, IndexError, KeyError):
            return None
        if (
            form[1][at:] not in (b"t", b"Nt")
            or form[2][:1] != b"Q"
            or rest != b"))"
            or last[:1] not in (b"\x88", b"\x89")
            or last[end:] != b")R"
        ):
            return None
        if max(word, cls, location, hooks) >= len(memo):
            return None
        if LAZY in (memo[word], memo[cls], memo[location]):
            raise SharedPart
        if memo[word] != "storage" or getattr(memo[hooks], "text", "") != "collections.OrderedDict":
            return None
        more = (None,) if form[1][at:] == b"Nt" else ()
        described = Described(form, memo[cls], memo[location], numel, offset, size, stride, last[:1] == b"\x88", more)
        self.forms[form] = described
        return described


def _opening(part: bytes, get: bytes) -> tuple[bytes, int, int]:
    """What ``part`` begins with up to its key: ``get``, two MARKs, 'storage' and the storage class.

    With it the memo slot of a key that is used again, or −1 where it is written out, and where in ``part`` to go on. Nothing where
    ``part`` is something else.
    """
    try:
        if part.startswith(get + b"(("):
            _, at = _slot(part, len(get) + 2)
            _, at = _slot(part, at)
            shared, end = (-1, at) if part[at] == 0x58 else _slot(part, at)
            return part[:at], shared, end
    except (ValueError, IndexError):
        pass
    return b"", -1, 0


def _slot(raw: bytes, at: int) -> tuple[int, int]:
    """The memo slot that the opcode at byte ``at`` gets, and where the opcode ends."""
    if raw[at] == 0x68:
        return raw[at + 1], at + 2
    if raw[at] != 0x6A or at + 5 > len(raw):
        raise ValueError
    return int.from_bytes(raw[at + 1 : at + 5], "little"), at + 5


def _integer(raw: bytes, at: int) -> tuple[int, int]:
    """The number that the opcode at byte ``at`` pushes, and where the opcode ends."""
    width = _WIDTHS[raw[at]]
    stop = at + 1 + width
    if stop > len(raw):
        raise ValueError
    return int.from_bytes(raw[at + 1 : stop], "little", signed=width == 4), stop


def _tuple(raw: bytes) -> tuple[int, ...]:
    """The tuple of one number or more that ``raw`` is the opcodes of."""
    marked, last, at = raw[0] == 0x28, raw[-1], 0
    count = {0x85: 1, 0x86: 2, 0x87: 3}.get(last, -1)
    if marked != (last == 0x74):
        raise ValueError
    numbers = []
    at = 1 if marked else 0
    while at < len(raw) - 1:
        number, at = _integer(raw, at)
        numbers.append(number)
    if at != len(raw) - 1 or not (len(numbers) == count or (marked and numbers)):
        raise ValueError
    return tuple(numbers)


def _puts(first: int, count: int) -> list[bytes]:
    """The opcodes that set ``count`` memo slots from ``first`` on, all of one length."""
    if first < _FEW:
        return [bytes((0x71, slot)) for slot in range(first, first + count)]
    together = bytearray(b"r\0\0\0\0" * count)
    slots = pack(f"<{count}I", *range(first, first + count))
    for byte in range(4):
        together[1 + byte :: 5] = slots[byte::4]
    opcodes = bytes(together)
    return [opcodes[at : at + 5] for at in range(0, 5 * count, 5)]
