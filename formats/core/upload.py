"""Outputs that are uploaded: each goes up in parts as it is made, and gets its name when all of it is there and checked, or never.

A layout is sent in the order of its bytes. Where a header needs a checksum of data that follows it (ZIP), the checksum is the one that
the source's container holds, or is computed in a first pass over local sources; of remote sources without one the output is made in
a local temporary file and uploaded from there. The data is checked against that checksum as it passes.

What is promised before the name exists: the server's own digest (MD5) of every part is that of what was sent. Where it gives none
(encryption with a key of its own), the object is read back after the upload and taken away again if it is not what was sent.
"""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from formats.core.errors import CheckpointError, CorruptCheckpoint, OutputError, ParityFailed, SystemIOError
from formats.core.files import PIECE, SourceFile
from formats.core.layout import Data, Layout
from formats.core.output import Written
from formats.core.remote import RemotePath, told
from formats.core.remote_file import RemoteFile, expect
from formats.core.sending import Sender, cut, open_upload
from formats.core.storage import FileSpan
from formats.core.streaming import check_cover, itinerary

PART = 8 << 20  # bytes of one part; more where 10,000 of them would not do
MOST_PARTS = 9_000

Observe = Callable[[int, int], None]


def write_layouts(
    layouts: list[Layout],
    target: RemotePath,
    *,
    force: bool = False,
    verify: bool = True,
    sources: Iterable[SourceFile] = (),
    observe: Observe | None = None,
) -> list[Written]:
    """Upload ``layouts`` as ``target`` and files beside it, with the promises and the errors of `formats.core.output.write_layouts`."""
    opened = {id(file): file for file in sources}
    for layout in layouts:
        check_cover(layout)
        opened |= {id(file): file for file in itinerary(layout).files}
    names = [layout.name or target.name for layout in layouts]
    paths = [target if name == target.name else target.parent / name for name in names]
    for path in paths:
        check(path, force=force)
    expect(layouts)
    total = sum(layout.size for layout in layouts)
    uploads: list[Upload] = []
    done = 0
    try:
        for layout, path in zip(layouts, paths, strict=True):
            crcs = known_crcs(layout)
            if crcs is None and any(isinstance(file, RemoteFile) for file in opened.values()):
                return _spooled(layouts, target, force=force, verify=verify, sources=opened.values(), observe=observe)
            upload = Upload(path, layout.size, force=force)
            uploads.append(upload)
            upload.send(
                layout, crcs, verify=verify, observe=observe and (lambda sent, before=done: observe(before + sent, total))
            )
            done += layout.size
        for file in opened.values():
            if file.changed():
                raise SystemIOError("changed while it was read", path=file.path)
        _commit(uploads, force=force, verify=verify)
        return [Written(upload.path, upload.size, list(upload.crcs)) for upload in uploads]
    except CheckpointError as error:
        left = [upload for upload in uploads if not upload.discard()]
        if left:
            error.hint = (
                error.hint or "parts of the upload may still be on the server, without a name: a lifecycle rule removes them"
            )
        raise
    finally:
        for upload in uploads:
            upload.discard()


def check(path: RemotePath, *, force: bool) -> None:
    """Raise `OutputError` where ``path`` cannot be made, or is there and may not be replaced."""
    path.check_upload()
    info = path.info()
    if info is not None and info.get("type") == "directory":
        raise OutputError("is a folder", path=path, hint="name a file in it")
    if info is not None and not force:
        raise OutputError("exists already", path=path, hint="--force replaces it")


def upload_files(files: list[Path], folder: RemotePath, *, force: bool = False) -> None:
    """Upload local files into ``folder``, in order; all are there before the first gets its name."""
    opened = [SourceFile(file) for file in files]
    try:
        layouts = [
            Layout(
                file.size, data=[Data(0, FileSpan(file, 0, file.size), file.path.name)] if file.size else [], name=file.path.name
            )
            for file in opened
        ]
        write_layouts(layouts, folder / files[-1].name, force=force, sources=opened)
    finally:
        for file in opened:
            file.close()


