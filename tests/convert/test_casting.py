"""``--dtype`` and ``--dequantize`` on whole checkpoints: torch's own casts of the same state dict, and an account of what was lost."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import convert
from convert.__main__ import main

torch.set_num_threads(1)
FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    torch.manual_seed(2)
    shared = torch.randn(5, 4)
    tensors = {
        "a.weight": torch.randn(6, 4),
        "a.big.weight": torch.tensor([1e6, -1e30, 1.0, 1e-30, 1e-6]),
        "b.weight": torch.randn(6, 4, dtype=torch.float64).T,
        "half.weight": torch.randn(7).half(),
        "f8.weight": torch.randn(7).to(torch.float8_e4m3fn),
        "bn.num_batches_tracked": torch.tensor(7),
        "mask.weight": torch.tensor([True, False]),
        "complex.weight": torch.randn(3, dtype=torch.complex64),
        "tied.weight": shared,
        "twin.weight": shared,
        "sparse.weight": torch.tensor([[0.0, 2.5], [1e9, 0.0]]).to_sparse(),
    }
    torch.save(tensors, tmp_path / "m.pth")
    return tmp_path / "m.pth", tensors


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["safetensors", "pth", "pth.tar"])
def test_floating_tensors_alone_are_cast_as_torch_casts_them(
    name: str, target: str, source: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, tensors = source
    result = convert.convert(path, to=target, dtype=name, out=tmp_path / f"out.{target}")
    written = result.outputs[0].path
    if target == "safetensors":
        written = convert.convert(written, to="pth", out=tmp_path / "back.pth").outputs[0].path
    found = torch.load(written, weights_only=True)
    found = found["state_dict"] if target == "pth.tar" else found
    assert list(found) == list(tensors)
    for key, tensor in tensors.items():
        wanted, made = cast(tensor, NAMES[name]), found[key]
        if wanted.is_sparse:
            wanted, made = wanted.to_dense(), made.to_dense()
        assert made.dtype == wanted.dtype, key
        assert torch.equal(made, wanted), key
    assert found["tied.weight"].data_ptr() == found["twin.weight"].data_ptr()


def test_the_report_says_how_many_values_were_lost(
    source: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, tensors = source
    assert main([str(path), "--to", "safetensors", "--dtype", "f16", "--json", "-o", str(tmp_path / "a.safetensors")]) == 0
    said = json.loads(capsys.readouterr().out)["results"][0]["outputs"][0]["cast"]
    floats = [
        t.coalesce().values() if t.is_sparse else t for k, t in tensors.items() if t.is_floating_point() and k != "half.weight"
    ]
    floats = [t for at, t in enumerate(floats) if not any(t is other for other in floats[:at])]  # ties once
    values = torch.cat([t.double().flatten() for t in floats])
    half = torch.cat([t.to(torch.float16).double().flatten() for t in floats])
    assert said["overflowed"] == int((values.isfinite() & half.isinf()).sum()) == 3
    assert said["zeroed"] == int(((values != 0) & (half == 0)).sum()) == 1
    assert said["rounded"] == int((values != half).sum())
    assert said["values"] == values.numel()
    assert said["worst"][0]["key"] == "a.big.weight"
    assert main([str(path), "--to", "safetensors", "--dtype=f16", "-o", str(tmp_path / "b.safetensors")]) == 0
    text = "".join(capsys.readouterr())
    assert "3 overflowed to inf, 1 became 0" in text
    with safetensors.safe_open(tmp_path / "b.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["ckpt_convert"])["cast"]["dtype"] == "float16"


@pytest.mark.parametrize("option", ["--dtype=f16", "--dequantize"])
@pytest.mark.parametrize("other", ["--keep=all", "--verify=run"])
def test_what_promises_the_original_values_is_refused(
    option: str, other: str, source: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source[0]), "--to", "safetensors", option, other]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_type_that_is_none_is_a_usage_error(source: tuple[Path, dict[str, Any]]) -> None:
    assert main([str(source[0]), "--to", "safetensors", "--dtype", "f12"]) == 2


def quantised() -> dict[str, torch.Tensor]:
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(5)) * 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scales, zeros = torch.rand(6, dtype=torch.float64) + 0.01, torch.arange(6)
        return {
            "q8.weight": torch.quantize_per_tensor(values, 0.05, 3, torch.qint8),
            "qu8.weight": torch.quantize_per_tensor(values, 0.05, 100, torch.quint8),
            "q32.weight": torch.quantize_per_tensor(values, 1e-7, 3, torch.qint32),
            "t.weight": torch.quantize_per_tensor(values, 0.05, 3, torch.qint8).t(),
            "qc.weight": torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8),
            "qf.weight": torch.quantize_per_channel(values, scales.float(), zeros + 0.5, 0, torch.quint8),
        }


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_dequantised_tensors_are_what_torch_makes_of_them(dtype: str | None, tmp_path: Path) -> None:
    tensors = quantised()
    torch.save(tensors, tmp_path / "q.pth")
    result = convert.convert(tmp_path / "q.pth", to="safetensors", dequantize=True, dtype=dtype)
    found = safetensors.torch.load_file(tmp_path / "q.safetensors")
    assert set(found) == set(tensors)
    for key, tensor in tensors.items():
        assert torch.equal(found[key], tensor.dequantize().to(NAMES[dtype] if dtype else torch.float32)), key
    assert any("dequantised to float32: 6 tensors" in line for line in result.lines())


def packed(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a packed object as torch itself gives its state, under the names that they are written by."""
    state, name = value.__getstate__()
    if name.endswith("LinearPackedParamsBase"):
        return {f"{prefix}weight": state[0], f"{prefix}bias": state[1]}
    assert name.endswith("rnn.CellParamsBase")
    found = {f"{prefix}b_ih": state[1][0], f"{prefix}b_hh": state[1][1]}
    return found | packed(state[4][0], f"{prefix}w_ih.") | packed(state[4][1], f"{prefix}w_hh.")


