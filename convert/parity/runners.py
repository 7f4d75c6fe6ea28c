"""Models that run: a torch module on a device, an ONNX file in onnxruntime. Both take NumPy arrays and give named NumPy arrays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.core.errors import Unsupported

if TYPE_CHECKING:
    import numpy

    Outputs = dict[str, numpy.ndarray[Any, Any]]

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Device:
    """Where something can run; ``absent`` says why it cannot."""

    name: str
    title: str = ""
    absent: str = ""


def devices() -> list[Device]:
    """The CPU and every CUDA device that torch sees; without any, one row that says why."""
    import torch

    found = [Device(CPU, f"CPU, {torch.get_num_threads()} threads of torch")]
    if torch.version.cuda is None:
        return [*found, Device("cuda", absent=f"torch {torch.__version__} is built without CUDA")]
    if not torch.cuda.is_available():
        return [*found, Device("cuda", absent="torch sees no CUDA device")]
    return found + [Device(f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]


@contextlib.contextmanager
def exactly(*, tf32: bool = False) -> Iterator[None]:
    """Deterministic algorithms, TF32 off (or on, to see what it costs), no autotuning, no gradients; everything is put back."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )  # fmt: skip
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = tf32
        cudnn.deterministic, cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True, warn_only=True)
        with torch.no_grad():
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before[:4]
        torch.use_deterministic_algorithms(before[4], warn_only=before[5])


def in_eval_mode(module: Any) -> Any:
    """``module.eval()``; an exported program has the mode that it was exported in, and no other."""
    try:
        return module.eval()
    except NotImplementedError:
        return module


class TorchRunner:
    """``module`` in eval mode on ``device``, its floating weights and inputs in ``dtype`` (None: the weights' own). The module is moved."""

    def __init__(self, module: Any, device: str = CPU, dtype: Any = None) -> None:
        self.device, self.dtype = device, dtype
        module = in_eval_mode(module)
        self.module = module.to(device) if dtype is None else module.to(device=device, dtype=dtype)
        if dtype is None:
            self.dtype = declared(module)

    def tensors(self, arrays: Sequence[Any]) -> list[Any]:
        import torch

        made = [torch.from_numpy(array).to(self.device) for array in arrays]
        return [t.to(self.dtype) if t.is_floating_point() else t for t in made]

    def __call__(self, arrays: Sequence[Any]) -> Outputs:
        return {name: array(tensor) for name, tensor in flat(self.module(*self.tensors(arrays)))}


def declared(module: Any) -> Any:
    """The floating type of a module's weights, the widest where it has several; float32 where it has none."""
    import torch

    held = {value.dtype for value in (*module.parameters(), *module.buffers()) if value.is_floating_point()}
    return max(held, key=lambda dtype: torch.finfo(dtype).bits, default=torch.float32)


def array(tensor: Any) -> Any:
    """The values as NumPy has them; bfloat16 as float32, which holds all of them."""
    import torch

    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """The tensors of a model's output with names, depth first: ``output``, ``output.0``, ``logits``. What is no tensor is left out."""
    import torch

    found: list[tuple[str, Any]] = []
    stack: list[tuple[str, Any, int]] = [(name, value, 0)]
    while stack:
        at, node, depth = stack.pop()
        if isinstance(node, torch.Tensor):
            found.append((at or "output", node))
        elif isinstance(node, Mapping):
            stack.extend((f"{at}.{key}" if at else str(key), child, depth + 1) for key, child in reversed(list(node.items())))
        elif isinstance(node, (list, tuple)) and depth < 16:
            names = getattr(node, "_fields", None) or range(len(node))
            pairs = list(zip(names, node, strict=True))
            stack.extend((f"{at or 'output'}.{key}", child, depth + 1) for key, child in reversed(pairs))
    if not found:
        raise Unsupported(f"the model returns no tensor but a {type(value).__name__}")
    return found


_ORT_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}


class OnnxRunner:
    """An ONNX file in onnxruntime. ``disabled`` names optimisers to leave out, ``optimise`` False leaves out all."""

    def __init__(
        self,
        model: Path | bytes,
        device: str = CPU,
        *,
        optimise: bool = True,
        disabled: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL if optimise else onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
        options.use_deterministic_compute = True
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        providers = [provider(device)] if device == CPU else [provider(device), provider(CPU)]
        source = model if isinstance(model, bytes) else str(model)
        try:
            self.session = onnxruntime.InferenceSession(
                source, options, providers=providers, disabled_optimizers=list(disabled) or None
            )
        except Exception as error:
            raise Unsupported(f"onnxruntime {onnxruntime.__version__} does not load it: {first_line(error)}") from error
        if device != CPU and providers[0][0] not in self.session.get_providers():
            raise Unsupported(f"onnxruntime {onnxruntime.__version__} offers no CUDA provider here")
        self.inputs = [given.name for given in self.session.get_inputs()]
        self.types = [given.type for given in self.session.get_inputs()]
        self.outputs = [made.name for made in self.session.get_outputs()]

    def __call__(self, arrays: Sequence[Any]) -> Outputs:
        if len(arrays) < len(self.inputs):
            raise Unsupported(f"the ONNX model has {len(self.inputs)} inputs, {len(arrays)} were given")
        feed = {
            name: array.astype(_ORT_TYPES[kind]) if kind in _ORT_TYPES and array.dtype.kind == "f" else array
            for name, kind, array in zip(self.inputs, self.types, arrays, strict=False)
        }
        try:
            return dict(zip(self.outputs, self.session.run(self.outputs, feed), strict=True))
        except Exception as error:
            raise Unsupported(f"onnxruntime does not run it: {first_line(error)}") from error


def provider(device: str) -> tuple[str, dict[str, Any]]:
    """onnxruntime's provider for ``device``: TF32 off, convolution algorithms chosen by rule and not by a race."""
    if device == CPU:
        return "CPUExecutionProvider", {}
    number = int(device.partition(":")[2] or 0)
    return "CUDAExecutionProvider", {"device_id": number, "use_tf32": 0, "cudnn_conv_algo_search": "DEFAULT"}


def onnx_device(device: Device) -> str:
    """Why onnxruntime cannot use ``device``, or nothing."""
    if device.absent:
        return device.absent
    try:
        import onnxruntime
    except ImportError:
        return "onnxruntime is not installed"
    if device.name != CPU and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} is built without CUDA (onnxruntime-gpu has it)"
    return ""


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line that says something, cut."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:limit]
