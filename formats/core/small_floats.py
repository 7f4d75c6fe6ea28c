"""What the codes of floats of at most 8 bits mean.

Sources: OCP "8-bit Floating Point Specification" and "Microscaling Formats" 1.0; torch's ``c10/util/Float8_*.h``.
"""

from __future__ import annotations

# By their parts: (bits of the exponent, bits of the mantissa, bias, what the top codes mean).
_PARTS = {
    "float8_e4m3fn": (4, 3, 7, "nan at ones"),
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fnuz": (4, 3, 8, "nan at -0"),
    "float8_e5m2fnuz": (5, 2, 16, "nan at -0"),
}
EIGHT_BITS = frozenset((*_PARTS, "float8_e8m0fnu"))


def table(name: str) -> list[float]:
    """The value of every code of the type; the 4-bit type has 16."""
    nan = float("nan")
    if name == "float8_e8m0fnu":
        return [2.0 ** (code - 127) for code in range(255)] + [nan]
    if name == "float4_e2m1fn_x2":
        positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        return positive + [-value for value in positive]
    exponents, mantissas, bias, top = _PARTS[name]
    values = []
    for code in range(256):
        exponent, mantissa = (code >> mantissas) & ((1 << exponents) - 1), code & ((1 << mantissas) - 1)
        fraction = mantissa / (1 << mantissas)
        value = 2.0 ** (1 - bias) * fraction if exponent == 0 else 2.0 ** (exponent - bias) * (1 + fraction)
        if top == "ieee" and exponent == (1 << exponents) - 1:
            value = nan if mantissa else float("inf")
        if (top == "nan at ones" and code & 0x7F == 0x7F) or (top == "nan at -0" and code == 0x80):
            value = nan
        values.append(-value if code & 0x80 else value)
    return values
