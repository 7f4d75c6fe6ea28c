"""Whether what is on disk is what was handed out, and whether what was handed out is what the source's checksums say."""

from __future__ import annotations

import os
from _queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from formats.core.crc import crc32_for
from formats.core.errors import CorruptCheckpoint, ParityFailed
from formats.core.layout import Layout
from formats.core.positioned import read_at
from formats.core.storage import Storage

if TYPE_CHECKING:
    import threading

PIECE = 512 << 10  # bytes read or written at once: what is written, read back and summed meets in the processor's cache
LEAD = 4 << 10  # bytes of a buffer beyond a piece, for what stands before the data in the source
AHEAD = 4  # buffers between the writer and the thread that reads back
INLINE = 4 << 20  # bytes: for less, a second thread costs more than it saves
EACH = 16 << 10  # … and so it does for segments smaller than this in the mean, where the work is Python's

THREADS = True  # False in a process that has company enough to keep every core busy

Part = tuple[int, int]  # (index of a data segment, how many of its bytes)
Task = tuple[int, int, bytearray, list[Part], int]
NO_DATA = -1  # index of what stands between data segments


class ReadBack:
    """Reads pieces back and compares them, on a thread of its own where there is enough to do."""

    def __init__(self, layout: Layout, read_back: int) -> None:
        self.layout = layout
        self.read_back = read_back
        self.wanted = read_back >= 0 or bool(layout.late)
        self.crcs: list[int] = [0] * len(layout.data)
        self.own = memoryview(bytearray(PIECE))
        self.failure: BaseException | None = None
        self.free: SimpleQueue[bytearray] = SimpleQueue()
        self.tasks: SimpleQueue[Task | None] = SimpleQueue()
        self.thread: threading.Thread | None = None
        threaded = THREADS and self.wanted and layout.size > max(INLINE, EACH * len(layout.data)) and _cores() > 1
        for _ in range(AHEAD if threaded else 1):
            self.free.put(bytearray(PIECE + LEAD))
        if threaded:
            import threading

            self.thread = threading.Thread(target=self._work, name="read back", daemon=True)
            self.thread.start()
        else:
            self.crc32 = crc32_for(layout.size)

    def buffer(self) -> bytearray:
        """A free buffer of `PIECE` + `LEAD` bytes."""
        if self.failure is not None:
            raise self.failure
        return self.free.get()

    def piece(self, offset: int, length: int, buffer: bytearray, parts: list[Part], begin: int = 0) -> None:
        """``length`` bytes of ``buffer`` from ``begin`` stand at ``offset`` now, and are ``parts`` one after the other."""
        if self.thread is not None:
            if self.failure is not None:
                raise self.failure
            self.tasks.put((offset, length, buffer, parts, begin))
            return
        if self.wanted:
            self._compare(offset, length, buffer, parts, begin)
        self.free.put(buffer)

    def _work(self) -> None:
        try:
            self.crc32 = crc32_for(self.layout.size)  # what is imported for it is imported beside the first reads and writes
        except BaseException as error:
            self.failure = error
        while (task := self.tasks.get()) is not None:
            try:
                if self.failure is None:
                    self._compare(*task)
            except BaseException as error:  # handed to the writing thread
                self.failure = error
            finally:
                self.free.put(task[2])

    def _compare(self, offset: int, length: int, buffer: bytearray, parts: list[Part], begin: int) -> None:
        if self.read_back >= 0:
            view = self.own[:length]
            read_at(self.read_back, view, offset)
            if not buffer.startswith(view, begin):  # compares like memcmp, without a copy
                name = self.layout.data[parts[0][0]].name
                raise ParityFailed(f"bytes {offset} to {offset + length} on disk (tensor {name!r:.200}) are not what was written")
        else:
            view = memoryview(buffer)[begin : begin + length]
        at, crc32, crcs = 0, self.crc32, self.crcs
        for index, count in parts:
            if index != NO_DATA:
                crcs[index] = crc32(view[at : at + count], crcs[index])
            at += count

    def finish(self) -> None:
        """Wait for the last piece, then compare with the checksums that the source holds."""
        if self.thread is not None:
            self.tasks.put(None)
            self.thread.join()
            self.thread = None
        if self.failure is not None:
            raise self.failure
        if self.read_back >= 0:
            self._compare_stored()

    def stop(self) -> None:
        """End the thread, whatever state it is in."""
        if self.thread is not None:
            self.failure = self.failure or CorruptCheckpoint("stopped")
            self.tasks.put(None)
            self.thread.join()
            self.thread = None

    def _compare_stored(self) -> None:
        partial: list[tuple[Any, str]] = []
        for data, crc in zip(self.layout.data, self.crcs, strict=True):
            storage: Any = data.storage
            find = getattr(storage, "stored_crc", None)
            stored = None if find is None else find()
            if stored is not None:
                if crc != stored:
                    _refuse(storage, data.name, stored)
            elif (inner := getattr(storage, "inner", None)) is not None:
                partial.append((inner, data.name))
        if not partial:
            return
        # Of storages that only parts were taken of, the whole has to be read once more to know whether it is sound.
        proved = {id(data.storage) for data in self.layout.data if _stored_crc(data.storage) is not None}
        for base, name in partial:
            stored = _stored_crc(base)
            while stored is None and (inner := getattr(base, "inner", None)) is not None:
                base, stored = inner, _stored_crc(inner)
            if stored is not None and id(base) not in proved:
                proved.add(id(base))
                if _crc(base) != stored:
                    _refuse(base, name, stored)


def _cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stored_crc(storage: Any) -> int | None:
    find = getattr(storage, "stored_crc", None)
    return None if find is None else find()


def _crc(storage: Storage) -> int:
    crc, crc32 = 0, crc32_for(storage.nbytes)
    for piece in storage.chunks(0, storage.nbytes):
        crc = crc32(piece, crc)
    return crc


def _refuse(storage: Storage, name: str, stored: int) -> None:
    """The file does not have the checksum that the source gives: is it the source that is wrong?"""
    found = _crc(storage)
    if found != stored:
        raise CorruptCheckpoint(f"tensor {name!r:.200} has CRC-32 {found:08x} in the source, expected {stored:08x}")
    raise ParityFailed(f"tensor {name!r:.200} on disk does not have the CRC-32 {stored:08x} of the source")
