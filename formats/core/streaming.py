"""Moves the bytes of a layout's data segments from their storages into a file, and checks them on the way.

What was measured: one pass in the source's order, pieces cut at the destination's boundaries, one buffer used again and again, small
tensors gathered into long writes; a second thread reads each piece back while the next is under way (reads, writes and CRC-32 all
run without Python's lock).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from formats.core.errors import CheckpointError, CorruptCheckpoint, ParityFailed
from formats.core.files import PIECE, SourceFile
from formats.core.layout import Data, Layout
from formats.core.positioned import read_at, write_at
from formats.core.readback import NO_DATA, Part, ReadBack
from formats.core.record import record
from formats.core.storage import Storage, plain_span

Observe = Callable[[int, int], None]

SMALL = 64 << 10  # bytes: smaller segments are gathered, and written in the destination's order
GATHERED = 4 << 20  # bytes of small segments held at once
GAP = 4 << 10  # bytes: segments this near to each other are written in one go, what is between them being read first


@record
class Itinerary:
    """The data segments that hold bytes, as indices in the order in which the sources hold them, and the files they come from."""

    order: list[int]
    files: list[SourceFile]


def itinerary(layout: Layout) -> Itinerary:
    """In which order to visit a layout's storages; nothing is read."""
    files: dict[int, tuple[int, SourceFile | None]] = {}
    places: list[tuple[int, int, int]] = []
    for index, data in enumerate(layout.data):
        if data.storage.nbytes:
            file, at = _place(data.storage)
            places.append((files.setdefault(id(file), (len(files), file))[0], at, index))
    places.sort()
    # A file inside another has no descriptor of its own; a closed one is past asking.
    opened = [file for _, file in files.values() if file is not None and (file.fd >= 0 or type(file) is not SourceFile)]
    return Itinerary([index for _, _, index in places], opened)


def stream(layout: Layout, order: list[int], fd: int, read_back: int, observe: Observe | None = None) -> list[int | None]:
    """Write all segments of ``layout`` to ``fd``; returns the CRC-32 of each data segment (None where not computed).

    ``read_back`` is a second descriptor to check everything through, or −1 for no check. CRC-32 values are computed where somebody
    needs them: for checking, or for a layout with late segments.
    """
    check = ReadBack(layout, read_back)
    try:
        _Mover(layout, fd, check, observe).run(order)
        check.finish()
    finally:
        check.stop()
    _write_rest(_rest(layout, check.crcs), fd, read_back)
    return list(check.crcs) if check.wanted else [None] * len(layout.data)


def _rest(layout: Layout, crcs: list[int]) -> list[tuple[int, bytes]]:
    """What is no data, by offset."""
    rest = [(literal.offset, literal.data) for literal in layout.literals]
    for late in layout.late:
        made = late.make(crcs)
        if len(made) != late.size:
            raise ParityFailed(f"segment at byte {late.offset} is {len(made)} bytes long, {late.size} were planned")
        rest.append((late.offset, made))
    rest.sort(key=lambda segment: segment[0])
    return rest


def _write_rest(rest: list[tuple[int, bytes]], fd: int, read_back: int) -> None:
    """Headers and the like, near neighbours in one write: between the headers of tiny tensors stand the tensors, written already."""
    at = 0
    while at < len(rest):
        start = rest[at][0]
        stop = start + len(rest[at][1])
        end = at + 1
        while end < len(rest) and rest[end][0] - stop <= GAP and rest[end][0] + len(rest[end][1]) - start <= PIECE:
            stop = rest[end][0] + len(rest[end][1])
            end += 1
        window = bytearray(stop - start)
        if stop - start > sum(len(data) for _, data in rest[at:end]):
            read_at(fd, memoryview(window), start)
        for offset, data in rest[at:end]:
            window[offset - start : offset - start + len(data)] = data
        write_at(fd, memoryview(window), start)
        if read_back >= 0:
            found = bytearray(len(window))
            read_at(read_back, memoryview(found), start)
            if found != window:
                raise ParityFailed(f"bytes {start} to {stop} on disk are not what was written")
        at = end


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


class _Mover:
    """Reads in the source's order and writes in pieces."""

    def __init__(self, layout: Layout, fd: int, check: ReadBack, observe: Observe | None) -> None:
        self.layout = layout
        self.fd = fd
        self.check = check
        self.observe = observe
        self.done = 0
        self.small: list[tuple[int, int, bytes]] = []  # (offset, index, bytes)
        self.small_bytes = 0
        offsets = [data.offset for data in layout.data]
        self.in_order = offsets == sorted(offsets)

    def run(self, order: list[int]) -> None:
        for index in order:
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
        """Small segments in the destination's order, near neighbours in one write; headers between them are written later."""
        self.small.sort()
        run: list[bytes] = []
        parts: list[Part] = []
        start = stop = last = 0
        for offset, index, raw in self.small:
            # Between two data segments that follow each other in the layout there is no data that a filling could overwrite.
            near = offset == stop or (self.in_order and index == last + 1 and offset - stop <= GAP)
            if run and (not near or offset + len(raw) - start > PIECE):
                self._write_run(start, run, parts)
                run, parts = [], []
            if not run:
                start = stop = offset
            if offset != stop:
                run.append(bytes(offset - stop))
                parts.append((NO_DATA, offset - stop))
            run.append(raw)
            parts.append((index, len(raw)))
            stop, last = offset + len(raw), index
        if run:
            self._write_run(start, run, parts)
        self.small, self.small_bytes = [], 0

    def _write_run(self, offset: int, run: list[bytes], parts: list[Part]) -> None:
        joined = bytearray().join(run)
        write_at(self.fd, memoryview(joined), offset)
        self.check.piece(offset, len(joined), joined, parts)
        self._tell(sum(count for index, count in parts if index != NO_DATA))

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