@pytest.mark.parametrize("version", ["torch1.6.0_py3.8", "torch1.13.1_py3.11"])
@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("dequantize", [False, True])
def test_the_weights_of_dynamically_quantised_modules_are_there(
    version: str, container: str, dequantize: bool, tmp_path: Path
) -> None:
    path = FIXTURES / version / f"bilstm_dynquant_sd_{container}.pt"
    theirs: dict[str, torch.Tensor] = {}
    for key, value in torch.load(path, weights_only=False).items():
        if isinstance(value, torch.ScriptObject):
            theirs |= packed(value, f"{key}.")
        elif isinstance(value, tuple):
            theirs |= {f"{key}.{at}": part for at, part in enumerate(value)}
        elif isinstance(value, torch.Tensor):
            theirs[key] = value
    out = tmp_path / "m.safetensors"
    result = convert.convert(path, to="safetensors", out=out, dequantize=dequantize)
    assert [left.path for left in result.dropped] == ["out._packed_params.dtype"]
    found = torch.load(convert.convert(out, to="pth", out=tmp_path / "m.pth").outputs[0].path, weights_only=True)
    assert list(found) == list(theirs)
    assert sum(tensor.is_quantized for tensor in theirs.values()) == 9
    for key, tensor in theirs.items():
        if container == "legacy" and ".param.w_" in key and tensor.is_quantized:
            # torch packs these while it unpickles, and reads the storages of this container afterwards: its values are not the file's.
            if not dequantize:
                assert found[key].int_repr().numpy().tobytes() in path.read_bytes()
                assert found[key].q_scale() == tensor.q_scale()
            continue
        wanted = tensor.dequantize() if dequantize and tensor.is_quantized else tensor
        assert found[key].dtype == wanted.dtype, key
        if wanted.is_quantized:
            assert (found[key].q_scale(), found[key].q_zero_point()) == (wanted.q_scale(), wanted.q_zero_point())
            assert torch.equal(found[key].int_repr(), wanted.int_repr()), key
        else:
            assert torch.equal(found[key], wanted), key
