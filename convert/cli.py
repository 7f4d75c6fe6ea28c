"""The command line, parsed by typer: each function parses, calls and renders, and decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from convert import cli_identify, cli_migrate, cli_release, console
from convert import cli_keys as keys
from convert import cli_run as running
from convert.job import DTYPES, KEEPS, LEVELS, TIES, Job, nbytes
from formats.core.files import located

DEFAULT = "source"  # the hidden name of the default command
GROUP_OPTIONS = ("--help", "-h", "--version", "-V", "--install-completion", "--show-completion")


class DefaultGroup(TyperGroup):
    """What begins with no sub-command's name is the default command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and args[0] in self.commands and args[0] != DEFAULT  # a file may have the hidden name
        if args and not named and args[0].partition("=")[0] not in GROUP_OPTIONS:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


class DefaultCommand(TyperCommand):
    """The default command's help does not show the name that nobody types."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return super().make_context("", args, parent, **extra)


app = typer.Typer(
    name="convert",
    cls=DefaultGroup,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Convert PyTorch checkpoints: exactly, safely, in constant memory. Nothing in a file is ever run.\n\n"
    "convert SOURCE... --to safetensors|pth|pth.tar|npz|onnx [-o FILE | --out-dir DIR] is the default command; "
    "convert SOURCE --help describes its options.",
    epilog="Exit codes: 0 done and verified, 2 usage, 65 the input is not what it should be, 69 the tool or the target cannot, "
    "70 parity failed or a difference was found, 73 the output cannot be made, 74 input or output failed.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from convert import __version__

        console.out(f"ckpt-convert {__version__}")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def _targets() -> list[str]:
    from formats import registry

    return registry.targets()


def _one_of(*allowed: str) -> Any:
    def check(value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(allowed)}")
        return value

    return check


def _named(values: list[str]) -> list[str]:
    if "" in values:
        raise typer.BadParameter("a source has a name")
    return values


def _shard(value: str | None) -> int | None:
    found = None if value is None else nbytes(value)
    if value is not None and found is None:
        raise typer.BadParameter(f"--max-shard-size {value!r} is no size like 5GB or 500MiB")
    return found


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")]
Select = Annotated[
    str | None, typer.Option("--select", metavar="PATH", help="Which part is the model, as convert inspect names it.")
]
Ema = Annotated[bool, typer.Option("--ema", help="Take the averaged copy of the weights.")]
To = Annotated[str, typer.Option("--to", metavar="TARGET", help="Format to write: see convert formats.", autocompletion=_targets)]


@app.command(DEFAULT, hidden=True, cls=DefaultCommand)
def source(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Checkpoints to convert.", callback=_named)],
    to: To,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="The output; beside the source if not given.")
    ] = None,
    out_dir: Annotated[str | None, typer.Option("--out-dir", metavar="DIR", help="The folder for all outputs.")] = None,
    select: Select = None,
    ema: Ema = False,
    strip: Annotated[
        bool, typer.Option("--strip/--no-strip", help="Strip module. and _orig_mod. where every key has them.")
    ] = True,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="|".join(KEEPS), help="What travels beside the weights.", callback=_one_of(*KEEPS)),
    ] = None,
    verify: Annotated[
        str, typer.Option("--verify", metavar="|".join(LEVELS), help="How the output is checked.", callback=_one_of(*LEVELS))
    ] = "bytes",
    tied: Annotated[
        str,
        typer.Option(
            "--tied",
            metavar="|".join(TIES),
            help="Tied tensors where the target has no ties: each written, the first alone, or an error. "
            "What was tied is recorded in either case.",
            callback=_one_of(*TIES),
        ),
    ] = TIES[0],
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype", metavar="f64|f32|f16|bf16", help="Cast floating tensors, as torch rounds.", callback=_one_of(*DTYPES)
        ),
    ] = None,
    dequantize: Annotated[bool, typer.Option("--dequantize", help="Write quantised tensors as float32.")] = False,
    max_shard_size: Annotated[
        str | None,
        typer.Option("--max-shard-size", metavar="SIZE", help="Split safetensors into shards of at most so much: 5GB, 500MiB."),
    ] = None,
    legacy: Annotated[bool, typer.Option("--legacy", help="Write a .pth as torch before 1.6 did, for old readers.")] = False,
    digest: Annotated[bool, typer.Option("--digest", help="Tell the sha256 of every file read and written.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan and write nothing.")] = False,
    only: keys.Only = None,
    drop: keys.Drop = None,
    rules: keys.Rules = None,
    reverse: keys.Reverse = False,
    strip_prefix: keys.Strip = None,
    rename: keys.Rename = None,
    add_prefix: keys.Add = None,
    fill_missing: keys.Fill = None,
    like: keys.Like = None,
    into: keys.Into = None,
    arch: running.Arch = None,
    inputs: running.Inputs = None,
    trust: running.Trust = False,
    golden: running.Golden = None,
    seed: running.Seed = 0,
    batches: running.Batches = None,
    disabled: running.Disabled = None,
    html: running.Html = None,
    exporter: running.Exporter = None,
    opset: running.Opset = None,
    static: running.Static = False,
    simplify: running.Simplify = True,
    external: running.External = None,
    timeout: running.Timeout = None,
    memory: running.Memory = None,
    with_run: running.Run = True,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Convert each SOURCE to TARGET."""
    run = running.options(
        arch,
        inputs,
        trust,
        seed,
        batches,
        disabled,
        html,
        exporter,
        opset,
        static,
        simplify,
        external,
        timeout,
        memory,
        golden,
        with_run,
    )
    key_options = keys.options(only, drop, rules, reverse, strip_prefix, rename, add_prefix, fill_missing, like, into)
    job = Job(
        tuple(sources), to, output, out_dir, select, ema, strip, keep, verify, force, dry_run, json, debug, key_options, run,
        tied, dtype, dequantize, _shard(max_shard_size), legacy, digest,
    )  # fmt: skip
    return console.default(job)


