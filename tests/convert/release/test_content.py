"""Digests of tensors, judged by torch's own reading and a few lines that know nothing of the project."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model

from tests.convert.release.folders import make, manifest, weights


def _content(tensors: dict[str, torch.Tensor]) -> tuple[str, dict[str, str]]:
    """The content's digest as docs/release.md describes it."""
    rows = {}
    for name, tensor in tensors.items():
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        rows[name] = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), hashlib.sha256(raw).hexdigest()]
    lines = "".join(json.dumps(rows[name], separators=(",", ":")) + "\n" for name in sorted(rows))
    return hashlib.sha256(lines.encode()).hexdigest(), {name: row[3] for name, row in rows.items()}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Plain tensors of many kinds: strided, empty, scalar, narrow, with a name beyond ASCII, tied."""
    shared = torch.arange(6.0)
    state = {
        "z": torch.arange(12.0).reshape(3, 4).t(), "empty": torch.zeros(0, 3), "scalar": torch.tensor(7, dtype=torch.int64),
        "half": torch.randn(5).bfloat16(), "f8": torch.randn(4).to(torch.float8_e4m3fn), "naïve — ключ": torch.tensor([True, False]),
        "a": shared, "b": shared, "nan": torch.tensor([float("nan"), -0.0]),
    }  # fmt: skip
    torch.save(state, tmp_path / "odd.pth")
    return tmp_path / "odd.pth"


def test_every_container_has_the_content_that_torch_reads(odd: Path, tmp_path: Path) -> None:
    expected, digests = _content(torch.load(odd, weights_only=True))
    folder = make(odd, tmp_path / "out", to=("safetensors", "pth", "pth.tar"))
    said = manifest(folder)
    assert said["content_sha256"] == expected
    assert {row["name"]: row["sha256"] for row in said["tensors"]} == digests
    assert said["tied"] == {"b": "a"}
    assert _content(load_file(weights(folder, "safetensors")))[0] == expected
    assert _content(torch.load(weights(folder, "pth"), weights_only=True))[0] == expected
    assert _content(torch.load(weights(folder, "pth.tar"), weights_only=True)["state_dict"])[0] == expected


def test_the_content_is_the_same_from_whatever_it_was_kept_in(odd: Path, tmp_path: Path) -> None:
    from convert.__main__ import main

    assert main([str(odd), "--to", "safetensors", "-o", str(tmp_path / "kept.safetensors")]) == 0
    first = make(odd, tmp_path / "first", to=("pth",))
    second = make(tmp_path / "kept.safetensors", tmp_path / "second", to=("safetensors",))
    assert manifest(first)["content_sha256"] == manifest(second)["content_sha256"]
    assert manifest(first)["source"] != manifest(second)["source"]


def test_sparse_and_complex_ones_have_one_digest_in_every_container(tmp_path: Path) -> None:
    state = {"s": torch.eye(4).to_sparse(), "c": torch.randn(3, dtype=torch.complex128), "w": torch.ones(2)}
    torch.save(state, tmp_path / "x.pth")
    one, other = (manifest(make(tmp_path / "x.pth", tmp_path / to, to=(to,))) for to in ("safetensors", "pth"))
    assert one["content_sha256"] == other["content_sha256"]
    rows: dict[str, Any] = {row["name"]: row for row in one["tensors"]}
    assert rows["s"]["kind"] == "sparse_coo"
    assert rows["c"]["sha256"] == hashlib.sha256(state["c"].numpy().tobytes()).hexdigest()


class _Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_and_the_loaders_that_want_them_once_or_twice(tmp_path: Path) -> None:
    """`load_state_dict` wants every key, `safetensors.torch.load_model` each tensor once: --tied says for whom the release is."""
    torch.save(_Tied().state_dict(), tmp_path / "tied.pth")
    twice = make(tmp_path / "tied.pth", tmp_path / "twice")
    once = make(tmp_path / "tied.pth", tmp_path / "once", "--tied", "alias")
    assert manifest(twice)["content_sha256"] == manifest(once)["content_sha256"]
    model = _Tied()
    assert not any(model.load_state_dict(load_file(twice / "model.safetensors")))
    fresh = _Tied()
    assert load_model(fresh, str(once / "model.safetensors")) == (set(), [])
    assert torch.equal(fresh.head.weight, model.head.weight)
    state = torch.load(weights(once, "pth"), weights_only=True)
    assert state["head.weight"].data_ptr() == state["embed.weight"].data_ptr()


def test_weights_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    folder = make(saved, tmp_path / "out", to=("pth", "pth.tar"))
    assert set(torch.load(weights(folder, "pth.tar"), weights_only=True)) == {"state_dict"}
    dropped = {left["path"]: left for left in manifest(folder)["dropped"]}
    assert {"optimizer", "epoch", "args"} <= dropped.keys()
    assert dropped["optimizer"]["tensors"] > 0


def test_rules_and_casts_are_told(saved: Path, tmp_path: Path) -> None:
    folder = make(saved, tmp_path / "out", "--rename", "^head=classifier", "--drop", "bn.num_batches_tracked", "--dtype", "bf16")
    said = manifest(folder)
    assert "classifier.weight" in {row["name"] for row in said["tensors"]}
    assert said["rules"]["stripped"] == "module."
    assert said["rules"]["keys"]["rules"] == ["drop bn.num_batches_tracked", "rename ^head = classifier"]
    assert said["rules"]["cast"]["dtype"] == "bfloat16"
    assert said["dtypes"].keys() == {"bfloat16"}
    card = (folder / "README.md").read_text()
    assert "- rule for keys: `rename ^head = classifier`" in card
    assert "- values were changed: " in card
