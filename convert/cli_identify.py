"""``convert identify``, for `convert.cli`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convert import console
from formats.core.files import located


def identify(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", parser=located, help="Any checkpoint.")],
    select: Annotated[
        str | None, typer.Option("--select", metavar="PATH", help="Which part is the model, as convert inspect names it.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged copy of the weights.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> int:
    """Say which architecture of torchvision or timm the weights belong to, from names and shapes alone."""
    from convert.identify import identify_file
    from convert.identify_text import report
    from convert.text import shown

    found = identify_file(source, select=select, ema=ema)
    document = report(source, found)
    if json:
        console.emit(document)
        return int(document["exit"])
    for name, result in found:
        first, *rest = result.lines()
        console.out(f"{shown(name)}: {first}" if name else first)
        for line in rest:
            console.out(line)
    return int(document["exit"])
