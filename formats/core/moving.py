"""Reads a layout's segments in the source's order and writes them in long pieces; what is written is handed on to be checked.

Large segments go piece by piece through one buffer, each piece ending at a multiple of `PIECE` in the destination. Small ones come
afterwards, a stretch of the destination at a time: gathered from the source (`gathering.py`) and written in one go. A header that stands
before the data in the source (a ZIP's local header) comes with the same read as the data.

Two movers share one list of work (`Work`), each reads, writes and checks what it takes from it: nothing is handed from thread to thread.
"""

from __future__ import annotations

from _thread import allocate_lock

from formats.core.buffers import words
from formats.core.errors import CheckpointError, CorruptCheckpoint
from formats.core.files import SourceFile
from formats.core.gathering import GAP, Gatherer, named
from formats.core.layout import Data, Layout
from formats.core.positioned import begin_flush, write_at
from formats.core.readback import LEAD, NO_DATA, PIECE, Part, ReadBack
from formats.core.storage import Storage, anywhere, plain_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol, TypeAlias
else:
    Protocol = object

Observe: TypeAlias = "Callable[[int, int], None]"


class Follower(Protocol):
    """Is told which bytes of the output, ``[offset, offset + length)``, are written."""

    def wrote(self, offset: int, length: int) -> None: ...


SMALL = 384 << 10  # bytes: smaller segments are gathered, and written in the destination's order
GATHERED = 2 << 20  # bytes of small computed segments held at once
BLOCK = 4 << 20  # bytes of the output that go to the disk once all of them are written, while the next ones are moved


Item = int | list[int]  # the index of a large segment, or those of small ones that one write takes


