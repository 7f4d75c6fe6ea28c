"""A pickle with its long byte strings left in the file: what remains is short, whatever the size of the arrays inside.

Plain ``pickle.dump`` puts whole storages and arrays into the pickle as byte strings. Only the lengths of opcodes are looked at here
(CPython's ``pickletools``); each long byte string is replaced by a persistent id, its number.
"""

from __future__ import annotations

from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.files import SourceFile
from formats.core.inert import LIMITS
from formats.core.storage import FileSpan

LONG = 4096  # bytes from which a byte string stays in the file
MAX_LITERALS = 1 << 20
AHEAD = 1 << 16  # bytes read at once

_FIXED = dict.fromkeys(b"()012NQRaebdlostu}]\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98", 0) | {
    **dict.fromkeys(b"Khq\x80\x82", 1), **dict.fromkeys(b"M\x83", 2), **dict.fromkeys(b"Jjr\x84", 4), ord("G"): 8,
}  # fmt: skip
_LINES = dict.fromkeys(b"FILPSVgp", 1) | dict.fromkeys(b"ci", 2)
_COUNTED = {ord("U"): 1, ord("C"): 1, 0x8C: 1, 0x8A: 1, ord("T"): 4, ord("X"): 4, ord("B"): 4, 0x8B: 4, 0x8D: 8, 0x8E: 8, 0x96: 8}
_IN_PLACE = frozenset((ord("B"), 0x8E, 0x96, ord("T")))
_FRAME, _STOP = 0x95, ord(".")


class Condensed:
    """``data`` is the pickle without its long byte strings, ``literals`` where those are; ``end`` is the byte just past STOP.

    Where an opcode is unknown or the file ends too early, the rest follows as it is and `unpickle` says what is wrong.
    """

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.literals: list[FileSpan] = []
        self._out = bytearray()
        self._base = 0
        self._window = b""
        self.end = self._condense()
        self.data = bytes(self._out)

    def _condense(self) -> int:
        file, at, kept = self.file, 0, 0
        while True:
            if len(self._out) + (at - kept) > LIMITS.pickle_bytes:
                raise LimitExceeded(f"pickle of more than {LIMITS.pickle_bytes} bytes beside its byte strings", path=file.path)
            head = self._peek(at, 9)
            op = head[0] if head else _STOP
            if op in _FIXED:
                at += 1 + _FIXED[op]
            elif op in _COUNTED:
                width = _COUNTED[op]
                length = int.from_bytes(head[1 : 1 + width], "little")
                if op in _IN_PLACE and LONG <= length <= file.size - at - 1 - width:
                    self._copy(kept, at)
                    self._literal(at + 1 + width, length)
                    kept = at + 1 + width + length
                at += 1 + width + length
            elif op in _LINES:
                at += 1
                for _ in range(_LINES[op]):
                    at = self._past_line(at)
            elif op == _FRAME:
                length = int.from_bytes(head[1:9], "little")
                if length > file.size - at - 9:
                    raise CorruptCheckpoint(
                        f"pickle declares a frame of {length} bytes at byte {at}, {file.size - at - 9} are left"
                    )
                self._copy(kept, at)  # a frame's length would no longer be true
                at = kept = at + 9
            else:
                at += 1
                break
            if at >= file.size:
                break
        at = min(at, file.size)
        self._copy(kept, at)
        if op != _STOP:
            self._copy(at, min(file.size, at + AHEAD))
        return at

    def _literal(self, start: int, length: int) -> None:
        if len(self.literals) >= MAX_LITERALS:
            raise LimitExceeded(f"pickle of more than {MAX_LITERALS} long byte strings", path=self.file.path)
        self._out += b"J" + len(self.literals).to_bytes(4, "little") + b"Q"  # BININT, BINPERSID
        self.literals.append(FileSpan(self.file, start, length))

    def _copy(self, start: int, stop: int) -> None:
        if len(self._out) + stop - start > LIMITS.pickle_bytes:
            raise LimitExceeded(f"pickle of more than {LIMITS.pickle_bytes} bytes beside its byte strings", path=self.file.path)
        if start < stop:
            self._out += self._peek(start, stop - start)

    def _peek(self, at: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``at``, fewer only at the end of the file."""
        stop = min(at + length, self.file.size)
        if not self._base <= at <= stop <= self._base + len(self._window):
            if stop - at > AHEAD // 2:
                return self.file.read(at, stop - at)
            self._base = at
            self._window = self.file.read(at, min(AHEAD, self.file.size - at))
        return self._window[at - self._base : stop - self._base]

    def _past_line(self, at: int) -> int:
        while at < self.file.size:
            piece = self._peek(at, 4096)
            end = piece.find(b"\n")
            if end >= 0:
                return at + end + 1
            at += len(piece)
        return at
