"""The opcodes of a pickle that are rare in checkpoints: text of protocol 0, sets, old-style instances, and those that are refused.

They are out of the evaluator's loop (`unpickle.py`), which is read for speed; what they mean is CPython's ``pickletools``.
"""

from __future__ import annotations

import codecs

from formats.core.checkpoint import Latin1
from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.inert import Inert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRUE, _FALSE = b"01", b"00"
_REFUSED = {0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER"}


class Truncated(CorruptCheckpoint):
    """The pickle goes on past the bytes given: a caller that has more may try again with them."""


def python2_text(raw: bytes) -> str:
    """Python 2's ``str``: UTF-8 as `torch.load` reads it; bytes that are none survive as latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return Latin1(raw.decode("latin-1"))


class RareOpcodes(Inert):
    """The bounds of the bytes, and `_rare`."""

    def _need(self, pos: int, length: int) -> int:
        if pos + length > len(self.data):
            self._short(pos, length)
        return pos

    def _short(self, pos: int, length: int) -> None:
        raise Truncated(f"{length} bytes are declared at byte {pos}, {len(self.data) - pos} are left")

    def _too_many(self, pos: int) -> None:
        raise LimitExceeded(f"pickle makes more than {self.limits.objects} objects by byte {pos}, the limit")

    def _integer(self, line: bytes, pos: int) -> int:
        if len(line) > 2 * self.limits.integer_bytes:
            raise LimitExceeded(f"integer of {len(line)} digits at byte {pos}, at most {2 * self.limits.integer_bytes} are read")
        return int(line, 0)

    def _line(self, pos: int) -> tuple[bytes, int]:
        end = self.data.find(b"\n", pos)
        if end < 0:
            raise Truncated(f"line at byte {pos} of the pickle has no end")
        return self.data[pos:end], end + 1

    def _rare(self, op: int, pos: int, stack: list[Any], marks: list[int]) -> int:
        """Do what ``op`` says, its argument at ``pos``; the position past it."""
        if op == 0x49:  # INT
            line, pos = self._line(pos)
            stack.append(line == _TRUE if line in (_TRUE, _FALSE) else self._integer(line, pos))
        elif op == 0x4C:  # LONG
            line, pos = self._line(pos)
            stack.append(self._integer(line.removesuffix(b"L"), pos))
        elif op == 0x46:  # FLOAT
            line, pos = self._line(pos)
            stack.append(float(line))
        elif op == 0x53:  # STRING
            line, pos = self._line(pos)
            line = line.strip()
            if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b'"', b"'"):
                raise CorruptCheckpoint(f"text without quotes before byte {pos}")
            stack.append(python2_text(codecs.escape_decode(line[1:-1])[0]))
        elif op == 0x56:  # UNICODE
            line, pos = self._line(pos)
            stack.append(str(line, "raw-unicode-escape"))
        elif op == 0x30:  # POP: on an empty stack above a MARK it drops the MARK
            if marks and marks[-1] == len(stack):
                marks.pop()
            else:
                stack.pop()
        elif op == 0x31:  # POP_MARK
            del stack[marks.pop() :]
        elif op == 0x32:  # DUP
            stack.append(stack[-1])
        elif op == 0x8F:  # EMPTY_SET
            stack.append(set())
        elif op == 0x90 or op == 0x91:  # ADDITEMS FROZENSET
            start = marks.pop()
            values = stack[start:]
            del stack[start:]
            for value in values:
                self._check_key(value)
            if op == 0x91:
                stack.append(frozenset(values))
            elif type(stack[-1]) is set:
                stack[-1].update(values)
            else:
                raise CorruptCheckpoint(f"ADDITEMS on a {type(stack[-1]).__name__} at byte {pos}")
        elif op == 0x69:  # INST
            line, pos = self._line(pos)
            module = line.decode("utf-8")
            line, pos = self._line(pos)
            start = marks.pop()
            args = tuple(stack[start:])
            del stack[start:]
            stack.append(self._call(self._global(module, line.decode("utf-8")), args))
        elif op == 0x6F:  # OBJ
            start = marks.pop()
            args = tuple(stack[start + 1 :])
            made = self._call(stack[start], args)
            del stack[start:]
            stack.append(made)
        elif op == 0x50:  # PERSID
            line, pos = self._line(pos)
            stack.append(self._persistent(line.decode("ascii")))
        elif op in _REFUSED:
            raise CorruptCheckpoint(f"{_REFUSED[op]} at byte {pos - 1} refers to what is outside the file")
        else:
            raise CorruptCheckpoint(f"unknown opcode 0x{op:02x} at byte {pos - 1}")
        return pos
