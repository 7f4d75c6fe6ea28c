"""Changes to TAR archives: header fields with the checksum repaired or not, kinds, PAX records, and the pickles inside."""

from __future__ import annotations

import random

from tests.fuzz import pickles, pool

BLOCK = 512
_FIELDS = {"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "mtime": (136, 12), "checksum": (148, 8),
           "kind": (156, 1), "link": (157, 100), "magic": (257, 6), "prefix": (345, 155)}  # fmt: skip


def parsed(data: bytes) -> list[tuple[bytearray, bytes]]:
    """(header, content) of each member."""
    found, at = [], 0
    while at + BLOCK <= len(data) and any(data[at : at + BLOCK]):
        header = bytearray(data[at : at + BLOCK])
        try:
            size = int(bytes(header[124:136]).strip(b"\0 ") or b"0", 8)
        except ValueError:
            break
        found.append((header, data[at + BLOCK : at + BLOCK + size]))
        at += BLOCK + size + -size % BLOCK
    return found


def repaired(header: bytearray) -> None:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)


def written(members: list[tuple[bytearray, bytes]], record: int = 10240) -> bytes:
    out = bytearray()
    for header, content in members:
        out += header + content + bytes(-len(content) % BLOCK)
    out += bytes(2 * BLOCK)
    return bytes(out + bytes(-len(out) % record))


def mutated(data: bytes, rng: random.Random) -> bytes:
    members = parsed(data)
    if not members or rng.random() < 0.05:
        return pool.flipped(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(members))
        header, content = members[at]
        kind = rng.random()
        if kind < 0.6:
            content = pickles.run_mutated(content, rng, most=40)
            members[at] = header, content
            if rng.random() < 0.95:
                header[124:136] = b"%011o\0" % len(content)
        elif kind < 0.8:
            name = rng.choice(list(_FIELDS))
            start, width = _FIELDS[name]
            value = rng.choice(
                (
                    b"%0*o" % (width - 1, pool.unsigned(rng, 3 * width - 3)),
                    b"",
                    b"\x80" + rng.randbytes(width - 1),
                    b"\xff" * width,
                    b"-1",
                    rng.choice(b"0123456789xgLKSXVD\0").to_bytes(1, "little"),
                    b"storages",
                    b"tensors",
                    b"pickle",
                    b"sys_info",
                    b"../x",
                    b"9" * width,
                )
            )
            header[start : start + width] = value[:width].ljust(width, b"\0")
        elif kind < 0.86:
            members.insert(rng.randint(0, len(members)), (bytearray(header), content))
        elif kind < 0.9:
            del members[at]
        elif kind < 0.94:
            rng.shuffle(members)
        else:
            body = rng.choice((b"size=5\n", b"path=storages\n", b"path=\n", b"GNU.sparse.size=9\n", b"x\n", b"path=a\0b\n"))
            record = b"%d " % (len(body) + 3) + body
            pax = bytearray(header)
            pax[156:157] = rng.choice((b"x", b"g", b"L", b"K"))
            pax[124:136] = b"%011o\0" % len(record)
            repaired(pax)
            members.insert(at, (pax, record))
        if not members:
            break
        if rng.random() < 0.95:
            repaired(members[min(at, len(members) - 1)][0])
    made = written(members, rng.choice((10240, 10240, 10240, 512)))
    if rng.random() < 0.04:
        made += rng.choice((b"\0" * 512, b"x", data))
    return made
