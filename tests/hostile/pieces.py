"""The pieces that hostile files are built from, and the table of them.

`CASES` gives (name, class, expectation, builder); a builder makes the file or folder at the path it is given. The expectations are those of
README.md. Payloads only make a folder under ``/tmp/ptc-canary``.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

Builder = Callable[[Path], None]
CASES: list[tuple[str, str, str, Builder]] = []
CANARY = "/tmp/ptc-canary"
DATA = struct.pack("<6f", 1, 2, 3, 4, 5, 6)


def case(attack_class: str, expect: str, *names: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """A row for each of ``names``; a builder that takes a name gets it. What it returns is the file's content."""

    def register(build: Callable[..., object]) -> Callable[..., object]:
        for name in names or (build.__name__.strip("_").replace("_", "-"),):

            def make(path: Path, name: str = name) -> None:
                made = build(name) if names else build()
                if callable(made):
                    made(path)
                else:
                    assert isinstance(made, bytes)
                    path.write_bytes(made)

            CASES.append((name, attack_class, expect, make))
        return build

    return register


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\x8b" + struct.pack("<I", len(raw)) + raw


def pair(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def name(dotted: str) -> bytes:
    module, _, last = dotted.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def storage(
    key: str | bytes = "0", count: bytes = number(6), cls: str = "torch.FloatStorage", location: bytes = text("cpu")
) -> bytes:
    return pair(text("storage"), name(cls), text(key) if isinstance(key, str) else key, location, count) + b"Q"


def tensor(
    sizes: bytes = b"K\2K\3\x86",
    strides: bytes = b"K\3K\1\x86",
    offset: bytes = b"K\0",
    kept: bytes | None = None,
    rest: bytes = b"",
) -> bytes:
    return name("torch._utils._rebuild_tensor_v2") + pair(
        storage() if kept is None else kept, offset, sizes, strides, b"\x89", name("collections.OrderedDict") + b")R", rest
    ) + b"R"  # fmt: skip


def state(*entries: bytes) -> bytes:
    """A pickle of a dict: key, value, key, value …"""
    return b"\x80\x02}(" + b"".join(entries) + b"u."


GOOD = (text("w"), tensor())
CALL = name("os.makedirs") + text(CANARY) + b"\x85R"


def archive(
    pickled: bytes, records: dict[str, bytes] | None = None, root: str = "archive/", method: int = 0, **more: bytes
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        made.writestr(zipfile.ZipInfo(f"{root}data.pkl"), pickled, method)
        for key, data in ({"data/0": DATA} if records is None else records).items():
            made.writestr(zipfile.ZipInfo(root + key), data, method)
        made.writestr(zipfile.ZipInfo(f"{root}version"), b"3\n")
        for key, data in more.items():
            made.writestr(zipfile.ZipInfo(root + key), data)
    return out.getvalue()


def legacy(pickled: bytes, keys: bytes = b"\x80\x02](" + text("0") + b"e.", data: bytes = struct.pack("<q", 6) + DATA) -> bytes:
    magic = b"\x80\x02" + number(0x1950A86A20F9469CFC6C) + b"."
    system = b"\x80\x02}(" + text("protocol_version") + b"M\xe9\x03" + text("little_endian") + b"\x88u."
    return magic + b"\x80\x02M\xe9\x03." + system + pickled + keys + data


def legacy_tensor(view: bytes = b"N", count: int = 6) -> bytes:
    kept = pair(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), number(count), view) + b"Q"
    return state(text("w"), tensor(kept=kept))


def safetensors(header: str | bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


W = '"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'


def patched(data: bytes, old: bytes, new: bytes, count: int = 1) -> bytes:
    assert old in data
    return data.replace(old, new, count)
