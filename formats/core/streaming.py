"""Puts a layout's bytes into a file and checks them on the way: in which order, the data, then what depends on it.

What was measured: one pass in the source's order, pieces cut at the destination's boundaries, small tensors gathered into long writes, and
two threads that each read, write, read back and compare what they take from one list (`moving.py`, `readback.py`).
"""

from __future__ import annotations

import os
from _thread import allocate_lock, start_new_thread  # what threading.Thread is, without the rest

from formats.core.errors import ParityFailed
from formats.core.files import SourceFile
from formats.core.gathering import GAP
from formats.core.layout import Layout
from formats.core.moving import Follower, Mover, Observe, Work
from formats.core.positioned import read_at, write_at
from formats.core.readback import PIECE, ReadBack, compare_stored
from formats.core.record import record
from formats.core.storage import plain_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

THREADS = True  # False in a process that has company enough to keep every core busy
ALONE = 4 << 20  # bytes: for less, a second thread costs more than it saves
EACH = 8 << 10  # … and so it does for segments smaller than this in the mean, where the work is Python's


@record
class Itinerary:
    """The data segments that hold bytes, as indices in the order in which the sources hold them, and the files they come from."""

    order: list[int]
    files: list[SourceFile]


def itinerary(layout: Layout) -> Itinerary:
    """In which order to visit a layout's storages; nothing is read."""
    files: dict[int, tuple[int, SourceFile | None]] = {}
    indices: list[int] = []
    places: list[int] = []
    last: Any = files  # no file
    shift = 0
    for index, data in enumerate(layout.data):
        storage: Any = data.storage
        if storage.nbytes:
            order = getattr(storage, "order", None)
            file, at = _place(storage) if order is None else order()
            if file is not last:
                last = file
                shift = files.setdefault(id(file), (len(files), file))[0] << 64  # file after file
            indices.append(index)
            places.append(shift + at)
    ranks = sorted(range(len(places)), key=places.__getitem__)
    # A file inside another has no descriptor of its own; a closed one is past asking.
    opened = [file for _, file in files.values() if file is not None and (file.fd >= 0 or type(file) is not SourceFile)]
    return Itinerary([indices[rank] for rank in ranks], opened)


def stream(
    layout: Layout, order: list[int], fd: int, read_back: int, observe: Observe | None = None, follower: Follower | None = None
) -> list[int | None]:
    """Write all segments of ``layout`` to ``fd``; returns the CRC-32 of each data segment (None where not computed).

    ``read_back`` is a second descriptor to check everything through, or −1 for no check. CRC-32 values are computed where somebody
    needs them: for checking, or for a layout with late segments. A ``follower`` is told of every byte once it is there, in a layout that
    can be followed (`followable`).
    """
    crcs = [0] * len(layout.data)
    if follower is not None:
        _write_rest(_rest(layout, crcs), fd, read_back)
        for literal in layout.literals:
            follower.wrote(literal.offset, len(literal.data))
    work = Work(layout, order, fd, observe, follower)
    movers = [Mover(work, ReadBack(layout, read_back, crcs)) for _ in range(_movers(work))]
    if len(movers) == 1:
        movers[0].run(work.computed)
    else:
        _side_by_side(work, movers)
    for mover in movers:
        mover.close()
    if read_back >= 0:
        compare_stored(layout, crcs)
    if follower is None:
        _write_rest(_rest(layout, crcs), fd, read_back)
    return list(crcs) if movers[0].check.wanted else [None] * len(layout.data)


def followable(layout: Layout) -> bool:
    """Whether what is no data can be written first: it depends on nothing, and none of it stands between data."""
    starts = [data.offset for data in layout.data if data.storage.nbytes]
    first = min(starts, default=layout.size)
    return not layout.late and all(literal.offset < first for literal in layout.literals)


def _movers(work: Work) -> int:
    """Two where there are cores for them and enough to move in system calls rather than in Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if THREADS and cores > 1 and work.nbytes > max(ALONE, EACH * len(work.layout.data)) else 1


def _side_by_side(work: Work, movers: list[Mover]) -> None:
    """Let the first mover run here and the second on a thread; what either raises ends both, and is raised."""
    ended, waiting = False, allocate_lock()
    waiting.acquire()

    def run() -> None:
        nonlocal ended
        try:
            movers[1].run([])
        except BaseException as error:
            work.failure = work.failure or error
        finally:
            ended = True
            waiting.release()

    start_new_thread(run, ())
    try:
        movers[0].run(work.computed)
    except BaseException as error:
        work.failure = error
    while not ended:
        try:
            waiting.acquire(timeout=1)
        except BaseException as error:  # a signal: the other one uses the descriptors until it has ended, too
            work.failure = error
    if work.failure is not None:
        raise work.failure


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
        window: bytes | bytearray = rest[at][1]
        if end > at + 1:
            window = bytearray(stop - start)
            if stop - start > sum(len(data) for _, data in rest[at:end]):
                read_at(fd, memoryview(window), start)
            for offset, data in rest[at:end]:
                window[offset - start : offset - start + len(data)] = data
        write_at(fd, memoryview(window), start)
        # The header of 100,000 tensors is long: no second one of it is held.
        for begin in range(0, len(window) if read_back >= 0 else 0, PIECE):
            found = bytearray(min(PIECE, len(window) - begin))
            read_at(read_back, memoryview(found), start + begin)
            if found != window[begin : begin + PIECE]:
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
