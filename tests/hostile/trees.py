"""safetensors headers, indexes, folders, ONNX, and what is no file at all. See `pieces.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.hostile.pieces import DATA, GOOD, Builder, W, case, safetensors, state

_HEADERS: dict[str, Callable[[], bytes]] = {
    "st-length-2-63": lambda: safetensors("{" + W + "}", length=1 << 63),
    "st-length-past-the-end": lambda: safetensors("{" + W + "}", length=10_000),
    "st-hole": lambda: safetensors("{" + W + ',"v":{"dtype":"U8","shape":[1],"data_offsets":[25,26]}}', DATA + b"xy"),
    "st-overlap": lambda: safetensors("{" + W + ',"v":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}'),
    "st-shape-product-wraps": lambda: safetensors('{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,24]}}'),
    "st-shape-negative": lambda: safetensors('{"w":{"dtype":"F32","shape":[-2,-3],"data_offsets":[0,24]}}'),
    "st-offsets-swapped": lambda: safetensors('{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[24,0]}}'),
    "st-name-twice-by-escape": lambda: safetensors("{" + W + ',"\\u0077":{"dtype":"U8","shape":[0],"data_offsets":[24,24]}}'),
    "st-metadata-twice": lambda: safetensors('{"__metadata__":{"a":"b"},' + W + ',"__metadata__":{"a":"c"}}'),
    "st-metadata-nested": lambda: safetensors('{"__metadata__":{"a":{"b":"c"}},' + W + "}"),
    "st-utf-16": lambda: safetensors(("{" + W + "}").encode("utf-16-le")),
    "st-surrogate": lambda: safetensors("{" + W.replace("w", "\\ud800") + "}"),
    "st-deep": lambda: safetensors('{"w":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "st-number-of-a-million-digits": lambda: safetensors(
        '{"w":{"dtype":"F32","shape":[' + "9" * 1_000_000 + '],"data_offsets":[0,24]}}'
    ),
    "st-exponent": lambda: safetensors('{"w":{"dtype":"F32","shape":[2e0,3],"data_offsets":[0,24]}}'),
    "st-after-the-header": lambda: safetensors("{" + W + "}{}"),
    "st-bytes-after-the-data": lambda: safetensors("{" + W + "}", DATA + b"x"),
    "st-field-twice": lambda: safetensors('{"w":{"dtype":"F32","dtype":"F64","shape":[2,3],"data_offsets":[0,24]}}'),
    "st-field-more": lambda: safetensors('{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24],"x":1}}'),
    "st-dtype-of-nobody": lambda: safetensors("{" + W.replace("F32", "F33") + "}"),
}


@case("safetensors", "refuse", *_HEADERS)
def _headers(which: str) -> bytes:
    return _HEADERS[which]()


def _index(weight_map: object, **files: bytes) -> Builder:
    def make(path: Path) -> None:
        path.mkdir()
        document = weight_map if isinstance(weight_map, str) else json.dumps({"metadata": {}, "weight_map": weight_map})
        (path / "m.safetensors.index.json").write_text(document, "utf-8", "surrogatepass")
        (path / "one.safetensors").write_bytes(safetensors("{" + W + "}"))
        for file, data in files.items():
            (path / file.replace("_", ".")).write_bytes(data)

    return make


_INDEXES: dict[str, object] = {
    "index-absolute": {"w": "/etc/passwd"},
    "index-parent": {"w": "../one.safetensors"},
    "index-url": {"w": "https://localhost/one.safetensors"},
    "index-to-itself": {"w": "m.safetensors.index.json"},
    "index-nul": {"w": "one.safetensors\0.bin"},
    "index-device": {"w": "/dev/zero"},
    "index-number": {"w": 7},
    "index-missing-key": {"v": "one.safetensors"},
    "index-key-twice": '{"weight_map":{"w":"one.safetensors","w":"one.safetensors"}}',
    "index-map-twice": '{"weight_map":{"w":"one.safetensors"},"weight_map":{"w":"one.safetensors"}}',
    "index-deep": '{"metadata":' + "[" * 50_000 + "]" * 50_000 + ',"weight_map":{"w":"one.safetensors"}}',
}


@case("sharded", "refuse", *_INDEXES)
def _indexes(which: str) -> Builder:
    return _index(_INDEXES[which])


@case("sharded", "refuse", "shard-a-link-outside", "shard-a-fifo")
def _shards(which: str) -> Builder:
    def make(path: Path) -> None:
        _index({"w": "two.safetensors"})(path)
        if which == "shard-a-fifo":
            os.mkfifo(path / "two.safetensors")
        else:
            (path.parent / f"{path.name}.outside").write_bytes(safetensors("{" + W + "}"))
            (path / "two.safetensors").symlink_to(path.parent / f"{path.name}.outside")

    return make


@case(
    "directory",
    "refuse",
    "folder-record-a-link",
    "folder-record-short",
    "folder-record-a-folder",
    "folder-pickle-a-fifo",
    "folder-data-a-link",
)
def _folders(which: str) -> Builder:
    def make(path: Path) -> None:
        (path / "data").mkdir(parents=True)
        (path / "version").write_bytes(b"3\n")
        (path / "data.pkl").write_bytes(state(*GOOD))
        record = path / "data" / "0"
        if which == "folder-record-a-link":
            record.symlink_to("/etc/hostname")
        elif which == "folder-record-short":
            record.write_bytes(DATA[:-4])
        elif which == "folder-record-a-folder":
            record.mkdir()
        elif which == "folder-pickle-a-fifo":
            (path / "data.pkl").unlink()
            os.mkfifo(path / "data.pkl")
        else:
            (path / "data").rmdir()
            outside = path.parent / f"{path.name}.outside"
            outside.mkdir()
            (outside / "0").write_bytes(DATA)
            (path / "data").symlink_to(outside)

    return make


def _field(number_: int, value: bytes | int) -> bytes:
    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128])
            n >>= 7
        return out + bytes([n])

    return (
        varint(number_ << 3) + varint(value) if isinstance(value, int) else varint(number_ << 3 | 2) + varint(len(value)) + value
    )


def onnx(location: str, **more: str) -> bytes:
    entries = b"".join(
        _field(13, _field(1, k.encode()) + _field(2, v.encode())) for k, v in {"location": location, **more}.items()
    )
    initializer = _field(1, 2) + _field(1, 3) + _field(2, 1) + _field(8, b"w") + entries + _field(14, 1)
    return _field(1, 8) + _field(7, _field(5, initializer)) + _field(8, _field(1, b"") + _field(2, 17))


@case(
    "other",
    "refuse",
    "onnx-absolute",
    "onnx-parent",
    "onnx-folder",
    "onnx-device",
    "onnx-offset-negative",
    "onnx-length-huge",
    "onnx-itself",
)
def _external(which: str) -> bytes:
    location, more = {
        "onnx-absolute": ("/etc/passwd", {}),
        "onnx-parent": ("../x", {}),
        "onnx-folder": (".", {}),
        "onnx-device": ("/dev/zero", {}),
        "onnx-offset-negative": ("onnx-offset-negative", {"offset": "-8"}),
        "onnx-length-huge": ("onnx-length-huge", {"length": str(1 << 62)}),
        "onnx-itself": ("onnx-itself", {"offset": "0", "length": "23"}),
    }[which]
    return onnx(location, **more)


@case("other", "refuse", "a-fifo", "a-device", "a-link-to-itself", "a-socket")
def _special(which: str) -> Builder:
    def make(path: Path) -> None:
        if which == "a-fifo":
            os.mkfifo(path)
        elif which == "a-device":
            path.symlink_to("/dev/zero")
        elif which == "a-link-to-itself":
            path.symlink_to(path)
        else:
            import socket

            here = os.getcwd()
            os.chdir(path.parent)  # the name of a socket may be 107 bytes long
            try:
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(path.name)
            finally:
                os.chdir(here)

    return make
