"""Both containers of `torch.save` around a pickle that is put together opcode by opcode: what old releases wrote and none writes now."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import torch

from tests.torch_reading import row_major_bytes

SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def numbers(*values: int) -> bytes:
    """A tuple of BININT."""
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


class Assembly:
    """A pickle's opcodes with the storages that they name."""

    def __init__(self, *, legacy: bool) -> None:
        self.legacy = legacy
        self.storages: dict[str, torch.Tensor] = {}

    def storage(self, tensor: torch.Tensor, kind: str | None = None, view: bytes = b"N") -> bytes:
        """BINPERSID of the storage that ``tensor`` is all of."""
        key = str(len(self.storages))
        self.storages[key] = tensor
        kind = kind or tensor.type().rpartition(".")[2].replace("Tensor", "Storage")
        pid = (
            text("storage")
            + b"ctorch\n"
            + kind.encode()
            + b"\n"
            + text(key)
            + text("cpu")
            + b"J"
            + struct.pack("<i", tensor.numel())
        )
        return b"(" + pid + (view if self.legacy else b"") + b"tQ"

    def write(
        self, opcodes: bytes, path: Path, *, big: bool = False, folder: str = "data", method: int = zipfile.ZIP_STORED
    ) -> Path:
        """The container around ``opcodes``, which end without STOP."""
        path.write_bytes(self._legacy(opcodes) if self.legacy else self._zip(opcodes, big, folder, method))
        return path

    def _legacy(self, opcodes: bytes) -> bytes:
        out = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, SYSTEM))
        out += b"\x80\x02" + opcodes + b"." + pickle.dumps(list(self.storages), 2)
        for tensor in self.storages.values():
            out += struct.pack("<q", tensor.numel()) + row_major_bytes(tensor)
        return out

    def _zip(self, opcodes: bytes, big: bool, folder: str, method: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + opcodes + b".")
            if big:
                archive.writestr("archive/byteorder", b"big")
            for key, tensor in self.storages.items():
                data = row_major_bytes(tensor)
                if big:
                    width = tensor.element_size() // (2 if tensor.is_complex() else 1)
                    data = b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))
                archive.writestr(f"archive/{folder}/{key}", data)
            archive.writestr("archive/version", b"3\n")
        return buffer.getvalue()
