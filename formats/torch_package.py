"""torch.package: a model pickled beside the source code of its classes. The code is never read; the pickles describe the weights.

Source: ``torch.package.PackageExporter`` and ``PackageImporter.load_pickle``. A ZIP with ``.data/extern_modules``, storages as
``.data/<key>.storage``, and any number of pickles at ``<package>/<resource>``, usually ``model/model.pkl``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formats.core.checkpoint import Checkpoint, Global, Record
from formats.core.errors import CorruptCheckpoint, UnknownFormat
from formats.core.files import SourceFile, opened
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.torch_storages import Storages, byte_order, file_version, read_pickle
from formats.core.zip import ZipDirectory

MARK = ".data/extern_modules"
MAX_PICKLES = 1000


def sniff(probe: Probe) -> Match:
    """A ZIP with one ``.data/extern_modules``."""
    archive = probe.zip
    return Match.CERTAIN if archive is not None and _root(archive) is not None else Match.NO


def _root(archive: ZipDirectory) -> str | None:
    found = [name[: -len(MARK)] for name in archive.members if name == MARK or name.endswith(f"/{MARK}")]
    return found[0] if len(found) == 1 else None


def read(path: Path) -> Checkpoint:
    """Structure of every pickle of the package at ``path``; the tree of the only one, or each under its name."""
    return read_file(opened(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    archive = ZipDirectory(file)
    root = _root(archive)
    if root is None:
        raise CorruptCheckpoint(f"package has no single member {MARK}", path=file.path)
    order = byte_order(archive, root)
    storages = _PackageStorages(archive, f"{root}.data/", order == "big", ".storage")
    inside = [name for name in archive.members if name.startswith(root) and not name.startswith(f"{root}.data/")]
    pickles = [name for name in inside if name.endswith(".pkl")]
    if not pickles:
        raise UnknownFormat(
            f"is a package with {len(inside)} members, none of them a pickle: it holds code and no weights", path=file.path
        )
    if len(pickles) > MAX_PICKLES:
        raise CorruptCheckpoint(f"package has {len(pickles)} pickles, at most {MAX_PICKLES} are read", path=file.path)
    trees: dict[str, Any] = {}
    names: dict[str, int] = {}
    for name in pickles:
        found = read_pickle(archive, name, storages)
        trees[name[len(root) :].removesuffix(".pkl")] = found.value
        for called, times in found.globals().items():
            names[called] = names.get(called, 0) + times
    tree = next(iter(trees.values())) if len(trees) == 1 else trees
    metadata: dict[str, Any] = {"container": "torch.package", "root": root.rstrip("/"), "byte_order": order}
    metadata |= file_version(archive, f"{root}.data/")
    if f"{root}.data/python_version" in archive.members:
        metadata["python_version"] = archive.read(f"{root}.data/python_version", 64).decode("latin-1").strip()
    notes = (
        [f"{len(inside) - len(pickles)} files of the package (source code and other) are left out"]
        if len(inside) > len(pickles)
        else []
    )
    return Checkpoint(file.path, "torch-package", tree, names, metadata, notes, [file])


class _PackageStorages(Storages):
    """Persistent ids of storages, and of objects that a function of the package would make: ``('reduce_package', [id,] func, args)``."""

    def load(self, pid: Any) -> Any:
        if type(pid) is tuple and len(pid) in (3, 4) and pid[0] == "reduce_package":
            function, arguments = pid[-2:]
            if type(function) is not Global or type(arguments) is not tuple:
                raise CorruptCheckpoint("persistent id 'reduce_package' without a function and its arguments")
            return Record(function, arguments)
        if type(pid) is tuple and len(pid) == 5 and type(pid[2]) is int:  # storages are counted here, where torch.save names them
            pid = (*pid[:2], str(pid[2]), *pid[3:])
        return super().load(pid)
