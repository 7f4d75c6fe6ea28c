"""One look at an input, shared by all sniffs: each property is computed once and only when a sniff asks."""

from __future__ import annotations

from formats.core.errors import CheckpointError
from formats.core.files import SourceFile, opened
from formats.core.zip import ZipDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from formats.core.tar import TarDirectory

HEAD = 4096


class Probe:
    """``path`` of an input, its first bytes, its size in bytes and its ZIP members. An open file given stays open."""

    def __init__(self, source: Path | SourceFile) -> None:
        self.path = source.path if isinstance(source, SourceFile) else source
        self.folder = not isinstance(source, SourceFile) and source.is_dir()
        self.head = b""
        self.size = 0
        self._file: SourceFile | None = None
        self._zip: ZipDirectory | None = None
        self._tar: TarDirectory | None = None
        self._member_names: frozenset[str] | None = None
        self.zip_error: CheckpointError | None = None
        self.tar_error: CheckpointError | None = None
        self._owned = not isinstance(source, SourceFile)
        if not self.folder:
            self._file = source if isinstance(source, SourceFile) else opened(source)
            self.size = self._file.size
            self.head = self._file.read(0, min(HEAD, self.size))

    @property
    def file(self) -> SourceFile:
        """The open file; a folder has none."""
        if self._file is None:
            raise IsADirectoryError(self.path)
        return self._file

    @property
    def zip(self) -> ZipDirectory | None:
        """The ZIP directory, or None where the content is no readable ZIP (see `zip_error`)."""
        if self._zip is None and self.zip_error is None and self._file is not None and self.head.startswith(b"PK"):
            try:
                self._file.archive = self._zip = ZipDirectory(self._file)
            except CheckpointError as error:
                self.zip_error = error
        return self._zip

    @property
    def tar(self) -> TarDirectory | None:
        """The members of a TAR, or None where the content is no readable TAR (see `tar_error`)."""
        if self._tar is None and self.tar_error is None and self._file is not None and self.head[257:262] == b"ustar":
            from formats.core.tar import TarDirectory

            try:
                self._tar = TarDirectory(self._file)
            except CheckpointError as error:
                self.tar_error = error
        return self._tar

    @property
    def member_names(self) -> frozenset[str]:
        """The names of members of the ZIP or TAR, without their folders; empty where it is neither.

        Of a ZIP those that end in a digit are left out: storages, perhaps 100,000 of them, and no format is known by one.
        """
        if self._member_names is None:
            archive = self.zip
            names = archive.landmarks if archive is not None else self.tar.members if self.tar else ()
            self._member_names = frozenset(name.rpartition("/")[2] for name in names)
        return self._member_names

    def has_member(self, names: frozenset[str]) -> bool:
        """Whether some member has one of ``names``, or ends in one that begins with a dot (``.npy``)."""
        if not names.isdisjoint(self.member_names):
            return True
        endings = tuple(name for name in names if name.startswith("."))
        return bool(endings) and any(name.endswith(endings) for name in self.member_names)

    def close(self) -> None:
        if self._file is not None and self._owned:
            self._file.close()
