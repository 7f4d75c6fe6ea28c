"""The class text of old whole models: named, printed, saved; never compiled, never over another file."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from convert import class_sources
from convert.__main__ import main
from formats.core.temporary import hidden

OLD = Path(__file__).parent.parent / "fixtures" / "torch1.6.0_py3.8" / "tinynet_full_custom_legacy.pt"


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.compile

    def watched(source: Any, *arguments: Any, **options: Any) -> Any:
        assert not str(source).lstrip().startswith("class TinyNet")
        return real(source, *arguments, **options)

    monkeypatch.setattr(builtins, "compile", watched)


def test_inspect_names_it_with_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(OLD)]) == 0
    said = capsys.readouterr().out
    assert "mymodels.TinyNet (" in said
    assert "class TinyNet(nn.Module):" not in said


def test_source_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(OLD), "--source"]) == 0
    said = capsys.readouterr().out
    assert "  | class TinyNet(nn.Module):" in said
    assert "  |         self.conv=nn.Conv2d(3,8,3,padding=1)" in said


def test_save_source_writes_new_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "er"
    first, second = folder / "mymodels.TinyNet.py.txt", folder / "mymodels.TinyNet~2.py.txt"
    assert main(["inspect", str(OLD), "--save-source", str(folder), "--json"]) == 0
    text = first.read_text()
    assert text.startswith("class TinyNet(nn.Module):")
    first.write_text("mine")
    assert main(["inspect", str(OLD), "--save-source", str(folder), "--json"]) == 0
    assert (first.read_text(), second.read_text()) == ("mine", text)


def test_a_run_that_lost_its_power_is_made_good_by_the_next(tmp_path: Path) -> None:
    """Some files have their names, and one of those its temporary name as well: no second set is begun, and nothing hidden is left."""
    texts = {f"m.Net{number}": f"class Net{number}: pass\n" for number in range(3)}
    paths = class_sources.save(texts, tmp_path)
    paths[2].unlink()
    hidden(paths[0]).hardlink_to(paths[0])
    assert class_sources.save(texts, tmp_path) == paths
    assert sorted(tmp_path.iterdir()) == paths
    assert [path.read_text() for path in paths] == list(texts.values())


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "C:\\x", "con", "..", "", "\x1b[2J", "x" * 5000, "NUL.py"])
def test_names_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    (path,) = class_sources.save({name: "class X: pass\n"}, tmp_path / "out")
    assert path.parent == tmp_path / "out"
    assert path.resolve().parent == (tmp_path / "out").resolve()
    assert path.name.endswith(".py.txt")
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(["out", path.name])


def test_a_link_is_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "m.X.py.txt").symlink_to(tmp_path / "precious")
    (path,) = class_sources.save({"m.X": "class X: pass\n"}, tmp_path)
    assert path.name == "m.X~2.py.txt"
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_is_printed_moves_no_cursor() -> None:
    assert class_sources.printable("a\x1b[2J\n\tb\u202e\n") == ["a\\x1b[2J", "        b\\u202e"]
