"""ZIP directories read strictly: sizes, places and names from the central directory, each local header compared when its data is read.

Source: PKWARE APPNOTE 6.3.10. A reader that repairs or guesses lets two tools see two archives in one file, so everything that
could be read in two ways is refused: bytes before or after the archive, names that occur twice, entries that overlap.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from bisect import bisect_right

from formats.core.buffers import words
from formats.core.errors import CorruptCheckpoint, LimitExceeded, UnknownFormat, Unsupported
from formats.core.files import SourceFile
from formats.core.storage import BytesStorage, Storage, read_all
from formats.core.zip_members import DeflatedMember, Member, StoredMember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_END = struct.Struct("<4s4H2LH")
_END64_PLACE = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_CENTRAL_PLACES = struct.Struct("<4s4xH10x2L4H6xL")  # the same entry: flags, sizes, lengths, disk, header
_CENTRAL_STORED = struct.Struct("<4xH2xL4x3L10xLL")  # … maker, flags and method in one, CRC, sizes, attributes, header
_CENTRAL_CHECKED = struct.Struct("<8x2H4x3LH")  # the same entry: flags, method, CRC, sizes, length of the name
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_CHECKED = struct.Struct("<4s2x2H4x3L2H")  # without version and time
MAX_DIRECTORY = 256 << 20  # bytes of central directory
# Weights deflate by less than 2 : 1; a large member of nothing but zeros is there to fill a disk.
BOMB_SIZE, BOMB_RATIO = 256 << 20, 200
STORED, DEFLATED = 0, 8
_METHODS = {1: "shrunk", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz", 99: "AES encryption"}


class ZipDirectory:
    """The members of the archive that ``file`` is. Raises `CorruptCheckpoint` where the file is no archive, whole and unambiguous."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.path = file.path
        # name → where in the directory its entry is: 100,000 members as objects would take 50 MB
        self.members: dict[str, int] = {}
        self.landmarks: list[str] = []  # members whose names do not end in a digit, as those of storages do
        start, length, count = self._find()
        if length > MAX_DIRECTORY:
            raise LimitExceeded(f"ZIP directory of {length} bytes, at most {MAX_DIRECTORY} are read", path=file.path)
        self.directory_at = start
        self._data = file.read(start, length)
        self._parse(self._data, count)

    @classmethod
    def of(cls, file: SourceFile) -> ZipDirectory:
        """The directory of ``file``, which a sniff may have read already."""
        # Taken once: a file and its directory must not hold each other.
        found, file.archive = getattr(file, "archive", None), None
        return found if isinstance(found, cls) else cls(file)

    # -- the directory -------------------------------------------------------------------------------------------------------------
    def _find(self) -> tuple[int, int, int]:
        """(offset, length in bytes, entries) of the central directory."""
        file = self.file
        tail = file.read(max(file.size - 65557, 0), min(65557, file.size))
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < 22:
            raise self._corrupt("has no end of archive: the file is cut off or is no ZIP")
        _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, at)
        end_at = file.size - len(tail) + at
        if len(tail) - at != 22 + comment:
            raise self._corrupt(f"has {len(tail) - at - 22} bytes after its end, where it declares {comment}")
        stop = end_at
        if 0xFFFF in (here, count) or 0xFFFFFFFF in (length, start) or tail[at - 20 : at - 16] == b"PK\x06\x07":
            place = end_at - _END64_PLACE.size
            if place < 0 or tail[at - 20 : at - 16] != b"PK\x06\x07":
                raise self._corrupt("has ZIP64 sizes without a ZIP64 end")
            _, _, end64, _ = _END64_PLACE.unpack(file.read(place, 20))
            if end64 + _END64.size > place:
                raise self._corrupt(f"places its ZIP64 end at byte {end64} of {file.size}")
            signature, size64, _, _, disk, first_disk, here, count, length, start = _END64.unpack(file.read(end64, _END64.size))
            if signature != b"PK\x06\x06" or end64 + 12 + size64 != place:
                raise self._corrupt(f"has no ZIP64 end at byte {end64}, where it is placed")
            stop = end64
        if disk or first_disk or here != count:
            raise self._corrupt("is one part of several")
        if start + length != stop:
            raise self._corrupt(
                f"places its directory at bytes {start} to {start + length}, but it ends at {stop}: bytes before or inside the archive"
            )
        return start, length, count

    def _parse(self, data: bytes, count: int) -> None:
        members, landmarks, at, unpack, fixed = self.members, self.landmarks, 0, _CENTRAL_PLACES.unpack_from, _CENTRAL.size
        length = len(data)
        starts, stops = words(length // fixed), words(length // fixed)
        index = 0
        while at + fixed <= length:
            signature, flags, packed, size, name_len, extra_len, comment_len, disk, header = unpack(data, at)
            if signature != b"PK\x01\x02":
                break
            entry, name_at = at, at + fixed
            at = name_at + name_len + extra_len + comment_len
            if at > length:
                raise self._corrupt("has a directory that is cut short")
            raw = data[name_at : name_at + name_len]
            name = str(raw, "ascii") if raw.isascii() and b"\\" not in raw else self._name(raw, flags)
            if packed == 0xFFFFFFFF or size == 0xFFFFFFFF or header == 0xFFFFFFFF or disk == 0xFFFF:
                extra = data[name_at + name_len : name_at + name_len + extra_len]
                size, packed, header, disk = self._zip64(extra, size, packed, header, disk, name)
                if max(header, packed, size) >= 1 << 62:
                    raise self._corrupt(f"declares {max(header, packed, size)} bytes for member {name!r:.100}")
            if disk:
                raise self._corrupt(f"places member {name!r:.100} on disk {disk}")
            if name in members:
                raise self._corrupt(f"holds member {name!r:.100} twice")
            members[name] = entry
            if not raw[-1:].isdigit():
                landmarks.append(name)
            starts[index], stops[index] = header, header + 30 + name_len + packed
            index += 1
        if at != len(data) or len(members) != count:
            raise self._corrupt(f"has {len(members)} directory entries in {at} of {len(data)} bytes, where it declares {count}")
        self._starts = self._in_order(starts[:index], stops[:index])

    def _in_order(self, starts: memoryview, stops: memoryview) -> memoryview:
        """The offsets of all local headers, sorted. Raises where entries overlap or something stands before the first."""
        last = 0
        if all(a < b for a, b in itertools.pairwise(starts)):
            order: Any = range(len(starts))
        else:
            order = sorted(range(len(starts)), key=starts.__getitem__)
        for index in order:
            if starts[index] < last:
                name = list(self.members)[index]
                raise self._corrupt(f"has member {name!r:.100} at byte {starts[index]}, inside what goes on to byte {last}")
            last = stops[index]
        if last > self.directory_at:
            raise self._corrupt(f"has members up to byte {last}, beyond its directory at {self.directory_at}")
        found = starts
        if type(order) is list:
            found = words(len(order))
            for index, place in enumerate(order):
                found[index] = starts[place]
        if len(found) and found[0] != 0:
            raise self._corrupt(f"has {found[0]} bytes before its first member")
        return found

    def member(self, name: str) -> Member:
        """The entry called ``name``. Raises `CorruptCheckpoint` where there is none."""
        at = self.members.get(name)
        if at is None:
            raise self._corrupt(f"has no member {name!r:.100}, which it refers to")
        return self.entry(at, name)

    def entry(self, at: int, name: str = "") -> Member:
        (_, made_by, _, flags, method, _, _, crc, packed, size, name_len, extra_len, _, disk, _, attributes, header) = (
            _CENTRAL.unpack_from(self._data, at)
        )
        name_at = at + _CENTRAL.size
        if packed == 0xFFFFFFFF or size == 0xFFFFFFFF or header == 0xFFFFFFFF or disk == 0xFFFF:
            extra = self._data[name_at + name_len : name_at + name_len + extra_len]
            size, packed, header, disk = self._zip64(extra, size, packed, header, disk, name)
        # The folder bit of DOS counts whoever made the archive: torch's library (miniz) gives such a member no bytes, and torch what was
        # in its memory.
        mode = 0o040000 if attributes & 0x10 else attributes >> 16 if made_by >> 8 == 3 else 0
        raw = self._data[name_at : name_at + name_len]
        return Member(name or raw.decode("utf-8", "replace"), header, packed, size, crc, method, flags, mode, raw, at)

    def _zip64(self, extra: bytes, size: int, packed: int, header: int, disk: int, name: str) -> tuple[int, int, int, int]:
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
        raise self._corrupt(f"has member {name!r:.100} with ZIP64 sizes that are not given")

    def _name(self, raw: bytes, flags: int) -> str:
        return self._text(raw, flags).replace("\\", "/")  # old Windows writers

    def _text(self, raw: bytes, flags: int) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            if flags & 0x800:
                raise self._corrupt(f"has a member whose name is no UTF-8: {raw!r:.100}") from None
            return raw.decode("cp437")

    def own_name(self, name: str) -> str:
        """The name of member ``name`` as it stands in the archive, backslashes and all: where it is a tensor's name and no path."""
        member = self.member(name)
        return self._text(member.raw_name, member.flags)

    def _corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"ZIP archive {what}", path=self.file.path)

    # -- the members ---------------------------------------------------------------------------------------------------------------
    def storage(self, name: str, location: str = "cpu") -> Storage:
        """The bytes of member ``name``; nothing is read until they are asked for."""
        at = self.members.get(name)
        if at is not None:
            made_by, packing, crc, packed, size, attributes, header = _CENTRAL_STORED.unpack_from(self._data, at)
            # No method or flag that changes the bytes; no Unix mode, or a regular file's; and not a folder by DOS's bit.
            plain = not attributes or ((made_by >> 8 != 3 or attributes >> 28 in (0, 0o10)) and not attributes & 0x10)
            if not packing & 0xFFFF2041 and plain and packed == size < 0xFFFFFFFF > header and name[-1:] != "/":
                return StoredMember(self, at, crc, header, size, location)
        member = self.member(name)
        if name.endswith("/") or member.mode & 0o170000 not in (0, 0o100000):
            raise self._corrupt(f"has member {name!r:.100} that is no plain file")
        if member.flags & 0x2041:
            raise UnknownFormat(
                f"is a ZIP archive with a password (member {name!r:.100})",
                path=self.file.path,
                hint="unpack it with its password first",
            )
        if member.method == STORED:
            if member.packed != member.size:
                raise self._corrupt(f"stores member {name!r:.100} in {member.packed} bytes and declares {member.size}")
            return StoredMember(self, member.entry, member.crc, member.header, member.size, location)
        if member.method == DEFLATED:
            # deflate cannot do better than 1032 : 1
            if member.size > member.packed * 1032 + 1024:
                raise self._corrupt(f"declares {member.size} bytes for member {name!r:.100}, deflated to {member.packed}")
            if member.size > BOMB_SIZE and member.size > member.packed * BOMB_RATIO:
                raise LimitExceeded(
                    f"ZIP member {name!r:.100} would inflate from {member.packed} to {member.size} bytes; above {BOMB_SIZE} bytes at "
                    f"most {BOMB_RATIO} : 1 is inflated",
                    path=self.file.path,
                )
            return DeflatedMember(self, member, location)
        raise Unsupported(
            f"ZIP member {name!r:.100} is compressed by method {member.method} ({_METHODS.get(member.method, 'unknown')}); "
            "stored and deflated are read",
            path=self.file.path,
        )

    def read(self, name: str, limit: int) -> bytes:
        """All bytes of a small member, CRC checked. Raises `LimitExceeded` over ``limit`` bytes."""
        storage = self.storage(name)
        if storage.nbytes > limit:
            raise LimitExceeded(
                f"ZIP member {name!r:.100} of {storage.nbytes} bytes, at most {limit} are read", path=self.file.path
            )
        data = read_all(storage)
        crc = self.member(name).crc
        if crc and zlib.crc32(data) != crc:
            raise self._corrupt(f"has member {name!r:.100} with CRC-32 {zlib.crc32(data):08x}, expected {crc:08x}")
        return data

    def following(self, header: int) -> int:
        """Where what comes after the member with its local header at byte ``header`` begins."""
        index = bisect_right(self._starts, header)
        return self._starts[index] if index < len(self._starts) else self.directory_at

    def data_start(
        self, entry: int, header: int, raw: bytes | bytearray | memoryview | None = None, at: int = 0, bound: int = -1
    ) -> int:
        """Byte offset of the data of the member ``entry``, from its local header at ``header``, which must agree with the directory.

        ``raw[at:]`` is what stands there, if it has been read already, and ``bound`` where the next member begins, if that is known.
        """
        flags, method, crc, packed, size, name_len = _CENTRAL_CHECKED.unpack_from(self._data, entry)
        if raw is None:
            raw, at = self.file.read(header, _LOCAL.size + name_len), 0
        found = _LOCAL_CHECKED.unpack_from(raw, at)
        name_at = at + _LOCAL.size
        name = self._data[entry + _CENTRAL.size : entry + _CENTRAL.size + name_len]
        extra_len = found[7]
        # As torch writes them: sizes here too, or none because they follow the data.
        usual = found[:7] == (b"PK\3\4", flags, method, crc, packed, size, name_len) or found[:7] == (
            b"PK\3\4", flags | 8, method, 0, 0, 0, name_len,
        )  # fmt: skip
        if not usual or packed == 0xFFFFFFFF or raw[name_at : name_at + name_len] != name:
            self._compare(self.entry(entry), found, bytes(raw[name_at : name_at + name_len]))
            packed = self.entry(entry).packed
        start: int = header + _LOCAL.size + name_len + extra_len
        if start + packed > (self.following(header) if bound < 0 else bound):
            raise self._corrupt(f"has member {self.entry(entry).name!r:.100} running into the next one")
        return start

    def _compare(self, member: Member, found: tuple[Any, ...], raw_name: bytes) -> None:
        """Refuse a local header that says something else than the directory."""
        signature, flags, method, crc, packed, size, name_len, _ = found
        if signature != b"PK\3\4":
            raise self._corrupt(f"has no local header for {member.name!r:.100} at byte {member.header}")
        if name_len != len(member.raw_name) or raw_name != member.raw_name:
            raise self._corrupt(f"names the member at byte {member.header} otherwise than its directory, {member.name!r:.100}")
        if method != member.method or (flags ^ member.flags) & 0x2041:
            raise self._corrupt(f"packs member {member.name!r:.100} otherwise than its directory says")
        # With a data descriptor (bit 3) the local fields are 0; ZIP64 puts 2^32-1 there.
        for local, central, what in (
            (packed, member.packed, "packed size"),
            (size, member.size, "size"),
            (crc, member.crc, "CRC-32"),
        ):
            if local != central and not (local in (0, 0xFFFFFFFF) and (flags & 8 or central > 0xFFFFFFFE or local == 0xFFFFFFFF)):
                raise self._corrupt(
                    f"gives member {member.name!r:.100} the {what} {local} in its header and {central} in its directory"
                )


def empty(location: str = "cpu") -> Storage:
    """A storage of no bytes."""
    return BytesStorage(b"", location)
