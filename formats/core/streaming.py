"""Moves the bytes of a layout's data segments from their storages into a file, and checks them on the way.

What was measured: one pass in the source's order, pieces cut at the destination's boundaries, one buffer used again and again, small
tensors gathered into long writes; a second thread reads each piece back while the next is under way (reads, writes and CRC-32 all
run without Python's lock).
"""

from __future__ import annotations

import os
import threading
import zlib
from _queue import SimpleQueue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from formats.core.errors import CheckpointError, CorruptCheckpoint, ParityFailed
from formats.core.files import PIECE, SourceFile
from formats.core.layout import Data, Layout
from formats.core.storage import Storage, plain_span

Observe = Callable[[int, int], None]

SMALL = 64 << 10  # bytes: smaller segments are gathered, and written in the destination's order
GATHERED = 32 << 20  # bytes of small segments held at once
AHEAD = 4  # buffers between the writer and the thread that reads back
INLINE = 4 << 20  # bytes: for less, a second thread costs more than it saves


@dataclass(slots=True)
class Streamed:
    """``crcs`` of the data segments (None where not computed), and the segments still to be written: (offset, bytes)."""

    crcs: list[int | None]
    rest: list[tuple[int, bytes]]


def stream(layout: Layout, fd: int, read_back: int, observe: Observe | None = None) -> Streamed:
    """Write all data segments of ``layout`` to ``fd``. ``read_back`` is a second descriptor to check through, or −1 for no check.

    CRC-32 values are computed where somebody needs them: for checking, or for a layout with late segments.
    """
    check = _Check(layout, read_back)
    moved = _Mover(layout, fd, check, observe)
    try:
        moved.run()
        check.finish()
    finally:
        check.stop()
    crcs = check.crcs
    rest = [(literal.offset, literal.data) for literal in layout.literals]
    known = [crc or 0 for crc in crcs]
    for late in layout.late:
        made = late.make(known)
        if len(made) != late.size:
            raise ParityFailed(f"segment at byte {late.offset} is {len(made)} bytes long, {late.size} were planned")
        rest.append((late.offset, made))
    return Streamed(crcs if check.wanted else [None] * len(crcs), _joined(rest))


def check_cover(layout: Layout) -> None:
    """Every byte of the file has exactly one segment: a slip in a planner must not become a hole or an overlap in a file."""
    spans = [(literal.offset, len(literal.data)) for literal in layout.literals]
    spans += [(data.offset, data.storage.nbytes) for data in layout.data]
    spans += [(late.offset, late.size) for late in layout.late]
    spans.sort()
    at = 0
    for offset, length in spans:
        if offset != at and length:
            raise ParityFailed(f"layout has a segment at byte {offset}, where byte {at} is next")
        at += length
    if at != layout.size:
        raise ParityFailed(f"layout's segments end at byte {at} of {layout.size}")


def source_file(storage: Storage) -> SourceFile | None:
    """The file that a storage's bytes come from, where one can be named without reading."""
    file, _ = _place(storage)
    return file if isinstance(file, SourceFile) and file.fd >= 0 else None


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """All of ``view`` at ``offset``, however little the system takes at once."""
    done = 0
    while done < len(view):
        if hasattr(os, "pwrite"):
            count = os.pwrite(fd, view[done:] if done else view, offset + done)
        else:
            os.lseek(fd, offset + done, os.SEEK_SET)
            count = os.write(fd, view[done:])
        if count <= 0:
            raise OSError(5, "the system takes no more bytes")
        done += count


def read_at(fd: int, view: memoryview, offset: int) -> None:
    """Fill ``view`` from ``offset``; `ParityFailed` where the file is shorter."""
    done = 0
    while done < len(view):
        if hasattr(os, "preadv"):
            count = os.preadv(fd, [view[done:] if done else view], offset + done)
        else:
            os.lseek(fd, offset + done, os.SEEK_SET)
            got = os.read(fd, len(view) - done)
            view[done : done + len(got)] = got
            count = len(got)
        if not count:
            raise ParityFailed(f"ends at byte {offset + done} on disk, more was written")
        done += count


