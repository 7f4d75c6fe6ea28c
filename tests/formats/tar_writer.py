"""A writer of torch ≤ 0.1.9's TAR container, made from what torch's own reader (`torch.serialization._legacy_load`) expects."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import torch

from tests.torch_reading import row_major_bytes

SYSTEM = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
STORAGES = {
    torch.float64: torch.DoubleStorage, torch.float32: torch.FloatStorage, torch.float16: torch.HalfStorage,
    torch.int64: torch.LongStorage, torch.int32: torch.IntStorage, torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage, torch.uint8: torch.ByteStorage,
}  # fmt: skip
TENSORS = {dtype: getattr(torch, cls.__name__.replace("Storage", "Tensor")) for dtype, cls in STORAGES.items()}


class TarCheckpoint:
    """Collects storages and tensors; ``views`` are (target key, root key, offset, numel)."""

    def __init__(self, protocol: int = 2) -> None:
        self.protocol = protocol
        self.storages: list[tuple[int, torch.dtype, bytes]] = []
        self.views: list[tuple[int, int, int, int]] = []
        self.tensors: list[bytes] = []
        self.keys: dict[int, int] = {}  # id(tensor) → key
        self.roots: dict[int, int] = {}  # address of the storage → key
        self.alive: list[Any] = []
        self.classes: set[type] = set()
        self.next_key = 93824992231712  # `_cdata` addresses

    def key(self) -> int:
        self.next_key += 16
        return self.next_key

    def storage(self, tensor: torch.Tensor) -> int:
        address = tensor.untyped_storage().data_ptr() or id(tensor)
        if address not in self.roots:
            self.roots[address] = self.key()
            whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            self.storages.append((self.roots[address], tensor.dtype, row_major_bytes(whole)))
        return self.roots[address]

    def tensor(self, tensor: torch.Tensor, storage_key: int | None = None) -> int:
        if id(tensor) not in self.keys:
            self.alive.append(tensor)
            root = self.storage(tensor) if storage_key is None else storage_key
            self.keys[id(tensor)] = key = self.key()
            ndim = tensor.dim()
            self.tensors.append(
                self.dump((key, root, TENSORS[tensor.dtype]))
                + struct.pack("<ii", ndim, 0)
                + struct.pack(f"<{2 * ndim + 1}q", *tensor.size(), *tensor.stride(), tensor.storage_offset())
            )
        return self.keys[id(tensor)]

    def dump(self, value: Any) -> bytes:
        return pickle.dumps(value, self.protocol)

    def write(self, tree: Any, path: Path, *, tar_format: int = tarfile.GNU_FORMAT, order: tuple[str, ...] = ()) -> None:
        """A TAR of ``tree``; the tensors and modules in it become persistent ids."""
        outer = self

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj: Any) -> Any:
                if isinstance(obj, torch.Tensor) and not isinstance(obj, torch.nn.Parameter):
                    return str(outer.tensor(obj))
                if isinstance(obj, type) and issubclass(obj, torch.nn.Module) and obj not in outer.classes:
                    outer.classes.add(obj)  # each class once, with its source
                    return (obj, "model.py", f"class {obj.__name__}: ...")
                return None

        out = io.BytesIO()
        Pickler(out, self.protocol).dump(tree)
        storages = self.dump(len(self.storages))
        for key, dtype, data in self.storages:
            storages += self.dump((key, "cpu", STORAGES[dtype])) + struct.pack("<q", len(data) // dtype.itemsize) + data
        storages += self.dump(self.views)
        members = {
            "sys_info": self.dump(SYSTEM),
            "pickle": out.getvalue(),
            "tensors": self.dump(len(self.tensors)) + b"".join(self.tensors),
            "storages": storages,
        }
        with tarfile.open(path, "w", format=tar_format) as tar:
            for name in order or members:
                entry = tarfile.TarInfo(name)
                entry.size = len(members[name])
                tar.addfile(entry, io.BytesIO(members[name]))
