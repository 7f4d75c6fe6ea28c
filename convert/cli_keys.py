"""Options and sub-commands about keys, for `convert.cli`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convert import console
from convert.job import KeyOptions
from formats.core.files import located

Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="GLOB", help="Only keys that fit; may be given again. Options on keys run in this order."),
]
Drop = Annotated[list[str] | None, typer.Option("--drop", metavar="GLOB", help="Not the keys that fit; may be given again.")]
Rules = Annotated[list[str] | None, typer.Option("--rules", metavar="FILE", help="Rename by the rules of a file.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="Undo what --rules says.")]
Strip = Annotated[
    list[str] | None, typer.Option("--strip-prefix", metavar="TEXT", help="Off the beginning of the keys that have it.")
]
Rename = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="REGEX=TEXT", help=r"Every match of REGEX becomes TEXT; \1 is its first group."),
]
Add = Annotated[list[str] | None, typer.Option("--add-prefix", metavar="TEXT", help="Before every key.")]
Fill = Annotated[
    list[str] | None,
    typer.Option(
        "--fill-missing", metavar="GLOB", help="Add missing keys with --like's values; num_batches_tracked is 0 without it."
    ),
]
Like = Annotated[str | None, typer.Option("--like", metavar="CHECKPOINT", help="Where --fill-missing takes values from.")]
Into = Annotated[
    str | None,
    typer.Option("--into", metavar="CHECKPOINT", help="Warm start: this model, with what SOURCE has of equal name and shape."),
]


def options(
    only: list[str] | None, drop: list[str] | None, rules: list[str] | None, reverse: bool,
    strip: list[str] | None, rename: list[str] | None, add: list[str] | None, fill: list[str] | None, like: str | None, into: str | None,
) -> KeyOptions | None:  # fmt: skip
    """What the options say; None where none is given."""
    found = KeyOptions(
        tuple(only or ()), tuple(drop or ()), tuple(rules or ()), reverse, tuple(strip or ()), tuple(rename or ()), tuple(add or ()),
        tuple(fill or ()), like, into,
    )  # fmt: skip
    return None if found == KeyOptions() else found


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", parser=located, help="A checkpoint of any format.")],
    b: Annotated[Path, typer.Argument(metavar="B", parser=located, help="Another one, of any format.")],
    select_a: Annotated[str | None, typer.Option("--select-a", metavar="PATH", help="Which part of A is the model.")] = None,
    select_b: Annotated[str | None, typer.Option("--select-b", metavar="PATH", help="Which part of B is the model.")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged copies of the weights.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every tensor of both files by its path, not the model alone.")
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip/--no-strip", help="Strip module. and _orig_mod. where every key has them.")
    ] = True,
    values: Annotated[bool, typer.Option("--values/--no-values", help="Compare the values too.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> int:
    """Compare two checkpoints key by key; exit code 0 where they are the same, 70 where they differ."""
    from convert import diff as differences
    from convert import render_keys

    found = differences.diff(
        a, b, select_a=select_a, select_b=select_b, ema=ema, everything=everything, strip=strip, values=values
    )
    if json:
        console.emit(found.document())
    else:
        render_keys.difference(found)
    return found.exit


def doctor(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", parser=located, help="The checkpoint that does not load.")],
    like: Annotated[
        Path | None,
        typer.Option("--like", metavar="CHECKPOINT", parser=located, help="A checkpoint of the model that it should load into."),
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="ARCH", help="The model that it should load into: package.module:callable.")
    ] = None,
    select: Annotated[str | None, typer.Option("--select", metavar="PATH", help="Which part of SOURCE is the model.")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged copy of the weights.")] = False,
    to: Annotated[
        str, typer.Option("--to", metavar="TARGET", help="The format that the printed command writes.")
    ] = "safetensors",
    write_rules: Annotated[
        Path | None, typer.Option("--write-rules", metavar="FILE", help="Write the rules of the remedy to FILE.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a rules file that exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> int:
    """Say why SOURCE would not load into a model, and which command mends it; exit code 70 where none surely does."""
    from convert import doctor as medicine
    from convert import expectation, render_keys

    found = medicine.diagnose(
        source, expectation.expected(like, arch), select=select, ema=ema, to=to,
        rules_file=None if write_rules is None else str(write_rules),
    )  # fmt: skip
    if write_rules is not None:
        medicine.write_rules(found, write_rules, force=force)
    if json:
        console.emit(found.document())
    else:
        render_keys.diagnosis(found)
    return found.exit
