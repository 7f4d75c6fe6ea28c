"""The other side of `convert.onnx_export`: a process that builds one model, exports it, and writes down what came of it.

Standard output carries the steps, a line each; what libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module  # noqa: TID251 - the name comes from our own request
from pathlib import Path
from typing import Any

from convert.program import Program
from formats.core.errors import CheckpointError, UsageError


def main(folder: Path) -> int:
    """Do what the request in ``folder`` says."""
    from convert.onnx_export import PROGRAM, REQUEST, RESULT

    telling = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(step: str) -> None:
        telling.write(f"{step}\n")

    request = json.loads((folder / REQUEST).read_text())
    try:
        exported = _export(request, say)
    except CheckpointError as error:
        result: dict[str, Any] = {"status": "failed", "kind": error.kind, "what": error.what, "hint": error.hint}
    else:
        (folder / PROGRAM).write_bytes(exported.program)
        result = {"status": "done", "exported": exported.document()}
    (folder / RESULT).write_text(json.dumps(result))
    return 0


def _export(request: dict[str, Any], say: Any) -> Any:
    import time

    say("importing torch")
    started = time.perf_counter()
    import torch

    from convert import onnx_exporters, onnx_graph
    from convert.onnx_export import described
    from convert.parity.inputs import parse

    imported = time.perf_counter() - started
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    how = {
        "opset": request["opset"] or onnx_graph.OPSET,
        "dynamic": request["dynamic"],
        "simplify": request["simplify"],
        "say": say,
    }
    refused = []
    if request["weightless"] and request["exporter"] in (None, onnx_graph.DYNAMO):
        try:
            exported = _weightless(request, how, say)
        except UsageError:
            raise
        except Exception as error:  # whatever an exporter raises: with weights it says it again, or gets through
            what = error.what if isinstance(error, CheckpointError) else onnx_exporters.explained(error)[0]
            refused = [f"exported with its weights in memory: {what}"]
        else:
            exported.seconds = {"import torch": round(imported, 3)} | exported.seconds
            return exported
    say("building the model")
    started = time.perf_counter()
    module = _called(request["builder"])(**request["arguments"])
    built = time.perf_counter() - started
    specs = [parse(text) for text in request["inputs"]]
    program: dict[str, Any] = {}
    if isinstance(module, Program):
        specs, program, module = list(module.specs), described(module), module.module
    exported = onnx_graph.export(module, specs, exporter=request["exporter"], **how)
    exported.seconds = {"import torch": round(imported, 3), "build": round(built, 3)} | exported.seconds
    exported.program_of = program
    exported.notes += refused
    return exported


def _weightless(request: dict[str, Any], how: dict[str, Any], say: Any) -> Any:
    import time

    from convert import onnx_graph
    from convert.onnx_export import described

    load_exporter()
    before = forget_peak()
    say("building the model without its weights")
    started = time.perf_counter()
    with _called(request["weightless"])(**request["arguments"]) as (program, hollow):
        built = time.perf_counter() - started
        exported = onnx_graph.export_weightless(hollow, program.specs, **how)
    exported.seconds = {"build": round(built, 3)} | exported.seconds
    exported.program_of = described(program)
    exported.memory = {"after imports": before, "peak": peak()}
    return exported


def _called(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def load_exporter() -> None:
    """Import what an export would import on its way, so that what is measured after it is the export."""
    import onnxscript
    import torch.export
    import torch.onnx

    for name in ("torch._dynamo", "torch._export", "torch.onnx._internal.exporter._compat", "onnxscript.optimizer", "onnx"):
        try:
            import_module(name)
        except ImportError:  # the names are torch's own affair
            continue
    _ = onnxscript, torch


def forget_peak() -> float:
    """MB resident now; from here the system counts a new peak, where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return _status("VmRSS")


def peak() -> float:
    """MB resident at most since `forget_peak`; 0 where the system does not say."""
    return _status("VmHWM")


def _status(field: str) -> float:
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    except (OSError, StopIteration):
        return 0.0
    return round(int(line.split()[1]) * 1024 / 1e6, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
