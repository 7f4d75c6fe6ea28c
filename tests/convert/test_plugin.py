"""A package of somebody else's adds a reader and a writer by its entry point alone."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from tests.command import ROOT, run

PACKAGE = ROOT / "tests" / "plugin_example"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages that holds the example, as an installer leaves it."""
    folder = tmp_path / "site"
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copytree(PACKAGE / "ckpt_lines", folder / "ckpt_lines", ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / f"ckpt_lines-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points))
    return folder


def with_site(site: Path, *arguments: str | Path, code: int = 0) -> str:
    done = run(*arguments, PYTHONPATH=f"{ROOT}:{site}")
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_without_the_package_nobody_knows_the_format(training: Path) -> None:
    done = run(training, "--to", "lines")
    assert done.returncode == 69
    assert "lines" in done.stderr


def test_the_writer_and_the_reader_are_found(site: Path, training: Path, tmp_path: Path) -> None:
    import torch

    with_site(site, training, "--to", "lines")
    out = tmp_path / "in.lines"
    assert out.read_bytes().startswith(b"#lines\n")
    with_site(site, out, "--to", "pth")
    first = torch.load(training, weights_only=False)["state_dict"]
    back = torch.load(tmp_path / "in.pth", weights_only=True)
    assert list(back) == [key.removeprefix("module.") for key in first]
    assert all(torch.equal(back[key.removeprefix("module.")], value) for key, value in first.items())
    assert "in.lines: weights as lines of text" in with_site(site, "inspect", out)


def test_it_is_listed_as_a_plugin(site: Path) -> None:
    assert "(plugin)" in with_site(site, "formats")


def test_what_its_target_cannot_hold_is_refused_by_name(site: Path, tmp_path: Path) -> None:
    import torch

    path = tmp_path / "half.pth"
    torch.save({"layer.weight": torch.ones(2, dtype=torch.float16)}, path)
    said = with_site(site, path, "--to", "lines", code=69)
    assert "layer.weight" in said
    assert "float16" in said
    assert not (tmp_path / "half.lines").exists()
