"""What somebody else's loader reads from the same file: torch, safetensors, numpy, onnx, Python's own pickle.

A process of its own under a memory limit, because torch and onnx may crash or ask for everything on such files: JSON lines
``{"how": …, "path": …}`` in, ``{"read": […]}`` or ``{"refused": …}`` out. Nothing is loaded that could run code of a file: torch only with
``weights_only=True``, pickles only without names, TARs only with the names in `_TAR_NAMES`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

MEMORY = 6 << 30  # bytes of address space; torch alone maps two
LARGEST = 4 << 20  # bytes of a tensor whose values are compared
PATIENCE = 20  # seconds for one file
Listing = list[list[Any]]  # [path, dtype, shape, sha256 of the row-major bytes or None]


class Judge:
    """The process, started when first asked and again when it has died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.deaths = 0

    def ask(self, how: str, path: Path) -> dict[str, Any]:
        """``{"read": listing}``, ``{"refused": why}`` or ``{"died": status}``."""
        if self.process is None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.judge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, env=environment,
            )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps({"how": how, "path": str(path)}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = self.process.wait()
        self.process = None
        self.deaths += 1
        return {"died": status}

    def close(self) -> None:
        if self.process is not None:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait(10)
            self.process = None


# -- in the process -----------------------------------------------------------------------------------------------------------------
def key_text(key: Any) -> str:
    """A key as both sides spell it."""
    if isinstance(key, str):
        return "s" + str(key)
    return f"{type(key).__name__}{key!r}" if isinstance(key, (int, float, bool, type(None))) else "?"


def listed(tree: Any, describe: Any) -> Listing:
    """Every tensor below dicts, lists and tuples of ``tree`` with its path of keys; ``describe(node)`` gives [dtype, shape, sha]."""
    found: Listing = []
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", tree)]
    while stack and len(found) < 1000:
        path, node = stack.pop()
        if isinstance(node, dict):
            below = [(f"{path}/{key_text(k)}"[:400], v) for k, v in node.items()]
        elif isinstance(node, (list, tuple)):
            below = [(f"{path}/{i}"[:400], v) for i, v in enumerate(node)]
        else:
            described = describe(node)
            if described is not None:
                found.append([path, *described])
            continue
        if id(node) not in seen:
            seen.add(id(node))
            stack.extend(reversed(below))
    return found


def _describe(node: Any) -> list[Any] | None:
    import torch

    if not isinstance(node, torch.Tensor):
        return None
    dtype, shape = str(node.dtype).removeprefix("torch."), list(node.shape) if not node.is_nested else []
    if node.layout != torch.strided or node.is_quantized or node.is_nested or node.device.type != "cpu":
        return ["composite", None, None]
    if node.numel() * node.element_size() > LARGEST:
        return [dtype, shape, None]
    plain = node.detach().resolve_conj().resolve_neg().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return [dtype, shape, hashlib.sha256(data).hexdigest()]


def _torch(path: str) -> Listing:
    import torch

    return listed(torch.load(path, map_location="cpu", weights_only=True), _describe)


_TAR_NAMES = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "collections.OrderedDict",
    "torch.nn.parameter.Parameter",
}


def _tar(path: str) -> Listing:
    import types

    import torch

    class Names(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" in _TAR_NAMES or (
                module == "torch" and "." not in name and name.endswith(("Storage", "Tensor"))
            ):
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f"{module}.{name}")

    def load(file: Any, **options: Any) -> Any:
        return Names(file, **options).load()

    module = types.ModuleType("names")
    module.Unpickler, module.load = Names, load  # type: ignore[attr-defined]
    return listed(torch.load(path, map_location="cpu", weights_only=False, pickle_module=module), _describe)


def _script(path: str) -> Listing:
    """Parameters and buffers of a TorchScript file, by their attribute path."""
    import torch

    module = torch.jit.load(path, map_location="cpu")
    tree: dict[str, Any] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    return listed(tree, _describe)


def _safetensors(path: str) -> Listing:
    from safetensors import deserialize

    names = {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U8": "uint8",
        "U16": "uint16",
        "U32": "uint32",
        "U64": "uint64",
        "BOOL": "bool",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
        "C64": "complex64",
    }
    found: Listing = []
    for name, entry in deserialize(Path(path).read_bytes()):
        dtype, shape = names.get(entry["dtype"], entry["dtype"]), list(entry["shape"])
        if dtype == "F4":  # torch counts pairs of them
            dtype, shape = "float4_e2m1fn_x2", [*shape[:-1], shape[-1] // 2]
        found.append(["/s" + name, dtype, shape, hashlib.sha256(bytes(entry["data"])).hexdigest()])
    return found


def _index(path: str) -> Listing:
    """As `huggingface_hub` loads shards: each file of the map, whole; of it the keys that the map lists."""
    document = json.loads(Path(path).read_bytes())
    found: Listing = []
    shards: dict[str, dict[str, list[Any]]] = {}
    for key, shard in document["weight_map"].items():
        if shard not in shards:
            shards[shard] = {entry[0]: entry for entry in _safetensors(str(Path(path).parent / shard))}
        found.append(shards[shard]["/s" + key])
    return found


def _numpy(path: str) -> Listing:
    import numpy

    found: Listing = []
    with numpy.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            array = arrays[name]
            if array.dtype.kind in "fiubc" and array.dtype.name not in ("float128", "complex256"):  # torch has no such types
                data = numpy.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
                found.append(["/s" + name, array.dtype.name, list(array.shape), hashlib.sha256(data).hexdigest()])
    return found


def _onnx(path: str) -> Listing:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path, load_external_data=False)
    found: Listing = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        found.append(["/s" + tensor.name, array.dtype.name, list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()])
    return found


def _pickle(path: str) -> Listing:
    return [["", spelled(_NoNames(Path(path).open("rb")).load()), [], None]]


class _NoNames(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def spelled(value: Any) -> str:
    """A digest of plain values that is equal on both sides exactly where they are: order, types and the bits of floats."""
    digest = hashlib.sha256()
    seen: dict[int, int] = {}
    stack: list[Any] = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, (list, tuple, dict)) and node:
            if id(node) in seen:
                digest.update(b"again%d" % seen[id(node)])
                continue
            seen[id(node)] = len(seen)
            digest.update(f"{'dict' if isinstance(node, dict) else type(node).__name__}{len(node)}".encode())
            stack.extend([part for pair in node.items() for part in pair] if isinstance(node, dict) else node)
        elif isinstance(node, (set, frozenset)):
            digest.update(f"{type(node).__name__}{sorted(map(spelled, node))}".encode())
        elif isinstance(node, float):
            digest.update(b"f" + struct.pack("<d", node))
        elif isinstance(node, (bytes, bytearray)):
            digest.update(b"b" + node)
        elif isinstance(node, int) and not isinstance(node, bool):
            digest.update(b"i%x" % node)
        elif isinstance(node, str):
            digest.update(b"s" + str(node).encode("utf-8", "surrogatepass"))
        else:
            digest.update(repr(node)[:200].encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


_LOADERS = {"torch": _torch, "tar": _tar, "script": _script, "safetensors": _safetensors, "index": _index, "numpy": _numpy, "onnx": _onnx,
            "pickle": _pickle}  # fmt: skip


def main() -> None:
    import signal

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    for line in sys.stdin:
        asked = json.loads(line)
        signal.alarm(PATIENCE)  # ends the process: that is an answer too
        try:
            answer: dict[str, Any] = {"read": _LOADERS[asked["how"]](asked["path"])}
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {str(error)[:200]}"}
        signal.alarm(0)
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
