"""Pickles that stand one after the other in a file, with or without raw bytes between them."""

from __future__ import annotations

from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.files import SourceFile
from formats.core.inert import LIMITS
from formats.core.unpickle import Truncated, Unpickled, unpickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class PickleStream:
    """Reads bytes ``[at, stop)`` of ``file``, at first ``ahead`` bytes at once. How long a pickle is shows only when it is evaluated."""

    def __init__(self, file: SourceFile, at: int, stop: int, *, ahead: int = 1 << 20) -> None:
        self.file = file
        self.stop = stop
        self.ahead = ahead
        self.base = at  # where `data` begins in the file
        self.data = b""
        self.at = 0
        self.found: Unpickled | None = None

    @property
    def position(self) -> int:
        """Byte of the file that comes next."""
        return self.base + self.at

    def globals(self) -> dict[str, int]:
        """The names that the last pickle refers to."""
        return {} if self.found is None else self.found.globals()

    def next(self, what: str, **evaluator: Any) -> Any:
        """The value of the pickle that comes next. ``evaluator`` goes to `unpickle`.

        Where ``storages`` is given, its ``load`` takes persistent ids, and ``clear()`` empties it before the evaluation begins again
        with more bytes.
        """
        storages = evaluator.pop("storages", None)
        if self.at == len(self.data):
            self._fill()
        while True:
            if storages is not None:
                storages.clear()
                evaluator["persistent_load"] = storages.load
            try:
                found = self.found = unpickle(self.data, at=self.at, where=(self.file.path, what, self.position), **evaluator)
            except Truncated as error:
                if self.base + len(self.data) == self.stop:
                    raise CorruptCheckpoint(
                        f"ends at byte {self.stop} inside {what}: {error.what}", path=self.file.path,
                        hint="the file is cut off: fetch or copy it again",
                    ) from error  # fmt: skip
                if len(self.data) - self.at >= LIMITS.pickle_bytes:
                    raise LimitExceeded(f"{what} is a pickle of more than {LIMITS.pickle_bytes} bytes") from error
                self._fill()
                continue
            self.at = found.end
            return found.value

    def _fill(self) -> None:
        """Forget what is past and read on: `ahead` bytes, or three times what did not suffice."""
        kept = self.data[self.at :]
        self.base += self.at
        self.at = 0
        wanted = min(max(3 * len(kept), self.ahead), LIMITS.pickle_bytes - len(kept))
        have = self.base + len(kept)
        self.data = kept + self.file.read(have, min(wanted, self.stop - have))

    def take(self, length: int, what: str) -> bytes:
        """The next ``length`` raw bytes."""
        position = self.position
        if length < 0 or position + length > self.stop:
            raise CorruptCheckpoint(
                f"ends at byte {self.stop} inside {what}, which needs bytes {position} to {position + length}"
            )
        if self.at + length > len(self.data):
            self._fill()
        if self.at + length > len(self.data):
            return self.file.read(position, self.skip(length, what))
        self.at += length
        return self.data[self.at - length : self.at]

    def skip(self, length: int, what: str) -> int:
        """Go past ``length`` bytes without reading them; gives ``length``."""
        position = self.position
        if length < 0 or position + length > self.stop:
            raise CorruptCheckpoint(
                f"ends at byte {self.stop} inside {what}, which needs bytes {position} to {position + length}"
            )
        if self.at + length <= len(self.data):
            self.at += length
        else:
            self.base, self.data, self.at = position + length, b"", 0
        return length
