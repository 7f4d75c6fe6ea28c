"""Changes to pickles, opcode by opcode: removed, doubled, swapped, inserted, arguments set to the borders, runs of another pickle."""

from __future__ import annotations

import pickletools
import random
import struct
from collections.abc import Sequence

from tests.fuzz import pool

_PLAIN = [op.code.encode("latin-1") for op in pickletools.opcodes if op.arg is None]
Ops = list[bytes]


def opcodes(data: bytes, at: int = 0) -> tuple[Ops, int]:
    """The opcodes of the pickle at byte ``at``, each with its argument, as far as they can be told apart; and where they end."""
    starts: list[int] = []
    end = at
    try:
        for op, _, position in pickletools.genops(data[at:]):
            starts.append(at + position)  # type: ignore[operator]
            if op.name == "STOP":
                end = at + position + 1  # type: ignore[operator]
    except Exception:
        pass
    if end == at:
        end = starts[-1] if starts else at
        starts = starts[:-1]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], end], strict=False)], end


def number(value: int, rng: random.Random) -> bytes:
    """Opcodes for an integer, in one of the ways to write it."""
    ways = [b"I%d\n" % value, b"L%dL\n" % value]
    if 0 <= value < 256:
        ways += [b"K%c" % value] * 2
    if 0 <= value < 65536:
        ways.append(b"M" + value.to_bytes(2, "little"))
    if -(1 << 31) <= value < 1 << 31:
        ways += [b"J" + struct.pack("<i", value)] * 2
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    ways += [b"\x8a%c" % len(raw) + raw] * 2
    return rng.choice(ways)


def text(value: str, rng: random.Random) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    ways = [b"X" + struct.pack("<I", len(raw)) + raw, b"\x8d" + struct.pack("<Q", len(raw)) + raw]
    if len(raw) < 256:
        ways += [b"\x8c%c" % len(raw) + raw, b"U%c" % len(raw) + raw]
    return rng.choice(ways)


def name(value: str, rng: random.Random) -> bytes:
    module, _, last = value.rpartition(".")
    if rng.random() < 0.3:
        return text(module, rng) + text(last, rng) + b"\x93"
    return f"c{module}\n{last}\n".encode()


def anything(rng: random.Random) -> bytes:
    """Some opcode with some argument."""
    kind = rng.randrange(12)
    if kind < 4:
        return rng.choice(_PLAIN)
    if kind == 4:
        return number(pool.integer(rng), rng)
    if kind == 5:
        return text(rng.choice(pool.TEXTS), rng)
    if kind == 6:
        return name(rng.choice(pool.NAMES), rng)
    if kind == 7:
        return rng.choice((b"h", b"q")) + bytes([rng.randrange(40)])
    if kind == 8:
        return rng.choice((b"j", b"r", b"\x84")) + struct.pack("<I", pool.unsigned(rng, 32))
    if kind == 9:
        return rng.choice((b"\x95", b"\x8e", b"\x96", b"\x8d")) + struct.pack("<Q", pool.unsigned(rng, 64))
    if kind == 10:
        return rng.choice((b"p%d\n", b"g%d\n", b"I%d\n", b"P%d\n")) % pool.integer(rng)
    return rng.choice(
        (
            b"\x82\x01",
            b"\x97",
            b"\x98",
            b"F1e999\n",
            b"S'a'\n",
            b"V\\ud800\n",
            b"(cos\nsystem\n",
            b"ios\nsystem\n",
            b"G" + rng.randbytes(8),
            b"C\x03abc",
            b"B\x03\0\0\0abc",
            b"T\xff\xff\xff\xff",
            b"\x8b\xff\xff\xff\x7f",
            b"I01\n",
            b"(X\x01\0\0\0a" + rng.choice((b"t", b"l", b"d")),
        )
    )


def _argument(op: bytes, rng: random.Random) -> bytes:
    """The same opcode, or one of its kind, with another argument."""
    code = op[:1]
    if code in b"KMJI\x8aL\x8b":
        return number(pool.integer(rng), rng)
    if code in b"X\x8cU\x8dVST":
        return text(rng.choice(pool.TEXTS), rng)
    if code in b"c\x93i":
        return name(rng.choice(pool.NAMES), rng)
    if code in b"hq":
        return code + bytes([rng.randrange(256) if rng.random() < 0.2 else rng.randrange(24)])
    if code in b"\x88\x89N":
        return rng.choice((b"\x88", b"\x89", b"N", b"I01\n", b"K\1"))
    if code in b"\x85\x86\x87t)":
        return rng.choice((b"\x85", b"\x86", b"\x87", b"t", b")", b"l", b"]"))
    if code in b"R\x81\x92ob":
        return rng.choice((b"R", b"\x81", b"\x92", b"o", b"b", b"0", b"Q"))
    return pool.flipped(op, rng, 1)


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes] = (), at: int = 0) -> bytes:
    """The pickle at byte ``at`` of ``data`` after one to a few changes; what is before and after it stays."""
    ops, end = opcodes(data, at)
    if len(ops) < 2:
        return data[:at] + pool.flipped(data[at:], rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        here, kind = rng.randrange(len(ops)), rng.randrange(9)
        if kind <= 2:
            ops[here] = _argument(ops[here], rng)
        elif kind == 3:
            ops.insert(here, anything(rng))
        elif kind == 4 and len(ops) > 3:
            del ops[here : here + rng.choice((1, 1, 2, 5))]
        elif kind == 5:
            ops[here:here] = ops[here : here + rng.choice((1, 1, 3, 12))]
        elif kind == 6:
            there = rng.randrange(len(ops))
            ops[here], ops[there] = ops[there], ops[here]
        elif kind == 7 and others:
            found, _ = opcodes(rng.choice(others))
            if found:
                start = rng.randrange(len(found))
                ops[here:here] = found[start : start + rng.randint(1, 40)]
        else:
            numbers = [i for i, op in enumerate(ops) if op[:1] in b"KMJ\x8aI"]
            if numbers:
                ops[rng.choice(numbers)] = number(pool.integer(rng), rng)
        if not ops:
            break
    return data[:at] + b"".join(ops) + data[end:]


def run_mutated(data: bytes, rng: random.Random, others: Sequence[bytes] = (), most: int = 6) -> bytes:
    """One of the pickles that stand one after the other in ``data``, or what follows them, after changes."""
    starts, at = [], 0
    while len(starts) < most and at < len(data):
        ops, end = opcodes(data, at)
        if not ops or ops[-1] != b".":
            break
        starts.append(at)
        at = end
    if starts and rng.random() < 0.8:
        return mutated(data, rng, others, rng.choice(starts))
    rest = bytearray(data[at:])
    if len(rest) >= 8 and rng.random() < 0.6:  # an int64 count, or anything like it
        place = 0 if rng.random() < 0.5 else rng.randrange(0, len(rest) - 7)
        rest[place : place + 8] = pool.unsigned(rng, 64).to_bytes(8, "little")
        return data[:at] + bytes(rest)
    return data[:at] + (pool.flipped(bytes(rest), rng) if rest else rng.randbytes(rng.randint(1, 9)))
