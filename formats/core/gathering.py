"""Fills a buffer with many small segments: near ones by one read, straight to their places or by way of a copy.

A header that stands before the data in the source (a ZIP's local header) comes with the same read as the data.
"""

from __future__ import annotations

from formats.core.buffers import ALLOCATED, PAGE
from formats.core.errors import CheckpointError, ParityFailed
from formats.core.files import SourceFile
from formats.core.layout import Data, Layout
from formats.core.readback import LEAD, PIECE
from formats.core.storage import plain_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GAP = 4 << 10  # bytes: what is this near to each other is read, and written, in one go
DIRECT = 8 << 10  # bytes of a segment, in the mean, from which on a copy of it costs more than a buffer of its own in a read
ALIGNED = 64  # bytes: where torch has the data of a ZIP's member begin

Placed = tuple[Data, int, int, int]  # (segment, offset in the source, bytes before the data there, offset in the buffer)


class Gatherer:
    """Reads segments of ``layout``; ``rank`` is each one's place in the source's order, by index."""

    def __init__(self, layout: Layout, rank: memoryview) -> None:
        self.layout = layout
        self.rank = rank
        self.held = bytearray()  # for what is read at once and belongs to several segments, or to none
        self.direct = True  # whether segments may be read straight to their places

    def fill(self, run: list[int], base: int, view: memoryview) -> None:
        """Read segments into their places in ``view``, which stands for the destination from ``base``; near ones by one read."""
        segments = self.layout.data
        together: list[Placed] = []
        file: SourceFile | None = None
        start = stop = 0
        for index in sorted(run, key=self.rank.__getitem__):
            data = segments[index]
            storage: Any = data.storage
            find = getattr(storage, "lead", None)
            lead = None if find is None else find()
            try:
                source, at, length = lead if lead is not None and lead[2] <= LEAD else (*(plain_span(storage) or (None, 0)), 0)
            except CheckpointError as error:
                raise named(error, data) from error.__cause__
            end = at + length + storage.nbytes
            if source is not file or at < start or at - stop > GAP or end - start > PIECE:
                if together:
                    self._read(file, start, stop, together, view)
                together = []
                file, start, stop = source, at, end
            together.append((data, at, length, data.offset - base))
            stop = max(stop, end)
        self._read(file, start, stop, together, view)

    def _read(self, file: Any, start: int, stop: int, together: list[Placed], view: memoryview) -> None:
        if len(self.held) < stop - start + PAGE:
            self.held = bytearray(max(stop - start, min(PIECE, self.layout.size)) + PAGE)
        raw, shift = self.held, (start - ALLOCATED) % PAGE
        held = memoryview(raw)
        shift -= start
        data = together[0][0]
        try:
            if (
                self.direct
                and stop - start >= DIRECT * len(together)
                and self._read_direct(file, start, stop, together, view, shift)
            ):
                return
            file.read_into(start, held[shift + start : shift + stop])
            for data, at, headed, into in together:
                storage: Any = data.storage
                count = storage.nbytes
                begin = storage.settle(raw, shift + at, at + headed + count) if headed else shift + at
                view[into : into + count] = held[begin : begin + count]
        except CheckpointError as error:
            raise named(error, data) from error.__cause__

    def _read_direct(self, file: Any, start: int, stop: int, together: list[Placed], view: memoryview, shift: int) -> bool:
        """Read each segment straight to its place in ``view``, what stands between them into `held`; whether that could be done.

        How long a ZIP's local header is only it tells, but torch has the data begin at a multiple of `ALIGNED`. Where one ends somewhere
        else, the bytes are in the wrong place, and this is not tried again.
        """
        held = memoryview(self.held)
        buffers: list[memoryview] = []
        begins: list[int] = []
        last = start
        for data, at, headed, into in together:
            begin = at + headed - (at + headed) % ALIGNED if headed else at
            if begin < max(last, at):  # spans overlap, or a header is shorter than any
                self.direct = not headed
                return False
            buffers += (held[shift + last : shift + begin], view[into : into + data.storage.nbytes])
            begins.append(begin)
            last = begin + data.storage.nbytes
        buffers.append(held[shift + last : shift + stop])
        if not file.read_apart(start, buffers):
            return False
        try:
            for begin, (data, at, headed, _) in zip(begins, together, strict=True):
                storage: Any = data.storage
                if headed and storage.settle(self.held, shift + at, at + headed + storage.nbytes) != shift + begin:
                    self.direct = False
        except CheckpointError:  # part of a header is where data should be; or it is wrong, which the other way says, too
            self.direct = False
        return self.direct


def named(error: CheckpointError, data: Data) -> CheckpointError:
    """``error``, with the name of the tensor at which it came."""
    if not isinstance(error, ParityFailed) and data.name not in error.what:
        error.what = f"tensor {data.name!r:.200}: {error.what}"
    return error
