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
_RUN = re.compile(
    rb"\(\((%b)(%b)" % (_GET, _GET)  # 'storage', storage class
    + rb"(?:X(.)\0\0\0([0-9]{1,20})(%b)|(%b))" % (_PUT, _GET)  # key, written out or used again
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
        self.end = 0

    def match(self, pos: int, _function: Any) -> Any:
        """The tensor described from byte ``pos``, or None where the bytes are no such run."""
        found = self.match_at(self.data, pos)
        if found is None:
            return None
        (word, cls, length, key, key_put, key_get, location, numel, pid_put, offset, sizes, sizes_put, strides, strides_put, grad,
         hooks, hooks_put, args_put, put) = found.groups()  # fmt: skip
        memo = self.memo
        count = len(memo)
        try:
            values: list[Any] = [LAZY]
            puts = [pid_put]
            if key is not None:
                if length[0] != len(key):
                    return None
                key = key.decode("ascii")
                values.insert(0, key)
                puts.insert(0, key_put)
            else:
                key = memo[_number(key_get)]
            for one in (sizes_put, strides_put):
                if one is not None:
                    puts.append(one)
                    values.append(LAZY)
            puts += (hooks_put, args_put, put)
            values += (LAZY, LAZY)
            # Slots must follow each other from the first free one, as every pickler numbers them.
            if list(map(_number, puts)) != list(range(count, count + len(puts))):
                return None
            if memo[_number(word)] != "storage" or getattr(memo[_number(hooks)], "text", "") != "collections.OrderedDict":
                return None
            pid = ("storage", memo[_number(cls)], key, memo[_number(location)], _number(numel))
        except IndexError:
            return None
        if LAZY in pid:
            raise SharedPart
        tensor = self.rebuild(
            (self.persistent_load(pid), _number(offset), self._tuple(sizes), self._tuple(strides), grad == b"\x88", None)
        )
        memo.extend(values)
        memo.append(tensor)
        self.end = found.end()
        return tensor

    def _tuple(self, raw: bytes) -> tuple[int, ...]:
        """The numbers of a tuple's opcodes. The same few shapes come again and again."""
        numbers = self.shapes.get(raw)
        if numbers is None:
            numbers = self.shapes[raw] = () if raw == b")" else _numbers(raw[1:-1] if raw[:1] == b"(" else raw[:-1])
        return numbers