@app.command()
def inspect(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", parser=located, help="Any file.")],
    values: Annotated[bool, typer.Option("--values", help="Read all values; warn of NaN, Inf and all-zero tensors.")] = False,
    class_source: Annotated[
        bool, typer.Option("--source", help="Print the Python text of classes that the file carries, escaped.")
    ] = False,
    save_source: Annotated[
        Path | None,
        typer.Option(
            "--save-source", metavar="DIR", help="Write that text to new files NAME.py.txt; nothing is replaced or run."
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit", help="What its pickles name and would have run, the worst first; of a refused file, what can be seen."
        ),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Show what is in a file: container, tree, tensors, what it names, candidates for the model."""
    from convert import inspection, render

    if audit:
        from convert import cli_audit

        return cli_audit.inspected(
            source, values=values, json=json, text=lambda found: render.inspection(found, values=values, source=class_source)
        )
    found = inspection.inspect(source, values=values)
    if save_source is not None:
        from convert import class_sources

        found.saved = class_sources.save(found.sources, save_source)
    if json:
        console.emit(found.document())
    else:
        render.inspection(found, values=values, source=class_source)
    return 0


@app.command()
def formats(json: Json = False, debug: Debug = False) -> int:
    """List readers and writers, plugins included."""
    from convert import catalogue, render

    rows = catalogue.rows()
    if json:
        console.emit(catalogue.document(rows))
    else:
        render.formats(rows)
    return 0


app.command("verify")(running.verify)
app.command("diff")(keys.diff)
app.command("doctor")(keys.doctor)
app.command("identify")(cli_identify.identify)
app.command("migrate")(cli_migrate.migrate)
app.command("release")(cli_release.release)


def main(arguments: Sequence[str]) -> int:
    """Parse ``arguments`` and run what they ask for; the exit code."""
    program = Path(sys.argv[0]).name
    try:
        code = app(
            list(arguments), prog_name=program if program in ("convert", "ckpt-convert") else "convert", standalone_mode=False
        )
    except Exception as error:
        # typer's own errors, by what they have: their classes have moved between its releases.
        message = getattr(error, "format_message", None)
        if message is None or getattr(error, "exit_code", None) != 2:
            raise
        return console.usage(str(message()).replace("\n", " "), json="--json" in arguments)
    return code if isinstance(code, int) else 0
