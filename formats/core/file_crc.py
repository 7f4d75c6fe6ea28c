"""The CRC-32 of a whole output from those of its segments, which its writing has computed anyway.

The arithmetic is that of `formats.core.crc`, with tables: some microseconds a segment, where reading a large file again takes longer.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache

from formats.core.crc import multiply
from formats.core.layout import Layout

EACH = 40_000  # bytes of a file for each segment: where they are smaller in the mean, reading the file again is cheaper

Table = tuple[list[int], list[int], list[int], list[int]]


def file_crc(layout: Layout, crcs: Sequence[int | None]) -> int | None:
    """CRC-32 of the file that ``layout`` became, given that of each data segment; None where it is not known or not worth it."""
    if layout.late or layout.size < EACH * (len(layout.data) + len(layout.literals)):
        return None
    parts = [(literal.offset, zlib.crc32(literal.data), len(literal.data)) for literal in layout.literals]
    for data, crc in zip(layout.data, crcs, strict=True):
        if crc is None:
            return None
        parts.append((data.offset, crc, data.storage.nbytes))
    parts.sort()
    whole = 0
    for _, crc, nbytes in parts:
        whole = _shifted(whole, nbytes) ^ crc
    return whole


def _shifted(crc: int, nbytes: int) -> int:
    """``crc`` moved past ``nbytes`` further bytes."""
    power = 0
    while nbytes and crc:
        if nbytes & 1:
            first, second, third, fourth = _table(power)
            crc = first[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ fourth[crc >> 24]
        nbytes >>= 1
        power += 1
    return crc


@cache
def _factor(power: int) -> int:
    """x to the 8 · 2^power, modulo the polynomial."""
    if not power:
        return 1 << 23
    half = _factor(power - 1)
    return multiply(half, half)


@cache
def _table(power: int) -> Table:
    """What each value of each byte of a CRC becomes when it is moved past 2^power bytes."""
    factor = _factor(power)
    single = [multiply(factor, 1 << bit) for bit in range(32)]
    found: Table = ([0] * 256, [0] * 256, [0] * 256, [0] * 256)
    for byte, table in enumerate(found):
        for value in range(1, 256):
            low = value & -value
            table[value] = table[value ^ low] ^ single[8 * byte + low.bit_length() - 1]
    return found
