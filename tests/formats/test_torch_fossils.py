"""Tensors as torch 0.1 to 0.4 spelled them, in both containers, judged by today's torch wherever it still reads them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from formats import registry
from formats.core.checkpoint import Latin1
from formats.core.errors import CheckpointError
from tests.formats import conformance
from tests.formats.fossils.assemble import Assembly, numbers, text

PYTHON2 = Path(__file__).parent / "fossils" / "python2.pth"
BASE = torch.arange(6.0)
VIEW = BASE.as_strided((3, 2), (1, 3))
HOOKS = b"ccollections\nOrderedDict\n)R"


def judged(path: Path) -> Any:
    """What torch makes of a file that this test has put together itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=False)


@pytest.fixture(params=[True, False], ids=["legacy", "zip"])
def assembly(request: pytest.FixtureRequest) -> Assembly:
    return Assembly(legacy=request.param)


def tensor_v1(assembly: Assembly) -> bytes:
    """``_rebuild_tensor(storage, offset, size, stride)``."""
    return b"ctorch._utils\n_rebuild_tensor\n(" + assembly.storage(BASE) + b"K\0" + numbers(3, 2) + numbers(1, 3) + b"tR"


def new_tensor(assembly: Assembly, state: bytes = b"") -> bytes:
    """NEWOBJ ``torch.FloatTensor`` and BUILD ``(storage, offset, size, stride)``."""
    return b"ctorch\nFloatTensor\n)\x81(" + assembly.storage(BASE) + b"K\0" + numbers(3, 2) + numbers(1, 3) + b"tb"


def reconstructed_tensor(assembly: Assembly) -> bytes:
    """The same by REDUCE, as protocols 0 and 1 have it."""
    return b"ctorch\nFloatTensor\n)R(" + assembly.storage(BASE) + b"K\0" + numbers(3, 2) + numbers(1, 3) + b"tb"


def parameter_of_5(assembly: Assembly) -> bytes:
    """NEWOBJ ``Parameter`` and BUILD ``(data, grad, hooks, requires_grad, volatile)``."""
    return b"ctorch.nn.parameter\nParameter\n)\x81(" + tensor_v1(assembly) + b"N" + HOOKS + b"\x88\x89tb"


def parameter_of_3(assembly: Assembly) -> bytes:
    """``Parameter(data)`` and BUILD ``(requires_grad, volatile, hooks)``."""
    return b"ctorch.nn.parameter\nParameter\n" + tensor_v1(assembly) + b"\x85\x81(\x88\x89" + HOOKS + b"tb"


def parameter_by_function(assembly: Assembly) -> bytes:
    return b"ctorch._utils\n_rebuild_parameter\n(" + tensor_v1(assembly) + b"\x88" + HOOKS + b"tR"


def tensor_v2_of_7(assembly: Assembly) -> bytes:
    """``_rebuild_tensor_v2`` with the lazy bits as the seventh argument."""
    bits = b"}" + text("neg") + b"\x88s"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + assembly.storage(BASE)
        + b"K\0"
        + numbers(3, 2)
        + numbers(1, 3)
        + b"\x89"
        + HOOKS
        + bits
        + b"tR"
    )


def tensor_v3(assembly: Assembly) -> bytes:
    return (
        b"ctorch._utils\n_rebuild_tensor_v3\n(" + assembly.storage(BASE) + b"K\0" + numbers(3, 2) + numbers(1, 3) + b"\x89" + HOOKS
        + b"ctorch\nfloat32\ntR"
    )  # fmt: skip


SPELLINGS = [
    tensor_v1, new_tensor, reconstructed_tensor, parameter_of_5, parameter_of_3, parameter_by_function, tensor_v2_of_7, tensor_v3,
]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda f: f.__name__)
def test_spellings(assembly: Assembly, spelling: Any, tmp_path: Path) -> None:
    path = assembly.write(b"}" + text("w") + spelling(assembly) + b"s", tmp_path / "fossil.pth")
    wanted = judged(path)["w"]
    with registry.open(path) as checkpoint:
        found = checkpoint.tree["w"]
        assert (found.dtype.name, found.shape, found.tobytes()) == conformance.expected({"w": wanted})["w"]
        assert found.parameter == isinstance(wanted, torch.nn.Parameter)
        assert found.requires_grad == wanted.requires_grad
        assert found.strides == tuple(wanted.stride())


def test_variable_of_torch_0_1(assembly: Assembly, tmp_path: Path) -> None:
    """Today's torch has no ``torch.autograd.variable.Variable`` that it could build so."""
    opcodes = b"ctorch.autograd.variable\nVariable\n)\x81(" + tensor_v1(assembly) + b"N" + HOOKS + b"\x88\x89tb"
    path = assembly.write(b"}" + text("w") + opcodes + b"s", tmp_path / "fossil.pth")
    with registry.open(path) as checkpoint:
        assert checkpoint.tree["w"].tobytes() == VIEW.contiguous().numpy().tobytes()
        assert checkpoint.tree["w"].requires_grad


