"""sha256 of whole files, as `sha256sum` prints it: on a thread, since a processor hashes slower than it copies."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from formats.core.buffers import room
from formats.core.files import PIECE, SourceFile
from formats.core.positioned import read_at


class SourceDigests:
    """The sha256 of files that are being read by others meanwhile; `results` waits for them."""

    def __init__(self, files: Iterable[SourceFile]) -> None:
        # A file inside another, or one that was inflated, is none that anybody else could hash; one behind a URL would be fetched twice.
        self.files = [file for file in files if type(file) is SourceFile and file.fd >= 0]
        self._found: dict[Path, str] = {}
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="sha256", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for file in self.files:
                self._found[file.path] = of_file(file, lambda: self._stopped)
                if self._stopped:
                    return
        except BaseException as error:  # handed to whoever asks for the results
            self._failure = error

    def results(self) -> dict[Path, str]:
        """{path: 64 hexadecimal digits}. Raises what reading raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._found

    def stop(self) -> None:
        """Give up, and wait for the thread: nobody may close a file under it."""
        self._stopped = True
        self._thread.join()


def of_file(file: SourceFile, stopped: Callable[[], bool] = lambda: False) -> str:
    """The sha256 of all bytes of an open file, 64 hexadecimal digits; of less where ``stopped`` says so meanwhile."""
    made = hashlib.sha256()
    for piece in file.pieces(0, file.size):
        if stopped():
            break
        made.update(piece)
    return made.hexdigest()


def sha256(fd: int, size: int) -> str:
    """The sha256 of the first ``size`` bytes behind a descriptor, 64 hexadecimal digits."""
    made = hashlib.sha256()
    buffer = room(min(size, PIECE), 0)
    for at in range(0, size, PIECE):
        piece = buffer[: min(PIECE, size - at)]
        read_at(fd, piece, at)
        made.update(piece)
    return made.hexdigest()
