"""Trees: what migrate left, and any other."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from convert.__main__ import main
from tests.convert.release.folders import check, contents, manifest


@pytest.fixture
def zoo(saved: Path, gan: Path, tmp_path: Path) -> Path:
    tree = tmp_path / "zoo"
    (tree / "nets" / "deep").mkdir(parents=True)
    shutil.copy(saved, tree / "nets" / "resnet-50.a1.pth.tar")
    shutil.move(gan, tree / "nets" / "deep" / "gan.pth")
    (tree / "notes.txt").write_text("no checkpoint")
    return tree


def test_what_migrate_left(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One release a model, though there are two files of each; the file that it was made from, and what was dropped then, are known."""
    moved, out = tmp_path / "moved", tmp_path / "out"
    assert main(["migrate", str(zoo), str(moved), "--to", "safetensors", "--to", "pth"]) == 0
    assert main(["release", str(moved), str(out), "--to", "pth", "--license", "MIT"]) == 0
    made = {str(path.parent.relative_to(out)) for path in out.rglob("manifest.json")}
    assert made == {"nets/resnet-50.a1", "nets/deep/gan.generator", "nets/deep/gan.discriminator"}
    said = manifest(out / "nets" / "resnet-50.a1")
    assert said["name"] == "resnet-50_a1"
    assert said["source"]["origin_sha256"] == hashlib.sha256((zoo / "nets" / "resnet-50.a1.pth.tar").read_bytes()).hexdigest()
    assert (
        said["source"]["files"][0]["sha256"]
        == hashlib.sha256((moved / "nets" / "resnet-50.a1.safetensors").read_bytes()).hexdigest()
    )
    assert "optimizer" in {left["path"] for left in said["dropped"]}
    assert check(capsys, out) == (0, {})


def test_any_tree(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is broken does not stop the others, and is in the exit code."""
    broken = bytearray((zoo / "nets" / "resnet-50.a1.pth.tar").read_bytes())
    (zoo / "broken.pth").write_bytes(broken[: len(broken) // 2])
    out = tmp_path / "out"
    before = contents(zoo)
    code = main(["release", str(zoo), str(out), "--to", "safetensors", "--json"])
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert code == document["exit"] == 65
    assert document["status"] == "failed"
    assert [Path(one["source"]).name for one in document["failed"]] == ["broken.pth"]
    assert "broken.pth" in printed.err
    assert {one["folder"] for one in document["releases"]} == {
        str(out / place) for place in ("nets/resnet-50.a1", "nets/deep/gan/generator", "nets/deep/gan/discriminator")
    }
    assert not (out / "broken").exists()
    assert contents(zoo) == before
    assert check(capsys, out) == (0, {})
    (out / "nets" / "stray").write_text("x")
    (out / "nets" / "deep" / "gan" / "generator" / "README.md").unlink()
    code, said = check(capsys, out)
    assert code == 70
    assert set(said) == {"stray", "README.md"}


@pytest.mark.parametrize("option", [("--name", "x"), ("--arch", "timm:resnet18")])
def test_what_is_for_one_model(option: tuple[str, str], zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release", str(zoo), str(tmp_path / "out"), "--to", "pth", *option]) == 2
    assert "is for one model" in capsys.readouterr().err


def test_not_into_itself_and_not_of_nothing(zoo: Path, tmp_path: Path) -> None:
    assert main(["release", str(zoo), str(zoo / "out"), "--to", "pth"]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["release", str(tmp_path / "empty"), str(tmp_path / "out"), "--to", "pth"]) == 65
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "rows",
    [
        "[",
        "{}",
        '{"rows": 3}',
        '{"rows": [{"source": "a", "outputs": [{"target": "pth", "path": "../secret.pth"}]}]}',
        "[" * 100_000,
    ],
)
def test_a_report_that_is_none_or_lies(rows: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(saved, tmp_path / "secret.pth")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "report.json").write_text(rows)
    assert main(["release", str(tree), str(tmp_path / "out"), "--to", "pth"]) == 65
    assert "report.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
