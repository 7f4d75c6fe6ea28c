"""One writer on the disk that remembers: prepared, recorded, cut, judged."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.command import environment
from tests.faults import oracle
from tests.faults.paths import Reference, WritePath, reference, restore, snapshot
from tests.powercuts.disk import Cut, cuts, disk, made, mounted, record

FOLDER = "work"  # on the disk
EACH = 7  # every so many cuts the next run is tried too


@dataclass
class Outcome:
    """What became of the cuts of one writer; ``wrong`` says what was found where neither the old nor the new files were whole."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0
    flushes: int = 0

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class Writer:
    """Something that turns a folder's files into others: a command of ours, or a control."""

    name: str
    reference: Reference
    action: Callable[[Path], int]  # in the folder; its exit code
    again: Callable[[Path], int] | None = None
    forced: bool = False


def ours(path: WritePath, root: Path, *, forced: bool) -> Writer:
    """``path`` by the installed command."""

    def run(folder: Path, force: bool) -> int:
        done = subprocess.run(
            path.command(folder, force=force),
            env=environment(),
            cwd="/",
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode

    base = reference(path, root / "reference")
    name = f"{path.name}, {'over old files' if forced else 'new files'}"
    again = (
        (lambda folder: run(folder, not path.resumes)) if path.force or path.resumes else None
    )  # else it writes under other names
    return Writer(name, base, lambda folder: run(folder, forced), again, forced)


def try_writer(writer: Writer, root: Path, *, after: float = 8.5, most: int | None = None, busy: bool = False) -> Outcome:
    """Record one run and judge every disk that a power cut would have left; ``busy``: while somebody else flushes the disk."""
    root.mkdir(parents=True, exist_ok=True)
    base = writer.reference
    before = {**base.inputs, **(base.old if writer.forced else {})}
    image = made(root / "image")
    with mounted(image, root / "prepared") as folder:
        restore(folder / FOLDER, before)
    recording = record(image, root, lambda folder: writer.action(folder / FOLDER), after=after, busy=busy)
    assert recording.code == 0, f"{writer.name}: exit {recording.code}"
    outcome = Outcome(writer.name + (", on a busy disk" if busy else ""))
    outcome.writes = sum(entry.data is not None for entry in recording.entries[: recording.ended])
    outcome.flushes = sum(entry.data is None for entry in recording.entries[: recording.ended])
    for number, cut in enumerate(cuts(recording, most=most, busy=busy)):
        image.write_bytes(disk(recording, cut))
        try:
            with mounted(image, root / "after") as folder:
                wrong = judge(base, folder / FOLDER, cut, forced=writer.forced)
                if writer.again is not None and number % EACH == 0 and not cut.after_end:
                    wrong += next_run(writer, folder / FOLDER)
        except subprocess.CalledProcessError as error:
            wrong = [f"the file system cannot be mounted: {error.stderr.decode('utf-8', 'replace').strip()[:120]}"]
        outcome.counts["after the end" if cut.after_end else "before the end"] += 1
        if wrong:
            when = f"{cut.seconds:g} s after the end" if cut.after_end else f"at write {cut.at} of {recording.ended}"
            outcome.wrong.append(f"{when}, {cut.lost} lost: {'; '.join(wrong)}")
    image.unlink()
    return outcome


def judge(base: Reference, folder: Path, cut: Cut, *, forced: bool) -> list[str]:
    """After the end the new files have to be there, whole; before it the old ones or the new ones."""
    return oracle.left(base, folder, True, 0 if cut.after_end else -9, forced=forced)


def next_run(writer: Writer, folder: Path) -> list[str]:
    """The run after the cut makes the new files and takes away what the other one left."""
    assert writer.again is not None
    code = writer.again(folder)
    if code:
        return [f"the next run exits with {code}"]
    now = writer.reference.of(snapshot(folder))
    return [] if now == {**writer.reference.inputs, **writer.reference.new} else [f"after the next run there is {sorted(now)}"]
