"""What a ZIP's central directory says, as columns: entries told many at a time where they are as most writers make them.

How long an entry is stands in it, so that entries have to be met one after the other. Where the directory, cut at each signature, gives
pieces that are as long as they say, those are the entries, one after the other; where it does not, or anything is unusual, `usual_entries`
gives none, and the reader goes entry by entry (`zip.py`).
"""

from __future__ import annotations

import struct
from itertools import accumulate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNATURE = b"PK\x01\x02"
_ENTRY = struct.Struct("<H2x2H4x3L4H2x2L")  # behind the signature: without the version that is needed, time, internal attributes
_LIMIT = 0xFFFFFFFF
_TOGETHER = 1024  # entries taken apart at once: what is held of them fits in the processor's cache


class Entries:
    """Columns by an entry's ordinal: ``at`` is its byte offset in the directory, ``headers`` are byte offsets of local headers.

    ``lengths`` are those of names, ``packed`` and ``sizes`` those of data, all in bytes. ``plain`` is 1 for a regular file kept as it is,
    whose bytes are a range of the archive. ``begin`` is what all local headers begin with where they are alike, and tell no sizes.
    """

    __slots__ = ("at", "begin", "crcs", "headers", "lengths", "names", "packed", "plain", "sizes")

    def __init__(
        self,
        names: list[str],
        at: Sequence[int],
        lengths: Sequence[int],
        headers: Sequence[int],
        packed: Sequence[int],
        sizes: Sequence[int],
        crcs: Sequence[int],
        plain: bytes,
        begin: bytes = b"",
    ) -> None:
        self.names = names
        self.at = column(at)
        self.lengths = column(lengths)
        self.headers = column(headers)
        self.packed = column(packed)
        self.sizes = self.packed if packed == sizes else column(sizes)
        self.crcs = column(crcs)
        self.plain = plain
        self.begin = begin


def usual_entries(data: bytes, count: int) -> Entries | None:
    """The ``count`` entries that ``data`` is; None where any is unusual in a way that is not looked at here, or wrong."""
    if not 0 < count <= len(data) // len(SIGNATURE):
        return None
    pieces = data.split(SIGNATURE, count + 1)
    if len(pieces) != count + 1 or pieces[0]:
        return None
    del pieces[0]
    names: list[str] = []
    lengths: list[int] = []
    headers: list[int] = []
    packed: list[int] = []
    sizes: list[int] = []
    crcs: list[int] = []
    plain: list[bytes] = []
    for begin in range(0, count, _TOGETHER):
        some = pieces[begin : begin + _TOGETHER]
        heads = b"".join([piece[: _ENTRY.size] for piece in some])
        if len(heads) != _ENTRY.size * len(some):
            return None
        (
            makers,
            flags,
            methods,
            some_crcs,
            some_packed,
            some_sizes,
            some_lengths,
            extras,
            comments,
            disks,
            attributes,
            some_headers,
        ) = zip(*_ENTRY.iter_unpack(heads), strict=True)
        if {*extras, *comments, *disks} != {0} or _LIMIT in {max(some_packed), max(some_sizes), max(some_headers)}:
            return None
        if list(map(len, some)) != [_ENTRY.size + length for length in some_lengths]:
            return None
        raw = b"\n".join([piece[_ENTRY.size :] for piece in some])
        if not raw.isascii() or b"\\" in raw or raw.count(b"\n") != len(some) - 1:
            return None
        some_names = str(raw, "ascii").split("\n")
        names += some_names
        lengths += some_lengths
        headers += some_headers
        packed += some_packed
        sizes += some_sizes
        crcs += some_crcs
        alike = all(len(set(values)) == 1 for values in (makers, flags, methods, attributes))
        if alike and some_packed == some_sizes and b"/\n" not in raw + b"\n":
            plain.append(bytes([is_plain(makers[0], flags[0], methods[0], attributes[0])]) * len(some))
        else:
            columns = zip(makers, flags, methods, attributes, some_packed, some_sizes, some_names, strict=True)
            plain.append(bytes([is_plain(*kind) and small == size and name[-1:] != "/" for *kind, small, size, name in columns]))
    at = accumulate([len(SIGNATURE) + _ENTRY.size + length for length in lengths[:-1]], initial=0)
    # From the version that is needed to the date a local header is as its entry is.
    common = {piece[2:12] for piece in pieces}
    local = b"PK\3\4" + common.pop() + bytes(12) if len(common) == 1 and pieces[0][4] & 8 else b""
    return Entries(names, list(at), lengths, headers, packed, sizes, crcs, b"".join(plain), local)


def is_plain(made_by: int, flags: int, method: int, attributes: int) -> bool:
    """No method or flag that changes the bytes; no Unix mode, or a regular file's; and not a folder by DOS's bit."""
    if method or flags & 0x2041:
        return False
    return not attributes or ((made_by >> 8 != 3 or attributes >> 28 in (0, 0o10)) and not attributes & 0x10)


def column(values: Sequence[int]) -> memoryview:
    """Integers of 64 bits without a sign, one after the other."""
    if not values:
        return memoryview(b"").cast("Q")
    return memoryview(struct.pack(f"{len(values)}Q", *values)).cast("Q")
