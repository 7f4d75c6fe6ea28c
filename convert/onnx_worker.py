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

from formats.core.errors import CheckpointError


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

    from convert import onnx_graph
    from convert.parity.inputs import parse

    imported = time.perf_counter() - started
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    say("building the model")
    started = time.perf_counter()
    module_name, _, function = request["builder"].partition(":")
    module = getattr(import_module(module_name), function)(**request["arguments"])
    built = time.perf_counter() - started
    exported = onnx_graph.export(
        module, [parse(text) for text in request["inputs"]], exporter=request["exporter"], opset=request["opset"] or onnx_graph.OPSET,
        dynamic=request["dynamic"], simplify=request["simplify"], say=say,
    )  # fmt: skip
    exported.seconds = {"import torch": round(imported, 3), "build": round(built, 3)} | exported.seconds
    return exported


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
