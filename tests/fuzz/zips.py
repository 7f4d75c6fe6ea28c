"""Changes to ZIP archives: contents, names, fields of either header, checksums repaired or not, members doubled, moved, overlapping."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.fuzz import pickles, pool

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_NAMES = ("made", "version", "flags", "method", "time", "date", "crc", "packed", "size")
_WIDTHS = {"made": 16, "version": 16, "flags": 16, "method": 16, "time": 16, "date": 16, "crc": 32, "packed": 32, "size": 32,
           "disk": 16, "internal": 16, "external": 32, "header": 32, "name_len": 16, "extra_len": 16, "comment_len": 16}  # fmt: skip
Content = Callable[[str, bytes, random.Random], bytes]


@dataclass
class Entry:
    """A member. ``local`` and ``central`` override what follows from its content."""

    name: bytes
    content: bytes  # as packed
    method: int = 0
    flags: int = 0
    crc: int = 0
    size: int = 0  # inflated
    extra: bytes = b""
    central_name: bytes | None = None
    central_extra: bytes = b""
    local: dict[str, int] = field(default_factory=dict)
    central: dict[str, int] = field(default_factory=dict)
    descriptor: bool = False

    def plain(self) -> bytes:
        if self.method == 8:
            try:
                return zlib.decompressobj(-15).decompress(self.content, 1 << 20)
            except zlib.error:
                return b""
        return self.content

    def put(self, plain: bytes, *, crc: bool, sizes: bool = True) -> None:
        if self.method == 8:
            packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            self.content = packer.compress(plain) + packer.flush()
        else:
            self.content = plain
        if crc:
            self.crc = zlib.crc32(plain)
        if sizes:
            self.size = len(plain)


def parsed(data: bytes) -> list[Entry]:
    """The members that the directory of a sound archive lists; nothing where it is not sound."""
    end = data.rfind(b"PK\x05\x06")
    if end < 0 or end + 22 > len(data):
        return []
    count, at = struct.unpack_from("<10xH4xL", data, end)
    found: list[Entry] = []
    try:
        for _ in range(min(count, 400)):
            (_, _, _, flags, method, _, _, crc, packed, size, name_len, extra_len, comment_len, _, _, _, header) = (
                _CENTRAL.unpack_from(data, at)
            )
            name = data[at + 46 : at + 46 + name_len]
            local_name, local_extra = struct.unpack_from("<26x2H", data, header)
            start = header + 30 + local_name + local_extra
            found.append(
                Entry(name, data[start : start + packed], method, flags & ~8, crc, size, data[start - local_extra : start])
            )
            at += 46 + name_len + extra_len + comment_len
    except struct.error:
        return []
    return found


def written(entries: Sequence[Entry], *, end: dict[str, int] | None = None, before: bytes = b"", comment: bytes = b"") -> bytes:
    """The archive. ``end`` overrides the fields of its end: here, count, length, start."""
    out, directory = bytearray(before), bytearray()
    for entry in entries:
        header = entry.central.get("header", len(out))
        local = {
            "version": 20, "flags": entry.flags | 8 * entry.descriptor, "method": entry.method, "time": 0, "date": 0, "crc": entry.crc,
            "packed": len(entry.content), "size": entry.size, "name_len": len(entry.name), "extra_len": len(entry.extra),
        }  # fmt: skip
        central = {**local, "made": 20, "disk": 0, "internal": 0, "external": 0, "header": header, "comment_len": 0}
        if entry.descriptor:
            local |= {"crc": 0, "packed": 0, "size": 0}
        name = entry.name if entry.central_name is None else entry.central_name
        central |= {"name_len": len(name), "extra_len": len(entry.central_extra)}
        local |= entry.local
        central |= entry.central
        out += _LOCAL.pack(b"PK\x03\x04", *(local[k] for k in ("version", "flags", "method", "time", "date", "crc", "packed", "size",
                                                               "name_len", "extra_len")))  # fmt: skip
        out += entry.name + entry.extra + entry.content
        if entry.descriptor:
            out += b"PK\x07\x08" + struct.pack("<3L", entry.crc, len(entry.content) & 0xFFFFFFFF, entry.size & 0xFFFFFFFF)
        directory += _CENTRAL.pack(b"PK\x01\x02", *(central[k] for k in (*_NAMES, "name_len", "extra_len", "comment_len", "disk",
                                                                         "internal", "external", "header")))  # fmt: skip
        directory += name + entry.central_extra
    fields = {"here": len(entries), "count": len(entries), "length": len(directory), "start": len(out), **(end or {})}
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, fields["here"] & 0xFFFF, fields["count"] & 0xFFFF,
                       fields["length"] & 0xFFFFFFFF, fields["start"] & 0xFFFFFFFF, len(comment))  # fmt: skip
    return bytes(out + directory + tail + comment)


def any_content(name: str, plain: bytes, rng: random.Random) -> bytes:
    """What a member's name lets expect: a pickle, a small text, raw numbers."""
    if name.endswith(".pkl"):
        return pickles.mutated(plain, rng)
    if name.rpartition("/")[2] in ("byteorder", "version", ".format_version", ".storage_alignment"):
        return rng.choice((b"little", b"big", b"", b"little\n", b"middle", b"3\n", b"10\n", b"\0", b"big" * 50))
    if rng.random() < 0.2:
        return plain[: rng.randrange(len(plain) + 1)] + rng.randbytes(rng.choice((0, 0, 1, 8)))
    return pool.flipped(plain, rng) if plain else rng.randbytes(rng.randrange(9))


