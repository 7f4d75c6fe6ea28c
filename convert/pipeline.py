"""The flow of a conversion: open → choose → plan → write and verify → report. One source never stops the next."""

from __future__ import annotations

import gc
import os

from convert import naming
from convert.job import DTYPES, KEEPS, LEVELS, TIES, Job
from convert.plan import Plan, plan
from convert.progress import steps
from convert.report import Failure, Report, Result
from formats import registry
from formats.core.checkpoint import Checkpoint
from formats.core.composites import REST
from formats.core.errors import CheckpointError, OutputError, SystemIOError, UsageError
from formats.core.files import located
from formats.core.protocol import Format
from formats.core.record import changed
from formats.core.tensor import CompositeTensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from convert.reshape import Reshaping
    from convert.select import Choice


def run(job: Job) -> Report:
    """Convert every source of ``job``; whatever goes wrong is in the report."""
    report = Report()
    try:
        _check(job)
    except CheckpointError as error:
        report.failure = Failure.of(error)
        return report
    written: dict[str, str] = {}  # two sources of one call never share an output, --force or not
    for source in job.sources:
        result = Result(source)
        report.results.append(result)
        try:
            with _Uncollected(job):
                _convert(located(source), job, result, written)
        except Exception as error:  # a fault of ours in one file is no reason to leave the others
            if job.debug:
                raise
            result.status = "failed"
            result.failure = Failure.of(error, source)
    return report


class _Uncollected:
    """No garbage collection while weights alone are moved: describing 100,000 tensors makes a million objects and no cycles."""

    def __init__(self, job: Job) -> None:
        self.wanted = gc.isenabled() and job.verify != "run" and job.run is None

    def __enter__(self) -> None:
        if self.wanted:
            gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            gc.enable()


class _Nothing:
    """A context of nothing: `contextlib.nullcontext`, which takes `functools` and `collections` with it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def convert_one(source: Path, job: Job) -> Result:
    """Convert ``source`` alone; raises `CheckpointError`."""
    _check(job)
    result = Result(str(source))
    try:
        _convert(source, job, result, {})
    except CheckpointError as error:
        raise error.with_path(source) from error.__cause__
    return result


def _check(job: Job) -> None:
    """What can be said of a job without looking at a file."""
    row = registry.target_row(job.to, job.writer_options())
    for option in job.writer_options():
        if row.option != option:
            raise UsageError(f"--{option.replace('_', '-')} is nothing that --to {job.to} knows")
    if job.verify not in LEVELS:
        raise UsageError(f"verification level {job.verify!r:.40} is none of {', '.join(LEVELS)}")
    if job.keep is not None and job.keep not in KEEPS:
        raise UsageError(f"keep {job.keep!r:.40} is none of {', '.join(KEEPS)}")
    if job.tied not in TIES:
        raise UsageError(f"tied {job.tied!r:.40} is none of {', '.join(TIES)}")
    if job.output is not None and job.out_dir is not None:
        raise UsageError("-o names a file and --out-dir a folder: one of them is enough")
    if job.output is not None and len(job.sources) > 1:
        raise UsageError(f"-o names one file for {len(job.sources)} sources", hint="--out-dir FOLDER takes them all")
    if job.keys is not None and job.keep == "all":
        raise UsageError("--keep all keeps a checkpoint as it is: its keys can be changed in a second step")
    _check_casts(job)
    if job.output in ("", "-"):
        raise UsageError("an output is a file with a name: it is checked before it gets it")
    if "-" in job.sources:
        raise UsageError("standard input cannot be read at positions", hint="save it to a file first; ./- is a file of that name")


def _check_casts(job: Job) -> None:
    """Other values than the source's go with nothing that promises the source's values."""
    if job.dtype is not None and job.dtype not in DTYPES:
        raise UsageError(f"dtype {job.dtype!r:.40} is none of {', '.join(DTYPES)}")
    asked = "--dtype" if job.dtype is not None else "--dequantize" if job.dequantize else None
    if asked is None:
        return
    if job.keep == "all":
        raise UsageError(
            f"--keep all promises the original back, and {asked} writes other values",
            hint="convert twice: once with --keep all, once with " + asked,
        )
    if job.verify == "run":
        raise UsageError(f"--verify run proves that both models are the same, and {asked} writes other values")
    if registry.writer(job.to).CAPABILITIES.program:
        raise UsageError(f"{asked} is for weights, and --to {job.to} writes a program", hint="convert the weights first")


def _convert(source: Path, job: Job, result: Result, written: dict[str, str]) -> None:
    try:
        naming.check_place(base_of(source, job), source, named=job.output is not None, create=job.out_dir is not None)
        with registry.open(source) as checkpoint, _digesting(checkpoint, job, result), _reshaping(job) as keys:
            row = row_of(checkpoint.format)
            result.format, result.title = checkpoint.format, row.title if row else None
            result.nbytes = source.stat().st_size if source.is_file() else None
            program = registry.writer(job.to).CAPABILITIES.program
            if program:
                from convert import onnx_target

                choices = onnx_target.planned(checkpoint, base_of(source, job, row), job, result)
            else:
                planned = _planned(checkpoint, base_of(source, job, row), job, result, keys)
            for output in result.outputs:
                for path, _ in output.files:
                    for origin in (source, *(keys.paths if keys else ())):
                        naming.check(path, origin, force=job.force)
                    _claim(path, source, written)
            if job.dry_run:
                result.status = "planned"
                return
            if job.out_dir is not None:
                naming.make_folder(located(job.out_dir))
            if program:
                onnx_target.write(checkpoint, choices, job, result, steps())
            else:
                _write(checkpoint, planned, job)
    except OSError as error:
        raise SystemIOError(f"{error.strerror or error}", path=error.filename or source) from error
    result.status = "done"


def base_of(source: Path, job: Job, row: Format | None = None) -> Path:
    """The output of ``source`` where it holds one model; ``row`` is its format, once that is known."""
    rows = registry.ROWS if row is None else (*registry.ROWS, row)
    known = {*naming.SUFFIXES, *registry.target_row(job.to).suffixes, *(suffix for one in rows for suffix in one.suffixes)}
    return naming.target(source, job.to, known, job.output, job.out_dir)


def row_of(name: str) -> Format | None:
    """The registry's row for the name of a reader; plugins are asked only where it is none of ours."""
    found = next((row for row in registry.ROWS if row.name == name), None)
    return found or next((row for row in registry.plugins() if row.name == name), None)


