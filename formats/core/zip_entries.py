"""What a ZIP's central directory says, as columns: entries told many at a time where they are as most writers make them.

How long an entry is stands in it, so that entries have to be met one after the other. Where the directory, cut at each signature, gives
pieces that are as long as they say, those are the entries, one after the other; where it does not, or anything is unusual, `usual_entries`
gives none, and `entries_one_by_one` looks at each.
"""

from __future__ import annotations

import struct
from itertools import accumulate

from formats.core.errors import CorruptCheckpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNATURE = b"PK\x01\x02"
CENTRAL = struct.Struct("<4s6H3L5H2L")  # an entry without name, extra fields and comment
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


def entries_one_by_one(data: bytes, count: int) -> Entries:
    """The same entry by entry, whatever is in them. Raises `CorruptCheckpoint` where they are not just the bytes of ``data``."""
    names: list[str] = []
    places: list[int] = []
    headers: list[int] = []
    lengths: list[int] = []
    all_packed: list[int] = []
    sizes: list[int] = []
    crcs: list[int] = []
    plain = bytearray()
    at, unpack, fixed, length = 0, CENTRAL.unpack_from, CENTRAL.size, len(data)
    while at + fixed <= length:
        (signature, made_by, _, flags, method, _, _, crc, packed, size, name_len, extra_len, comment_len, disk, _, attributes,
         header) = unpack(data, at)  # fmt: skip
        if signature != SIGNATURE:
            break
        name_at = at + fixed
        places.append(at)
        at = name_at + name_len + extra_len + comment_len
        if at > length:
            raise _corrupt("has a directory that is cut short")
        raw = data[name_at : name_at + name_len]
        name = name_of(raw, flags).replace("\\", "/")  # old Windows writers
        if packed == 0xFFFFFFFF or size == 0xFFFFFFFF or header == 0xFFFFFFFF or disk == 0xFFFF:
            extra = data[name_at + name_len : name_at + name_len + extra_len]
            size, packed, header, disk = _zip64(extra, size, packed, header, disk, name)
            if max(header, packed, size) >= 1 << 62:
                raise _corrupt(f"declares {max(header, packed, size)} bytes for member {name!r:.100}")
        if disk:
            raise _corrupt(f"places member {name!r:.100} on disk {disk}")
        names.append(name)
        headers.append(header)
        lengths.append(name_len)
        all_packed.append(packed)
        sizes.append(size)
        crcs.append(crc)
        plain.append(is_plain(made_by, flags, method, attributes) and packed == size and name[-1:] != "/")
    if at != length or len(names) != count:
        raise _corrupt(f"has {len(names)} directory entries in {at} of {length} bytes, where it declares {count}")
    return Entries(names, places, lengths, headers, all_packed, sizes, crcs, bytes(plain))


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


def _zip64(extra: bytes, size: int, packed: int, header: int, disk: int, name: str) -> tuple[int, int, int, int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        field = extra[at + 4 : at + 4 + length]
        if kind == 1:
            values = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            try:
                size = next(values) if size == 0xFFFFFFFF else size
                packed = next(values) if packed == 0xFFFFFFFF else packed
                header = next(values) if header == 0xFFFFFFFF else header
            except StopIteration:
                break
            return size, packed, header, 0 if disk == 0xFFFF else disk
        at += 4 + length
    raise _corrupt(f"has member {name!r:.100} with ZIP64 sizes that are not given")


def name_of(raw: bytes, flags: int) -> str:
    """A member's name as it stands in the archive."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        if flags & 0x800:
            raise _corrupt(f"has a member whose name is no UTF-8: {raw!r:.100}") from None
        return raw.decode("cp437")


def _corrupt(what: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"ZIP archive {what}")
