"""``convert migrate``, for `convert.cli`: parse, call, render."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from convert import cli_run as running
from convert import console
from convert.job import DTYPES, KEEPS, LEVELS, TIES, nbytes
from formats.core.errors import UsageError


def _targets() -> list[str]:
    from formats import registry

    return registry.targets()


def _size(name: str, value: str | None) -> int | None:
    found = None if value is None else nbytes(value)
    if value is not None and found is None:
        raise typer.BadParameter(f"--{name} {value!r} is no size like 5GB or 500MiB")
    return found


def _options(**given: Any) -> dict[str, Any]:
    """Fields of a job that are not as usual."""
    from convert.job import Job

    usual = Job((), "")
    for name, value, allowed in (
        ("keep", given["keep"], KEEPS),
        ("verify", given["verify"], LEVELS),
        ("tied", given["tied"], TIES),
    ):
        if value is not None and value not in allowed:
            raise typer.BadParameter(f"--{name} {value!r} is none of {', '.join(allowed)}")
    if given["dtype"] is not None and given["dtype"] not in DTYPES:
        raise typer.BadParameter(f"--dtype {given['dtype']!r} is none of {', '.join(DTYPES)}")
    return {name: value for name, value in given.items() if value != getattr(usual, name)}


def migrate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder; or a glob in quotes, an index (.json, .jsonl) of paths, one checkpoint. See --list."
        ),
    ],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The folder that mirrors it.")],
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="TARGET", help="Format to write; may be given again.", autocompletion=_targets),
    ] = None,
    journal: Annotated[
        str | None, typer.Option("--journal", metavar="FOLDER", help="Of the journal and the report, where DST is a URL.")
    ] = None,
    listed: Annotated[
        str | None, typer.Option("--list", metavar="FILE", help="Only what FILE lists, a path a line, relative to SRC.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only names that fit; with a / the whole place.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Not the files and folders that fit.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Conversions at once.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan, with sizes, and write nothing.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Convert nothing: is everything that was made still what it was? Exit 70 if not.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Convert everything again, and replace what is there.")] = False,
    identify: Annotated[bool, typer.Option("--identify", help="Tell the architectures too.")] = False,
    digest: Annotated[
        str, typer.Option("--digest", metavar="fast|sha256", help="sha256 of every byte of sources and outputs costs time.")
    ] = "fast",
    retries: Annotated[
        int, typer.Option("--retries", min=0, max=20, help="Of what failed by a passing fault of the system.")
    ] = 3,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="S", min=0.1, help="Seconds for one checkpoint.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="For all workers together: 8GB.")] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="local|ray", help="This machine's processes, or a Ray cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="ADDRESS", envvar="RAY_ADDRESS", help="Of the Ray cluster that is there."),
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged copy of the weights.")] = False,
    strip: Annotated[
        bool, typer.Option("--strip/--no-strip", help="Strip module. and _orig_mod. where every key has them.")
    ] = True,
    keep: Annotated[str | None, typer.Option("--keep", metavar="|".join(KEEPS), help="What travels beside the weights.")] = None,
    verify: Annotated[str, typer.Option("--verify", metavar="|".join(LEVELS), help="How outputs are checked.")] = "bytes",
    tied: Annotated[
        str, typer.Option("--tied", metavar="|".join(TIES), help="Tied tensors where the target has no ties.")
    ] = TIES[0],
    dtype: Annotated[str | None, typer.Option("--dtype", metavar="f64|f32|f16|bf16", help="Cast floating tensors.")] = None,
    dequantize: Annotated[bool, typer.Option("--dequantize", help="Write quantised tensors as float32.")] = False,
    max_shard_size: Annotated[
        str | None, typer.Option("--max-shard-size", metavar="SIZE", help="Split safetensors into shards of at most so much.")
    ] = None,
    arch: running.Arch = None,
    inputs: running.Inputs = None,
    trust: running.Trust = False,
    events: Annotated[
        bool, typer.Option("--events", help="A JSON document a line on standard output, as things happen.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> int:
    """Convert a whole tree into a mirrored one. What is done already is left alone, and no bad file stops the rest."""
    from convert.zoo.digest import MODES
    from convert.zoo.settings import ENGINES, Settings

    for name, value, allowed in (("digest", digest, MODES), ("engine", engine, ENGINES)):
        if value not in allowed:
            raise typer.BadParameter(f"--{name} {value!r} is none of {', '.join(allowed)}")
    if not to and not check:
        raise UsageError("migrate needs --to TARGET", hint="--to safetensors")
    if json and events:
        raise UsageError("--json prints one document and --events many: one of them is enough")
    options = _options(
        ema=ema, strip=strip, keep=keep, verify=verify, tied=tied, dtype=dtype, dequantize=dequantize,
        max_shard_size=_size("max-shard-size", max_shard_size),
    )  # fmt: skip
    run: dict[str, Any] = {"arch": arch, "inputs": list(inputs or ()), "trust_source": trust}
    if given := {name: value for name, value in run.items() if value}:
        options["run"] = given
    settings = Settings(
        source=source, destination=destination, targets=tuple(dict.fromkeys(to or ())), jobs=jobs, journal=journal, listed=listed,
        include=tuple(include or ()), exclude=tuple(exclude or ()), force=force, check=check, dry_run=dry_run, identify=identify,
        digest=digest, retries=retries, timeout=timeout, memory=_size("memory", memory), engine=engine, ray_address=ray_address,
        options=options,
    )  # fmt: skip
    return _run(settings, events=events, json=json)


def _run(settings: Any, *, events: bool, json: bool) -> int:
    from convert.zoo import watch
    from convert.zoo.run import migrate as run

    if settings.engine == "ray":
        console.reserve_stdout()  # Ray prints what happens to its nodes
    follower: Any
    if events:
        follower = watch.Events()
    elif json:
        follower = watch.Silent()
    else:
        follower = watch.Terminal() if sys.stderr.isatty() else watch.Log()
    try:
        document = run(settings, follower)
    finally:
        follower.close()
    if events:
        follower.end(document)
    elif json:
        console.emit(document)
    else:
        console.out("\n".join(watch.summary(document)))
    return int(document["exit"])
