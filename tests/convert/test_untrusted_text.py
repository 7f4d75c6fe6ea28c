"""Names, metadata and errors of hostile files through the installed command: nothing on a terminal moves the cursor, recolours or reorders,
no line is endless, and JSON is ASCII that gives every name back as it is."""

from __future__ import annotations

import json
import os
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from tests import command

FIXED = [
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\rb", "x\ny", "gpj.\u202eexe", "\u2066iso\u2069", "\u200bzero", "\x9bcsi", "\u2028line",
    "\x85", "<script>alert(1)</script>", "[red]rich[/red]", "[link=http://127.0.0.1/]x[/link]", "[/]", ":smile:", "%s%n{0}",
    "back\\slash", "\ufeffbom", "\x00nul", "\U000e0041tag", "\xad", "\ud800", "W" * 1_000_000,
]  # fmt: skip
MARKS = "\x00\x07\x08\x1b[]0;m\r\n\t\x7f\x9b\x85\u200b\u200e\u202a\u202e\u2066\u2069\u2028\ufeff\ud800\udfff\\<>&'\"`|*_."
NAMES = st.lists(st.text(st.one_of(st.characters(), st.sampled_from(MARKS)), min_size=1, max_size=30), min_size=8, max_size=16)
FILES = st.text(st.sampled_from("ab\x07\x1b[m\r\n\t\x9b\u202e\u2066\u200b<>&'\"\\ \udcff"), min_size=1, max_size=20)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    argv = [*command.argv(), *(os.fsencode(argument) for argument in arguments)]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, env=command.environment(), timeout=120, check=False
    )


def said(*arguments: str | Path) -> str:
    """What the command prints on both streams, which is fit for a terminal."""
    done = run(*arguments)
    for stream in (done.stdout, done.stderr):
        text = stream.decode("utf-8")  # strictly
        assert {character for character in text if not character.isprintable()} <= {"\n"}, arguments
        assert max(map(len, text.split("\n"))) < 8000, arguments
        assert "Traceback" not in text
        assert "internal error" not in text
    return (done.stdout + done.stderr).decode("utf-8")


def told(*arguments: str | Path) -> dict[str, Any]:
    """The JSON document, which is ASCII."""
    done = run(*arguments, "--json")
    assert done.stdout.isascii()
    found: dict[str, Any] = json.loads(done.stdout)
    assert "status" in found
    return found


class Zoo:
    """Files with ``names`` for keys, settings and metadata, each called after ``file``."""

    def __init__(self, folder: Path, names: list[str], file: str) -> None:
        self.root = folder / f"zoo{file}"
        self.root.mkdir(parents=True)
        self.keys = [f"{name}.weight" for name in dict.fromkeys(names)]
        weights = OrderedDict((key, torch.ones(2, 2)) for key in self.keys)
        rest = {name: name for name in names if name != "state_dict"}
        self.nested = self._save(f"nested{file}.pth", {"state_dict": weights, **rest})
        self.plain = self._save(f"plain{file}.pth", weights)
        half = {key: value + 1 for key, value in list(weights.items())[::2]}
        self.other = self._save(f"other{file}.pth", {**half, "more\x1b[m.weight": torch.ones(3)})
        self.several = self._save(
            f"several{file}.pth", {key: {"w.weight": torch.ones(2), "w.bias": torch.ones(2)} for key in names}
        )
        self.cut = self.root / f"cut{file}.pth"
        self.cut.write_bytes(self.plain.read_bytes()[:-100])
        spelled = {key: value for key, value in weights.items() if _encodable(key)}
        self.safe = self.root / f"safe{file}.safetensors"
        self.safe.write_bytes(save({**spelled, "w": torch.ones(1)}, metadata={name: name for name in names if _encodable(name)}))
        module = "".join(c for c in names[0] if c not in "\n\r" and ord(c) < 128)[:50] or "m"
        self.evil = self.root / f"evil{file}.pkl"
        self.evil.write_bytes(f"cos\x1b[31m{module}\nsys\x07tem\n(S'x'\ntR.".encode())

    def _save(self, name: str, content: Any) -> Path:
        plain = self.root / "x"
        torch.save(content, plain)
        return plain.rename(self.root / name)

    @property
    def files(self) -> list[Path]:
        return [self.nested, self.several, self.cut, self.safe, self.evil]


def _encodable(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in text)


def everything(zoo: Zoo, out: Path) -> None:
    for file in zoo.files:
        said("inspect", file)
    said("inspect", zoo.plain, "--values")
    said("inspect", zoo.evil, "--audit")
    said("identify", zoo.nested)
    said("identify", zoo.plain, "--json")
    said("diff", zoo.nested, zoo.other)
    said("doctor", zoo.other, "--like", zoo.nested)
    said(zoo.nested, "--to", "safetensors", "--out-dir", out)
    said(zoo.several, "--to", "pth", "--out-dir", out, "--dry-run")
    said(zoo.nested, "--to", "pth", "--select", "\x1b[31m\u202e", "--out-dir", out)
    said(zoo.nested, "--to", "\x1b[31m\u202e")
    said("\x1b[31mno such\u202e", "--to", "pth", "--\x9bno-such-option")
    said("release", zoo.several, out / "release\x1b[m", "--name", "net", "--license", "\x1b[31m<b>")
    said("migrate", zoo.root, out / "migrated", "--to", "safetensors", "--to", "npz")
    said("migrate", zoo.root, out / "migrated", "--to", "safetensors", "--to", "npz", "--check")
    page = (out / "migrated" / "report.html").read_text(encoding="utf-8")
    assert {character for character in page if not character.isprintable()} <= {"\n"}


def names_come_back(zoo: Zoo, out: Path) -> None:
    found = told("inspect", zoo.plain)
    assert [tensor["path"] for tensor in found["tensors"]] == zoo.keys
    assert found["source"] == str(zoo.plain)
    compared = told("diff", zoo.plain, zoo.other)
    listed = json.dumps(compared)
    assert all(json.dumps(key)[1:-1] in listed for key in zoo.keys[1::2]), "those that the other has not"
    migrated = told("migrate", zoo.root, out / "migrated", "--to", "safetensors", "--to", "npz")
    assert {row["source"] for row in migrated["rows"]} >= {zoo.nested.name, zoo.plain.name, zoo.cut.name}
    assert json.loads((out / "migrated" / "report.json").read_bytes())["rows"] == migrated["rows"]


def test_fixed_hostile_text(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, FIXED, "\x1b[31m\u202e\x07\n\udcff<b>")
    everything(zoo, tmp_path)
    names_come_back(zoo, tmp_path)


@settings(max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True)
@given(names=NAMES, file=FILES)
def test_any_hostile_text(tmp_path_factory: pytest.TempPathFactory, names: list[str], file: str) -> None:
    folder = tmp_path_factory.mktemp("text")
    zoo = Zoo(folder, names, file)
    everything(zoo, folder)
    names_come_back(zoo, folder)
