"""TAR headers read strictly: nothing is extracted, and only plain members have contents.

Source: POSIX.1-2017 ``pax``, "ustar Interchange Format", and GNU tar's long names and base-256 sizes. Whatever could be read in two
ways is refused: a PAX record that overrides a size, sparse members, anything but zeros after the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.files import SourceFile
from formats.core.storage import FileSpan

BLOCK = 512
MAX_MEMBERS = 100_000
MAX_EXTENSION = 1 << 20  # bytes of one PAX header or long name
MAX_PADDING = 1 << 20  # zeros after the end: writers fill up to their block size, 10 KiB by default

_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device", b"5": "a folder",
          b"6": "a named pipe", b"S": "a sparse file"}  # fmt: skip
_PLAIN = (b"0", b"\0", b"7")


class TarMember(NamedTuple):
    """One entry: ``offset`` is the byte of the file where its contents begin, ``size`` in bytes; ``kind`` is the header's type."""

    name: str
    offset: int
    size: int
    kind: bytes


class TarDirectory:
    """The members of the archive that ``file`` is. Raises `CorruptCheckpoint` where the file is no archive, whole and unambiguous."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.members: dict[str, TarMember] = {}
        self.repeated: set[str] = set()  # names that occur more than once: legal in a TAR, and no use as a checkpoint
        for member in self._walk():
            if member.name in self.members:
                self.repeated.add(member.name)
            self.members[member.name] = member

    def _walk(self) -> Iterator[TarMember]:
        file, at, count = self.file, 0, 0
        long_name: str | None = None
        while True:
            if at + BLOCK > file.size:
                raise self._corrupt(f"ends at byte {file.size} without its two blocks of zeros: it is cut off")
            header = file.read(at, BLOCK)
            if not any(header):
                self._end(at)
                return
            kind, size = self._verified(header, at)
            start = at + BLOCK
            at = start + size + -size % BLOCK
            if at > file.size:
                raise self._corrupt(f"has a member at byte {start} of {size} bytes, the file ends at {file.size}")
            count += 1
            if count > MAX_MEMBERS:
                raise LimitExceeded(f"TAR archive of more than {MAX_MEMBERS} members", path=file.path)
            if kind in (b"x", b"g", b"X"):
                long_name = self._pax(start, size) or long_name
            elif kind == b"L":
                long_name = self._text(self._extension(start, size).rstrip(b"\0"))
            elif kind == b"K":
                self._extension(start, size)  # the long target of a link that nobody follows
            else:
                yield TarMember(long_name or self._name(header), start, size, kind)
                long_name = None

    def _verified(self, header: bytes, at: int) -> tuple[bytes, int]:
        """(type, size in bytes) of a header whose checksum is right."""
        stated = self._octal(header[148:156], "checksum", at)
        actual = sum(header[:148]) + 8 * 0x20 + sum(header[156:])
        if stated != actual:
            raise self._corrupt(f"has the header checksum {stated} at byte {at}, expected {actual}")
        kind = header[156:157]
        if kind == b"S":
            raise self._corrupt(f"has a sparse member at byte {at}")
        field = header[124:136]
        if field[0] & 0x80:  # base-256, which GNU tar needs from 8 GiB on
            size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
            if not 0 <= size <= self.file.size:
                raise self._corrupt(f"has a member at byte {at} of {size} bytes in a file of {self.file.size}")
        else:
            size = self._octal(field, "size", at)
        # Links, devices and folders have no contents, whatever their size field says (some writers repeat the target's).
        return kind, 0 if kind in _KINDS else size

    def _octal(self, field: bytes, what: str, at: int) -> int:
        text = field.replace(b"\0", b" ").strip()
        if not text:
            return 0
        if not text.isdigit() or b"8" in text or b"9" in text:
            raise self._corrupt(f"has the {what} {field!r:.40} at byte {at}, which is no octal number")
        return int(text, 8)

    def _pax(self, start: int, size: int) -> str | None:
        """The ``path`` of a PAX header, if it has one."""
        data, at, found = self._extension(start, size), 0, None
        while at < len(data) and data[at : at + 1] != b"\0":
            space = data.find(b" ", at, at + 20)
            length = int(data[at:space]) if space > at and data[at:space].isdigit() else 0
            record = data[space + 1 : at + length - 1]
            key, equals, value = record.partition(b"=")
            if length <= 0 or at + length > len(data) or not equals:
                raise self._corrupt(f"has a malformed PAX record at byte {start + at}")
            if key == b"size" or key.startswith((b"GNU.sparse", b"SCHILY.realsize")):
                raise self._corrupt(f"overrides a size by the PAX record {key.decode()!r:.40} at byte {start + at}")
            if key == b"path":
                found = self._text(value)
            at += length
        return found

    def _extension(self, start: int, size: int) -> bytes:
        if size > MAX_EXTENSION:
            raise LimitExceeded(f"TAR extension header of {size} bytes, at most {MAX_EXTENSION} are read", path=self.file.path)
        return self.file.read(start, size)

    def _name(self, header: bytes) -> str:
        name = header[:100].split(b"\0", 1)[0]
        # GNU's older format (magic "ustar  ") has times where POSIX has the prefix.
        prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
        return self._text(prefix + b"/" + name if prefix else name)

    def _text(self, raw: bytes) -> str:
        return raw.decode("utf-8", "surrogateescape").removeprefix("./").rstrip("/")

    def _end(self, at: int) -> None:
        rest = self.file.size - at
        if rest > MAX_PADDING:
            raise self._corrupt(f"is followed by {rest} bytes, at byte {at}")
        if rest < 2 * BLOCK:
            raise self._corrupt(f"ends at byte {self.file.size} inside its two blocks of zeros: it is cut off")
        if any(self.file.read(at, rest)):
            raise self._corrupt(f"is followed by {rest} bytes that are not all zero, at byte {at}")

    def _corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"TAR archive {what}", path=self.file.path)

    def storage(self, name: str) -> FileSpan:
        """The contents of the plain member ``name``, which must be there once."""
        member = self.members.get(name)
        if member is None:
            raise self._corrupt(f"has no member {name!r:.100}")
        if name in self.repeated:
            raise self._corrupt(f"has member {name!r:.100} twice")
        if member.kind not in _PLAIN:
            raise self._corrupt(f"has {_KINDS.get(member.kind, 'something unknown')} where member {name!r:.100} belongs")
        return FileSpan(self.file, member.offset, member.size)
