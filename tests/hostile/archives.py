"""ZIP, TAR and legacy containers that contradict themselves, and what inflates without end. See `pieces.py`."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib

from tests.hostile.pieces import (
    CALL,
    CANARY,
    DATA,
    GOOD,
    archive,
    case,
    legacy,
    legacy_tensor,
    name,
    number,
    pair,
    patched,
    state,
    storage,
    tensor,
    text,
)


def _end(data: bytes, offset: int, value: bytes) -> bytes:
    at = data.rindex(b"PK\5\6") + offset
    return data[:at] + value + data[at + len(value) :]


_SOUND = archive(state(*GOOD))


@case("zip", "refuse")
def _two_archives_in_a_row() -> bytes:
    return _SOUND + archive(state(text("evil"), tensor()))


@case("zip", "refuse")
def _end_in_the_comment() -> bytes:
    return _end(_SOUND, 20, b"\x16\0") + b"PK\5\6" + bytes(18)


@case("zip", "refuse", "count-too-small", "count-too-large", "directory-moved", "directory-longer", "other-disk")
def _ends(which: str) -> bytes:
    return _end(_SOUND, *{
        "count-too-small": (8, b"\2\0\2\0"), "count-too-large": (8, b"\4\0\4\0"), "directory-moved": (16, b"\1\0\0\0"),
        "directory-longer": (12, b"\xff\0\0\0"), "other-disk": (4, b"\1\0"),
    }[which])  # fmt: skip


@case(
    "zip",
    "refuse",
    "name-differs",
    "method-differs",
    "size-differs",
    "crc-differs",
    "encrypted",
    "signature-gone",
    "local-name-longer",
)
def _local_headers(which: str) -> bytes:
    local = _SOUND.index(b"PK\3\4", 4)  # of data/0
    at, value = {
        "name-differs": (30, b"Archive"),
        "method-differs": (8, b"\x08\0"),
        "size-differs": (22, b"\x17\0\0\0"),
        "crc-differs": (14, b"abcd"),
        "encrypted": (6, b"\1\0"),
        "signature-gone": (0, b"PK\3\5"),
        "local-name-longer": (26, b"\x0f\0"),
    }[which]
    return _SOUND[: local + at] + value + _SOUND[local + at + len(value) :]


@case("zip", "refuse")
def _data_changed_under_a_crc() -> bytes:
    return patched(_SOUND, DATA, DATA[:-1] + b"\x41")


@case("zip", "refuse")
def _pickle_changed_under_a_crc() -> bytes:
    return patched(_SOUND, text("w"), text("v"))


@case("zip", "refuse")
def _deflate_gives_more_than_declared() -> bytes:
    made = archive(state(*GOOD), {"data/0": DATA}, method=8)
    longer = zlib.compress(DATA + b"x" * 24, 9)[2:-4]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as inner:
        inner.writestr("archive/data.pkl", state(*GOOD))
        inner.writestr("archive/data/0", longer)
        inner.writestr("archive/version", b"3\n")
    data = bytearray(out.getvalue())
    for signature, method, crc, packed in ((b"PK\3\4", 8, 14, 18), (b"PK\1\2", 10, 16, 20)):
        at = data.index(signature, data.index(signature) + 4)
        data[at + method : at + method + 2] = b"\x08\0"
        data[at + crc : at + crc + 4] = struct.pack("<L", zlib.crc32(DATA))
        data[at + packed : at + packed + 8] = struct.pack("<LL", len(longer), 24)
    assert made
    return bytes(data)


@case("zip", "refuse")
def _two_roots_with_a_pickle_each() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for root in ("a/", "b/"):
            made.writestr(root + "data.pkl", state(*GOOD))
            made.writestr(root + "data/0", DATA)
            made.writestr(root + "version", b"3\n")
    return out.getvalue()


@case("zip", "refuse")
def _same_name_by_backslash() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for member, data in (
            ("archive/data.pkl", state(*GOOD)),
            ("archive/data/0", DATA),
            ("archive\\data\\0", DATA[::-1]),
            ("archive/version", b"3"),
        ):
            entry = zipfile.ZipInfo("x" * len(member))
            entry.filename = member
            made.writestr(entry, data)
    return out.getvalue()


@case("zip", "either")
def _self_extracting_program_around_it() -> bytes:
    return b"#!/bin/sh\nmkdir -p " + CANARY.encode() + b"\nexit\n" + _SOUND


@case("zip", "refuse", "record-twice-by-case", "pickle-twice-by-case", "byteorder-twice-by-case")
def _twins(which: str) -> bytes:
    twin, data = {
        "record-twice-by-case": ("DATA/0", DATA[::-1]),
        "pickle-twice-by-case": ("Data.PKL", state(text("v"), tensor())),
        "byteorder-twice-by-case": ("ByteOrder", b"big"),
    }[which]
    return archive(state(*GOOD), {"byteorder": b"little", "data/0": DATA, twin: data})


@case("zip", "either")
def _hundred_thousand_members() -> bytes:
    return archive(state(*GOOD), {"data/0": DATA, **{f"data/x{i}": b"" for i in range(60_000)}})


@case("zip", "either", "bomb-in-gzip", "bomb-in-bzip2", "bomb-in-xz", "bomb-in-zip", "gzip-in-gzip-in-gzip-in-gzip")
def _bombs(which: str) -> bytes:
    zeros = bytes(300 << 20) if which != "gzip-in-gzip-in-gzip-in-gzip" else b""
    if which == "bomb-in-gzip":
        return gzip.compress(zeros, 1)
    if which == "bomb-in-bzip2":
        return bz2.compress(zeros, 1)
    if which == "bomb-in-xz":
        return lzma.compress(zeros, preset=0)
    if which == "bomb-in-zip":
        return archive(
            state(text("w"), tensor(pair(number(75 << 20)), b"K\1\x85", kept=storage(count=number(75 << 20)))),
            {"data/0": zeros},
            method=8,
        )
    return gzip.compress(gzip.compress(gzip.compress(gzip.compress(_SOUND))))


_LEGACY = {
    "legacy-count-negative": lambda: legacy(legacy_tensor(), data=struct.pack("<q", -6) + DATA),
    "legacy-count-too-large": lambda: legacy(legacy_tensor(), data=struct.pack("<q", 1 << 60) + DATA),
    "legacy-count-other": lambda: legacy(legacy_tensor(), data=struct.pack("<q", 5) + DATA),
    "legacy-key-twice": lambda: legacy(legacy_tensor(), b"\x80\x02](" + text("0") * 2 + b"e.", (struct.pack("<q", 6) + DATA) * 2),
    "legacy-key-missing": lambda: legacy(legacy_tensor(), b"\x80\x02]."),
    "legacy-key-extra": lambda: legacy(
        legacy_tensor(), b"\x80\x02](" + text("0") + text("1") + b"e.", (struct.pack("<q", 6) + DATA) * 2
    ),
    "legacy-keys-a-dict": lambda: legacy(legacy_tensor(), b"\x80\x02}" + text("0") + b"Ns."),
    "legacy-view-past-the-end": lambda: legacy(legacy_tensor(pair(text("v"), b"K\5", b"K\6"))),
    "legacy-view-negative": lambda: legacy(legacy_tensor(pair(text("v"), number(-1), b"K\6"))),
    "legacy-view-of-two": lambda: legacy(legacy_tensor(pair(text("v"), b"K\0"))),
    "legacy-bytes-after": lambda: legacy(legacy_tensor()) + b"\0",
    "legacy-byte-missing": lambda: legacy(legacy_tensor())[:-1],
    "legacy-protocol-1002": lambda: patched(legacy(legacy_tensor()), b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03."),
    "legacy-magic-twice": lambda: patched(
        legacy(legacy_tensor()), b"\x80\x02M\xe9\x03.", b"\x80\x02" + number(0x1950A86A20F9469CFC6C) + b"."
    ),
}


@case("legacy", "refuse", *_LEGACY)
def _legacies(which: str) -> bytes:
    return _LEGACY[which]()


_TENSORS = (
    b"\x80\x02K\1."
    + b"\x80\x02K\2K\1"
    + name("torch.FloatTensor")
    + b"\x87."
    + struct.pack("<ii", 2, 0)
    + struct.pack("<5q", 2, 3, 3, 1, 0)
)
_STORAGES = (
    b"\x80\x02K\1."
    + b"\x80\x02K\1"
    + text("cpu")
    + name("torch.FloatStorage")
    + b"\x87."
    + struct.pack("<q", 6)
    + DATA
    + b"\x80\x02]."
)
_PICKLE = b"\x80\x02}" + text("w") + text("2") + b"Qs."


def tarred(members: dict[str, bytes], **changes: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for member, data in members.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            for field, value in changes.items() if member == "storages" else ():
                setattr(entry, field, value)
            made.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def tar(storages: bytes = _STORAGES, tensors: bytes = _TENSORS, pickled: bytes = _PICKLE, **changes: object) -> bytes:
    return tarred({"storages": storages, "tensors": tensors, "pickle": pickled}, **changes)


def _twice() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for member, data in (
            ("storages", _STORAGES),
            ("tensors", _TENSORS),
            ("pickle", _PICKLE),
            ("storages", patched(_STORAGES, DATA, DATA[::-1])),
        ):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    return out.getvalue()


_TARS = {
    "tar-ndim-negative": lambda: tar(tensors=patched(_TENSORS, struct.pack("<ii", 2, 0), struct.pack("<ii", -2, 0))),
    "tar-ndim-huge": lambda: tar(tensors=patched(_TENSORS, struct.pack("<ii", 2, 0), struct.pack("<ii", 1 << 30, 0))),
    "tar-stride-wraps": lambda: tar(tensors=patched(_TENSORS, struct.pack("<q", 3), struct.pack("<q", 1 << 62), 2)),
    "tar-offset-negative": lambda: tar(tensors=_TENSORS[:-8] + struct.pack("<q", -1)),
    "tar-count-of-a-billion": lambda: tar(storages=b"\x80\x02" + number(10**9) + b"." + _STORAGES[5:]),
    "tar-storage-numel-negative": lambda: tar(storages=patched(_STORAGES, struct.pack("<q", 6), struct.pack("<q", -6))),
    "tar-storage-longer-than-member": lambda: tar(storages=patched(_STORAGES, struct.pack("<q", 6), struct.pack("<q", 60))),
    "tar-view-of-nothing": lambda: tar(storages=_STORAGES[:-4] + b"\x80\x02](K\7K\x09K\0K\1te."),
    "tar-tensor-of-no-storage": lambda: tar(tensors=patched(_TENSORS, b"K\2K\1c", b"K\2K\7c")),
    "tar-pickle-of-no-tensor": lambda: tar(pickled=b"\x80\x02}" + text("w") + text("99") + b"Qs."),
    "tar-storages-a-link": lambda: tar(type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0),
    "tar-storages-a-device": lambda: tar(type=tarfile.CHRTYPE, size=0),
    "tar-storages-twice": _twice,
    "tar-calls-in-storages": lambda: tar(storages=b"\x80\x02" + CALL + b"." + _STORAGES[5:]),
}


@case("tar", "refuse", *_TARS)
def _tars(which: str) -> bytes:
    return _TARS[which]()


@case("tar", "inert")
def _plain_tar() -> bytes:
    return tar()
