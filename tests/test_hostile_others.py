"""Others of every class of hostile file, built by `tests/hostile/others.py`: through the installed command, and under the audit hook."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.others import CASES, DATA, Builder
from tests.test_audit import Child
from tests.test_hostile import (
    BASE_MEMORY,
    CANARY,
    REFUSALS,
    Runner,
    assert_clean_text,
    assert_one_line,
    command,
    written,
)

pytestmark = pytest.mark.hostile
TURNED = struct.pack("<6f", 1, 4, 2, 5, 3, 6)  # the same values read down the columns
VALUES = {hashlib.sha256(data).hexdigest() for data in (DATA, TURNED)}
PARAMETERS = [pytest.param(*case, id=f"{case[1]}-{case[0]}") for case in CASES]


@pytest.mark.parametrize(("name", "attack_class", "expect", "build"), PARAMETERS)
def test_case(
    name: str,
    attack_class: str,
    expect: str,
    build: Builder,
    tmp_path: Path,
    limited: Runner,
    record_property: Any,
) -> None:
    place, out = tmp_path / "in", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    build(place / name)
    beside = sorted(place.rglob("*"))
    answer = limited([*command.argv(), str(place / name), "--to", "safetensors", "--out-dir", str(out)])
    outcome = "read" if answer["exit"] == 0 else "refused"
    record_property("hostile", [attack_class, outcome, answer["cpu"], answer["peak"]])

    assert not CANARY.exists(), "code of the file has run"
    assert sorted(place.rglob("*")) == beside, "something was left beside the source"
    assert answer["exit"] >= 0, f"ended by signal {-answer['exit']}: {answer['stderr']}"
    assert answer["cpu"] < 5
    assert answer["peak"] < BASE_MEMORY + (300 << 20 if "bomb" in name else 0)
    assert_clean_text(answer["stdout"])
    assert_clean_text(answer["stderr"])
    if outcome == "refused":
        assert expect != "inert", f"refused: {answer['stderr']}"
        assert answer["exit"] in REFUSALS, answer
        assert_one_line(answer, place / name)
        assert list(out.iterdir()) == []
    else:
        assert expect != "refuse", f"read: {answer['stdout']}"
        tensors = written(out)
        assert tensors, "exit 0, and no tensor was written"
        if "bomb" not in name:
            assert {digest for _, _, digest in tensors.values()} <= VALUES


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.close()


@pytest.mark.parametrize(("name", "attack_class", "expect", "build"), PARAMETERS)
def test_nothing_happens(name: str, attack_class: str, expect: str, build: Builder, tmp_path: Path, child: Child) -> None:
    place, out = tmp_path / "in", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    build(place / name)
    assert child(place / name, None)["events"] == []
    found = child(place / name, out)
    assert found["events"] == []
    assert expect == "either" or found["outcome"] == ("refused" if expect == "refuse" else "read"), found
    assert not CANARY.exists()


def test_there_are_others_of_every_class() -> None:
    assert len(CASES) > 150
    assert len({name for name, *_ in CASES}) == len(CASES)
