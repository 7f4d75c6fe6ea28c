"""Buffers that stand at the right place in a page for the kernel's copies.

Where a copy's destination lies 1 to 63 bytes after its source, both taken modulo the page, processors that copy by ``rep movsb`` take
every store for one that the next load may depend on: 120 µs a MiB become 400 to 600 (AMD Zen 3; glibc's bug 30994 tells the same of
Zen 4). A large ``bytearray`` begins 16 bytes into a page, so that reading a file from a page's start into it is just such a copy.
"""

from __future__ import annotations

import os

PAGE = 4096
NEAR = 64  # bytes: a destination that follows its source by less is slow
ALLOCATED = 16  # where in a page the C library lets a large allocation begin
SMALL = 64 << 10  # bytes: for less it does not matter
_KEPT = 40 << 20  # bytes that a process keeps for what comes next: fresh memory costs a page fault for each page

_spare: list[Buffer] = []


class Buffer:
    """``nbytes`` writable bytes and two pages more, so that a piece may begin anywhere in a page. `view` is all of it."""

    __slots__ = ("view",)

    def __init__(self, nbytes: int) -> None:
        nbytes += 2 * PAGE
        if nbytes < SMALL:
            self.view = memoryview(bytearray(nbytes))
            return
        import mmap  # noqa: TID251 - of memory, never of a file: it begins where a page does, as no other buffer is sure to

        kind = {} if os.name == "nt" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
        self.view = memoryview(mmap.mmap(-1, nbytes, **kind))

    def place(self, offset: int, source: int | None = None, lead: int = 0) -> int:
        """Where in `view` to put bytes that are read from ``source`` on in one file and belong at ``offset`` in another, or in the same.

        ``lead`` bytes, or up to `NEAR` fewer, are read before them and not written.
        """
        start = (offset - lead + (NEAR if lead else 0)) % PAGE
        if source is not None and 0 < (start - source) % PAGE < NEAR:
            start += NEAR
        return start


class Scratch:
    """One borrowed buffer, exchanged for a larger one where that is needed. `close` gives it back."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer: Buffer | None = None

    def room(self, nbytes: int, offset: int = 0) -> memoryview:
        """``nbytes`` writable bytes of unknown content, to read from ``offset`` on; the ones before are not to be used any more."""
        if self._buffer is None or len(self._buffer.view) < nbytes + 2 * PAGE:
            self.close()
            self._buffer = borrow(nbytes)
        start = self._buffer.place(offset)
        return self._buffer.view[start : start + nbytes]

    def close(self) -> None:
        """Nothing more is to be held."""
        if self._buffer is not None:
            give_back(self._buffer)
            self._buffer = None


def borrow(nbytes: int) -> Buffer:
    """A buffer for ``nbytes``, of unknown content; `give_back` it."""
    for found in sorted(_spare, key=_size):
        if _size(found) >= nbytes + 2 * PAGE:
            try:
                _spare.remove(found)
            except ValueError:  # another thread has taken it
                continue
            return found
    return Buffer(nbytes)


def give_back(buffer: Buffer) -> None:
    """``buffer`` is not in use any more."""
    if sum(map(_size, _spare)) + _size(buffer) <= _KEPT:
        _spare.append(buffer)


def _size(buffer: Buffer) -> int:
    return len(buffer.view)


def words(count: int) -> memoryview:
    """``count`` integers of 64 bits, without a sign, all 0: `array`, which takes `collections` with it, without its import."""
    return memoryview(bytearray(8 * max(count, 1))).cast("Q")[:count]
