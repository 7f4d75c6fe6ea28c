"""A ZIP's directory told many entries at a time: never otherwise than entry by entry."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from formats.core.errors import CorruptCheckpoint
from formats.core.files import SourceFile
from formats.core.zip import ZipDirectory
from formats.core.zip_entries import Entries, entries_one_by_one, usual_entries

NAMES = st.text("ab0/.\\é\n", min_size=1, max_size=6)
MEMBERS = st.lists(
    st.tuples(
        NAMES,
        st.binary(max_size=20),
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
        st.sampled_from([0, 0o100644 << 16, 0o120777 << 16, 0x10]),
        st.sampled_from([b"", b"c"]),
        st.sampled_from([0, 3]),
    ),
    max_size=5,
    unique_by=lambda member: member[0].replace("\\", "/"),
)


def columns(entries: Entries) -> dict[str, list[int] | list[str] | bytes]:
    found = {name: list(getattr(entries, name)) for name in ("names", "at", "lengths", "headers", "packed", "sizes", "crcs")}
    return {**found, "plain": entries.plain}


def zipped(path: Path, members: list[tuple[str, bytes, int, int, bytes, int]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, method, attributes, comment, system in members:
            info = zipfile.ZipInfo(name)
            info.filename, info.compress_type, info.external_attr = name, method, attributes
            info.comment, info.create_system = comment, system
            archive.writestr(info, content)


def directory_of(content: bytes) -> tuple[bytes, int]:
    at = content.rindex(b"PK\5\6")
    count, length, start = struct.unpack_from("<10xHLL", content, at)
    return content[start : start + length], count


@given(MEMBERS)
def test_columns_are_those_of_single_entries(members: list[tuple[str, bytes, int, int, bytes, int]]) -> None:
    buffer = io.BytesIO()
    zipped(buffer, members)  # type: ignore[arg-type]
    data, count = directory_of(buffer.getvalue())
    usual = usual_entries(data, count)
    if usual is not None:
        assert columns(usual) == columns(entries_one_by_one(data, count))


@given(MEMBERS.filter(bool), st.randoms(use_true_random=False))
def test_damage_is_not_told_otherwise(members: list[tuple[str, bytes, int, int, bytes, int]], chance: random.Random) -> None:
    buffer = io.BytesIO()
    zipped(buffer, members)  # type: ignore[arg-type]
    raw, count = directory_of(buffer.getvalue())
    data = bytearray(raw)
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(len(data))] = chance.choice([0, 1, 2, 8, 0x50, 0x4B, 255])
    usual = usual_entries(bytes(data), count)
    if usual is not None:
        assert columns(usual) == columns(entries_one_by_one(bytes(data), count))


def test_what_torch_writes_is_usual(tmp_path: Path) -> None:
    torch.save({f"layer.{index}": torch.ones(3) for index in range(30)}, tmp_path / "in.pth")
    data, count = directory_of((tmp_path / "in.pth").read_bytes())
    usual = usual_entries(data, count)
    assert usual is not None
    assert len(usual.names) == count >= 30
    assert set(usual.plain) == {1}
    assert usual.begin.startswith(b"PK\3\4")


def test_a_name_may_hold_a_signature(tmp_path: Path) -> None:
    zipped(tmp_path / "in.zip", [("aPK\1\2b", b"1", zipfile.ZIP_STORED, 0, b"", 0), ("c", b"2", zipfile.ZIP_STORED, 0, b"", 0)])
    archive = ZipDirectory(SourceFile(tmp_path / "in.zip"))
    assert list(archive.members) == ["aPK\1\2b", "c"]
    assert archive.read("aPK\1\2b", 10) == b"1"


@pytest.mark.parametrize("count", [0, 1, 3, 1 << 60])
def test_another_count_is_refused(count: int, tmp_path: Path) -> None:
    zipped(tmp_path / "in.zip", [(name, b"1", zipfile.ZIP_STORED, 0, b"", 0) for name in ("a", "b")])
    data, _ = directory_of((tmp_path / "in.zip").read_bytes())
    assert usual_entries(data, count) is None
    with pytest.raises(CorruptCheckpoint, match="2 directory entries"):
        entries_one_by_one(data, count)