def _spooled(
    layouts: list[Layout],
    target: RemotePath,
    *,
    force: bool,
    verify: bool,
    sources: Iterable[SourceFile],
    observe: Observe | None,
) -> list[Written]:
    from formats.core.output import write_layouts as write_local

    with tempfile.TemporaryDirectory(prefix="ckpt-convert.") as folder:
        written = write_local(layouts, Path(folder) / target.name, verify=verify, sources=sources, observe=observe)
        upload_files([one.path for one in written], target.parent, force=force)
        return [Written(target.parent / one.path.name, one.size, one.crcs) for one in written]


def known_crcs(layout: Layout) -> list[int | None] | None:
    """The CRC-32 of each data segment as far as somebody needs it: stored with it, or computed from a local source. None where a late
    segment needs one that only reading a remote source would tell."""
    crcs: list[int | None] = [_stored(data.storage) for data in layout.data]
    if not layout.late:
        return crcs
    missing = [index for index, crc in enumerate(crcs) if crc is None]
    if any(isinstance(file, RemoteFile) for file in itinerary(layout).files) and missing:
        return None
    for index in missing:
        crc, storage = 0, layout.data[index].storage
        for piece in storage.chunks(0, storage.nbytes):
            crc = zlib.crc32(piece, crc)
        crcs[index] = crc
    return crcs


def _stored(storage: Any) -> int | None:
    find = getattr(storage, "stored_crc", None)
    return None if find is None else find()


def _commit(uploads: list[Upload], *, force: bool, verify: bool) -> None:
    """Give all uploads their names; where a later one fails, new names given before are taken back."""
    given: list[Upload] = []
    try:
        for upload in uploads:
            if not force and upload.path.fresh() is not None:  # not every server heeds the condition of `commit`
                raise OutputError("exists already: another run made it meanwhile", path=upload.path)
            upload.commit()
            given.append(upload)
            if verify:
                upload.check_named()
    except BaseException:
        if not force:
            for upload in given:
                upload.remove()
        raise


