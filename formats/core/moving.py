"""Reads a layout's segments in the source's order and writes them in long pieces; what is written is handed on to be checked.

Large segments go piece by piece through one buffer, each piece ending at a multiple of `PIECE` in the destination. Small ones come
afterwards, a stretch of the destination at a time: read in the source's order, many at once with whatever stands between them, and
written in one go. A header that stands before the data in the source (a ZIP's local header) comes with the same read as the data.

Two movers share one list of work (`Work`), each reads, writes and checks what it takes from it: nothing is handed from thread to thread.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable, Iterator
from typing import Any

from formats.core.errors import CheckpointError, CorruptCheckpoint, ParityFailed
from formats.core.files import SourceFile
from formats.core.layout import Data, Layout
from formats.core.positioned import write_at
from formats.core.readback import LEAD, NO_DATA, PIECE, Part, ReadBack
from formats.core.storage import Storage, plain_span

Observe = Callable[[int, int], None]
Placed = tuple[int, Any, int, int]  # (index, storage, offset in the file, bytes of what stands before the data there)

SMALL = 128 << 10  # bytes: smaller segments are gathered, and written in the destination's order
GATHERED = 2 << 20  # bytes of small segments held at once
GAP = 4 << 10  # bytes: what is this near to each other is read, and written, in one go


Item = int | list[tuple[int, int]]  # one large segment, or (place in the source's order, index) of small ones near to each other


class Work:
    """What is to be moved: ``computed`` segments by one mover, in the source's order; ``items`` by whichever mover comes next."""

    def __init__(self, layout: Layout, order: list[int], observe: Observe | None) -> None:
        self.layout = layout
        self.observe = observe
        self.computed: list[int] = []  # what is inflated, say, is inflated once where it is read in order
        self.nbytes = 0  # of the items
        self.failure: BaseException | None = None  # ends all movers
        self.done = 0
        self._lock = allocate_lock()
        large: list[Item] = []
        small: list[tuple[int, int, int]] = []  # (offset, place in the source's order, index)
        for rank, index in enumerate(order):
            data = layout.data[index]
            storage = data.storage
            try:
                if not hasattr(storage, "lead") and plain_span(storage) is None:
                    self.computed.append(index)
                    continue
            except CheckpointError as error:
                raise _named(error, data) from error.__cause__
            self.nbytes += storage.nbytes
            if storage.nbytes >= SMALL:
                large.append(index)
            else:
                small.append((data.offset, rank, index))
        self.items = iter([*large, *self._stretches(small)])

    def _stretches(self, small: list[tuple[int, int, int]]) -> Iterator[Item]:
        """Small segments by stretches of the destination."""
        small.sort()
        near: list[tuple[int, int]] = []
        held = 0
        for _, rank, index in small:
            near.append((rank, index))
            held += self.layout.data[index].storage.nbytes
            if held >= GATHERED:
                yield near
                near, held = [], 0
        if near:
            yield near

    def tell(self, length: int) -> None:
        """So many bytes more are written."""
        if self.observe is not None:
            with self._lock:
                self.done += length
                self.observe(self.done, self.layout.size)