class Work:
    """What is to be moved: ``computed`` segments by one mover, in the source's order; ``items`` by whichever mover comes next.

    Computed are those that are inflated on the way, say, which is done once where it is done in order, and small ones.
    """

    def __init__(
        self, layout: Layout, order: list[int], fd: int, observe: Observe | None, follower: Follower | None = None
    ) -> None:
        self.layout = layout
        self.fd = fd
        self.observe = observe
        self.follower = follower
        self.computed: list[int] = []
        self.nbytes = 0  # of the items
        self.failure: BaseException | None = None  # ends all movers
        self.done = 0
        self._written: dict[int, int] = {}  # {block of the output: bytes}
        self._lock = allocate_lock()
        offsets = [data.offset for data in layout.data]
        self._in_order = offsets == sorted(offsets)
        self.rank = words(len(offsets))  # by index: the place in the source's order
        large: list[int] = []
        small: list[int] = []
        for rank, index in enumerate(order):
            self.rank[index] = rank
            data = layout.data[index]
            storage = data.storage
            try:
                if (
                    not hasattr(storage, "lead")
                    and plain_span(storage) is None
                    and (storage.nbytes < SMALL or not anywhere(storage))
                ):
                    self.computed.append(index)
                    continue
            except CheckpointError as error:
                raise named(error, data) from error.__cause__
            self.nbytes += storage.nbytes
            if storage.nbytes >= SMALL:
                large.append(index)
            else:
                small.append(index)
        if follower is not None:  # it reads from the output's start
            large.sort(key=lambda index: layout.data[index].offset)
        self.items: Iterator[Item] = iter([*large, *self.runs(small)])

    def runs(self, small: list[int]) -> Iterator[list[int]]:
        """Small segments in the destination's order, those together that one write takes; headers between them are written later."""
        segments = self.layout.data
        small.sort(key=lambda index: segments[index].offset)
        run: list[int] = []
        start = stop = last = 0
        for index in small:
            data = segments[index]
            offset, end = data.offset, data.offset + data.storage.nbytes
            # Between two data segments that follow each other in the layout there is no data that a filling could overwrite.
            near = offset == stop or (self._in_order and index == last + 1 and offset - stop <= GAP)
            if run and (not near or end - start > PIECE):
                yield run
                run = []
            if not run:
                start = offset
            run.append(index)
            stop, last = end, index
        if run:
            yield run

    def tell(self, offset: int, length: int, filling: int = 0) -> None:
        """``length`` bytes more are written at ``offset``, ``filling`` of which are no data."""
        if self.follower is not None:
            self.follower.wrote(offset, length)
        full = []
        with self._lock:
            for block in range(offset // BLOCK, (offset + length - 1) // BLOCK + 1):
                part = min(offset + length, (block + 1) * BLOCK) - max(offset, block * BLOCK)
                self._written[block] = part = self._written.get(block, 0) + part
                if part == BLOCK:
                    full.append(block)
            if self.observe is not None:
                self.done += length - filling
                self.observe(self.done, self.layout.size)
        for block in full:
            begin_flush(self.fd, block * BLOCK, BLOCK)


class Mover:
    """Moves segments of ``work`` to their places and has ``check`` look at each piece."""

    def __init__(self, work: Work, check: ReadBack) -> None:
        self.work = work
        self.layout = work.layout
        self.fd = work.fd
        self.check = check
        self.gatherer = Gatherer(work.layout, work.rank)

    def run(self, computed: list[int]) -> None:
        """Move the ``computed`` segments, then items until none is left or another mover has failed."""
        made: dict[int, bytes] = {}  # small ones wait for neighbours
        waiting = 0  # bytes
        for index in computed:
            data = self.layout.data[index]
            try:
                if data.storage.nbytes >= SMALL:
                    self._move(index, data)
                else:
                    made[index] = _computed(data.storage)
                    waiting += len(made[index])
            except CheckpointError as error:
                raise named(error, data) from error.__cause__
            if waiting >= GATHERED:
                self._write_made(made)
                waiting = 0
        self._write_made(made)
        for item in self.work.items:
            if self.work.failure is not None:
                return
            if isinstance(item, int):
                data = self.layout.data[item]
                try:
                    self._move(item, data)
                except CheckpointError as error:
                    raise named(error, data) from error.__cause__
            else:
                self._write_run(item, None)

    def close(self) -> None:
        """Nothing more is to be moved."""
        self.check.close()

    # -- large segments ------------------------------------------------------------------------------------------------------------
    def _move(self, index: int, data: Data) -> None:
        storage: Any = data.storage
        offset, stop = data.offset, data.offset + storage.nbytes
        buffer, view = self.check.buffer, self.check.buffer.view
        lead = _lead(storage)
        if lead is not None:
            file, at, length = lead
            count = min(PIECE - offset % PIECE, stop - offset)
            begin = buffer.place(offset, at, length)
            file.read_into(at, view[begin : begin + length + count])
            begin += storage.settle(bytes(view[begin : begin + length]), 0, at + length + storage.nbytes)
            write_at(self.fd, view[begin : begin + count], offset)
            self.check.piece(offset, count, [(index, count)], begin)
            self.work.tell(offset, count)
            offset += count
        span = plain_span(storage)
        fill = _reader(storage) if span is None else None
        while offset < stop and self.work.failure is None:
            count = min(PIECE - offset % PIECE, stop - offset)
            begin = buffer.place(offset, None if span is None else span[1] + offset - data.offset)
            piece = view[begin : begin + count]
            if span is not None:
                span[0].read_into(span[1] + offset - data.offset, piece)
            else:
                assert fill is not None
                fill(piece)
            write_at(self.fd, piece, offset)
            self.check.piece(offset, count, [(index, count)], begin)
            self.work.tell(offset, count)
            offset += count
        if fill is not None and offset == stop:
            fill(memoryview(b""))

    # -- small segments ------------------------------------------------------------------------------------------------------------
    def _write_made(self, made: dict[int, bytes]) -> None:
        for run in self.work.runs(list(made)):
            self._write_run(run, made)
        made.clear()

    def _write_run(self, run: list[int], made: dict[int, bytes] | None) -> None:
        """Fill the buffer with small segments, from ``made`` or from their sources, and write it."""
        segments = self.layout.data
        base = stop = segments[run[0]].offset
        begin = self.check.buffer.place(base)
        view = self.check.buffer.view[begin:]
        parts: list[Part] = []
        for index in run:
            offset = segments[index].offset
            if offset != stop:
                view[stop - base : offset - base] = bytes(offset - stop)
                parts.append((NO_DATA, offset - stop))
            count = segments[index].storage.nbytes
            stop = offset + count
            parts.append((index, count))
            if made is not None:
                view[offset - base : stop - base] = made[index]
        if made is None:
            self.gatherer.fill(run, base, view)
        write_at(self.fd, view[: stop - base], base)
        self.check.piece(base, stop - base, parts, begin)
        self.work.tell(base, stop - base, sum(count for index, count in parts if index == NO_DATA))


def _computed(storage: Storage) -> bytes:
    raw = bytearray(storage.nbytes)
    fill = _reader(storage)
    fill(memoryview(raw))
    fill(memoryview(b""))
    return bytes(raw)


def _lead(storage: Any) -> tuple[SourceFile, int, int] | None:
    """(file, offset, bytes) of a header that stands before the data and has not been read yet, where there is one and it is short."""
    find = getattr(storage, "lead", None)
    lead: tuple[SourceFile, int, int] | None = None if find is None else find()
    return None if lead is None or lead[2] > LEAD else lead


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
