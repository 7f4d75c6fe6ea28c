"""``--keep all`` and back: the checkpoint put together again is the original, judged by what torch reads from both."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from convert.__main__ import main


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    return bytes(torch.empty(flat.numel(), dtype=flat.dtype).copy_(flat).untyped_storage())


def equal(a: Any, b: Any, path: str = "") -> None:
    """Same types, order, values, strides, flags and attributes."""
    assert type(a) is type(b), f"{path}: {type(a)} {type(b)}"
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.layout, a.requires_grad) == (b.dtype, b.shape, b.layout, b.requires_grad), path
        assert isinstance(a, nn.Parameter) == isinstance(b, nn.Parameter), path
        if a.layout is torch.strided and not a.is_quantized:
            assert a.stride() == b.stride(), f"{path}: {a.stride()} {b.stride()}"
            raw = [_bytes(t) for t in (a, b)]
            assert raw[0] == raw[1], path
        else:
            assert torch.equal(a.to_dense() if a.layout is not torch.strided else a.int_repr(),
                               b.to_dense() if b.layout is not torch.strided else b.int_repr()), path  # fmt: skip
    elif isinstance(a, dict):
        assert list(map(repr, a)) == list(map(repr, b)), path
        for (key, x), y in zip(a.items(), b.values(), strict=True):
            equal(x, y, f"{path}.{key}")
        equal(getattr(a, "__dict__", {}), getattr(b, "__dict__", {}), f"{path}!") if type(a) is not dict else None
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for at, (x, y) in enumerate(zip(a, b, strict=True)):
            equal(x, y, f"{path}.{at}")
    elif isinstance(a, float):
        assert (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b)), path
    else:
        assert a == b, path


def ties(tree: Any) -> list[list[str]]:
    """Paths of the tensors that share memory, group by group."""
    found: dict[int, list[str]] = defaultdict(list)

    def visit(node: Any, path: str) -> None:
        if isinstance(node, torch.Tensor):
            if node.layout is torch.strided and node.numel():
                found[node.untyped_storage().data_ptr()].append(path)
        elif isinstance(node, dict):
            for key, value in node.items():
                visit(value, f"{path}.{key}")
        elif isinstance(node, (list, tuple)):
            for at, value in enumerate(node):
                visit(value, f"{path}.{at}")

    visit(tree, "")
    return sorted(group for group in found.values() if len(group) > 1)


def there_and_back(tree: Any, folder: Path, *options: str) -> Any:
    source = folder / "in.pth.tar"
    torch.save(tree, source)
    for name in ("in.safetensors", "in.rest.json", "in.rest.safetensors", "out.pth.tar"):
        (folder / name).unlink(missing_ok=True)
    assert main([str(source), "--to", "safetensors", "--keep", "all", *options]) == 0
    assert main([str(folder / "in.safetensors"), "--to", "pth.tar", "-o", str(folder / "out.pth.tar")]) == 0
    return torch.load(folder / "out.pth.tar", weights_only=True)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    model(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_training_checkpoint_is_put_together_again(tmp_path: Path) -> None:
    model, optimizer = trained()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    tree = {
        "epoch": 3,
        "module": nn.DataParallel(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": dict(scheduler.state_dict().items()),
        "rng": torch.get_rng_state(),
        "best": float("nan"), "loss": -0.0, "big": 1 << 70, "low": float("-inf"),
        "args": {"lr": 0.1, 3: (1, 2), "tuple": ((), [None, True]), "$odd": b"\x00\xff", (1, "a"): {1, 2}},
        "ema": OrderedDict(model.state_dict()),
    }  # fmt: skip
    found = there_and_back(tree, tmp_path, "--select", "module")
    equal(tree, found)
    assert ties(tree) == ties(found)
    document = json.loads((tmp_path / "in.rest.json").read_text())
    assert document["tree"]["epoch"] == 3


def test_windows_on_one_storage_stay_windows(tmp_path: Path) -> None:
    base = torch.arange(60.0)
    other = torch.randn(4, 6, dtype=torch.complex64)
    tree = {
        "state_dict": OrderedDict(
            {"a.weight": base[:30].view(5, 6),
             "b.weight": base[10:40].view(6, 5).t(), "c.weight": torch.randn(2, 3, 4, 5).permute(3, 1, 0, 2)}
        ),
        "every_second": base[::2], "row": torch.randn(3).expand(4, 3), "scalar": base[3], "empty": base[:0],
        "whole": base, "conj": other.conj(), "rnn": [other[:2], other[2:]], "same": base[:30].view(5, 6),
    }  # fmt: skip
    found = there_and_back(tree, tmp_path)
    equal(tree, found)
    assert ties(tree) == ties(found)
    found["whole"][0] = -1.0
    assert found["state_dict"]["a.weight"][0, 0] == -1.0


def test_shared_and_self_holding_containers(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"x": [1, 2]}
    shared["me"] = shared
    tree = {"state_dict": {"w.weight": torch.ones(2)}, "a": shared, "b": shared}
    found = there_and_back(tree, tmp_path)
    assert found["a"] is found["b"] is found["a"]["me"]


def test_odd_dtypes_travel(tmp_path: Path) -> None:
    tree = {
        "model": {"fc.weight": torch.randn(2, 2).to(torch.bfloat16)},
        "rest": [torch.randn(2).to(torch.float8_e4m3fn), torch.randn(3, dtype=torch.complex128), torch.tensor([1, 2], dtype=torch.uint16),
                 torch.tensor(True), torch.eye(3).to_sparse(), torch.quantize_per_tensor(torch.randn(4), 0.1, 3, torch.qint8)],
    }  # fmt: skip
    equal(tree, there_and_back(tree, tmp_path))


def test_whole_models_and_foreign_objects_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, optimizer = trained()
    torch.save({"net": model, "optim": optimizer, "when": __import__("datetime").date(2020, 1, 2)}, tmp_path / "in.pth.tar")
    assert main([str(tmp_path / "in.pth.tar"), "--to", "safetensors", "--keep", "all"]) == 0
    assert main([str(tmp_path / "in.safetensors"), "--to", "pth.tar", "-o", str(tmp_path / "out.pth.tar")]) == 0
    found = torch.load(tmp_path / "out.pth.tar", weights_only=True)
    expected = model.state_dict()
    assert list(found["net"]) == list(expected)
    assert all(torch.equal(found["net"][key], expected[key]) for key in expected)
    text = capsys.readouterr()
    assert "kept as state dicts (torch.nn.modules.container.Sequential)" in text.out + text.err
    assert "datetime.date" in text.out + text.err


def test_the_rest_that_is_missing_or_of_another_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there_and_back({"state_dict": {"a.weight": torch.ones(2)}, "x": torch.ones(3)}, tmp_path)
    rest = tmp_path / "in.rest.json"
    text = rest.read_text()
    rest.write_text(text.replace('"a.weight"\n', '"b.weight"\n'))
    out = str(tmp_path / "again.pth.tar")
    assert main([str(tmp_path / "in.safetensors"), "--to", "pth.tar", "-o", out]) == 65
    rest.unlink()
    assert main([str(tmp_path / "in.safetensors"), "--to", "pth.tar", "-o", out]) == 2
    assert "in.rest.json" in capsys.readouterr().err
    assert main([str(tmp_path / "in.safetensors"), "--to", "pth.tar", "-o", out, "--keep", "none"]) == 0


DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    sizes = [2 * n for n in shape] or [2]
    made = torch.arange(1, 1 + math.prod(sizes)).reshape(sizes).to(draw(st.sampled_from(DTYPES)))
    kind = draw(st.sampled_from(["slice", "permute", "expand", "plain", "scalar", "grad"]))
    if kind == "slice":
        made = made[tuple(slice(draw(st.integers(0, 1)), None, draw(st.integers(1, 2))) for _ in made.shape)]
    elif kind == "permute":
        made = made.permute(draw(st.permutations(range(made.dim()))))
    elif kind == "expand":
        made = torch.ones(1, *made.shape[1:], dtype=made.dtype).expand(3, *made.shape[1:])
    elif kind == "scalar":
        made = made.reshape(-1)[0] if made.numel() else made
    elif kind == "grad" and made.is_floating_point():
        made.requires_grad_()
    return made


LEAVES = st.one_of(
    tensors(), st.none(), st.booleans(), st.integers(-(1 << 66), 1 << 66), st.floats(), st.text(max_size=5), st.binary(max_size=4)
)
KEYS = st.one_of(st.text(max_size=4), st.integers(-3, 3), st.tuples(st.integers(0, 2), st.text(max_size=2)))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3), st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rest=TREES, weights=st.dictionaries(st.text("abc", min_size=1, max_size=3), tensors(), min_size=1, max_size=3))
def test_any_tree_comes_back(tmp_path: Path, rest: Any, weights: dict[str, torch.Tensor]) -> None:
    tree = {"rest": rest, "state_dict": OrderedDict((f"m.{key}", value) for key, value in weights.items()), "again": [rest]}
    found = there_and_back(tree, tmp_path, "--select", "state_dict")
    equal(tree, found)
    assert ties(tree) == ties(found)
