"""The command. What it does most, a plain conversion, starts without typer; everything else is parsed by `convert.cli`."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# Whoever has one of these may have left something to do at the end of the process.
_HEAVY = frozenset(
    {"convert.cli", "tempfile", "multiprocessing", "concurrent.futures", "torch", "onnxruntime", "asyncio", "logging"}
)
COMPLETION = ("_CONVERT_COMPLETE", "_CKPT_CONVERT_COMPLETE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (without the program's name) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        from convert import __version__

        sys.stdout.write(f"ckpt-convert {__version__}\n")
        return 0
    from convert import console

    code = console.guarded(arguments, lambda: _run(arguments, last=argv is None))
    if argv is None and not _HEAVY.intersection(sys.modules):
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End at once: taking a hundred modules down one by one costs a tenth of a small conversion, and none of ours needs it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(code)


def _run(arguments: list[str], *, last: bool) -> int:
    if any(name in os.environ for name in COMPLETION):
        from convert.cli import main as parsed

        return parsed(arguments)
    collected = gc.isenabled()
    gc.disable()  # importing and describing make many objects and no garbage
    try:
        from convert import console, plain

        job = plain.parse(arguments)
        if job is not None and job.verify != "run":
            if last:  # whoever has it enabled again looks at all that was made
                collected = False
            return console.default(job)
    finally:
        if collected:
            gc.enable()
    return console.default(job) if job is not None else _parsed(arguments)


def _parsed(arguments: list[str]) -> int:
    from convert import console, plain

    if plain.looks_like_imagemagick(arguments):
        return console.usage(
            "this is ckpt-convert, which converts PyTorch checkpoints; ImageMagick's convert was meant?",
            hint="ImageMagick 7 calls its program magick; this one also answers to ckpt-convert",
            json="--json" in arguments,
        )
    from convert.cli import main as parsed

    if not arguments:  # nothing was asked: what there is to ask, and that this was no conversion
        parsed(["--help"])
        return 2
    return parsed(arguments)


if __name__ == "__main__":
    sys.exit(main())
