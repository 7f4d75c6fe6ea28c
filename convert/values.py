"""A look at a tensor's values for what is seldom meant: NaN, infinities, nothing but zeros. Streamed, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convert.text import count
from formats.core.tensor import TensorView

# Bits of each floating type: (bytes, mask of the exponent, mask of the mantissa). Exponent all ones: NaN, or Inf with no mantissa.
_IEEE = {
    "float64": (8, 0x7FF0000000000000, 0x000FFFFFFFFFFFFF),
    "float32": (4, 0x7F800000, 0x007FFFFF),
    "float16": (2, 0x7C00, 0x03FF),
    "bfloat16": (2, 0x7F80, 0x007F),
    "float8_e5m2": (1, 0x7C, 0x03),
    "complex64": (4, 0x7F800000, 0x007FFFFF),
    "complex128": (8, 0x7FF0000000000000, 0x000FFFFFFFFFFFFF),
    "complex32": (2, 0x7C00, 0x03FF),
}
# Types without infinities: the codes that mean NaN.
_NAN_CODES = {
    "float8_e4m3fn": (0x7F, 0xFF),
    "float8_e4m3fnuz": (0x80,),
    "float8_e5m2fnuz": (0x80,),
    "float8_e8m0fnu": (0xFF,),
}


@dataclass(slots=True)
class Finding:
    """What the values of one tensor are. Complex numbers count by their parts."""

    nan: int = 0
    inf: int = 0
    all_zero: bool = False

    @property
    def odd(self) -> bool:
        return bool(self.nan or self.inf or self.all_zero)

    def text(self) -> str:
        said = []
        if self.nan:
            said.append(f"{self.nan:,} NaN")
        if self.inf:
            said.append(f"{self.inf:,} Inf")
        if self.all_zero:
            said.append("all zero")
        return ", ".join(said) or "nothing odd"

    def document(self) -> dict[str, Any]:
        return {"nan": self.nan, "inf": self.inf, "all_zero": self.all_zero}


def examine(tensor: TensorView) -> Finding:
    """Read all values of ``tensor`` once."""
    finding = Finding(all_zero=bool(tensor.numel))
    name = tensor.dtype.name
    width = _IEEE[name][0] if name in _IEEE else 1
    rest = b""
    for piece in tensor.chunks():
        block: bytes | memoryview = piece
        if rest or len(piece) % width:
            joined = rest + bytes(piece)
            whole = len(joined) - len(joined) % width
            block, rest = joined[:whole], joined[whole:]
        _count(name, block, finding)
    return finding


def _count(name: str, block: bytes | memoryview, finding: Finding) -> None:
    import numpy as np

    if name in _IEEE:
        width, exponent, mantissa = _IEEE[name]
        codes = np.frombuffer(block, dtype=f"<u{width}")
        special = codes[(codes & exponent) == exponent]
        if special.size:
            infinite = int(((special & mantissa) == 0).sum())
            finding.inf += infinite
            finding.nan += int(special.size) - infinite
        if finding.all_zero:  # the sign bit of -0.0 is no value
            finding.all_zero = not bool((codes & (exponent | mantissa)).any())
        return
    codes = np.frombuffer(block, dtype="u1")
    for code in _NAN_CODES.get(name, ()):
        finding.nan += int((codes == code).sum())
    if finding.all_zero:
        finding.all_zero = not bool(codes.any())


def warned(findings: int) -> str:
    """The closing line of ``inspect --values``."""
    return f"{count(findings, 'tensor')} with NaN, Inf or nothing but zeros" if findings else "no NaN, no Inf, nothing all zero"
