"""The sound inputs that fuzzing begins with, by the containers' own writers: ``python -m tests.fuzz.seeds FOLDER``.

One folder a target, one file a seed; ``FOLDER/TARGET.base/`` holds what stands beside the changed file where an input is a folder.
All are small: a change should hit structure, not data. torch is loaded here and in the judge, never in the process that is fuzzed.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import pickle
import shutil
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save as to_safetensors

from tests.formats import zero_writer
from tests.formats.tar_writer import TarCheckpoint
from tests.fuzz.targets import TARGETS, ZERO

HOSTILE = {"legacy": "legacy", "zip": "pickle", "zip2": "zip", "tar": "tar", "safetensors": "safetensors"}


def trees() -> dict[str, Any]:
    """Small checkpoints of every shape that torch writes."""
    generator = torch.Generator().manual_seed(1)
    base = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        weight=torch.randn(3, 4, generator=generator),
        bias=torch.zeros(3, dtype=torch.float16),
        num_batches_tracked=torch.tensor(7),
    )
    state._metadata = OrderedDict({"": {"version": 2}})  # type: ignore[attr-defined]
    types = [torch.float64, torch.bfloat16, torch.int8, torch.int16, torch.uint8, torch.bool, torch.complex64, torch.int32]
    return {
        "state": state,
        "types": {str(t): torch.ones(2, 3).to(t) for t in types},
        "views": {"a": base[2:8].view(2, 3), "b": base.view(4, 6).t(), "c": base[::2], "d": base[5:6].expand(3, 2), "e": base[:0]},
        "tied": {"a": base, "b": base, "c": torch.nn.Parameter(base.view(6, 4))},
        "training": {"epoch": 3, "model": state, "args": argparse.Namespace(lr=0.1), "when": datetime.date(2020, 1, 2),
                     "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}},
        "lists": [torch.ones(2), (torch.zeros(1), {"x": [torch.tensor(3)]}), None, "text", 10**20, -1.5, b"bytes"],
        "sparse": {"coo": torch.eye(3).to_sparse(), "csr": torch.eye(3).to_sparse_csr()},
        "lazy": {"conj": torch.ones(2, dtype=torch.complex64).conj(), "neg": torch.ones(2, dtype=torch.complex64).conj().imag},
        "quantised": {"q": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 3, torch.qint8),
                      "c": torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.quint8)},
        "numpy": {"w": torch.ones(2), "s": numpy.float64(2.0), "a": numpy.arange(3)},
        "bare": torch.ones(2, 2),
        "wide": {f"l{i}.w": torch.full((2,), float(i)) for i in range(12)},
        "meta": {"m": torch.empty(3, 2, device="meta"), "w": torch.ones(1)},
    }  # fmt: skip


def saved(tree: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(tree, out, **options)
    return out.getvalue()


def make(folder: Path) -> None:
    """Write all seeds below ``folder``."""

    def put(target: str, name: str, data: bytes) -> None:
        path = folder / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    values = [
        {"a": [1, -5, 2.5, None, True], "b": ("x", b"y", 1 << 70), 3: {"s": {1, 2}}}, [[]], {}, "é", [10**i for i in range(0, 40, 7)],
        OrderedDict(a=1, b=[2]), frozenset({1, "a"}), (1, (2, (3, (4,)))), [None] * 40, bytearray(b"xyz"),
    ]  # fmt: skip
    for number, value in enumerate(values):
        for protocol in range(6):
            put("pickle", f"value{number}.{protocol}", pickle.dumps(value, protocol))
    for name, tree in trees().items():
        data = saved(tree)
        put("zip", name, data)
        put("legacy", name, saved(tree, _use_new_zipfile_serialization=False))
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            put("pickle", f"{name}.data", archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))))
        try:
            put("module", name, pickle.dumps(tree, 2))
        except (TypeError, NotImplementedError, RuntimeError, pickle.PicklingError):
            pass
        put("wrapped", f"{name}.zip", _zipped({"policy.pth": data, "note.txt": b"x"}))
    put("zip", "bare-pickle-protocol4", saved(trees()["training"], pickle_protocol=4))
    put("module", "arrays", pickle.dumps({"w": numpy.ones((2, 3), numpy.float32), "b": numpy.arange(3)}, 4))
    _tars(put)
    _safetensors(put)
    _scripts(put)
    for number, arrays in enumerate(
        ({"a": numpy.ones((2, 3), numpy.float32), "b": numpy.arange(3)}, {"t": numpy.array("x"), "s": numpy.float64(1)})
    ):
        out = io.BytesIO()
        numpy.savez(out, **arrays)
        put("npz", f"stored{number}", out.getvalue())
        out = io.BytesIO()
        numpy.savez_compressed(out, **arrays)
        put("npz", f"deflated{number}", out.getvalue())
    _onnx(put)
    _exported(put)
    _folders(put, folder)
    _zero(put, folder)


def _zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def _tars(put: Any) -> None:
    import tempfile

    base = torch.arange(12, dtype=torch.float32)
    samples = {
        "state": {"w": torch.ones(2, 3), "b": torch.arange(3)},
        "views": {"a": base[2:8].view(2, 3), "b": base.view(3, 4).t(), "epoch": 3},
        "types": [torch.ones(2).to(t) for t in (torch.float64, torch.int16, torch.uint8, torch.int8)],
    }
    with tempfile.TemporaryDirectory() as name:
        for key, tree in samples.items():
            path = Path(name, key)
            TarCheckpoint().write(tree, path)
            put("tar", key, path.read_bytes())


def _safetensors(put: Any) -> None:
    plain = {"a": torch.ones(2, 3), "b": torch.arange(3), "c.d": torch.zeros(0, 2), "s": torch.tensor(2.5, dtype=torch.bfloat16)}
    put("safetensors", "plain", to_safetensors(plain))
    put("safetensors", "metadata", to_safetensors(plain, {"format": "pt", "k\n": "é"}))
    put("safetensors", "empty", to_safetensors({}))
    put("safetensors", "one", to_safetensors({"": torch.ones(1, dtype=torch.uint8)}))


def _scripts(put: Any) -> None:
    import warnings

    class Net(torch.nn.Module):
        scale: float

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 3)
            self.norm = torch.nn.BatchNorm1d(3)
            self.scale = 2.0
            self.names = ["a", "b"]
            self.register_buffer("steps", torch.arange(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.linear(x)) * self.scale

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, module in {
            "linear": torch.nn.Linear(2, 3),
            "net": torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)),
        }.items():
            out = io.BytesIO()
            torch.jit.save(torch.jit.trace(module.eval(), torch.ones(2, 2)), out)
            put("torchscript", name, out.getvalue())
        from torch.package import PackageExporter

        out = io.BytesIO()
        with PackageExporter(out) as package:
            package.extern("**")
            package.save_pickle("model", "model.pkl", {"w": torch.ones(2, 3), "b": torch.arange(3)})
        put("package", "plain", out.getvalue())


def _onnx(put: Any) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(numpy.ones((2, 3), numpy.float32), "w"), numpy_helper.from_array(numpy.arange(3), "b")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 2]), ("y", [1, 3]))]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], weights))
    put("onnx", "raw", model.SerializeToString())
    typed = [
        helper.make_tensor("w", TensorProto.FLOAT, [2, 3], [1.0] * 6),
        helper.make_tensor("h", TensorProto.INT64, [2], [1, 2]),
    ]
    put("onnx", "typed", helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], typed)).SerializeToString())
    del onnx


def _exported(put: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).eval()
    out = io.BytesIO()
    torch.export.save(torch.export.export(net, (torch.ones(2, 2),)), out)
    put("exported", "net", out.getvalue())
    older = {
        "version": b"8.8", "serialized_exported_program.json": b"{}", "serialized_constants.pt": saved({"c": torch.arange(3)}),
        "serialized_state_dict.pt": saved(trees()["state"]), "serialized_example_inputs.pt": saved(()),
    }  # fmt: skip
    put("exported", "older", _zipped(older))


def _zero(put: Any, folder: Path) -> None:
    """Stage 2: what one file says of the weights stands in the others."""
    groups = [{"a.weight": torch.ones(3, 2), "a.bias": torch.arange(3.0)}, {"b": torch.zeros(5)}]
    zero = zero_writer.Zero(
        groups, {"mean": torch.ones(2).half(), "count": torch.tensor(5)}, {"frozen": torch.ones(2).half()}, {"t": "b"}
    )
    made = zero_writer.write(folder / "zero.made", zero, 2, 2, ZERO)
    for path in filter(Path.is_file, made.rglob("*")):
        name = path.relative_to(made).as_posix()
        for target in ("deepspeed-model", "deepspeed-optim"):
            put(f"{target}.base", name, path.read_bytes())
            if name == TARGETS[target].file:
                put(target, "plain", path.read_bytes())
    shutil.rmtree(made)


def _folders(put: Any, folder: Path) -> None:
    import warnings

    import torch.distributed.checkpoint as dcp

    shards = {"one.safetensors": {"a": torch.ones(2, 3), "b": torch.arange(3)}, "two.safetensors": {"c": torch.zeros(2)}}
    for name, tensors in shards.items():
        put("index.base", name, to_safetensors(tensors))
    document = {"metadata": {"total_size": 56}, "weight_map": {key: name for name, tensors in shards.items() for key in tensors}}
    put("index", "indented", json.dumps(document, indent=2).encode())
    put("index", "dense", json.dumps(document, separators=(",", ":")).encode())
    for name in ("state", "views", "training", "tied"):
        with zipfile.ZipFile(io.BytesIO(saved(trees()[name]))) as archive:
            for member in archive.namelist():
                last = member.partition("/")[2]
                if last == "data.pkl":
                    put("folder", name, archive.read(member))
                elif name == "training":
                    put("folder.base", last, archive.read(member))
    made = folder / "distributed.made"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"w": torch.arange(6.0).view(2, 3), "b": torch.ones(3), "step": 4}, checkpoint_id=made)
    put("distributed", "plain", (made / ".metadata").read_bytes())
    for path in made.glob("*.distcp"):
        put("distributed.base", path.name, path.read_bytes())
    shutil.rmtree(made)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
