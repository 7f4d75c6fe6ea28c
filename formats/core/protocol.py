"""What a format module offers. A plain module with these names satisfies the protocols; nothing is subclassed."""

from __future__ import annotations

from formats.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any, ClassVar, Protocol, TypeAlias

    from formats.core.checkpoint import Checkpoint, Content
    from formats.core.files import SourceFile
    from formats.core.layout import Layout
    from formats.core.probe import Probe
else:
    Protocol = object


class Match(int):
    """How sure a reader is that content is its own. The highest wins; a tie is an error that names both."""

    NO: ClassVar[Match]
    SUFFIX: ClassVar[Match]  # nothing but the name speaks for it
    CONTAINER: ClassVar[Match]  # the outer container fits
    CERTAIN: ClassVar[Match]  # the content says so itself


Match.NO, Match.SUFFIX, Match.CONTAINER, Match.CERTAIN = map(Match, range(4))  # no `enum`: it takes `functools` with it


class Reader(Protocol):
    """Describes what a file holds without loading or running anything."""

    def sniff(self, probe: Probe) -> Match:
        """Cheap, by content, never raises."""

    def read(self, path: Path) -> Checkpoint:
        """Structure only: no tensor's bytes are read."""


class FileReader(Reader, Protocol):
    """A reader of one file, which may therefore lie inside another."""

    def read_file(self, file: SourceFile) -> Checkpoint:
        """As `read`, from a file that is open already, perhaps one inside another (`formats.core.subfile`)."""


Open: TypeAlias = "Callable[[Path | SourceFile], Checkpoint]"  # `formats.registry.open`, for what is inside


class NestingReader(Protocol):
    """A reader of what holds other checkpoints: an archive, an index of shards, a folder. Its row says ``nests=True``."""

    def sniff(self, probe: Probe) -> Match: ...

    def read(self, source: Path | SourceFile, open_inner: Open) -> Checkpoint:
        """As `Reader.read`; whatever lies inside is opened by ``open_inner``, which counts how deep it is."""


@record(frozen=True)
class Capabilities:
    """What a target can hold; the planner is the only one who decides by it."""

    dtypes: frozenset[str]
    ties: bool = False  # tied tensors stay one storage
    strides: bool = False  # a strided window is kept, rather than packed to row-major
    composites: bool = False  # sparse, quantised and nested tensors are native
    extras: bool = False  # whatever travels beside the model
    metadata: bool = False  # text about the file
    program: bool = False  # needs a model that runs, not only weights


class Writer(Protocol):
    """Plans output files; the streaming, digests, durability and the name are the pipeline's."""

    CAPABILITIES: Capabilities

    def plan(self, content: Content, options: Mapping[str, Any]) -> list[Layout]:
        """The files to write, in the order in which they must appear. Same content, same bytes."""


@record(frozen=True)
class Format:
    """One row of the registry."""

    name: str
    title: str
    module: str
    suffixes: tuple[str, ...] = ()
    reads: bool = True
    writes: bool = False
    # A reader is imported only for files that have one of these at byte ``at`` (none: always), or one of its suffixes …
    heads: tuple[bytes, ...] = ()
    at: int = 0
    # … and, of archives, only for those with a member of one of these names or endings, whatever folder it is in.
    members: frozenset[str] = frozenset()
    surest: Match = Match.CERTAIN  # what its sniff can answer at most: one that is never certain is asked when nobody else is
    files: bool = True  # its sniff wants files
    folders: bool = False  # … and folders
    nests: bool = False  # it holds other checkpoints: a `NestingReader`
    targets: tuple[str, ...] = ()  # names under which `--to` finds the writer
    option: str = ""  # it writes its targets only where this option is given; another row has them otherwise
