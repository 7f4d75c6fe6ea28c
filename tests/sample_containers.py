"""How people keep weights: each function gives one that writes them to a path. The writers are torch's, safetensors', NumPy's, onnx's."""

from __future__ import annotations

import bz2
import importlib
import io
import json
import logging
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.formats import tar_writer, zero_writer

Write = Callable[[Path], object]
Weights = Mapping[str, torch.Tensor]


def _bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def saved(content: Any, stem: str | None = None) -> Write:
    """``torch.save``; ``stem`` is the name under which it was written first."""
    if stem is None:
        return lambda path: torch.save(content, path)

    def write(path: Path) -> None:
        original = path.with_name(f"{stem}.pth")
        torch.save(content, original)
        original.rename(path)

    return write


def legacy(content: Any) -> Write:
    """``torch.save`` before torch 1.6."""
    return lambda path: torch.save(content, path, _use_new_zipfile_serialization=False)


def tar(tree: Any) -> Write:
    """torch before 0.1.10."""
    return lambda path: tar_writer.TarCheckpoint().write(tree, path)


def safetensors(weights: Weights) -> Write:
    from safetensors.torch import save_file

    return lambda path: save_file(dict(weights), path, metadata={"format": "pt"})


def sharded(weights: Weights, kind: str) -> Write:
    """Two shards and their index, as Hugging Face's libraries lay them out; the path is the index."""

    def write(path: Path) -> None:
        stem = "model" if kind == "safetensors" else "pytorch_model"
        halves = [dict(list(weights.items())[:1]), dict(list(weights.items())[1:])]
        index: dict[str, Any] = {"metadata": {"total_size": sum(t.nbytes for t in weights.values())}, "weight_map": {}}
        for at, half in enumerate(halves):
            name = f"{stem}-{at + 1:05}-of-{len(halves):05}.{kind}"
            (safetensors(half) if kind == "safetensors" else saved(half))(path.with_name(name))
            index["weight_map"] |= dict.fromkeys(half, name)
        path.write_text(json.dumps(index, indent=2))

    return write


def distributed(weights: Weights) -> Write:
    """A folder of ``torch.distributed.checkpoint``, written by one process."""

    def write(path: Path) -> None:
        import torch.distributed.checkpoint as dcp

        logger = logging.getLogger("torch.distributed.checkpoint")
        logger.setLevel(logging.ERROR)
        dcp.save({"model": dict(weights), "step": 7}, checkpoint_id=path, no_dist=True)

    return write


def deepspeed(zero: zero_writer.Zero, stage: int) -> Write:
    """The folder of ZeRO stage ``stage`` from two ranks."""
    return lambda path: zero_writer.write(path, zero, stage, 2)


def scripted(net: torch.nn.Module) -> Write:
    return lambda path: torch.jit.script(net).save(str(path))


def traced(net: torch.nn.Module) -> Write:
    return lambda path: torch.jit.trace(net, torch.ones(1, 3, 16, 16)).save(str(path))


def exported(net: torch.nn.Module) -> Write:
    return lambda path: torch.export.save(torch.export.export(net, (torch.ones(1, 3, 16, 16),)), path)


def package(weights: Weights) -> Write:
    def write(path: Path) -> None:
        from torch.package import PackageExporter

        with PackageExporter(str(path)) as exporter:
            exporter.save_pickle("model", "model.pkl", dict(weights))

    return write


def onnx(weights: Weights) -> Write:
    """A graph that passes its weights through."""

    def write(path: Path) -> None:
        from onnx import TensorProto, helper, numpy_helper, save

        values = {key: value.numpy() for key, value in weights.items()}
        nodes = [helper.make_node("Identity", [key], [f"{key}.out"]) for key in values]
        outputs = [helper.make_tensor_value_info(f"{key}.out", TensorProto.FLOAT, value.shape) for key, value in values.items()]
        initializers = [numpy_helper.from_array(value, key) for key, value in values.items()]
        graph = helper.make_graph(nodes, "weights", [], outputs, initializers)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))

    return write


def npz(weights: Weights) -> Write:
    import numpy

    return lambda path: numpy.savez(path, **{key: value.numpy() for key, value in weights.items()})


def arrays(weights: Weights) -> Write:
    """A plain pickle of NumPy arrays."""
    return lambda path: path.write_bytes(pickle.dumps({key: value.numpy() for key, value in weights.items()}))


def compressed(weights: Weights, module: str) -> Write:
    """One stream around a file of torch."""
    options = {"mtime": 0} if module == "gzip" else {}
    return lambda path: path.write_bytes(importlib.import_module(module).compress(_bytes(weights), **options))


def zipped(weights: Weights) -> Write:
    """A deflated ZIP with a note beside the weights."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {"model/readme.txt": b"hello\n", "model/weights.pth": _bytes(weights)}.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)

    return write


def tarred(weights: Weights) -> Write:
    """A compressed TAR with a note beside the weights."""

    def write(path: Path) -> None:
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as archive:
            for name, data in {"run/notes.txt": b"hello\n", "run/weights.pth": _bytes(weights)}.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        path.write_bytes(bz2.compress(plain.getvalue()))

    return write


def unpacked(weights: Weights) -> Write:
    """The folder that is left when somebody unpacks a checkpoint."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(_bytes(weights))) as archive:
            for name in archive.namelist():
                place = path / name.partition("/")[2]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))

    return write
