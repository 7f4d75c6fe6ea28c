"""CRC-32 of parts and wholes: what a ZIP says of a member tells what must be said of any part of it.

CRC-32 is linear over GF(2): ``crc(A + B) = shift(crc(A), len(B)) ^ crc(B)``, where shifting by n bytes multiplies by x^8n modulo
the polynomial (Adler's ``crc32_combine`` of zlib). So the CRC of a member's tail follows from that of the whole and of its head.
"""

from __future__ import annotations

import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Crc32 = Callable[[Any, int], int]
WORTHWHILE = 16 << 20  # bytes: for less, importing the faster function takes longer than it saves
_POLYNOMIAL = 0xEDB88320  # reflected


def crc32_for(nbytes: int) -> Crc32:
    """A function ``(data, value) → CRC-32`` for so many bytes in all: ISA-L's where it is installed, some ten times as fast as zlib's."""
    if nbytes >= WORTHWHILE or "isal.isal_zlib" in sys.modules:
        try:
            from isal import isal_zlib
        except ImportError:
            pass
        else:
            return isal_zlib.crc32
    return zlib.crc32


def multiply(a: int, b: int) -> int:
    """Product of two polynomials modulo the CRC's; bit 31 is x^0 in the reflected form."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


def shift(crc: int, nbytes: int) -> int:
    """The CRC-32 ``crc`` moved past ``nbytes`` further bytes."""
    power, factor = 1 << 30, 1 << 31  # x^1, x^0
    bits = nbytes * 8
    while bits:
        if bits & 1:
            factor = multiply(factor, power)
        power = multiply(power, power)
        bits >>= 1
    return multiply(factor, crc)


def join(first: int, second: int, second_nbytes: int) -> int:
    """CRC-32 of A + B from that of A, that of B and the length of B in bytes."""
    return shift(first, second_nbytes) ^ second


def tail(whole: int, head: int, tail_nbytes: int) -> int:
    """CRC-32 of B from that of A + B, that of A and the length of B in bytes."""
    return shift(head, tail_nbytes) ^ whole