class Upload:
    """One object on its way up. Nothing is there under ``path`` before `commit`, and nothing is left behind after `discard`."""

    def __init__(self, path: RemotePath, size: int, *, force: bool) -> None:
        self.path = path
        self.size = size
        self.crcs: list[int | None] = []
        self.digests: list[bytes] = []  # MD5 of each part
        self.sha256 = hashlib.sha256()
        self.part = max(PART, -(-size // MOST_PARTS // PIECE + 1) * PIECE if size > PART * MOST_PARTS else PART)
        self.proved = False
        fs, name = path.place()
        self._fs, self._name = fs, name
        try:
            self._file: Any = open_upload(fs, name, exclusive=not force, part=self.part)
        except Exception as error:
            raise told(error, path, "cannot be made") from path._cause(error)

    def send(self, layout: Layout, crcs: list[int | None] | None, *, verify: bool, observe: Callable[[int], None] | None) -> None:
        """Upload all bytes of ``layout``; what is read and what is sent go on side by side."""
        assert crcs is not None
        self.crcs = [0] * len(layout.data)
        sender = Sender(self)
        try:
            sent = 0
            for piece in cut(self._bytes(layout, crcs), self.part):
                sender.put(piece)
                sent += len(piece)
                if observe is not None:
                    observe(sent)
            sender.finish()
        except BaseException:
            sender.stop()
            raise
        if sent != layout.size:
            raise ParityFailed(f"{sent} bytes were sent, {layout.size} were planned", path=self.path)
        if verify:
            self._check_parts()

    def _bytes(self, layout: Layout, crcs: list[int | None]) -> Iterator[bytes | memoryview]:
        """The file's bytes in order."""
        segments: list[tuple[int, int, int]] = [(literal.offset, 0, index) for index, literal in enumerate(layout.literals)]
        segments += [(data.offset, 1, index) for index, data in enumerate(layout.data) if data.storage.nbytes]
        segments += [(late.offset, 2, index) for index, late in enumerate(layout.late)]
        segments.sort()
        known = [crc or 0 for crc in crcs]
        for _, kind, index in segments:
            if kind == 0:
                yield layout.literals[index].data
            elif kind == 2:
                made = layout.late[index].make(known)
                if len(made) != layout.late[index].size:
                    raise ParityFailed(f"a header is {len(made)} bytes long, {layout.late[index].size} were planned")
                yield made
            else:
                yield from self._data(layout.data[index], index, crcs[index])

    def _data(self, data: Data, index: int, crc: int | None) -> Iterator[memoryview]:
        found, length = 0, 0
        try:
            for piece in data.storage.chunks(0, data.storage.nbytes):
                found = zlib.crc32(piece, found)
                length += len(piece)
                yield piece
        except CheckpointError as error:
            if data.name not in error.what:
                error.what = f"tensor {data.name!r:.200}: {error.what}"
            raise
        self.crcs[index] = found
        if length != data.storage.nbytes:
            raise CorruptCheckpoint(f"tensor {data.name!r:.200} gave {length} bytes where {data.storage.nbytes} were declared")
        if crc is not None and found != crc:
            raise CorruptCheckpoint(f"tensor {data.name!r:.200} has CRC-32 {found:08x} in the source, expected {crc:08x}")

    def write(self, piece: bytes) -> None:
        """The next bytes; on the uploading thread alone."""
        try:
            self._file.write(piece)
        except Exception as error:
            raise told(error, self.path, "cannot be written") from self.path._cause(error)

    def close(self) -> None:
        """Send what is left; the name is not given yet."""
        try:
            self._file.close()
        except Exception as error:
            raise told(error, self.path, "cannot be written") from self.path._cause(error)

    def _check_parts(self) -> None:
        """The server's digests of the parts against ours."""
        parts = getattr(self._file, "parts", None)
        if not parts:
            return
        theirs = [str(part.get("ETag", "")).strip('"') for part in parts]
        if not all(len(tag) == 32 for tag in theirs):
            return
        ours = [digest.hex() for digest in self.digests]
        if theirs == ours:
            self.proved = True
            return
        if len(theirs) != len(ours):
            raise ParityFailed(f"{len(ours)} parts were sent, {len(theirs)} arrived", path=self.path)
        at = next(index for index, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
        if any(mine == other for mine, other in zip(ours, theirs, strict=True)):
            raise ParityFailed(f"part {at + 1} has the digest {theirs[at]} on the server, {ours[at]} was sent", path=self.path)
        # A server that encrypts with a key of its own gives other tags of the same look for all parts: only reading back tells.

    def commit(self) -> None:
        """Give it its name."""
        RemotePath.writes += 1
        try:
            self._file.commit()
        except Exception as error:
            if isinstance(error, FileExistsError) or "recondition" in str(error):
                raise OutputError("exists already: another run made it meanwhile", path=self.path) from error
            raise told(error, self.path, "cannot be given its name") from self.path._cause(error)
        self._file = None

    def check_named(self) -> None:
        """What stands under the name now has the size that was sent, and its bytes where the parts' digests did not say so."""
        info = self.path.fresh()
        found = None if info is None else info.get("size")
        if found != self.size:
            self.remove()
            raise ParityFailed(f"has {found} bytes on the server, {self.size} were sent", path=self.path)
        if self.proved:
            return
        digest = hashlib.sha256()
        file = RemotePath(self.path).open_source()
        try:
            for piece in file.pieces(0, file.size):
                digest.update(piece)
        finally:
            file.close()
        if digest.digest() != self.sha256.digest():
            self.remove()
            raise ParityFailed("is not on the server what was sent; it has been removed again", path=self.path)

    def remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except (CheckpointError, OSError):
            pass

    def discard(self) -> bool:
        """Leave nothing of an upload that has no name yet; whether that could be done."""
        file, self._file = self._file, None
        if file is None:
            return True
        try:
            file.discard()
        except Exception:  # the server is gone: what it holds of the upload has no name
            return False
        finally:
            with suppress(AttributeError):
                file.closed = True  # or its destructor would send the rest
        return True
