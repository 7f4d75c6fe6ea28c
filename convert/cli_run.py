"""Options about models that run, and ``convert verify``, for `convert.cli`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convert import console
from convert.job import RunOptions
from formats.core.errors import UsageError
from formats.core.files import located

Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="WHAT",
        help="The program: torchvision:NAME, timm:NAME[,arg=value], transformers:FOLDER, FILE.py:callable, package.module:callable.",
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="SHAPE", help="1x3x224x224[:dtype][:low..high], .npy, .pt or an image; one for each argument."
    ),
]
Trust = Annotated[bool, typer.Option("--trust-source", help="Run the code that a TorchScript or .pt2 source carries.")]
Golden = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--golden", metavar="INPUT OUTPUT", help="What the model should say to an input: decides between architectures."
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the inputs that both models are run on.")]
Batches = Annotated[
    list[int] | None, typer.Option("--batch", metavar="N", min=1, help="Batch sizes to run, instead of 1, 2 and 5.")
]
Disabled = Annotated[
    list[str] | None,
    typer.Option("--disable-optimizer", metavar="NAME", help="Judge an ONNX file without this optimiser of onnxruntime."),
]
Html = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Write a page about the check, readable without a network.")
]
Exporter = Annotated[str | None, typer.Option("--exporter", metavar="dynamo|torchscript", help="ONNX: this exporter alone.")]
Opset = Annotated[int | None, typer.Option("--opset", min=11, max=26, help="ONNX: the version of its operators.")]
Static = Annotated[bool, typer.Option("--static-batch", help="ONNX: one batch size, fixed.")]
Simplify = Annotated[
    bool, typer.Option("--simplify/--no-simplify", help="ONNX: fold constants of the graph; weights stay as they are.")
]
External = Annotated[
    str | None,
    typer.Option(
        "--external-data",
        metavar="MB|FILE",
        help="ONNX: weights above this size go into a file beside; or a .safetensors beside the output that they are in already.",
    ),
]
Timeout = Annotated[
    float | None, typer.Option("--export-timeout", metavar="S", min=1, help="ONNX: seconds that the export may take.")
]
Run = Annotated[
    bool,
    typer.Option("--run/--no-run", help="ONNX: --no-run compares every weight's digest, in constant memory, and runs no model."),
]
Memory = Annotated[int | None, typer.Option("--export-memory", metavar="MB", min=100, help="ONNX: memory that it may take.")]


def options(
    arch: str | None, inputs: list[str] | None, trust: bool, seed: int, batches: list[int] | None, disabled: list[str] | None,
    html: str | None, exporter: str | None = None, opset: int | None = None, static: bool = False, simplify: bool = True,
    external: str | None = None, timeout: float | None = None, memory: int | None = None,
    golden: tuple[Path, Path] | None = None, run: bool = True,
) -> RunOptions | None:  # fmt: skip
    """What the options say; None where none is given."""
    if exporter not in (None, "dynamo", "torchscript"):
        raise typer.BadParameter(f"exporter {exporter!r} is none of dynamo, torchscript")
    if external is not None and not external.isdecimal() and not external.endswith(".safetensors"):
        raise typer.BadParameter(f"--external-data {external!r} is neither a size in MB nor a .safetensors file")
    found = RunOptions(
        arch=arch, inputs=tuple(inputs or ()), trust_source=trust, seed=seed, batches=tuple(batches or ()), exporter=exporter,
        opset=opset, dynamic=not static, simplify=simplify, timeout=timeout,
        external=int(external) * 1_000_000 if external is not None and external.isdecimal() else None,
        shared=external if external is not None and not external.isdecimal() else None,
        memory=None if memory is None else memory * 1_000_000, disabled=tuple(disabled or ()), html=html,
        golden=None if golden is None else (str(golden[0]), str(golden[1])), run=run,
    )  # fmt: skip
    return None if found == RunOptions() else found


def verify(
    source: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", parser=located, help="The checkpoint that was converted.")
    ] = None,
    output: Annotated[Path | None, typer.Argument(metavar="OUTPUT", parser=located, help="What it was converted to.")] = None,
    select: Annotated[str | None, typer.Option("--select", metavar="PATH", help="Which part of SOURCE is the model.")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged copy of the weights.")] = False,
    run: Annotated[
        bool, typer.Option("--run", help="Run both models too. Implied by the options below, and by an ONNX output.")
    ] = False,
    arch: Arch = None,
    inputs: Inputs = None,
    trust: Trust = False,
    golden: Golden = None,
    seed: Seed = 0,
    batches: Batches = None,
    disabled: Disabled = None,
    bisect: Annotated[bool, typer.Option("--bisect", help="Find out where a failure comes from.")] = False,
    html: Html = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="REPORT", help="Repeat the check of a report that --json printed.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> int:
    """Compare every tensor of OUTPUT, read by its own library, with SOURCE, read by us and by torch where it can; --run runs both."""
    given = options(arch, inputs, trust, seed, batches, disabled, html, golden=golden)
    if replay is not None:
        if source is not None or (given is not None and given != RunOptions(html=html)):
            raise UsageError("--replay takes everything from its report")
        return _replayed(replay, html, json)
    if source is None or output is None:
        raise UsageError("verify takes a SOURCE and an OUTPUT, or --replay REPORT")
    if run or bisect or given is not None or output.suffix.lower() == ".onnx":
        return _proved(source, output, given or RunOptions(), select, ema, bisect, json)
    from convert import render, verification

    found = verification.verify(source, output, select=select, ema=ema)
    if json:
        console.emit(found.document())
    else:
        render.verification(found)
    return found.exit


def _say(json: bool) -> Any:
    from convert.progress import steps

    return steps() if not json else lambda _: None


def _proved(source: Path, output: Path, given: RunOptions, select: str | None, ema: bool, bisect: bool, json: bool) -> int:
    from convert import proof

    found = proof.compare(source, output, given, select=select, ema=ema, bisect=bisect, say=_say(json))
    _shown(found, given.html, f"{source.name} → {output.name}", json, [])
    return found.exit


def _replayed(report: Path, html: str | None, json: bool) -> int:
    from convert import proof

    found, differences = proof.replay(report, say=_say(json))
    _shown(found, html, f"replay of {report.name}", json, differences or ["as the report says"])
    return found.exit


def _shown(found: Any, html: str | None, title: str, json: bool, more: list[str]) -> None:
    from convert.text import shown

    document = {"status": "failed" if found.exit else "done", **found.document()}
    if more:
        document["replay"] = more
    if html is not None:
        from convert.parity.page import page
        from formats.core.output import write_bytes

        write_bytes(page(document, title).encode("utf-8"), Path(html), force=True)
    if json:
        console.emit(document)
    else:
        console.out("\n".join([*found.lines(), *(f"  replay: {shown(line, 300)}" for line in more)]))