def _joined(rest: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Segments that follow each other as one."""
    rest.sort(key=lambda segment: segment[0])
    joined: list[tuple[int, list[bytes]]] = []
    stop = -1
    for offset, data in rest:
        if offset == stop:
            joined[-1][1].append(data)
        else:
            joined.append((offset, [data]))
        stop = offset + len(data)
    return [(offset, b"".join(parts)) for offset, parts in joined]


Part = tuple[int, int]  # (index of a data segment, how many of its bytes)


class _Mover:
    """Reads in the source's order and writes in pieces."""

    def __init__(self, layout: Layout, fd: int, check: _Check, observe: Observe | None) -> None:
        self.layout = layout
        self.fd = fd
        self.check = check
        self.observe = observe
        self.done = 0
        self.small: list[tuple[int, int, bytes]] = []  # (offset, index, bytes)
        self.small_bytes = 0

    def run(self) -> None:
        for index in self._ordered():
            data = self.layout.data[index]
            try:
                if data.storage.nbytes < SMALL:
                    self._gather(index, data)
                else:
                    self._move(index, data)
            except CheckpointError as error:
                if not isinstance(error, ParityFailed) and data.name not in error.what:
                    error.what = f"tensor {data.name!r:.200}: {error.what}"
                raise
        self._write_small()

    def _ordered(self) -> list[int]:
        """Indices of the segments that hold bytes, in the order in which the source holds them."""
        files: dict[int, int] = {}
        places: list[tuple[int, int, int]] = []
        for index, data in enumerate(self.layout.data):
            if data.storage.nbytes:
                file, at = _place(data.storage)
                places.append((files.setdefault(id(file), len(files)), at, index))
        places.sort()
        return [index for _, _, index in places]

    def _move(self, index: int, data: Data) -> None:
        """One segment in pieces that end on multiples of `PIECE` in the destination."""
        storage, offset = data.storage, data.offset
        stop = offset + storage.nbytes
        span = plain_span(storage)
        fill = _reader(storage) if span is None else None
        while offset < stop:
            length = min(PIECE - offset % PIECE, stop - offset)
            buffer = self.check.buffer()
            view = memoryview(buffer)[:length]
            if span is not None:
                file, at = span
                file.read_into(at + offset - data.offset, view)
            else:
                assert fill is not None
                fill(view)
            write_at(self.fd, view, offset)
            self.check.piece(offset, length, buffer, [(index, length)])
            offset += length
            self._tell(length)
        if fill is not None:
            fill(memoryview(b""))

    def _gather(self, index: int, data: Data) -> None:
        raw = bytearray(data.storage.nbytes)
        span = plain_span(data.storage)
        if span is not None:
            span[0].read_into(span[1], memoryview(raw))
        else:
            fill = _reader(data.storage)
            fill(memoryview(raw))
            fill(memoryview(b""))
        self.small.append((data.offset, index, bytes(raw)))
        self.small_bytes += len(raw)
        if self.small_bytes >= GATHERED:
            self._write_small()

    def _write_small(self) -> None:
        """Small segments in the destination's order, those that follow each other in one write."""
        self.small.sort()
        run: list[bytes] = []
        parts: list[Part] = []
        start = stop = 0
        for offset, index, raw in self.small:
            if run and (offset != stop or stop + len(raw) - start > PIECE):
                self._write_run(start, run, parts)
                run, parts = [], []
            if not run:
                start = stop = offset
            run.append(raw)
            parts.append((index, len(raw)))
            stop += len(raw)
        if run:
            self._write_run(start, run, parts)
        self.small, self.small_bytes = [], 0

    def _write_run(self, offset: int, run: list[bytes], parts: list[Part]) -> None:
        joined = bytearray().join(run)
        write_at(self.fd, memoryview(joined), offset)
        self.check.piece(offset, len(joined), joined, parts)
        self._tell(len(joined))

    def _tell(self, length: int) -> None:
        self.done += length
        if self.observe is not None:
            self.observe(self.done, self.layout.size)


def _place(storage: Any) -> tuple[SourceFile | None, int]:
    """(file, about where in it) without reading; (None, 0) for what comes from nowhere."""
    start = 0
    while True:
        order = getattr(storage, "order", None)
        if order is not None:
            file, at = order()
            return file, at + start
        start += getattr(storage, "start", 0)
        inner = getattr(storage, "inner", None)
        if inner is None:
            span = plain_span(storage)
            return (None, 0) if span is None else (span[0], span[1] + start)
        storage = inner


def _reader(storage: Storage) -> Callable[[memoryview], None]:
    """A function that fills buffers with the storage's bytes one after the other; an empty buffer asks for the end."""
    pieces: Iterator[memoryview] = iter(storage.chunks(0, storage.nbytes))
    rest = memoryview(b"")
    done = 0

    def fill(view: memoryview) -> None:
        nonlocal rest, done
        at = 0
        while at < len(view):
            if not rest:
                found = next(pieces, None)
                if found is None:
                    raise CorruptCheckpoint(f"gave {done + at} bytes where {storage.nbytes} were declared")
                rest = found
            taken = rest[: len(view) - at]
            view[at : at + len(taken)] = taken
            rest = rest[len(taken) :]
            at += len(taken)
        done += at
        if not view and (rest or any(len(piece) for piece in pieces)):
            raise CorruptCheckpoint(f"gave more than the {storage.nbytes} bytes declared")

    return fill


class _Check:
    """Reads pieces back and compares them, on a thread of its own where there is enough to do."""

    def __init__(self, layout: Layout, read_back: int) -> None:
        self.layout = layout
        self.read_back = read_back
        self.wanted = read_back >= 0 or bool(layout.late)
        self.crcs: list[int | None] = [0] * len(layout.data)
        self.own = bytearray(PIECE)
        self.failure: BaseException | None = None
        self.free: SimpleQueue[bytearray] = SimpleQueue()
        self.tasks: SimpleQueue[tuple[int, int, bytearray, list[Part]] | None] = SimpleQueue()
        self.thread: threading.Thread | None = None
        threaded = self.wanted and layout.size > INLINE
        for _ in range(AHEAD if threaded else 1):
            self.free.put(bytearray(PIECE))
        if threaded:
            self.thread = threading.Thread(target=self._work, name="read back", daemon=True)
            self.thread.start()

    def buffer(self) -> bytearray:
        """A free buffer of `PIECE` bytes."""
        if self.failure is not None:
            raise self.failure
        return self.free.get()

    def piece(self, offset: int, length: int, buffer: bytearray, parts: list[Part]) -> None:
        """``buffer[:length]`` stands at ``offset`` now, and is ``parts`` one after the other."""
        if self.thread is not None:
            if self.failure is not None:
                raise self.failure
            self.tasks.put((offset, length, buffer, parts))
            return
        if self.wanted:
            self._compare(offset, length, buffer, parts)
        if len(buffer) == PIECE:
            self.free.put(buffer)

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            try:
                if self.failure is None:
                    self._compare(*task)
            except BaseException as error:  # handed to the writing thread
                self.failure = error
            finally:
                if len(task[2]) == PIECE:
                    self.free.put(task[2])

    def _compare(self, offset: int, length: int, buffer: bytearray, parts: list[Part]) -> None:
        view = memoryview(buffer)[:length]
        if self.read_back >= 0:
            if length > len(self.own):
                self.own = bytearray(length)
            view = memoryview(self.own)[:length]
            read_at(self.read_back, view, offset)
            if not buffer.startswith(view):  # compares like memcmp, without a copy
                name = self.layout.data[parts[0][0]].name
                raise ParityFailed(f"bytes {offset} to {offset + length} on disk (tensor {name!r:.200}) are not what was written")
        at = 0
        for index, count in parts:
            self.crcs[index] = zlib.crc32(view[at : at + count], self.crcs[index] or 0)
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
        proved: set[int] = set()
        for data, crc in zip(self.layout.data, self.crcs, strict=True):
            stored = _stored_crc(data.storage)
            if stored is not None:
                proved.add(id(data.storage))
                if crc != stored:
                    _refuse(data.storage, data.name, stored)
        # Of storages that only parts were taken of, the whole has to be read once more to know whether it is sound.
        for data in self.layout.data:
            base: Any = data.storage
            while _stored_crc(base) is None and getattr(base, "inner", None) is not None:
                base = base.inner
            stored = _stored_crc(base)
            if stored is not None and id(base) not in proved:
                proved.add(id(base))
                if _crc(base) != stored:
                    _refuse(base, data.name, stored)


def _stored_crc(storage: Any) -> int | None:
    find = getattr(storage, "stored_crc", None)
    return None if find is None else find()


def _crc(storage: Storage) -> int:
    crc = 0
    for piece in storage.chunks(0, storage.nbytes):
        crc = zlib.crc32(piece, crc)
    return crc


def _refuse(storage: Storage, name: str, stored: int) -> None:
    """The file does not have the checksum that the source gives: is it the source that is wrong?"""
    found = _crc(storage)
    if found != stored:
        raise CorruptCheckpoint(f"tensor {name!r:.200} has CRC-32 {found:08x} in the source, expected {stored:08x}")
    raise ParityFailed(f"tensor {name!r:.200} on disk does not have the CRC-32 {stored:08x} of the source")
