"""The command. What it does most, a plain conversion, starts without typer; everything else is parsed by `convert.cli`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

COMPLETION = ("_CONVERT_COMPLETE", "_CKPT_CONVERT_COMPLETE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (without the program's name) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        from convert import __version__

        sys.stdout.write(f"ckpt-convert {__version__}\n")
        return 0
    from convert import console

    return console.guarded(arguments, lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    from convert import console, plain

    completing = any(name in os.environ for name in COMPLETION)
    job = None if completing else plain.parse(arguments)
    if job is not None:
        return console.default(job)
    if not completing and plain.looks_like_imagemagick(arguments):
        return console.usage(
            "this is ckpt-convert, which converts PyTorch checkpoints; ImageMagick's convert was meant?",
            hint="ImageMagick 7 calls its program magick; this one also answers to ckpt-convert",
            json="--json" in arguments,
        )
    from convert.cli import main as parsed

    if not arguments and not completing:  # nothing was asked: what there is to ask, and that this was no conversion
        parsed(["--help"])
        return 2
    return parsed(arguments)


if __name__ == "__main__":
    sys.exit(main())
