"""An archive around checkpoints: a ZIP that is none of torch's, a TAR, or a gzip, bzip2, xz or zstd stream.

With one checkpoint inside, its tree is what is read; with several, a dict of their trees by member name (stable-baselines3 packs
``policy.pth``, ``policy.optimizer.pth`` and settings). Members that are no checkpoints are listed. Nothing is extracted: stored members
are read in place, deflated ones and streams through a temporary file without a name (`core.spool`), since checkpoints are read out
of order. An archive in an archive is opened once more, not further.

A ZIP member's CRC-32 is compared: while it is inflated, and for stored members by one pass, unless what is inside has checksums of
its own. TAR has none.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from formats.core.checkpoint import Checkpoint
from formats.core.errors import CorruptCheckpoint, LimitExceeded, UnknownFormat
from formats.core.files import SourceFile, opened
from formats.core.foreign import recognise
from formats.core.probe import Probe
from formats.core.protocol import Match, Open
from formats.core.spool import FLOOR, MAGICS, RATIO, SpoolFile, compression, spool_storage, spool_stream
from formats.core.storage import Storage
from formats.core.subfile import SubFile
from formats.core.tar import TarDirectory
from formats.core.zip import DEFLATED, ZipDirectory

MAX_MEMBERS = 2000  # looked into for checkpoints
_SUFFIXES = {"gzip": (".gz", ".tgz"), "bzip2": (".bz2", ".tbz2"), "xz": (".xz", ".txz"), "zstd": (".zst", ".tzst")}


def sniff(probe: Probe) -> Match:
    """A ZIP or TAR, or a gzip, bzip2, xz or zstd stream, that no other reader knows as its own."""
    if probe.folder:
        return Match.NO
    if probe.head.startswith(tuple(MAGICS)):
        return Match.CONTAINER
    return Match.CONTAINER if (probe.zip is not None and probe.zip.members) or (probe.tar and probe.tar.members) else Match.NO


def read(source: Path | SourceFile, open_inner: Open) -> Checkpoint:
    """The checkpoint in the archive, or all of them by member name. Raises `UnknownFormat` where there is none."""
    file = source if isinstance(source, SourceFile) else opened(source)
    kind = compression(file.read(0, min(8, file.size)))
    if kind is not None:
        inner_file = spool_stream(file, kind, file.path / _inner_name(file.path.name, kind))
        inner = open_inner(inner_file)
        return _through(file, kind, inner_file.path.name, inner, [inner_file])
    archive = _Archive(file, open_inner)
    if not archive.found:
        probe = Probe(file)
        raise recognise(probe)
    if len(archive.found) == 1:
        ((name, inner),) = archive.found.items()
        checkpoint = _through(file, archive.kind, name, inner, [])
        checkpoint.notes += archive.notes
        return checkpoint
    names: dict[str, int] = {}
    files = [file]
    for inner in archive.found.values():
        files += inner.files
        for called, times in inner.globals.items():
            names[called] = names.get(called, 0) + times
    tree = {name: inner.tree for name, inner in archive.found.items()}
    notes = [f"{name}: {note}" for name, inner in archive.found.items() for note in inner.notes]
    metadata = {"container": archive.kind, "members": {name: inner.format for name, inner in archive.found.items()}}
    return Checkpoint(file.path, "wrapped", tree, names, metadata, notes + archive.notes, files)


def _through(file: SourceFile, kind: str, name: str, inner: Checkpoint, more: list[SourceFile]) -> Checkpoint:
    metadata: dict[str, Any] = {"container": kind, "member": name, "inner_format": inner.format, "inside": inner.metadata}
    if "__metadata__" in inner.metadata:
        metadata["__metadata__"] = inner.metadata["__metadata__"]
    return Checkpoint(file.path, "wrapped", inner.tree, inner.globals, metadata, inner.notes, [*inner.files, *more, file])


def _inner_name(name: str, kind: str) -> str:
    lower = name.lower()
    for suffix in _SUFFIXES[kind]:
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return "content"


class _Archive:
    """``found``: the checkpoints in a ZIP or TAR by member name; ``notes``: what else is in it."""

    def __init__(self, file: SourceFile, open_inner: Open) -> None:
        self.file = file
        self.kind = "zip" if file.read(0, 2) == b"PK" else "tar"
        self.found: dict[str, Checkpoint] = {}
        self.notes: list[str] = []
        self.left = max(FLOOR, RATIO * file.size)  # bytes that all members together may inflate to
        others: list[str] = []
        for name, storage, crc in self._zip() if self.kind == "zip" else self._tar():
            inner_file = self._open(name, storage, crc)
            try:
                checkpoint = open_inner(inner_file)
            except UnknownFormat:
                others.append(name)
                inner_file.close()
                continue
            if isinstance(inner_file, SpoolFile):
                checkpoint.files.append(inner_file)
            self.found[name] = checkpoint
        if others:
            some = ", ".join(repr(name[:60]) for name in others[:6]) + (" …" if len(others) > 6 else "")
            self.notes.append(f"{len(others)} members of the archive are no checkpoints: {some}")

    def _open(self, name: str, storage: Storage, crc: int | None) -> SourceFile:
        # Joined as text: a name that begins with / would otherwise take the outer file's place in every message.
        path = Path(f"{self.file.path}/{name.replace(chr(0), '?')}")
        if crc is None:  # deflated, which compares its own
            if storage.nbytes > self.left:
                raise LimitExceeded(
                    f"member {name!r:.100} inflates to {storage.nbytes} bytes, {self.left} are left of what the archive may inflate to",
                    path=self.file.path, hint="unpack the archive first if it is meant to",
                )  # fmt: skip
            self.left -= storage.nbytes
            return spool_storage(storage, path, storage.nbytes)
        inner = SubFile(storage, path)
        if crc and storage.nbytes and inner.read(0, min(2, inner.size)) != b"PK":
            actual = 0
            for piece in storage.chunks(0, storage.nbytes):
                actual = zlib.crc32(piece, actual)
            if actual != crc:
                raise CorruptCheckpoint(
                    f"ZIP member {name!r:.100} has CRC-32 {actual:08x}, expected {crc:08x}", path=self.file.path
                )
        return inner

    def _zip(self) -> Iterator[tuple[str, Storage, int | None]]:
        archive = ZipDirectory(self.file)
        plain = []
        for name in archive.members:
            member = archive.member(name)
            if member.mode & 0o170000 not in (0, 0o100000):
                self.notes.append(f"member {name!r:.100} is a link or a special file and is not read")
            elif member.size and not name.endswith("/"):
                plain.append(member)
        self._check_count(len(plain))
        for member in plain:
            yield member.name, archive.storage(member.name), None if member.method == DEFLATED else member.crc

    def _tar(self) -> Iterator[tuple[str, Storage, int | None]]:
        archive = TarDirectory(self.file)
        plain = [member for member in archive.members.values() if member.size]  # links and folders have no size
        self._check_count(len(plain))
        for member in plain:
            yield member.name, archive.storage(member.name), 0

    def _check_count(self, count: int) -> None:
        if count > MAX_MEMBERS:
            raise UnknownFormat(
                f"is an archive of {count} files; at most {MAX_MEMBERS} are looked into for a checkpoint",
                path=self.file.path,
                hint="unpack it and name the checkpoint",
            )
