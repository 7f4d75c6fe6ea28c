"""What the command says, and with which exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from convert.__main__ import main
from tests import command
from tests.convert.release.folders import check, contents, make, manifest


def test_the_installed_command(saved: Path, tmp_path: Path) -> None:
    done = command.run("release", saved, tmp_path / "out", "--to", "safetensors", "--to", "pth", "--name", "tiny", check=True)
    assert "not published:" in done.stdout
    assert done.stderr == ""
    if shutil.which("sha256sum"):
        words = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
        sums = subprocess.run(words, cwd=tmp_path / "out", capture_output=True, text=True, check=True)
        assert sums.stdout.count(": OK") == len(list((tmp_path / "out").iterdir())) - 1
    checked = command.run("release", "--check", tmp_path / "out", check=True)
    assert "are what they were" in checked.stdout
    (tmp_path / "out" / "README.md").write_text("other")
    failed = command.run("release", "--check", tmp_path / "out")
    assert failed.returncode == 70
    assert failed.stdout == ""
    assert all(line.startswith(str(tmp_path / "out" / "README.md")) for line in failed.stderr.splitlines())


def test_json(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release", str(saved), str(tmp_path / "out"), "--to", "pth", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "done"
    (release,) = document["releases"]
    said = manifest(tmp_path / "out")
    assert release["folder"] == str(tmp_path / "out")
    assert release["tensors"] == len(said["tensors"])
    assert {key: release[key] for key in ("content_sha256", "files", "source", "dropped", "verification")} == {
        key: said[key] for key in ("content_sha256", "files", "source", "dropped", "verification")
    }


def test_several_models_are_several_releases(gan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(gan, tmp_path / "out", "--name", "pair")
    assert sorted(path.name for path in folder.iterdir()) == ["discriminator", "generator"]
    assert manifest(folder / "generator")["name"] == "pair-generator"
    assert check(capsys, folder) == (0, {})
    one = make(gan, tmp_path / "one", "--select", "generator", "--name", "pair-generator")
    assert manifest(one)["content_sha256"] == manifest(folder / "generator")["content_sha256"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "takes a SOURCE and the FOLDER"),
        (("SOURCE",), 2, "takes a SOURCE and the FOLDER"),
        (("SOURCE", "out"), 2, "needs --to"),
        (("SOURCE", "out", "--to", "onnx"), 2, "a release holds weights as"),
        (("SOURCE", "out", "--to", "pth", "--name", "resnet-50.a1"), 2, "--name resnet-50_a1"),
        (("SOURCE", "out", "--to", "pth", "--license", " "), 2, "--license is empty"),
        (("SOURCE", "out", "--to", "pth", "--public-key", "k"), 2, "is for --check"),
        (("--check", "out", "SOURCE"), 2, "takes nothing but"),
        (("SOURCE", "out", "--to", "pth", "--about", "missing.md"), 74, "missing.md"),
        (("missing.pth", "out", "--to", "pth"), 74, "missing.pth"),
        (("SOURCE", "out", "--to", "pth", "--select", "nowhere"), 2, "nowhere"),
        (("SOURCE", "out", "--to", "pth", "--tied", "x"), 2, "tied"),
        (("SOURCE", "out", "--to", "pth", "--dtype", "x"), 2, "dtype"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], code: int, said: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["release", *(str(saved) if word == "SOURCE" else word for word in arguments)]) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_the_source_stays_as_it_is(training: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    make(training, tmp_path / "out")
    assert {name: content for name, content in contents(tmp_path).items() if not name.startswith("out/")} == before


def test_the_second_name_takes_no_space(saved: Path, tmp_path: Path) -> None:
    folder = make(saved, tmp_path / "out", to=("safetensors",))
    first = next(path for path in folder.glob("*-*.safetensors"))
    assert (folder / "model.safetensors").samefile(first)