@pytest.mark.parametrize(
    "opcodes",
    [
        b"ctorch\nFloatTensor\n)\x81", b"ctorch\nFloatTensor\n)\x81N\x85b", b"ctorch\nFloatTensor\n)\x81(K\0K\0K\0K\0tb",
        b"ctorch.nn.parameter\nParameter\n)\x81(NNNNNtb", b"ctorch.nn.parameter\nParameter\nctorch\nFloatTensor\n)\x81\x85\x81",
    ],
)  # fmt: skip
def test_blanks_that_are_never_filled(assembly: Assembly, opcodes: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        registry.open(assembly.write(b"}" + text("w") + opcodes + b"s", tmp_path / "fossil.pth"))


# -- Python 2 ----------------------------------------------------------------------------------------------------------------------
def test_file_of_python_2() -> None:
    """Text keys that are no UTF-8 survive; torch reads the file when it is told latin-1."""
    judge = torch.load(PYTHON2, weights_only=False, encoding="latin1")
    with registry.open(PYTHON2) as checkpoint:
        tree = checkpoint.tree
        assert {k: (t.dtype.name, t.shape, t.tobytes()) for k, t in tree["state_dict"].items()} == conformance.expected(
            judge["state_dict"]
        )
        assert list(tree["state_dict"]) == ["conv.weight", "conv.bias"]
        assert {key: value for key, value in tree.items() if key != "state_dict"} == {
            k: v for k, v in judge.items() if k != "state_dict"
        }
        key = next(key for key in tree if key.startswith("caf"))
        assert type(key) is Latin1
        assert key.encode("latin-1") == b"caf\xe9"


# -- containers --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("protocol", range(1, 6))  # 0 has only texts as persistent ids, and torch's are tuples
@pytest.mark.parametrize("legacy", [True, False])
def test_every_protocol(tmp_path: Path, protocol: int, legacy: bool) -> None:
    tensors = {"w": torch.arange(6.0).reshape(2, 3).t(), "n": torch.tensor(7)}
    path = tmp_path / "model.pth"
    torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert conformance.contents(path) == conformance.expected(judged(path)) == conformance.expected(tensors)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.int16, torch.uint8, torch.complex64, torch.complex128]
)
def test_big_endian_records(tmp_path: Path, dtype: torch.dtype) -> None:
    assembly = Assembly(legacy=False)
    base = torch.arange(1, 7).to(dtype) * (1 + 2j if dtype.is_complex else 1)
    opcodes = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + assembly.storage(base)
        + b"K\x01"
        + numbers(2, 2)
        + numbers(2, 1)
        + b"\x89"
        + HOOKS
    )
    path = assembly.write(b"}" + text("w") + opcodes + b"tRs", tmp_path / "big.pth", big=True)
    assert (
        conformance.contents(path) == conformance.expected(judged(path)) == conformance.expected({"w": base[1:5].reshape(2, 2)})
    )


def test_tensors_folder_of_torch_1_4(tmp_path: Path) -> None:
    """Its opt-in ZIP kept storages under ``tensors/``, where no later torch looks for them."""
    assembly = Assembly(legacy=False)
    path = assembly.write(b"}" + text("w") + tensor_v1(assembly) + b"s", tmp_path / "old.pth", folder="tensors")
    assert conformance.contents(path) == conformance.expected({"w": VIEW})


def test_packed_again_by_a_tool_that_compresses(tmp_path: Path) -> None:
    import zipfile

    assembly = Assembly(legacy=False)
    large = torch.arange(100_000.0)
    opcodes = tensor_v1(assembly) + text("large") + b"ctorch._utils\n_rebuild_tensor\n(" + assembly.storage(large)
    opcodes += b"K\0" + numbers(100_000) + numbers(1) + b"tR"
    path = assembly.write(b"}(" + text("w") + opcodes + b"u", tmp_path / "deflated.pth", method=zipfile.ZIP_DEFLATED)
    assert conformance.contents(path) == conformance.expected(judged(path)) == conformance.expected({"w": VIEW, "large": large})


def test_wrong_checksums_are_refused(tmp_path: Path) -> None:
    from tests import command

    path = tmp_path / "model.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    whole = path.read_bytes()
    data = whole.index(torch.arange(1000.0).numpy().tobytes())
    for at in (whole.index(b"_rebuild_tensor_v2"), data, data + 3999):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        done = command.run(path, "--to", "safetensors")
        assert (done.returncode, "CRC-32" in done.stderr) == (65, True), done.stderr
        assert not path.with_suffix(".safetensors").exists()
