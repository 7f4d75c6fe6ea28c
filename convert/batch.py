"""A whole tree of checkpoints into a mirrored one. No bad file stops the rest; what is there already is left alone."""

from __future__ import annotations

import os
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
from formats.core.errors import OutputError, UnknownFormat, UsageError


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
    planned = list(_planned(source, destination, list(dict.fromkeys(targets)), force, found))
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
    clash: Path | None  # another source that has the same output


def _planned(source: Path, destination: Path, targets: list[str], force: bool, found: Migration) -> Iterator[_Task]:
    owners: dict[Path, Path] = {}
    for path in _files(source, destination):
        folder = destination / path.parent.relative_to(source)
        for target in targets:
            job = Job((str(path),), target, out_dir=str(folder), force=force)
            base = base_of(path, job)
            owner = owners.setdefault(base, path)
            yield _Task(path, job, None if owner == path else owner)


def _files(source: Path, destination: Path) -> Iterator[Path]:
    """Regular files below ``source`` in a fixed order, without following links, and nothing of ``destination``."""
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not naming.same(Path(folder, name), destination))
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _converted(task: _Task) -> Result:
    result = Result(str(task.source))
    try:
        base = base_of(task.source, task.job)
        if task.clash is not None:
            raise OutputError(f"is already the output of {task.clash}", path=base, hint="rename one of the two")
        if base.exists() and not task.job.force:
            result.status = "skipped"
            return result
        return convert_one(task.source, task.job)
    except naming.Exists:  # one of several models' outputs
        result.status = "skipped"
    except Exception as error:  # a fault of ours in one file is no reason to leave the others
        result.failure = Failure.of(error, task.source)
    return result
