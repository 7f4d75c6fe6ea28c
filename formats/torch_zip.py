"""The ZIP container of `torch.save` (torch 1.6 to today, and 1.4 by option).

Source: ``torch.serialization._save`` and ``_load``. One root folder of any name with ``data.pkl``, the storages under ``data/<key>``
(``tensors/<key>`` in torch 1.4), ``version``, and since 2.1 ``byteorder``.
"""

from __future__ import annotations

from formats.core.checkpoint import Checkpoint
from formats.core.errors import CorruptCheckpoint
from formats.core.files import SourceFile, opened
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.torch_storages import Storages, byte_order, file_version, read_pickle, storage_folder
from formats.core.zip import ZipDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


def sniff(probe: Probe) -> Match:
    """A ZIP with one ``data.pkl`` that is neither TorchScript nor a package."""
    archive = probe.zip
    if archive is None:
        return Match.NO
    root = find_root(archive)
    if root is None or f"{root}constants.pkl" in archive.members:
        return Match.NO
    if "extern_modules" in probe.member_names:  # torch.package, with a pickle of that name
        return Match.NO
    return Match.CERTAIN if f"{root}version" in archive.members or f"{root}.data/version" not in archive.members else Match.NO


def find_root(archive: ZipDirectory) -> str | None:
    """The folder that ``data.pkl`` is in, with its slash; None where no member has that name or two do."""
    found = [name[: -len("data.pkl")] for name in archive.landmarks if name == "data.pkl" or name.endswith("/data.pkl")]
    return found[0] if len(found) == 1 else None


def read(path: Path) -> Checkpoint:
    """Structure of the checkpoint at ``path``; storages are members of the archive, read when asked for."""
    return read_file(opened(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    archive = ZipDirectory.of(file)
    root = find_root(archive)
    if root is None:
        pickles = [name for name in archive.members if name.endswith("data.pkl")]
        raise CorruptCheckpoint(f"ZIP archive has {len(pickles)} members data.pkl where torch writes one", path=file.path)
    return read_archive(archive, root, file.path)


def read_archive(archive: ZipDirectory, root: str, path: Path) -> Checkpoint:
    """The pickle ``root + "data.pkl"`` with the storages beside it."""
    order = byte_order(archive, root)
    storages = Storages(archive, storage_folder(archive, root), order == "big")
    found = read_pickle(archive, f"{root}data.pkl", storages)
    metadata = {"container": "zip", "root": root.rstrip("/"), "byte_order": order, **file_version(archive, root)}
    return Checkpoint(path, "torch-zip", found.value, found.globals(), metadata, storages.notes(), [archive.file])
