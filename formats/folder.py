"""A folder that once was a ZIP checkpoint of torch: somebody unpacked the ``.pth.tar``.

Source: ``torch.serialization._save``: ``data.pkl``, the storages under ``data/`` (``tensors/`` in torch 1.4), ``version``,
``byteorder``. Links and special files are refused, and a storage must be a file of exactly the right size.
"""

from __future__ import annotations

import os
from pathlib import Path

from formats.core.checkpoint import Checkpoint
from formats.core.errors import CorruptCheckpoint, Unsupported
from formats.core.folder import FolderRecords
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.torch_storages import Storages, byte_order, file_version, read_pickle, storage_folder


def sniff(probe: Probe) -> Match:
    """A folder with a file ``data.pkl``."""
    return Match.CERTAIN if probe.folder and os.path.lexists(probe.path / "data.pkl") else Match.NO


def read(path: Path) -> Checkpoint:
    """Structure of the checkpoint unpacked at ``path``; each storage is a file, opened while it is read."""
    records = FolderRecords(path, ("data", "tensors"))
    if "constants.pkl" in records.members:
        raise Unsupported(
            "is an unpacked TorchScript program",
            path=path,
            hint=f"pack it again: (cd {path.name} && zip -0 -r ../{path.name}.pt .)",
        )
    for name in ("data", "tensors", "version", "byteorder"):
        if records.odd.get(name) not in (None, "a folder"):
            raise CorruptCheckpoint(f"{name!r} is {records.odd[name]}", path=path)
    order = byte_order(records, "")
    storages = Storages(records, storage_folder(records, ""), order == "big")
    found = read_pickle(records, "data.pkl", storages)
    metadata = {"container": "folder", "byte_order": order, **file_version(records, "")}
    return Checkpoint(path, "folder", found.value, found.globals(), metadata, storages.notes(), [records])
