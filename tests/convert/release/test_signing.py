"""OpenSSF signatures by a key that the test makes: the whole folder, each tampered file by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.__main__ import main
from tests.convert.release.folders import check, copy, make, weights
from tests.parts import needs


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    needs("release")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        made[name] = folder / f"{name}.pem"
        made[name].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        made[f"{name}.pub"] = folder / f"{name}.pub"
        made[f"{name}.pub"].write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return made


@pytest.fixture(scope="module")
def signed(saved: Path, keys: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(saved, tmp_path_factory.mktemp("signed") / "out", "--name", "tiny", "--sign", str(keys["ours"]))


def test_a_good_signature(signed: Path, keys: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, signed, "--public-key", keys["ours.pub"]) == (0, {})
    moved = copy(signed, tmp_path / "another name")
    (moved / ".gitattributes").write_text("x")
    (moved / ".cache").mkdir()
    (moved / ".cache" / "x").write_text("x")
    assert check(capsys, moved, "--public-key", keys["ours.pub"]) == (0, {})


def test_the_librarys_own_command_line_takes_it(signed: Path, keys: dict[str, Path]) -> None:
    """Somebody else's verification, in its usual setting."""
    import model_signing

    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys["ours.pub"]).verify(signed, signed / "model.sig")


def test_without_a_key_it_is_said_that_nothing_was_checked(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release", "--check", str(signed)]) == 0
    assert "signed, not checked against a key" in capsys.readouterr().out


def test_somebody_elses_signature(signed: Path, keys: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, signed, "--public-key", keys["theirs.pub"])
    assert code == 70
    assert list(said) == ["model.sig"]


@pytest.mark.parametrize("name", ["README.md", "SHA256SUMS", "manifest.json", "bom.cdx.json", "model.safetensors", "pth"])
def test_a_tampered_file_is_named(
    name: str, signed: Path, keys: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(signed, tmp_path / "out")
    path = weights(folder, "pth") if name == "pth" else folder / name
    path.write_bytes(path.read_bytes() + b" ")
    code, said = check(capsys, folder, "--public-key", keys["ours.pub"])
    assert code == 70
    assert f"{path.name} is not what was signed" in said["model.sig"]


def test_files_too_many_or_too_few(
    signed: Path, keys: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(signed, tmp_path / "out")
    (folder / "extra").write_text("x")
    (folder / "README.md").unlink()
    code, said = check(capsys, folder, "--public-key", keys["ours.pub"])
    assert code == 70
    assert "extra was not signed" in said["model.sig"]
    assert "README.md was signed and is missing" in said["model.sig"]


def test_no_signature_where_one_has_to_be(
    signed: Path, keys: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(signed, tmp_path / "out")
    (folder / "model.sig").unlink()
    assert check(capsys, folder) == (0, {})
    code, said = check(capsys, folder, "--public-key", keys["ours.pub"])
    assert code == 70
    assert "is missing" in said["model.sig"]


def test_a_broken_signature(signed: Path, keys: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(signed, tmp_path / "out")
    for content in (b"", b"{}", b"\xff", (signed / "model.sig").read_bytes()[:200]):
        (folder / "model.sig").write_bytes(content)
        code, said = check(capsys, folder, "--public-key", keys["ours.pub"])
        assert code == 70
        assert "model.sig" in said


@pytest.mark.parametrize("key", ["ours.pub", "missing", "text"])
def test_what_is_no_key(key: str, saved: Path, keys: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no key")
    path = keys.get(key, tmp_path / key)
    assert main(["release", str(saved), str(tmp_path / "out"), "--to", "pth", "--sign", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [tmp_path / "text"]
