"""An output file as a list of segments with known places: the whole layout is decided before the first byte is written."""

from __future__ import annotations

from formats.core.record import made, record
from formats.core.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Literal:
    """Bytes known now."""

    __slots__ = ("data", "offset")

    def __init__(self, offset: int, data: bytes) -> None:
        self.offset = offset
        self.data = data


class Data:
    """A tensor's (or a storage's) bytes, streamed from ``storage`` to ``offset``. ``name`` is what an error names."""

    __slots__ = ("name", "offset", "storage")

    def __init__(self, offset: int, storage: Storage, name: str) -> None:
        self.offset = offset
        self.storage = storage
        self.name = name


class Late:
    """``size`` bytes that depend on the CRC-32 of the data (ZIP headers): made when all data has been streamed.

    ``make`` gets a list of CRC-32 values, one for each `Data` segment in the layout's order.
    """

    __slots__ = ("make", "offset", "size")

    def __init__(self, offset: int, size: int, make: Callable[[list[int]], bytes]) -> None:
        self.offset = offset
        self.size = size
        self.make = make


@record
class Layout:
    """One output file: its name relative to the target's folder ("" is the target itself) and what goes where."""

    size: int
    literals: list[Literal] = made(factory=list)
    data: list[Data] = made(factory=list)
    late: list[Late] = made(factory=list)
    name: str = ""
