"""ZIP directories read strictly: sizes, places and names from the central directory, each local header compared when its data is read.

Source: PKWARE APPNOTE 6.3.10. A reader that repairs or guesses lets two tools see two archives in one file, so everything that
could be read in two ways is refused: bytes before or after the archive, names that occur twice, entries that overlap.
"""

from __future__ import annotations

import struct
import zlib
from _operator import le  # `operator` without what is written in Python
from itertools import repeat

from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded, UnknownFormat, Unsupported
from formats.core.files import SourceFile
from formats.core.storage import BytesStorage, Storage, read_all
from formats.core.zip_entries import CENTRAL, Entries, column, entries_one_by_one, name_of, usual_entries
from formats.core.zip_members import DeflatedMember, Member, StoredMember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_END = struct.Struct("<4s4H2LH")
_END64_PLACE = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_USUAL = struct.Struct("<26s2H")  # all but the lengths in one
_LOCAL_CHECKED = struct.Struct("<4s2x2H4x3L2H")  # without version and time
_DIGITS = frozenset("0123456789")
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
        # name → which entry it is: 100,000 members as objects would take 50 MB
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
        try:
            entries = usual_entries(data, count) or entries_one_by_one(data, count)
        except CheckpointError as error:
            raise error.with_path(self.file.path) from error.__cause__
        names = entries.names
        self.members = dict(zip(names, range(count), strict=True))
        if len(self.members) != count:
            twice = next(name for ordinal, name in enumerate(names) if self.members[name] != ordinal)
            raise self._corrupt(f"holds member {twice!r:.100} twice")
        self.landmarks = [name for name in names if name[-1:] not in _DIGITS]
        self.entries = entries
        self.bounds = self._bounds(entries)

    def _bounds(self, entries: Entries) -> memoryview:
        """For each entry where what comes after it begins. Raises where entries overlap or something stands before the first."""
        headers = entries.headers.tolist()
        stops = [
            header + length + packed + _LOCAL.size
            for header, length, packed in zip(headers, entries.lengths, entries.packed, strict=True)
        ]  # or later: a local header may hold more than its entry tells
        bounds = [*headers[1:], self.directory_at]
        if not (headers and headers[0] == 0 and all(map(le, stops, bounds))):  # not in order, or not sound
            last = 0
            order = sorted(range(len(headers)), key=headers.__getitem__)
            for ordinal, following in zip(order, [*order[1:], -1], strict=True):
                if headers[ordinal] < last:
                    name = entries.names[ordinal]
                    raise self._corrupt(
                        f"has member {name!r:.100} at byte {headers[ordinal]}, inside what goes on to byte {last}"
                    )
                last = stops[ordinal]
                bounds[ordinal] = headers[following] if following >= 0 else self.directory_at
            if last > self.directory_at:
                raise self._corrupt(f"has members up to byte {last}, beyond its directory at {self.directory_at}")
            if order and headers[order[0]] != 0:
                raise self._corrupt(f"has {headers[order[0]]} bytes before its first member")
        return column(bounds)

    def member(self, name: str) -> Member:
        """The entry called ``name``. Raises `CorruptCheckpoint` where there is none."""
        ordinal = self.members.get(name)
        if ordinal is None:
            raise self._corrupt(f"has no member {name!r:.100}, which it refers to")
        return self.entry(ordinal)

    def entry(self, ordinal: int) -> Member:
        """The entry with this number in the directory."""
        entries, at = self.entries, self.entries.at[ordinal]
        _, made_by, _, flags, method, _, _, crc, _, _, name_len, _, _, _, _, attributes, _ = CENTRAL.unpack_from(self._data, at)
        # The folder bit of DOS counts whoever made the archive: torch's library (miniz) gives such a member no bytes, and torch what was
        # in its memory.
        mode = 0o040000 if attributes & 0x10 else attributes >> 16 if made_by >> 8 == 3 else 0
        raw = self._data[at + CENTRAL.size : at + CENTRAL.size + name_len]
        header, packed, size = entries.headers[ordinal], entries.packed[ordinal], entries.sizes[ordinal]
        return Member(entries.names[ordinal], header, packed, size, crc, method, flags, mode, raw, ordinal)

    def own_name(self, name: str) -> str:
        """The name of member ``name`` as it stands in the archive, backslashes and all: where it is a tensor's name and no path."""
        member = self.member(name)
        return name_of(member.raw_name, member.flags)

    def _corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"ZIP archive {what}", path=self.file.path)

    # -- the members ---------------------------------------------------------------------------------------------------------------
    def storage(self, name: str, location: str = "cpu") -> Storage:
        """The bytes of member ``name``; nothing is read until they are asked for."""
        ordinal = self.members.get(name)
        if ordinal is not None and self.entries.plain[ordinal]:
            return StoredMember(self, ordinal, self.entries.sizes[ordinal], location)
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
            return StoredMember(self, member.ordinal, member.size, location)
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

    def stored(self, names: list[str], locations: list[str]) -> list[StoredMember] | None:
        """What `storage` gives for each of ``names``; None where any is missing or no plain range of the file."""
        entries = self.entries
        try:
            ordinals = [self.members[name] for name in names]
        except KeyError:
            return None
        if not all(map(entries.plain.__getitem__, ordinals)):
            return None
        return list(map(StoredMember, repeat(self), ordinals, map(entries.sizes.__getitem__, ordinals), locations))

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

    def data_start(self, ordinal: int, raw: bytes | bytearray | None = None, at: int = 0, bound: int = -1) -> int:
        """Byte offset of an entry's data, from its local header, which must agree with the directory.

        ``raw[at:]`` is what stands there, if it has been read already, and ``bound`` where the next member begins, if that is known.
        """
        entries = self.entries
        entry, header, length = entries.at[ordinal], entries.headers[ordinal], entries.lengths[ordinal]
        if raw is None:
            raw, at = self.file.read(header, _LOCAL.size + length), 0
        begin, name_len, extra_len = _LOCAL_USUAL.unpack_from(raw, at)
        data, name_at = self._data, entry + CENTRAL.size
        # As torch has it, sizes and CRC-32 behind the data, or all that the directory says: byte for byte.
        usual = begin == entries.begin or (begin[:4] == b"PK\3\4" and raw.startswith(data[entry + 6 : entry + 28], at + 4))
        if not usual or name_len != length or not raw.startswith(data[name_at : name_at + length], at + _LOCAL.size):
            name_at = at + _LOCAL.size
            found = _LOCAL_CHECKED.unpack_from(raw, at)
            self._compare(self.entry(ordinal), found, bytes(raw[name_at : name_at + name_len]))
        start: int = header + _LOCAL.size + length + extra_len
        if start + entries.packed[ordinal] > (self.bounds[ordinal] if bound < 0 else bound):
            raise self._corrupt(f"has member {entries.names[ordinal]!r:.100} running into the next one")
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
