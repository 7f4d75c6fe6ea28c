"""sha256 of whole files, as `sha256sum` prints it: on threads, since a processor hashes slower than it copies."""

from __future__ import annotations

import hashlib
import threading

from formats.core.buffers import Scratch
from formats.core.files import PIECE, SourceFile
from formats.core.layout import Layout
from formats.core.moving import Observe
from formats.core.positioned import read_at
from formats.core.streaming import followable, stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


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


class OutputDigest:
    """The sha256 of ``size`` bytes behind a descriptor while others write them: a thread follows what is complete from the start."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._ahead: dict[int, int] = {}  # {start: stop} of what is written and cannot be hashed yet
        self._complete = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._made = hashlib.sha256()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="sha256", daemon=True)
        self._thread.start()

    def wrote(self, offset: int, length: int) -> None:
        """The bytes ``[offset, offset + length)`` are as they will stay. No byte may be told twice."""
        with self._news:
            self._ahead[offset] = offset + length
            while (stop := self._ahead.pop(self._complete, 0)) > self._complete:
                self._complete = stop
                self._news.notify()

    def _work(self) -> None:
        try:
            at, buffer = 0, Scratch().room(min(self.size, PIECE))
            while at < self.size and not self._stopped:
                with self._news:
                    # Whole pieces, so that each read begins where the buffer's place suits it.
                    self._news.wait_for(lambda: self._stopped or self._complete >= min(at + PIECE, self.size))  # noqa: B023 - called here
                piece = buffer[: min(PIECE, self.size - at)]
                if not self._stopped:
                    read_at(self.fd, piece, at)
                    self._made.update(piece)
                at += len(piece)
        except BaseException as error:  # handed to whoever asks for the result
            self._failure = error

    def result(self) -> str:
        """64 hexadecimal digits; all is written by now. Raises what reading raised."""
        with self._news:
            self._complete = self.size
            self._news.notify()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._made.hexdigest()

    def stop(self) -> None:
        """Give up, and wait for the thread: nobody may close the descriptor under it."""
        with self._news:
            self._stopped = True
            self._news.notify()
        self._thread.join()


def digested_stream(
    layout: Layout, order: list[int], fd: int, read_back: int, observe: Observe | None
) -> tuple[list[int | None], str]:
    """`formats.core.streaming.stream`, and the sha256 of what stands behind ``fd`` then, hashed on the way where the layout allows it."""
    if not followable(layout):
        return stream(layout, order, fd, read_back, observe), sha256(fd, layout.size)
    follower = OutputDigest(fd, layout.size)
    try:
        return stream(layout, order, fd, read_back, observe, follower), follower.result()
    finally:
        follower.stop()


def sha256(fd: int, size: int) -> str:
    """The sha256 of the first ``size`` bytes behind a descriptor, 64 hexadecimal digits."""
    made = hashlib.sha256()
    buffer = Scratch().room(min(size, PIECE))
    for at in range(0, size, PIECE):
        piece = buffer[: min(PIECE, size - at)]
        read_at(fd, piece, at)
        made.update(piece)
    return made.hexdigest()