def mutated(data: bytes, rng: random.Random, content: Content = any_content) -> bytes:
    """``data`` after one to a few changes. Most repair what a change would break, so that the next layer is reached too."""
    entries = parsed(data)
    if not entries or rng.random() < 0.05:
        return pool.flipped(data, rng)
    end: dict[str, int] = {}
    before = comment = b""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(entries))
        entry, kind = entries[at], rng.random()
        if kind < 0.5:
            pickled = [e for e in entries if e.name.endswith(b".pkl")]
            entry = rng.choice(pickled) if pickled and rng.random() < 0.75 else entry
            name = entry.name.decode("utf-8", "replace")
            entry.put(content(name, entry.plain(), rng), crc=rng.random() < 0.9, sizes=rng.random() < 0.95)
        elif kind < 0.58:
            side = rng.choice((entry.local, entry.central))
            key = rng.choice([k for k in _WIDTHS if k not in ("disk", "internal", "external", "header", "comment_len", "made")
                              or side is entry.central])  # fmt: skip
            side[key] = pool.unsigned(rng, _WIDTHS[key])
            if rng.random() < 0.3 and key in ("crc", "packed", "size", "flags", "method"):
                entry.local[key] = entry.central[key] = side[key]
        elif kind < 0.64:
            odd = rng.choice(
                (
                    entry.name.upper(),
                    entry.name.replace(b"/", b"\\"),
                    b"../" + entry.name,
                    entry.name + b"/",
                    entry.name + b"\0",
                    b"/" + entry.name,
                    entry.name.replace(b"data/", b"tensors/"),
                    rng.choice(entries).name,
                    b"x/" + entry.name,
                    b"\xff\xfe",
                    b"",
                )
            )
            if rng.random() < 0.5:
                entry.central_name = odd
            else:
                entry.name = odd
        elif kind < 0.70:
            double = replace(entry, local={}, central={})
            if rng.random() < 0.5:
                double.put(content("", entry.plain(), rng), crc=True)
            entries.insert(rng.randint(0, len(entries)), double)
        elif kind < 0.74 and len(entries) > 1:
            del entries[at]
        elif kind < 0.78:
            rng.shuffle(entries)
        elif kind < 0.84:
            plain = entry.plain()
            entry.method = 8 if entry.method == 0 else 0
            entry.put(plain, crc=True)
            if rng.random() < 0.3:
                entry.local["size"] = entry.central["size"] = max(len(plain) + rng.choice((-1, 1, 100, 1 << 28)), 0)
        elif kind < 0.88:
            entry.crc = rng.choice((0, entry.crc ^ 1, pool.unsigned(rng, 32)))
        elif kind < 0.91:
            entry.descriptor = True
        elif kind < 0.94:
            choices = (entry.size, len(entry.content), 0, pool.unsigned(rng, 64))
            values = b"".join(struct.pack("<Q", rng.choice(choices)) for _ in range(rng.randint(0, 3)))
            entry.central_extra = struct.pack("<HH", 1, rng.choice((len(values), len(values), pool.unsigned(rng, 16)))) + values
            entry.central[rng.choice(("packed", "size", "header"))] = 0xFFFFFFFF
        elif kind < 0.97:
            entry.central["header"] = pool.unsigned(rng, 32) if rng.random() < 0.5 else rng.randrange(len(data))
        else:
            end[rng.choice(("here", "count", "length", "start"))] = pool.unsigned(rng, 32)
    if rng.random() < 0.04:
        before = rng.choice((b"#!/bin/sh\n", b"\x80\x02.", rng.randbytes(8), data[:100]))
    if rng.random() < 0.04:
        comment = rng.choice((b"c", b"PK\x05\x06" + bytes(18), rng.randbytes(8)))
    made = written(entries, end=end, before=before, comment=comment)
    if rng.random() < 0.03:
        made += rng.choice((b"\0", data, made[-22:]))
    return made
