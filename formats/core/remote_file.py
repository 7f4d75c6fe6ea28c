"""A remote file read at positions: only what is asked for is fetched, in long ranges, a few of them ahead.

Whoever knows what will be read says so (`expect`): then exactly those ranges are fetched, near neighbours in one request. What nobody
announced (a container's structure) is fetched in small blocks. Retries with back-off are the library's; https has none, so it gets
some here. What all remote files together hold in memory is bounded.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from formats.core.errors import CorruptCheckpoint, SystemIOError, UnknownFormat, Unsupported
from formats.core.files import PIECE, SourceFile
from formats.core.layout import Layout
from formats.core.remote import RemotePath, told
from formats.core.storage import Storage

CHUNK = 8 << 20  # bytes of one request, at most
AHEAD = 3  # requests under way at once
BLOCK = 64 << 10  # bytes of a request that nobody announced; doubled while reading goes on where it ended
KEPT = 8 << 20  # bytes of such blocks that one file keeps
GAP = 64 << 10  # bytes: announced ranges this near to each other are fetched in one request
HEADER = 256  # bytes that may stand between the place of a ZIP member and its data
HELD = 6 * CHUNK  # bytes that all remote files hold together, what is under way included
MARKS = ("ETag", "LastModified", "Last-Modified", "mtime", "md5Hash", "generation", "created", "blob_id")
WAITS = (0.2, 1.0, 3.0)  # seconds between tries over https

_held: OrderedDict[tuple[int, int], _Range] = OrderedDict()
_lock = threading.Lock()
_numbers = itertools.count()


class _Range:
    """Bytes ``[start, stop)`` of a file, on their way or here."""

    __slots__ = ("_done", "_file", "data", "failure", "start", "stop")

    def __init__(self, file: RemoteFile, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.data = b""
        self.failure: BaseException | None = None
        self._file: RemoteFile | None = file
        self._done = threading.Event()
        # A daemon: a server that does not answer must not keep the program from ending.
        threading.Thread(target=self._work, name="fetch", daemon=True).start()

    def _work(self) -> None:
        try:
            assert self._file is not None
            self.data = self._file.fetch(self.start, self.stop)
        except BaseException as error:  # handed to whoever waits
            self.failure = error
        finally:
            self._file = None
            self._done.set()

    def wait(self) -> bytes:
        self._done.wait()
        if self.failure is not None:
            raise self.failure
        return self.data


class RemoteFile(SourceFile):
    """The file at ``path`` under the methods of `SourceFile`. Raises `SystemIOError` where it cannot be had, `UnknownFormat` where
    it is a folder, `Unsupported` where the server gives no ranges or no size.

    ``requests`` and ``received`` count what was fetched (requests for ranges, bytes).
    """

    __slots__ = ("_again", "_blocks", "_file", "_next", "_number", "_plan", "_starts", "_step", "received", "remote", "requests")

    def __init__(self, path: RemotePath) -> None:
        self.path = self.remote = path
        self.fd = -1
        self.archive = None
        self._number = next(_numbers)
        self._lock = threading.Lock()
        self._plan: list[tuple[int, int]] = []
        self._starts: list[int] = []
        self._blocks: list[tuple[int, bytes]] = []
        self._step, self._next = BLOCK, -CHUNK
        self._again = WAITS if path.scheme in ("http", "https") else ()
        self.requests = self.received = 0
        info = path.info()
        if info is None:
            raise SystemIOError(f"cannot be opened: {path.missing()}", path=path)
        if info.get("type") == "directory":
            raise UnknownFormat("is a folder, not a file", path=path, hint="name a file in it")
        if info.get("size") is None:
            raise Unsupported("the server does not say how long it is", path=path, hint="download it first")
        if info.get("partial") is False:
            raise Unsupported("the server gives no ranges of it", path=path, hint="download it first")
        self.size = int(info["size"])
        self.identity = _identity(path, info)
        fs, name = path.place()
        try:
            # S3's file asks for every range under the condition that the object is still the one opened (If-Match).
            self._file: Any = fs.open(name, "rb", cache_type="none") if self.size else None
        except Exception as error:
            raise told(error, path, "cannot be opened") from path._cause(error)

    # -- ranges ----------------------------------------------------------------------------------------------------------------------
    def fetch(self, start: int, stop: int) -> bytes:
        """Exactly the bytes ``[start, stop)``, in one request."""
        for wait in (*self._again, None):
            try:
                data = self._ranged(start, stop)
                break
            except Exception as error:
                status = getattr(error, "status", None)
                if wait is None or isinstance(error, (ValueError, PermissionError)) or (isinstance(status, int) and status < 500):
                    raise self._failed(error, start, stop) from self.remote._cause(error)
                time.sleep(wait)
        with self._lock:
            self.requests += 1
            self.received += len(data)
        if len(data) != stop - start:
            raise SystemIOError(
                f"the server gave {len(data)} bytes from byte {start} where {stop - start} were asked for", path=self.path
            )
        return data

    def _ranged(self, start: int, stop: int) -> bytes:
        if self._file is None:
            raise SystemIOError("has been closed", path=self.path)
        fetch = getattr(self._file, "_fetch_range", None)
        if fetch is not None:
            return bytes(fetch(start, stop))
        with _lock:  # a file in memory has one position
            self._file.seek(start)
            return bytes(self._file.read(stop - start))

    def _failed(self, error: Exception, start: int, stop: int) -> Exception:
        if type(error).__name__ == "FileExpired" or getattr(error, "errno", None) == 22:
            return SystemIOError("changed while it was read", path=self.path)
        if isinstance(error, ValueError) and "range requests" in str(error):
            return Unsupported("the server gives no ranges of it", path=self.path, hint="download it first")
        return told(error, self.path, f"cannot be read at bytes {start} to {stop}")

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say what will be read next, as (offset, length) in bytes: near neighbours are fetched together and ahead of their use."""
        spans = sorted((max(at, 0), min(at + length, self.size)) for at, length in ranges if length > 0)
        plan: list[tuple[int, int]] = []
        for start, stop in spans:
            if plan and start <= plan[-1][1] + GAP:
                plan[-1] = (plan[-1][0], max(plan[-1][1], stop))
            elif start < stop:
                plan.append((start, stop))
        cut = [(at, min(at + CHUNK, stop)) for start, stop in plan for at in range(start, stop, CHUNK)]
        self._forget()
        self._plan, self._starts = cut, [start for start, _ in cut]

    def _range(self, index: int) -> _Range:
        """A planned range; it and the next ones are under way from now on."""
        with _lock:
            for at in range(index, min(index + AHEAD, len(self._plan))):
                if (self._number, at) not in _held:
                    _held[self._number, at] = _Range(self, *self._plan[at])
            for at in range(min(index + AHEAD, len(self._plan)) - 1, index - 1, -1):
                _held.move_to_end((self._number, at))  # the one in use last
            found = _held[self._number, index]
            while sum(one.stop - one.start for one in _held.values()) > HELD and len(_held) > AHEAD:
                _held.popitem(last=False)
        return found

    def _forget(self) -> None:
        with _lock:
            for key in [key for key in _held if key[0] == self._number]:
                del _held[key]

    def _at(self, at: int, stop: int) -> tuple[int, bytes]:
        """(offset, bytes from there on) of a piece that holds byte ``at``."""
        index = bisect_right(self._starts, at) - 1
        if index >= 0 and at < self._plan[index][1]:
            return self._plan[index][0], self._range(index).wait()
        for start, data in tuple(self._blocks):
            if start <= at < start + len(data):
                return start, data
        on = 0 <= at - self._next <= HEADER  # reading goes on, over a header perhaps
        self._step = min(self._step * 2, KEPT // 2) if on else BLOCK
        end = min(max(min(stop, at + CHUNK), at + self._step), self.size)
        data = self.fetch(at, end)
        self._next = end
        with self._lock:
            self._keep(at, data)
        return at, data

    def _keep(self, at: int, data: bytes) -> None:
        self._blocks.append((at, data))
        while len(self._blocks) > 1 and sum(len(block) for _, block in self._blocks) > KEPT:
            del self._blocks[0]

    # -- what a `SourceFile` does ----------------------------------------------------------------------------------------------------
    def read_into(self, offset: int, buffer: memoryview) -> None:
        at, stop = offset, offset + len(buffer)
        if offset < 0 or stop > self.size:
            raise CorruptCheckpoint(
                f"ends at byte {self.size} where {stop - max(self.size, offset)} more bytes were expected", path=self.path
            )
        while at < stop:
            start, data = self._at(at, stop)
            piece = memoryview(data)[at - start : stop - start]
            buffer[at - offset : at - offset + len(piece)] = piece
            at += len(piece)

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        if length > PIECE and not self._planned(offset):
            self.expect([(offset, length)])
        return super().pieces(offset, length)

    def _planned(self, offset: int) -> bool:
        index = bisect_right(self._starts, offset) - 1
        return index >= 0 and offset < self._plan[index][1]

    def changed(self) -> bool:
        info = self.remote.fresh()
        return info is None or _identity(self.remote, info) != self.identity

    def close(self) -> None:
        self._forget()
        self._blocks = []
        self._end()

    def _end(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file is not None and hasattr(file, "_fetch_range"):
            file.close()

    def __del__(self) -> None:
        self._end()  # and no lock: whoever lets go of the last reference may hold it


def _identity(path: RemotePath, info: dict[str, Any]) -> tuple[int, int, int, int]:
    """Four numbers, as of a local file, from whatever the place says changes with the content."""
    marks = [str(info.get(name)) for name in MARKS]
    digest = hashlib.sha256("\0".join([path.url, *marks]).encode()).hexdigest()
    return (-1, int(digest[:15], 16), int(info.get("size") or 0), 0)


def expect(layouts: Iterable[Layout]) -> None:
    """Tell every remote file among the sources of ``layouts`` what will be read of it."""
    wanted: dict[int, tuple[RemoteFile, list[tuple[int, int]]]] = {}
    for layout in layouts:
        for data in layout.data:
            for file, at, length in _ranges(data.storage):
                found = file.origin(at)
                if found is not None and isinstance(found[0], RemoteFile):
                    wanted.setdefault(id(found[0]), (found[0], []))[1].append((found[1], length))
    for file, ranges in wanted.values():
        file.expect(ranges)


def _ranges(storage: Storage) -> Iterator[tuple[SourceFile, int, int]]:
    """(file, offset, length) of what reading ``storage`` reads, without reading: a little too much rather than too little."""
    stack: list[tuple[Any, int, int]] = [(storage, 0, storage.nbytes)]
    while stack:
        one, start, length = stack.pop()
        member, order, span = getattr(one, "member", None), getattr(one, "order", None), getattr(one, "plain_span", None)
        if order is not None:
            file, at = order()
            if member is not None:  # deflated: all that is packed
                yield file, at, HEADER + member.packed
            else:
                yield file, at, HEADER
                yield file, at + start, HEADER + length
        elif hasattr(one, "parts"):
            stack.extend((part, 0, part.nbytes) for part in one.parts)
        elif hasattr(one, "inner") and not callable(one.inner):
            if hasattr(one, "start"):
                stack.append((one.inner, start + one.start, length))
            else:
                stack.append((one.inner, 0, one.inner.nbytes))
        elif span is not None and (found := span()) is not None:
            yield found[0], found[1] + start, length
