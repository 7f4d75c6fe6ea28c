"""An output file as a list of segments with known places: the whole layout is decided before the first byte is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from formats.core.storage import Storage


@dataclass(slots=True)
class Literal:
    """Bytes known now."""

    offset: int
    data: bytes


@dataclass(slots=True)
class Data:
    """A tensor's (or a storage's) bytes, streamed from ``storage`` to ``offset``. ``name`` is what an error names."""

    offset: int
    storage: Storage
    name: str


@dataclass(slots=True)
class Late:
    """``size`` bytes that depend on the CRC-32 of the data (ZIP headers): made when all data has been streamed.

    ``make`` gets a list of CRC-32 values, one for each `Data` segment in the layout's order.
    """

    offset: int
    size: int
    make: Callable[[list[int]], bytes]


@dataclass(slots=True)
class Layout:
    """One output file: its name relative to the target's folder ("" is the target itself) and what goes where."""

    size: int
    literals: list[Literal] = field(default_factory=list)
    data: list[Data] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    name: str = ""
