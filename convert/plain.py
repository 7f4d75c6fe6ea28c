"""The plain form ``convert SOURCE… --to TARGET [options]`` parsed without typer, which takes longer to import than a file to convert.

It accepts only what it is sure about; for everything else it answers None and `convert.cli` parses the same arguments, with the same
grammar (values after a space or ``=``, ``-o`` also without, options anywhere, ``--`` ends them, the last of equal options counts).
"""

from __future__ import annotations

from convert.job import DTYPES, KEEPS, LEVELS, TIES, Job, nbytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Names that begin a sub-command when they come first; a file of such a name is written ./NAME.
COMMANDS = frozenset({"diff", "doctor", "identify", "inspect", "verify", "formats", "migrate", "release"})

VALUES = {
    "--to": "to", "--output": "output", "-o": "output", "--out-dir": "out_dir", "--select": "select",
    "--keep": "keep", "--verify": "verify", "--tied": "tied", "--dtype": "dtype", "--max-shard-size": "max_shard_size",
}  # fmt: skip
FLAGS: dict[str, tuple[str, bool]] = {
    "--force": ("force", True), "-f": ("force", True), "--ema": ("ema", True), "--json": ("json", True),
    "--dry-run": ("dry_run", True), "-n": ("dry_run", True), "--debug": ("debug", True),
    "--strip": ("strip", True), "--no-strip": ("strip", False), "--dequantize": ("dequantize", True),
    "--legacy": ("legacy", True), "--digest": ("digest", True),
}  # fmt: skip
CHOICES = {"verify": LEVELS, "keep": KEEPS, "tied": TIES, "dtype": tuple(DTYPES)}


def parse(arguments: Sequence[str]) -> Job | None:
    """The job that ``arguments`` spell, or None where that is for typer to say."""
    if not arguments or arguments[0] in COMMANDS:
        return None
    sources: list[str] = []
    given: dict[str, str] = {}
    flags: dict[str, bool] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            sources.extend(rest)
        elif argument == "-" or not argument.startswith("-"):
            sources.append(argument)
        elif argument in FLAGS:
            name, flag = FLAGS[argument]
            flags[name] = flag
        else:
            option, value = _split(argument)
            if option not in VALUES:
                return None
            if value is None:
                value = next(rest, None)
                if value is None:
                    return None
            given[VALUES[option]] = value
    if not sources or "" in sources or "to" not in given:
        return None
    if any(given.get(name, choices[0]) not in choices for name, choices in CHOICES.items()):
        return None
    shard = nbytes(given["max_shard_size"]) if "max_shard_size" in given else None
    if shard is None and "max_shard_size" in given:
        return None
    return Job(
        sources=tuple(sources),
        to=given["to"],
        output=given.get("output"),
        out_dir=given.get("out_dir"),
        select=given.get("select"),
        keep=given.get("keep"),
        verify=given.get("verify", "bytes"),
        ema=flags.get("ema", False),
        strip=flags.get("strip", True),
        force=flags.get("force", False),
        dry_run=flags.get("dry_run", False),
        json=flags.get("json", False),
        debug=flags.get("debug", False),
        tied=given.get("tied", TIES[0]),
        dtype=given.get("dtype"),
        dequantize=flags.get("dequantize", False),
        max_shard_size=shard,
        legacy=flags.get("legacy", False),
        digest=flags.get("digest", False),
    )


def _split(argument: str) -> tuple[str, str | None]:
    if argument.startswith("--"):
        option, equals, value = argument.partition("=")
        return option, value if equals else None
    return argument[:2], argument[2:] or None  # -oFILE


def looks_like_imagemagick(arguments: Sequence[str]) -> bool:
    """Whether these are arguments for ImageMagick's program of the same name: its long options have one dash, its files are images."""
    pictures = (
        ".png",
        ".jpg",
        ".jpeg",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".webp",
        ".svg",
        ".ico",
        ".ppm",
        ".heic",
        ".pdf",
        ".eps",
    )
    if any(argument in IMAGEMAGICK for argument in arguments):
        return True
    files = [argument for argument in arguments if not argument.startswith("-")]
    return len(files) >= 2 and all(file.lower().endswith(pictures) for file in files) and "--to" not in arguments


IMAGEMAGICK = frozenset((
    "-resize", "-quality", "-crop", "-rotate", "-geometry", "-density", "-scale", "-thumbnail", "-flip", "-flop", "-gravity", "-strip",
    "-background", "-append", "+append", "-colorspace", "-depth", "-fill", "-font", "-trim", "-blur", "-border", "-composite", "-draw",
    "-fuzz", "-level", "-negate", "-normalize", "-sharpen", "-size", "-type", "-alpha", "-annotate", "-auto-orient", "-compress",
    "-coalesce", "-delay", "-loop", "-monochrome", "-pointsize", "-transparent", "-verbose", "-version",
))  # fmt: skip