class Mover:
    """Moves segments of ``work`` to ``fd`` and has ``check`` look at each piece."""

    def __init__(self, work: Work, fd: int, check: ReadBack) -> None:
        self.work = work
        self.layout = work.layout
        self.fd = fd
        self.check = check
        self.small: list[tuple[int, int, bytes]] = []  # (offset, index, bytes)
        self.small_bytes = 0
        last = -1
        self.in_order = True
        for data in self.layout.data:
            if data.offset < last:
                self.in_order = False
                break
            last = data.offset

    def run(self, computed: list[int]) -> None:
        """Move the ``computed`` segments, then items until none is left or another mover has failed."""
        for index in computed:
            data = self.layout.data[index]
            try:
                if data.storage.nbytes >= SMALL:
                    self._move(index, data)
                else:
                    self._computed(index, data)
            except CheckpointError as error:
                raise _named(error, data) from error.__cause__
        self._write_small()
        for item in self.work.items:
            if self.work.failure is not None:
                return
            if isinstance(item, int):
                data = self.layout.data[item]
                try:
                    self._move(item, data)
                except CheckpointError as error:
                    raise _named(error, data) from error.__cause__
            else:
                self._gather(item)

    # -- large segments ------------------------------------------------------------------------------------------------------------
    def _move(self, index: int, data: Data) -> None:
        storage: Any = data.storage
        offset, stop = data.offset, data.offset + storage.nbytes
        lead = _lead(storage)
        if lead is not None:
            file, at, length = lead
            count = min(PIECE - offset % PIECE, stop - offset)
            buffer = self.check.buffer
            view = memoryview(buffer)
            file.read_into(at, view[: length + count])
            begin = storage.settle(view, 0, at + length + storage.nbytes)
            write_at(self.fd, view[begin : begin + count], offset)
            self.check.piece(offset, count, [(index, count)], begin)
            offset += count
            self.work.tell(count)
        span = plain_span(storage)
        fill = _reader(storage) if span is None else None
        while offset < stop and self.work.failure is None:
            count = min(PIECE - offset % PIECE, stop - offset)
            buffer = self.check.buffer
            view = memoryview(buffer)[:count]
            if span is not None:
                span[0].read_into(span[1] + offset - data.offset, view)
            else:
                assert fill is not None
                fill(view)
            write_at(self.fd, view, offset)
            self.check.piece(offset, count, [(index, count)])
            offset += count
            self.work.tell(count)
        if fill is not None and offset == stop:
            fill(memoryview(b""))

    # -- small segments ------------------------------------------------------------------------------------------------------------
    def _gather(self, near: list[tuple[int, int]]) -> None:
        """Move the small segments of these places and indices, those near to each other in the source by one read."""
        near.sort()
        segments = self.layout.data
        together: list[Placed] = []
        file: SourceFile | None = None
        start = stop = 0
        for _, index in near:
            storage: Any = segments[index].storage
            try:
                source, at, length = _lead(storage) or (*(plain_span(storage) or (None, 0)), 0)
            except CheckpointError as error:
                raise _named(error, segments[index]) from error.__cause__
            end = at + length + storage.nbytes
            if together and (source is not file or at < start or at - stop > GAP or end - start > PIECE):
                self._read(file, start, stop, together)
                together = []
            if not together:
                file, start, stop = source, at, end
            together.append((index, storage, at, length))
            stop = max(stop, end)
        if together:
            self._read(file, start, stop, together)
        self._write_small()

    def _read(self, file: Any, start: int, stop: int, together: list[Placed]) -> None:
        segments, small = self.layout.data, self.small
        held = bytearray(stop - start)
        index = together[0][0]
        try:
            file.read_into(start, memoryview(held))
            for index, storage, at, headed in together:
                count = storage.nbytes
                begin = storage.settle(held, at - start, at + headed + count) if headed else at - start
                small.append((segments[index].offset, index, bytes(held[begin : begin + count])))
        except CheckpointError as error:
            raise _named(error, segments[index]) from error.__cause__

    def _computed(self, index: int, data: Data) -> None:
        raw = bytearray(data.storage.nbytes)
        fill = _reader(data.storage)
        fill(memoryview(raw))
        fill(memoryview(b""))
        self.small.append((data.offset, index, bytes(raw)))
        self.small_bytes += len(raw)
        if self.small_bytes >= GATHERED:
            self._write_small()

    def _write_small(self) -> None:
        """Small segments in the destination's order, near neighbours in one write; headers between them are written later."""
        self.small.sort()
        run: list[bytes] = []
        parts: list[Part] = []
        start = stop = last = 0
        in_order = self.in_order
        for offset, index, raw in self.small:
            end = offset + len(raw)
            # Between two data segments that follow each other in the layout there is no data that a filling could overwrite.
            if offset != stop or not run or end - start > PIECE:
                near = in_order and index == last + 1 and offset - stop <= GAP
                if run and (not (near or offset == stop) or end - start > PIECE):
                    self._write_run(start, run, parts)
                    run, parts = [], []
                if not run:
                    start = offset
                elif offset != stop:
                    run.append(bytes(offset - stop))
                    parts.append((NO_DATA, offset - stop))
            run.append(raw)
            parts.append((index, len(raw)))
            stop, last = end, index
        if run:
            self._write_run(start, run, parts)
        self.small, self.small_bytes = [], 0

    def _write_run(self, offset: int, run: list[bytes], parts: list[Part]) -> None:
        buffer = self.check.buffer
        joined = b"".join(run)
        count = len(joined)
        buffer[:count] = joined
        write_at(self.fd, memoryview(buffer)[:count], offset)
        self.check.piece(offset, count, parts)
        self.work.tell(sum(count for index, count in parts if index != NO_DATA))


def _lead(storage: Any) -> tuple[SourceFile, int, int] | None:
    """(file, offset, bytes) of a header that stands before the data and has not been read yet, where there is one and it is short."""
    find = getattr(storage, "lead", None)
    lead: tuple[SourceFile, int, int] | None = None if find is None else find()
    return None if lead is None or lead[2] > LEAD else lead


def _named(error: CheckpointError, data: Data) -> CheckpointError:
    if not isinstance(error, ParityFailed) and data.name not in error.what:
        error.what = f"tensor {data.name!r:.200}: {error.what}"
    return error


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
