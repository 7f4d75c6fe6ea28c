"""``--to onnx``: the model's program, exported in a process of its own, with the checkpoint's weights, run before it gets its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert import __version__, naming, onnx_export, select
from convert.job import Job, RunOptions
from convert.plan import PROVENANCE
from convert.proof import Original, Say, original, prove, settle
from convert.report import Left, Output, Result
from convert.trial import trial
from formats import onnx_save, registry
from formats.core.checkpoint import Checkpoint, Content, StateDict
from formats.core.dtype import BY_NAME
from formats.core.errors import ParityFailed, Unsupported, UsageError
from formats.core.output import write_layouts
from formats.core.storage import BytesStorage
from formats.core.tensor import TensorView

if TYPE_CHECKING:
    from convert.onnx_graph import Exported
    from convert.select import Choice

BUILDER = "convert.onnx_target:built"


def planned(checkpoint: Checkpoint, base: Path, job: Job, result: Result) -> list[Choice]:
    """Which models of ``checkpoint`` become which files; nothing is built yet."""
    if job.keys is not None:
        raise UsageError(
            "--to onnx takes the keys that the program has", hint="rename them into a .safetensors first, then --to onnx"
        )
    if job.keep == "all":
        raise Unsupported("onnx holds one model and nothing beside it", hint="--to pth.tar holds the rest of a checkpoint too")
    choices = select.choose(checkpoint, select=job.select, ema=job.ema, strip=job.strip)
    result.dropped = [Left(d.path, d.tensors, d.nbytes, d.summary) for d in select.dropped(checkpoint, choices)]
    result.notes = list(checkpoint.notes)
    for choice in choices:
        path = naming.of_model(base, choice.name, job.to)
        tensors = choice.state_dict.tensors
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        files = [(path, nbytes)]
        result.outputs.append(
            Output(path, choice.name, choice.path, choice.why, len(tensors), nbytes, stripped=choice.stripped, files=files)
        )
        result.notes += choice.notes
    return choices


def write(checkpoint: Checkpoint, choices: list[Choice], job: Job, result: Result, say: Say) -> None:
    """Export, write and prove every planned output. Raises `ParityFailed` where one is not its source; then it is not there either."""
    options = job.run or RunOptions()
    for choice, output in zip(choices, result.outputs, strict=True):
        say("building the program")
        source = original(checkpoint, choice, options)
        exported = onnx_export.run(_request(checkpoint, choice, source, job, options), say=say, **_limits(options))
        content = Content(StateDict(_weights(choice, source, exported)), metadata=_metadata(checkpoint, choice, source, exported))
        name = output.path.name
        plan_options: dict[str, Any] = {"program": exported.program, "data_name": f"{name}.data"}
        if options.external is not None:
            plan_options["external"] = options.external
        layouts = onnx_save.plan(content, plan_options)
        with trial(output.path, force=job.force) as folder:
            write_layouts(layouts, folder / name, verify=job.verify != "none", sources=checkpoint.files)
            _checked(folder / name)
            if job.verify != "none":
                found = prove(source, folder / name, options, say=say)
                found.recipe |= {"output": str(output.path), "export": exported.document() | {"weights": len(exported.weights)}}
                settle(found, output, options)
        output.files = [(output.path.parent / (layout.name or name), layout.size) for layout in layouts]
        output.remarks += _remarks(source, exported)


def _request(checkpoint: Checkpoint, choice: Choice, source: Original, job: Job, options: RunOptions) -> onnx_export.Request:
    inputs = tuple(str(spec) for spec in source.program.specs)
    arch = source.program.source if source.program.kind in ("arch", "identified") else options.arch
    arguments = {
        "path": str(checkpoint.path), "select": choice.path or ".", "name": choice.name, "ema": job.ema, "strip": job.strip,
        "options": vars(options) | {"arch": arch, "golden": None, "inputs": inputs, "batches": (), "disabled": ()},
    }  # fmt: skip
    # An exported program has the batch size of its example: another could not be proved by running.
    dynamic = options.dynamic and source.program.kind != "exported"
    return onnx_export.Request(BUILDER, arguments, inputs, options.exporter, options.opset, dynamic, options.simplify)


def _limits(options: RunOptions) -> dict[str, Any]:
    limits: dict[str, Any] = {"memory": options.memory}
    if options.timeout is not None:
        limits["timeout"] = options.timeout
    return limits


def built(path: str, select: str, name: str, ema: bool, strip: bool, options: dict[str, Any]) -> Any:
    """The module, built again in the exporting process from the same source in the same way."""
    from convert.select import choose

    with registry.open(path) as checkpoint:
        choices = choose(checkpoint, select=select, ema=ema, strip=strip)
        choice = next((one for one in choices if one.name == name), choices[0])
        given = RunOptions(**(options | {"inputs": tuple(options["inputs"]), "batches": (), "disabled": ()}))
        return original(checkpoint, choice, given).program.module


def _weights(choice: Choice, source: Original, exported: Exported) -> dict[str, Any]:
    """Each initializer's tensor: the checkpoint's own bytes where it has the key, else what the program computed."""
    prefix = source.program.fit.prefix if source.program.fit is not None else ""
    state = source.program.module.state_dict()
    found: dict[str, Any] = {}
    for key in exported.weights:
        view = choice.state_dict.tensors.get(prefix + key)
        value = state[key]
        dtype = str(value.dtype).removeprefix("torch.")
        if isinstance(view, TensorView) and view.dtype.name == dtype and view.shape == tuple(value.shape):
            found[key] = view
            continue
        import torch

        content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        found[key] = TensorView(BY_NAME[dtype], tuple(value.shape), BytesStorage(content))
    return found


def _metadata(checkpoint: Checkpoint, choice: Choice, source: Original, exported: Exported) -> dict[str, str]:
    """Source and recipe; nothing in it depends on when or where it was made, or on the source's name."""
    from importlib.metadata import version

    account: dict[str, Any] = {
        "version": 1,
        "tool": f"ckpt-convert {__version__}",
        "source": {"format": checkpoint.format},
        "selected": choice.path,
        "why": choice.why,
        "program": {"kind": source.program.kind, "source": source.program.source, "assumption": source.program.assumption},
        "export": {
            "exporter": exported.exporter,
            "torch": version("torch"),
            "opset": exported.opset,
            "inputs": [str(spec) for spec in source.program.specs],
            "dynamic_batch": exported.dynamic,
            "simplified": exported.simplified,
            "tied": exported.tied,
            "unused": exported.unused,
        },
    }
    if choice.stripped:
        account["stripped"] = choice.stripped
    return {PROVENANCE: json.dumps(account, separators=(",", ":"))}


def _remarks(source: Original, exported: Exported) -> list[str]:
    program = source.program
    seconds = ", ".join(f"{name} {value:g}" for name, value in exported.seconds.items() if not name.startswith("peak"))
    batch = "open" if exported.dynamic else "fixed"
    lines = [
        f"program: {program.source} ({program.kind}), source weights read by {source.reader}",
        f"exported by {exported.exporter}, opset {exported.opset}, batch size {batch}; seconds: {seconds}",
    ]
    return lines + exported.notes


def _checked(path: Path) -> None:
    """onnx's own checker."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ParityFailed(f"onnx's checker refuses what was written: {str(error).strip().splitlines()[0]:.300}") from error
