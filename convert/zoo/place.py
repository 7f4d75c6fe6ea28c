"""Where trees lie: the one seam between a migration and its storage.

A migration asks its source for entries and its destination for four things; everything else (planning, journal, workers, report) goes
by the names, sizes and times that these give. A remote tree is another `Tree`, a remote destination another `Store`, chosen by
`convert.zoo.run.tree_of` and `store_of`; inside a worker, `convert.zoo.work.perform` opens ``task["source"]`` (a path, or a name that
`formats.registry.open` takes) and writes below ``task["folder"]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(slots=True)
class Entry:
    """One thing of a tree that may be a checkpoint. ``name`` is its place below the root, with "/"; ``where`` is what opens it.

    ``kind`` is ``file``, ``folder`` (all of it is one checkpoint) or ``index`` (a file whose shards lie beside it). Size in bytes
    and modification time in ns: of a file its own, else the sum and the latest of all parts.
    """

    name: str
    where: str
    size: int
    mtime_ns: int
    kind: str = "file"
    options: dict[str, Any] | None = None  # what an index says of this checkpoint alone: fields of `convert.job.Job`
    listing: str = ""  # `convert.zoo.digest.of_listing` of all parts, where there are parts


class Tree(Protocol):
    """A source: what is in it."""

    root: str

    def entries(self, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Entry]:
        """Every file, folder checkpoint and index, in a fixed order; parts of a checkpoint are not listed beside it."""
        ...


class Store(Protocol):
    """A destination: what a driver asks of it. Names are places below its root, with "/"."""

    root: str
    home: str  # the local folder of its journal, its lock and its report: the root itself where that is local

    def make(self) -> None:
        """Make what has to be there before the first output."""
        ...

    def close(self) -> None:
        """Nothing more is asked."""
        ...

    def state(self, name: str) -> tuple[int, int] | None:
        """(size in bytes, modification time in ns) of a finished file; None where there is none."""
        ...

    def sync(self) -> None:
        """Return once everything that was finished before is durable. Raises `OSError` where it is not."""
        ...

    def free(self) -> int | None:
        """Bytes that can still be written; None where nobody can say."""
        ...

    def sweep(self) -> int:
        """Remove what an interrupted run has left half-written; how many files."""
        ...
