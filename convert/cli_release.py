"""``convert release``, for `convert.cli`: parse, call, render."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from convert import cli_keys as keys
from convert import cli_run as running
from convert import console
from convert.job import DTYPES, TIES, RunOptions
from formats.core.errors import SystemIOError, UsageError


def release(
    source: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", help="A checkpoint; or a tree of them, as migrate leaves it.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="The release, which is made whole or not at all.")
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="TARGET", help="safetensors, pth, pth.tar; may be given again.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Files are NAME-<sha256>.EXT; the architecture's name if not given."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="As the card and the BOM say it: apache-2.0.")
    ] = None,
    about: Annotated[
        Path | None, typer.Option("--about", metavar="FILE", help="Your own Markdown for the card, as it is.")
    ] = None,
    date: Annotated[
        str | None, typer.Option("--date", metavar="DAY", help="For the card and the BOM; no time is told without it.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign the folder (OpenSSF model signing) by a P-256 key, PEM.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FOLDER", help="Look at all of a release again, offline; exit 70 if anything differs."),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="KEY", help="With --check: whose signature it has to have.")
    ] = None,
    select: Annotated[str | None, typer.Option("--select", metavar="PATH", help="Which part of SOURCE is the model.")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged copy of the weights.")] = False,
    strip: Annotated[
        bool, typer.Option("--strip/--no-strip", help="Strip module. and _orig_mod. where every key has them.")
    ] = True,
    tied: Annotated[str, typer.Option("--tied", metavar="|".join(TIES), help="Tied tensors in safetensors.")] = TIES[0],
    dtype: Annotated[str | None, typer.Option("--dtype", metavar="f64|f32|f16|bf16", help="Cast floating tensors.")] = None,
    dequantize: Annotated[bool, typer.Option("--dequantize", help="Write quantised tensors as float32.")] = False,
    only: keys.Only = None,
    drop: keys.Drop = None,
    rules: keys.Rules = None,
    reverse: keys.Reverse = False,
    strip_prefix: keys.Strip = None,
    rename: keys.Rename = None,
    add_prefix: keys.Add = None,
    run: Annotated[bool, typer.Option("--run", help="Run every output against the source; the verdict is published.")] = False,
    arch: running.Arch = None,
    inputs: running.Inputs = None,
    seed: running.Seed = 0,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an older release.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> int:
    """Publish a model: weights under hashed names, manifest, checksums, card, BOM, signature; or --check a release."""
    if check is not None:
        if source is not None or folder is not None or to:
            raise UsageError("--check FOLDER takes nothing but --public-key")
        return _checked(check, public_key, json)
    if public_key is not None:
        raise UsageError("--public-key is for --check")
    if source is None or folder is None:
        raise UsageError(
            "release takes a SOURCE and the FOLDER to make", hint="convert release in.pth.tar out --to safetensors --to pth"
        )
    if dtype is not None and dtype not in DTYPES:
        raise typer.BadParameter(f"--dtype {dtype!r} is none of {', '.join(DTYPES)}")
    from convert.release import settings as asked

    given = asked.Settings(
        source, folder, tuple(dict.fromkeys(to or ())), name, licence, _text(about), asked.date(date, os.environ.get("SOURCE_DATE_EPOCH")),
        sign, arch, force,
        RunOptions(arch=arch, inputs=tuple(inputs or ()), seed=seed) if run else None,
        keys.options(only, drop, rules, reverse, strip_prefix, rename, add_prefix, None, None, None),
        {"select": select, "ema": ema, "strip": strip, "tied": tied, "dtype": dtype, "dequantize": dequantize},
    )  # fmt: skip
    return _published(given, json)


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SystemIOError(f"cannot be read: {error.strerror}", path=path) from error
    except ValueError as error:
        raise UsageError("is no UTF-8 text", path=path) from error


def _published(given: Any, json: bool) -> int:
    from convert.release import tree
    from convert.release.text import lines

    found = tree.release(given)
    for _, failure in found.failures:
        console.complain(failure)
    if json:
        console.emit(found.document())
    elif found.made:
        console.out("\n".join(line for release in found.made for line in lines(release)))
    return found.exit


def _checked(folder: Path, key: Path | None, json: bool) -> int:
    from convert.release.check import check

    found = check(folder, key)
    code = max(finding.exit for finding in found)
    if json:
        console.emit(
            {"status": "failed" if code else "done", "exit": code, "releases": [finding.document() for finding in found]}
        )
        return code
    for finding in found:
        (console.err if finding.exit else console.out)("\n".join(finding.lines()))
    return code
