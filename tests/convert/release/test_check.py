"""Whatever is changed in a release is found and named, however consistently it was changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.release.manifest import dumps
from tests.convert.release.folders import check, copy, make, manifest, weights


@pytest.fixture(scope="module")
def released(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    about = tmp_path_factory.mktemp("about") / "about.md"
    about.write_text("Trained on *three* pictures.\n\n## Limits\n\nMany.\n")
    folder = tmp_path_factory.mktemp("release") / "out"
    return make(saved, folder, "--license", "MIT", "--name", "tiny", "--about", str(about), to=("safetensors", "pth", "pth.tar"))


@pytest.fixture
def folder(released: Path, tmp_path: Path) -> Path:
    return copy(released, tmp_path / "out")


FILES = ("README.md", "SHA256SUMS", "bom.cdx.json", "manifest.json", "model.safetensors", "safetensors", "pth", "pth.tar")


def _file(folder: Path, name: str) -> Path:
    return weights(folder, name) if name in ("safetensors", "pth", "pth.tar") else folder / name


def _resum(folder: Path) -> None:
    """Sums that agree with what is there, as somebody would make them who changed something."""
    listed = [path for path in sorted(folder.iterdir()) if path.name != "SHA256SUMS"]
    (folder / "SHA256SUMS").write_text(
        "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in listed)
    )


def test_a_release_as_it_was_made_is_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, folder) == (0, {})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_a_flipped_bit_is_found(name: str, where: float, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(folder, name)
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    code, said = check(capsys, folder)
    assert code == 70
    assert path.name in said or name == "SHA256SUMS"  # a sum that is changed accuses the file that it is of


@pytest.mark.parametrize("name", FILES)
def test_what_is_missing_is_found(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(folder, name)
    path.unlink()
    code, said = check(capsys, folder)
    assert code == 70
    assert path.name in said


@pytest.mark.parametrize("name", ["model.safetensors", "safetensors", "pth"])
def test_another_name_is_found(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(folder, name)
    other = path.with_name("tiny-00000000" + "".join(path.suffixes[-1:]))
    path.rename(other)
    _resum(folder)
    code, said = check(capsys, folder)
    assert code == 70
    assert {path.name, other.name} <= said.keys()


@pytest.mark.parametrize("kind", ["file", "link", "folder", "fifo"])
def test_what_does_not_belong_is_found(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder / "extra"
    {
        "file": lambda: place.write_text("x"),
        "link": lambda: place.symlink_to("/etc/passwd"),
        "folder": place.mkdir,
        "fifo": lambda: os.mkfifo(place),
    }[kind]()
    if kind == "file":
        _resum(folder)
    code, said = check(capsys, folder)
    assert code == 70
    assert list(said) == ["extra"]


def test_what_git_and_hub_clients_put_there_is_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ".gitattributes").write_text("*.pth filter=lfs\n")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    assert check(capsys, folder) == (0, {})


def _license(document: dict) -> None:
    document["license"] = "Apache-2.0"


def _digest(document: dict) -> None:
    document["tensors"][0]["sha256"] = "0" * 64


def _shape(document: dict) -> None:
    document["tensors"][0]["shape"].reverse()


def _content(document: dict) -> None:
    document["content_sha256"] = "f" * 64


def _source(document: dict) -> None:
    document["source"]["files"][0]["sha256"] = "a" * 64


def _dropped(document: dict) -> None:
    document["dropped"] = []


def _fewer(document: dict) -> None:
    document["tensors"].pop()


def _parameters(document: dict) -> None:
    document["parameters"] += 1


def _unlisted(document: dict) -> None:
    document["files"].pop()


def _version(document: dict) -> None:
    document["version"] = 2


@pytest.mark.parametrize(
    "edit", [_license, _digest, _shape, _content, _source, _dropped, _fewer, _parameters, _unlisted, _version]
)
def test_an_edited_manifest_is_found_with_sums_made_anew(
    edit: Callable[[dict], None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sums alone would be content: the tensors, the card and the BOM are not."""
    document = manifest(folder)
    edit(document)
    (folder / "manifest.json").write_bytes(dumps(document))
    _resum(folder)
    code, said = check(capsys, folder)
    assert code == 70
    assert said


def test_two_tensors_with_their_bytes_exchanged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """bn.weight and bn.running_var are as large as each other; everything that is not the tensors themselves is made to agree."""
    path = weights(folder, "safetensors")
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    first, second = (slice(*(start + at for at in header[key]["data_offsets"])) for key in ("conv.bias", "bn.running_mean"))
    assert content[first] != content[second]
    content[first], content[second] = content[second], content[first]
    sha256 = hashlib.sha256(content).hexdigest()
    document = manifest(folder)
    row = next(one for one in document["files"] if one["format"] == "safetensors")
    row |= {"name": f"tiny-{sha256[:8]}.safetensors", "sha256": sha256}
    path.unlink()
    (folder / row["name"]).write_bytes(content)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "manifest.json").write_bytes(dumps(document))
    from convert.release.bom import bom
    from convert.release.card import about_of, card

    (folder / "README.md").write_bytes(card(document, about_of((folder / "README.md").read_text())))
    (folder / "bom.cdx.json").write_bytes(bom(document))
    _resum(folder)
    code, said = check(capsys, folder)
    assert code == 70
    assert list(said) == [row["name"]]
    assert "tensor conv.bias has sha256" in said[row["name"]]
    assert "tensor bn.running_mean has sha256" in said[row["name"]]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "[" * 100_000, '{"a": NaN}', "\xff"])
def test_a_manifest_that_is_none(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    code, said = check(capsys, folder)
    assert code == 70
    assert "manifest.json" in said


def test_a_manifest_cannot_lead_out_of_the_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret-00000000.pth").write_text("x")
    document = manifest(folder)
    document["files"][0]["name"] = "../secret-00000000.pth"
    (folder / "manifest.json").write_bytes(dumps(document))
    code, said = check(capsys, folder)
    assert code == 70
    assert "harmless name" in said["manifest.json"]


def test_the_publishers_own_text_is_part_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = folder / "README.md"
    assert "Trained on *three* pictures." in card.read_text()
    card.write_text(card.read_text().replace("three", "four"))
    _resum(folder)
    code, said = check(capsys, folder)
    assert code == 70
    assert list(said) == ["README.md"]


@pytest.mark.parametrize("what", ["empty", "file", "nothing", "foreign"])
def test_what_is_no_release(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "x"
    if what in ("empty", "foreign"):
        place.mkdir()
    if what == "foreign":
        (place / "notes.txt").write_text("x")
    if what == "file":
        place.write_text("x")
    assert check(capsys, place)[0] == 2