def _reshaping(job: Job) -> AbstractContextManager[Reshaping | None]:
    """What the job wants done to keys, open; most jobs want nothing and load nothing for it."""
    if job.keys is None:
        return _Nothing()
    from convert.reshape import Reshaping

    return Reshaping(job.keys)


def _planned(checkpoint: Checkpoint, base: Path, job: Job, result: Result, keys: Reshaping | None) -> Plan:
    from convert import select

    writer = registry.writer(job.to, job.writer_options())
    if job.keys is not None and job.keys.into is not None:
        job = changed(job, keep="none")  # what stands beside the pretrained weights is not the new model's
    as_it_was = keys is None and job.dtype is None and not job.dequantize and REST in checkpoint.metadata.get("__metadata__", ())
    if as_it_was and (job.keep == "all" or (writer.CAPABILITIES.extras and job.keep != "none")):
        from convert.rest import restored

        checkpoint = restored(checkpoint)
    _retie(checkpoint)
    wanted = job.select if job.select is not None else checkpoint.metadata.get("rest", {}).get("model")
    choices = select.choose(checkpoint, select=wanted, ema=job.ema, strip=job.strip)
    _check_sparse(choices)
    dropped = select.dropped(checkpoint, choices)
    planned = plan(checkpoint, choices, dropped, writer, base, job, keys)
    result.outputs = [one.output for one in planned.outputs]
    result.dropped = planned.dropped
    result.notes = planned.notes
    return planned


def _check_sparse(choices: list[Choice]) -> None:
    """Indices of sparse tensors are looked at before anything is written; most models have none."""
    for choice in choices:
        if any(type(tensor) is CompositeTensor for tensor in choice.state_dict.tensors.values()):
            from formats.core import sparse

            sparse.check(choice.state_dict.tensors)


def _retie(checkpoint: Checkpoint) -> None:
    """What was one tensor before it was written twice is one again: the next file holds the tie, or records it."""
    ties = checkpoint.metadata.get("tied")
    if ties and isinstance(checkpoint.tree, dict):
        from formats.core.ties import retie

        apart = retie(checkpoint.tree, ties)
        if apart:
            checkpoint.notes.append(
                f"{len(apart)} keys were tied to another when the file was written, have other values now and stay apart: "
                + ", ".join(apart[:4])
            )


def _claim(path: Path, source: Path, written: dict[str, str]) -> None:
    place = os.fspath(path.resolve())
    other = written.setdefault(place, str(source))
    if other != str(source):
        raise OutputError(
            f"is already the output of {other}", path=path, hint="convert them one by one with -o, or into two folders"
        )


def _digesting(checkpoint: Checkpoint, job: Job, result: Result) -> AbstractContextManager[None]:
    """The sha256 of what is read, while it is read, and of what is written, where the job wants them."""
    if not job.digest or job.dry_run:
        return _Nothing()
    from convert.digesting import Digesting

    return Digesting(checkpoint, result)


def _write(checkpoint: Checkpoint, planned: Plan, job: Job) -> None:
    """All outputs of one source, or none of them."""
    from convert.progress import Progress
    from formats.core.output import write_layouts

    layouts = []
    for one in planned.outputs:
        for layout in one.layouts:
            layout.name = layout.name or one.output.path.name
            layouts.append(layout)
    target = planned.outputs[0].output.path
    if job.verify == "run" or (job.run is not None and job.run.arch is not None):
        from convert.proof import write_and_run

        write_and_run(checkpoint, layouts, [one.output for one in planned.outputs], job, steps())
        return
    with Progress(checkpoint.path.name) as progress:
        written = write_layouts(
            layouts,
            target,
            force=job.force,
            verify=job.verify == "bytes",
            sources=checkpoint.files,
            observe=progress.observe,
            sync=job.sync,
            digest=job.digest,
        )
    digests = {one.path: one.sha256 for one in written if one.sha256 is not None}
    for one in planned.outputs:
        one.output.sha256 = {path: digests[path] for path, _ in one.output.files if path in digests}
        one.output.verified = job.verify
        one.output.written = True
    if not job.sync:
        from formats.core.file_crc import file_crc

        known = {file.path: file_crc(layout, file.crcs) for layout, file in zip(layouts, written, strict=True)}
        for one in planned.outputs:
            one.output.digests = {
                path: f"crc32:{crc:08x}" for path, _ in one.output.files if (crc := known.get(path)) is not None
            }
