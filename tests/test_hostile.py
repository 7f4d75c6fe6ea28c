"""Files made to do harm, through the installed command: refused in one line or read inertly, within limits, nothing left."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import deserialize

from tests import command

HERE = Path(__file__).parent / "hostile"
CANARY = Path("/tmp/ptc-canary")  # what every payload makes
# The manifest would have these refused; archives around checkpoints are read through, to a stated depth, and listed as such.
READ_THROUGH = {"zip-pth-in-zip", "zip-legacy-in-zip"}
REFUSALS = {65, 69, 74}
BASE_MEMORY = 256 << 20  # bytes, beside the largest tensor
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

pytestmark = pytest.mark.hostile


@dataclass(frozen=True)
class Case:
    name: str
    file: str
    attack_class: str
    expect: str
    what: str


def cases() -> list[Case]:
    with (HERE / "manifest.tsv").open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        return [
            Case(r["id"], r["file"], r["attack_class"], "inert" if r["id"] in READ_THROUGH else r["expect"], r["what"])
            for r in rows
        ]


EXPECTED: dict[str, dict[str, tuple[str, list[int], str]]] = json.loads((HERE / "expected.json").read_text("utf-8"))


Runner = Callable[[list[str]], dict[str, Any]]


for _name in READ_THROUGH:
    EXPECTED[_name] = EXPECTED["ok-no-byteorder"]  # the same two tensors are inside


def written(folder: Path) -> dict[str, tuple[str, list[int], str]]:
    """dtype, shape and sha256 of every tensor in the safetensors files of ``folder``, as the safetensors package reads them."""
    found: dict[str, tuple[str, list[int], str]] = {}
    for path in sorted(folder.iterdir()):
        for name, entry in deserialize(path.read_bytes()):
            assert name not in found
            found[name] = (entry["dtype"], list(entry["shape"]), hashlib.sha256(entry["data"]).hexdigest())
    return found


def below_selected(tensors: dict[str, tuple[str, list[int], str]]) -> dict[str, tuple[str, list[int], str]]:
    """The same tensors named from the one sub-dict that holds them all, as the command names them after it has selected it."""
    heads = {name.partition(".")[0] for name in tensors}
    if len(heads) != 1 or not all("." in name for name in tensors):
        return tensors
    return {name.partition(".")[2]: entry for name, entry in tensors.items()}


def assert_clean_text(text: str) -> None:
    assert not CONTROL.search(text), f"control characters reach the terminal: {text!r}"
    assert "Traceback" not in text, text
    assert "internal error" not in text, text


def assert_one_line(answer: dict[str, Any], source: Path) -> None:
    """``FILE: what``, then at most one hint."""
    lines = answer["stderr"].splitlines()
    assert lines, "nothing says why"
    assert source.name in lines[0], lines
    assert ": " in lines[0], lines
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), lines


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_case(case: Case, hostile: Path, tmp_path: Path, limited: Runner, record_property: Any) -> None:
    source = hostile / case.file
    out = tmp_path / "out"
    out.mkdir()
    beside = sorted(source.parent.iterdir())
    answer = limited([*command.argv(), str(source), "--to", "safetensors", "--out-dir", str(out)])
    outcome = "read" if answer["exit"] == 0 else "refused"
    record_property("hostile", [case.attack_class, outcome, answer["cpu"], answer["peak"]])

    assert not CANARY.exists(), "code of the file has run"
    assert sorted(source.parent.iterdir()) == beside, "something was left beside the source"
    assert answer["exit"] >= 0, f"ended by signal {-answer['exit']}: {answer['stderr']}"
    assert answer["cpu"] < 5
    assert_clean_text(answer["stdout"])
    assert_clean_text(answer["stderr"])
    expected = EXPECTED.get(case.name, {})
    largest = max((math.prod(shape) * 8 for _, shape, _ in expected.values()), default=0)
    assert answer["peak"] < BASE_MEMORY + largest

    if outcome == "refused":
        assert case.expect != "inert", f"refused: {answer['stderr']}"
        assert answer["exit"] in REFUSALS, answer
        assert_one_line(answer, source)
        assert list(out.iterdir()) == []
    else:
        assert case.expect != "refuse", f"read: {answer['stdout']}"
        assert all(path.suffix == ".safetensors" for path in out.iterdir()), list(out.iterdir())
        tensors = written(out)
        assert tensors, "exit 0, and no tensor was written"
        if expected:
            wanted = {name: (dtype, shape, digest) for name, (dtype, shape, digest) in expected.items()}
            assert tensors in (wanted, below_selected(wanted))


@pytest.mark.parametrize(
    ("code", "check"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", lambda seen: seen["exit"] == -signal.SIGSEGV),
        ("while True: pass", lambda seen: seen["exit"] == -signal.SIGXCPU and seen["cpu"] > 4.5),
        ("x = b'1' * (300 << 20)", lambda seen: seen["exit"] == 0 and seen["peak"] > BASE_MEMORY),
        ("pass", lambda seen: seen["exit"] == 0 and seen["peak"] < 64 << 20),
    ],
    ids=["signal", "endless", "memory", "nothing"],
)
def test_the_limits_bite(code: str, check: Callable[[dict[str, Any]], bool], limited: Runner) -> None:
    """The runner sees a signal, an endless loop and memory: otherwise the cases above would prove nothing."""
    seen = limited([sys.executable, "-S", "-c", code])
    assert check(seen), seen
