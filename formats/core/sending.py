"""The way up: a thread that sends, a stream cut into parts, a remote file that has no name yet."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from formats.core.errors import SystemIOError
from formats.core.files import PIECE

if TYPE_CHECKING:
    from formats.core.upload import Upload

QUEUED = 8  # pieces between the reader and the uploading thread


class Sender:
    """Uploads pieces on a thread of its own, one after the other."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.failure: BaseException | None = None
        self.pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self.free = threading.BoundedSemaphore(QUEUED)
        self.thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self.thread.start()

    def put(self, piece: bytes) -> None:
        self.free.acquire()
        if self.failure is not None:
            raise self.failure
        self.pieces.put(piece)

    def _work(self) -> None:
        upload, part, filled = self.upload, hashlib.md5(usedforsecurity=False), 0
        while (piece := self.pieces.get()) is not None:
            try:
                if self.failure is None:
                    part.update(piece)
                    upload.sha256.update(piece)
                    filled += len(piece)
                    if filled == upload.part:
                        upload.digests.append(part.digest())
                        part, filled = hashlib.md5(usedforsecurity=False), 0
                    upload.write(piece)
            except BaseException as error:  # handed to the reading thread
                self.failure = error
            finally:
                self.free.release()
        if filled:
            upload.digests.append(part.digest())

    def finish(self) -> None:
        self.pieces.put(None)
        self.thread.join()
        if self.failure is not None:
            raise self.failure
        self.upload.close()

    def stop(self) -> None:
        self.failure = self.failure or SystemIOError("stopped")
        self.pieces.put(None)
        self.thread.join()


def cut(stream: Iterable[bytes | memoryview], part: int) -> Iterator[bytes]:
    """``stream`` in pieces of at most `PIECE` bytes, small ones gathered, none across the border of two parts."""
    held = bytearray()
    room = part  # bytes to the end of the part
    for block in stream:
        view = memoryview(block)
        while view:
            taken = view[: min(PIECE, room) - len(held)]
            held += taken
            view = view[len(taken) :]
            if len(held) == min(PIECE, room):
                room = room - len(held) or part
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


def open_upload(fs: Any, name: str, *, exclusive: bool, part: int) -> Any:
    """A file that is uploaded on `close` and gets its name on `commit`."""
    if fs.protocol == "memory":
        from fsspec.implementations.memory import MemoryFile

        return MemoryFile(fs, name)
    # "x": the name is given only if nobody has it (If-None-Match, where the server heeds it)
    mode = "xb" if exclusive and "s3" in fs.protocol else "wb"
    file = fs.open(name, mode, block_size=part, autocommit=False)
    files = fs.transaction.files
    if any(one is file for one in files):  # it is committed by us, and by no transaction of somebody else's
        fs.transaction.files = type(files)(one for one in files if one is not file)
    return file
