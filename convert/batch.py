"""A whole tree of checkpoints into a mirrored one. No bad file stops the rest; what is there already is left alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert import naming
from convert.job import Job
from convert.pipeline import base_of, convert_one
from convert.report import Failure, Result
from formats import registry
from formats.core.errors import UnknownFormat, UsageError


@dataclass(slots=True)
class Migration:
    """What became of every file of a tree. ``ignored`` are files that neither are nor claim to be checkpoints."""

    results: list[Result] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def exit(self) -> int:
        """0 only if everything that is a checkpoint, or is called one, is done; else the worst code."""
        return max((result.exit for result in self.results), default=0)

    def counted(self, status: str) -> int:
        return sum(result.status == status for result in self.results)

    def document(self) -> dict[str, Any]:
        return {
            "status": "done" if self.exit == 0 else "failed",
            "exit": self.exit,
            "done": self.counted("done"),
            "skipped": self.counted("skipped"),
            "failed": self.counted("failed"),
            "results": [result.document() for result in self.results],
            "ignored": self.ignored,
        }


def migrate(
    source: Path,
    destination: Path,
    targets: Sequence[str],
    *,
    jobs: int = 2,
    force: bool = False,
    done: Callable[[Result], None] | None = None,
) -> Migration:
    """Convert every checkpoint below ``source``, found by content, to each of ``targets`` at the same place below ``destination``.

    Links are not followed. ``done`` is told of each result, in the order of the files.
    """
    if not source.is_dir():
        raise UsageError("is no folder", path=source, hint="convert FILE --to … converts one file")
    for target in targets:
        registry.target_row(target)
    if naming.same(source, destination):
        raise UsageError("source and destination are one folder", path=destination)
    found = Migration()
    planned = list(_planned(source, destination, list(dict.fromkeys(targets)), force))
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            for result in pool.map(_converted, planned):
                if result.format is None and result.failure is not None and result.failure.kind == UnknownFormat.kind:
                    if Path(result.source).suffix.lower() not in naming.SUFFIXES:
                        if result.source not in found.ignored:
                            found.ignored.append(result.source)
                        continue
                found.results.append(result)
                if done is not None:
                    done(result)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return found


@dataclass(slots=True)
class _Task:
    source: Path
    job: Job
    folder: Path


def _planned(source: Path, destination: Path, targets: list[str], force: bool) -> Iterator[_Task]:
    for folder, names in _folders(source, destination):
        into = destination / folder.relative_to(source)
        stems = Counter(naming.stem(name, naming.SUFFIXES) for name in names if Path(name).suffix.lower() in naming.SUFFIXES)
        for name in names:
            # Beside model.pt and model.pth neither may be called model.safetensors: both keep their whole names.
            whole = stems[naming.stem(name, naming.SUFFIXES)] > 1
            for target in targets:
                output = str(into / f"{name}.{target}") if whole else None
                job = Job((str(folder / name),), target, output, None if whole else str(into), force=force)
                yield _Task(folder / name, job, into)


def _folders(source: Path, destination: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders below ``source`` with their regular files, in a fixed order, without following links, and nothing of ``destination``."""
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not naming.same(Path(folder, name), destination))
        yield Path(folder), sorted(name for name in files if (path := Path(folder, name)).is_file() and not path.is_symlink())


def _converted(task: _Task) -> Result:
    result = Result(str(task.source))
    try:
        base = base_of(task.source, task.job)
        if base.exists() and not task.job.force:
            result.status = "skipped"
            return result
        if task.job.output is not None:
            naming.make_folder(task.folder)
        return convert_one(task.source, task.job)
    except naming.Exists:  # one of several models' outputs
        result.status = "skipped"
    except Exception as error:  # a fault of ours in one file is no reason to leave the others
        result.failure = Failure.of(error, task.source)
    return result
