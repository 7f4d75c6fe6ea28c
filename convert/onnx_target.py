"""``--to onnx``: the model's program, exported in a process of its own, with the checkpoint's weights, run before it gets its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert import __version__, naming, onnx_export, select
from convert.job import Job, RunOptions
from convert.onnx_shared import Shared, at_home, shared
from convert.parity.outcome import Parity
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
    from convert.program import Program
    from convert.programs.skeleton import Skeleton
    from convert.select import Choice

BUILDER, WEIGHTLESS = "convert.onnx_target:built", "convert.onnx_target:weightless"


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
        external = (job.run or RunOptions()).shared
        if external is not None:  # there it has to be, and be what it is said to be, before anything is exported
            with shared(external, path) as beside:
                assert beside is not None
                result.notes.append(f"weights that {beside.path.name} holds stay there")
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
        # The exporting process finds the program by itself, without its weights; values decide here alone.
        first = options.golden is not None or options.trust_source
        source = original(checkpoint, choice, options) if first else None
        exported = onnx_export.run(_request(checkpoint, choice, source, job, options), say=say, **_limits(options))
        running = job.verify != "none" and options.run
        if source is None and (running or not exported.weightless):
            source = original(checkpoint, choice, options)
        program = exported.program_of if source is None else onnx_export.described(source.program)
        weights = _weights(choice, source, exported, program["prefix"])
        with shared(options.shared, output.path) as beside:
            if beside is not None:
                say(f"looking for the weights in {beside.path.name}")
                beside.find(weights, exported.weights, program["prefix"])
                output.remarks.append(beside.remark())
            content = Content(StateDict(weights), metadata=_metadata(checkpoint, choice, program, exported, beside))
            name = output.path.name
            layouts = onnx_save.plan(content, _plan_options(name, exported.program, options, beside))
            sources = [*checkpoint.files, *(beside.checkpoint.files if beside is not None else ())]
            with trial(output.path, force=job.force) as folder:
                write_layouts(layouts, folder / name, verify=job.verify != "none", sources=sources)
                with nullcontext(folder / name) if beside is None else at_home(folder / name) as made:
                    found = _found(made, job, options, source if running else None, exported, weights, say)
                if found is not None:
                    found.recipe |= {
                        "output": str(output.path),
                        "export": exported.document() | {"weights": len(exported.weights)},
                    }
                    settle(found, output, options)
        output.files = [(output.path.parent / (layout.name or name), layout.size) for layout in layouts]
        output.remarks += _remarks(program, source, exported)


def _plan_options(name: str, program: bytes, options: RunOptions, beside: Shared | None) -> dict[str, Any]:
    found: dict[str, Any] = {"program": program, "data_name": f"{name}.data"}
    if options.external is not None:
        found["external"] = options.external
    if beside is not None:
        found["shared"] = (beside.path.name, beside.places)
    return found


def _found(
    path: Path, job: Job, options: RunOptions, source: Original | None, exported: Exported, weights: dict[str, Any], say: Say
) -> Parity | None:
    """The finding about the file just written: run against ``source``, or its digests compared; None where nobody wants to know."""
    if source is not None:
        _checked(path)
        return prove(source, path, options, say=say)
    if job.verify == "none":
        return None
    say("comparing every weight's digest with the file's")
    return digested(path, exported, weights, options)


def _request(
    checkpoint: Checkpoint, choice: Choice, source: Original | None, job: Job, options: RunOptions
) -> onnx_export.Request:
    inputs, arch, dynamic = options.inputs, options.arch, options.dynamic
    if source is not None:
        inputs = tuple(str(spec) for spec in source.program.specs)
        arch = source.program.source if source.program.kind in ("arch", "identified") else options.arch
        # An exported program has the batch size of its example: another could not be proved by running.
        dynamic = dynamic and source.program.kind != "exported"
    arguments = {
        "path": str(checkpoint.path), "select": choice.path or ".", "name": choice.name, "ema": job.ema, "strip": job.strip,
        "options": vars(options) | {"arch": arch, "golden": None, "inputs": inputs, "batches": (), "disabled": ()},
    }  # fmt: skip
    weightless = None if options.trust_source else WEIGHTLESS
    return onnx_export.Request(
        BUILDER, arguments, inputs, options.exporter, options.opset, dynamic, options.simplify, weightless=weightless
    )


def _limits(options: RunOptions) -> dict[str, Any]:
    limits: dict[str, Any] = {"memory": options.memory}
    if options.timeout is not None:
        limits["timeout"] = options.timeout
    return limits


def built(path: str, select: str, name: str, ema: bool, strip: bool, options: dict[str, Any]) -> Program:
    """The program, built in the exporting process from the same source in the same way, with its weights."""
    with _chosen(path, select, name, ema, strip) as (checkpoint, choice):
        return original(checkpoint, choice, _given(options)).program


@contextmanager
def weightless(
    path: str, select: str, name: str, ema: bool, strip: bool, options: dict[str, Any]
) -> Iterator[tuple[Program, Skeleton]]:
    """The same without reading a weight."""
    with _chosen(path, select, name, ema, strip) as (checkpoint, choice):
        yield bare(checkpoint, choice, _given(options))


def bare(checkpoint: Checkpoint, choice: Choice, options: RunOptions) -> tuple[Program, Skeleton]:
    """The program of ``choice`` with fake tensors for weights. Raises what `build` raises, and `Unsupported` where values matter."""
    from convert.program import ProgramSpec, build
    from convert.programs.skeleton import Skeleton, outlines, unfilled

    with unfilled():
        program = build(ProgramSpec(options.arch, options.inputs), checkpoint, choice, lambda: outlines(choice), weightless=True)
    if not program.specs:
        raise UsageError(f"{program.source}: its input is not known", hint="--input 1x3x224x224[:dtype], once for each argument")
    return program, Skeleton.of(program.module, choice, program.fit.prefix if program.fit is not None else "")


@contextmanager
def _chosen(path: str, select: str, name: str, ema: bool, strip: bool) -> Iterator[tuple[Checkpoint, Choice]]:
    from convert.select import choose

    with registry.open(path) as checkpoint:
        choices = choose(checkpoint, select=select, ema=ema, strip=strip)
        yield checkpoint, next((one for one in choices if one.name == name), choices[0])


def _given(options: dict[str, Any]) -> RunOptions:
    return RunOptions(**(options | {"inputs": tuple(options["inputs"]), "batches": (), "disabled": ()}))


def _weights(choice: Choice, source: Original | None, exported: Exported, prefix: str) -> dict[str, Any]:
    """Each initializer's tensor: the checkpoint's own bytes where it has the key, else what the program computed."""
    tensors = choice.state_dict.tensors
    if source is None or exported.weightless:
        return {key: tensors[prefix + key] for key in exported.weights}
    state = source.program.module.state_dict()
    found: dict[str, Any] = {}
    for key in exported.weights:
        view = tensors.get(prefix + key)
        value = state[key]
        dtype = str(value.dtype).removeprefix("torch.")
        if isinstance(view, TensorView) and view.dtype.name == dtype and view.shape == tuple(value.shape):
            found[key] = view
            continue
        import torch

        content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        found[key] = TensorView(BY_NAME[dtype], tuple(value.shape), BytesStorage(content))
    return found


def _metadata(
    checkpoint: Checkpoint, choice: Choice, program: dict[str, Any], exported: Exported, beside: Shared | None
) -> dict[str, str]:
    """Source and recipe; nothing in it depends on when or where it was made, or on the source's name."""
    from importlib.metadata import version

    account: dict[str, Any] = {
        "version": 1,
        "tool": f"ckpt-convert {__version__}",
        "source": {"format": checkpoint.format},
        "selected": choice.path,
        "why": choice.why,
        "program": {name: program[name] for name in ("kind", "source", "assumption")},
        "export": {
            "exporter": exported.exporter,
            "torch": version("torch"),
            "opset": exported.opset,
            "inputs": program["inputs"],
            "dynamic_batch": exported.dynamic,
            "simplified": exported.simplified,
            "tied": exported.tied,
            "unused": exported.unused,
        },
    }
    if choice.stripped:
        account["stripped"] = choice.stripped
    if beside is not None:
        account["shared"] = beside.account()
    return {PROVENANCE: json.dumps(account, separators=(",", ":"))}


