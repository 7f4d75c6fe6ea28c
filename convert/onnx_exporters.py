"""torch's two ONNX exporters, each called so that it leaves the weights as they are, and what their errors come down to."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from convert.parity.inputs import InputSpec, batched
from convert.parity.runners import first_line
from formats.core.errors import Unsupported

_OPERATOR = re.compile(
    r"(?:op='|operator '?|operator: |OpOverload\(op=')?((?:aten|prims|torchvision|quantized|prim)(?:::|\.)\w+(?:\.\w+)?)"
)


def by_dynamo(
    module: Any,
    arguments: tuple[Any, ...],
    specs: Sequence[InputSpec],
    inputs: list[str],
    outputs: list[str],
    opset: int,
    dynamic: bool,
) -> Any:
    import torch

    try:
        import onnxscript
    except ImportError as error:
        raise Unsupported("needs onnxscript, which is not installed", hint="pip install 'ckpt-convert[onnx]'") from error
    _ = onnxscript
    shapes: Any = None
    if dynamic and any(batched(spec) for spec in specs):
        batch = torch.export.Dim("batch", min=1)
        shapes = tuple({0: batch} if batched(spec) else {} for spec in specs)
    program = torch.onnx.export(
        module, arguments, dynamo=True, optimize=False, opset_version=opset, input_names=inputs, output_names=outputs,
        dynamic_shapes=shapes, verbose=False,
    )  # fmt: skip
    return program.model


def by_torchscript(
    module: Any,
    arguments: tuple[Any, ...],
    specs: Sequence[InputSpec],
    inputs: list[str],
    outputs: list[str],
    opset: int,
    dynamic: bool,
) -> Any:
    import tempfile
    from pathlib import Path

    import onnx
    import onnx_ir
    import torch

    axes = {name: {0: "batch"} for name, spec in zip(inputs, specs, strict=True) if batched(spec)} if dynamic else {}
    if axes:
        axes |= {name: {0: "batch"} for name in outputs}

    class Outer(torch.nn.Module):  # type: ignore[misc]
        """In training mode itself, what it holds not: the exporter then shares tied weights only, and not all that are equal."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module
            self.training = True

        def forward(self, *given: Any) -> Any:
            return self.inner(*given)

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            scripted = isinstance(module, torch.jit.ScriptModule)  # has its graph already; tracing it would lose its branches
            torch.onnx.export(
                module if scripted else Outer(), arguments, str(path), dynamo=False, opset_version=min(opset, 20),
                input_names=inputs, output_names=outputs,
                dynamic_axes=axes or None, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE, verbose=False,
            )  # fmt: skip
            model = onnx_ir.serde.deserialize_model(onnx.load(str(path)))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    for name in list(model.graph.initializers):
        if name.startswith("inner."):
            value = model.graph.initializers.pop(name)
            value.name = name.removeprefix("inner.")
            model.graph.initializers[value.name] = value
    return model


def explained(error: BaseException) -> tuple[str, str]:
    """(what an exporter's error comes down to, what to try)."""
    texts: list[str] = []
    at: BaseException | None = error
    while at is not None and len(texts) < 6:
        texts.append(str(at))
        at = at.__cause__ or at.__context__
    text = "\n".join(texts)
    if "No ONNX function found" in text or "is not supported" in text or "Unsupported" in type(error).__name__:
        operator = _OPERATOR.search(text[text.find("No ONNX function") :] if "No ONNX function" in text else text)
        if operator:
            return (
                f"operator {operator.group(1)} has no ONNX form",
                "--opset with a higher number may have it; the other exporter may, --exporter",
            )
    if re.search(r"data.dependent|GuardOnDataDependent|Could not guard", text):
        line = re.search(r'File "[^"]*/([^"/]+)", line (\d+), in (\w+)', text)
        where = f" at {line.group(1)}:{line.group(2)} in {line.group(3)}" if line else ""
        return f"control flow depends on values{where}", "a scripted model, or one without that branch, can be exported"
    if "Constraints violated" in text or "specialized" in text:
        return "the program fixes a size that was to be dynamic", "--static-batch exports one batch size"
    operator = _OPERATOR.search(text)
    named = f" at {operator.group(1)}" if operator else ""
    innermost = next((t for t in reversed(texts) if t.strip()), type(error).__name__)
    what = first_line(RuntimeError(innermost), 400).partition("[Caused by")[0].strip()
    return f"{type(error).__name__}{named}: {what[:250]}", ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters talk on standard output and warn a great deal."""
    import logging

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