def _remarks(program: dict[str, Any], source: Original | None, exported: Exported) -> list[str]:
    seconds = ", ".join(f"{name} {value:g}" for name, value in exported.seconds.items() if not name.startswith("peak"))
    batch = "open" if exported.dynamic else "fixed"
    reader = "ckpt-convert" if source is None else source.reader
    lines = [
        f"program: {program['source']} ({program['kind']}), source weights read by {reader}",
        f"exported by {exported.exporter}{' without its weights' if exported.weightless else ''}, opset {exported.opset}, "
        f"batch size {batch}; seconds: {seconds}",
    ]
    if exported.memory.get("peak"):
        over = exported.memory["peak"] - exported.memory["after imports"]
        lines.append(f"memory of the export: {over:.0f} MB over its imports' {exported.memory['after imports']:.0f} MB")
    return lines + exported.notes


def digested(path: Path, exported: Exported, weights: dict[str, Any], options: RunOptions) -> Parity:
    """``path`` with every weight's digest as the source has it, in constant memory; the graph seen by onnx's checker. Nothing is run."""
    from convert.parity import digests
    from convert.parity.ladder import environment
    from convert.proof import settings

    _graph_checked(exported.program, weights)
    with registry.open(path) as written:
        held = {str(at[-1]): digests.of_view(view) for at, view in written.tensors() if isinstance(view, TensorView)}
    found = digests.compare(exported.weights, held)
    found.unused = exported.unused
    recipe = {"output read by": "ckpt-convert"}
    return Parity(rows=[found.row()], no_program="--no-run", environment=environment(settings(options)), recipe=recipe)


def _graph_checked(program: bytes, weights: dict[str, Any]) -> None:
    """onnx's own checker on the graph, with the weights as if they were inputs."""
    import onnx

    model = onnx.load_from_string(program)
    for name, view in weights.items():
        number = onnx_save.DATA_TYPES[view.dtype.name]
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, number, view.shape))
    _approved(model)


def _checked(path: Path) -> None:
    """onnx's own checker."""
    _approved(str(path))


def _approved(model: Any) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ParityFailed(f"onnx's checker refuses what was written: {str(error).strip().splitlines()[0]:.300}") from error
