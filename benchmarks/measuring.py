"""Contenders in alternating rounds, each run a process of its own; disturbed runs are thrown out by a rule.

A round runs every contender once, in an order that turns from round to round, so that each figure can be set against the others of its
own round. Dirty pages are flushed before each run, the page cache is warm. A run is *disturbed* where other processes used more than
`SHARE` of a core while it ran (and more than the clock of `/proc/stat` can tell, `RESOLUTION`): it is repeated up to `TRIES` times, then
its whole round is thrown out and another begun, up to `PATIENCE` times as many rounds as asked for. After `LIMIT` seconds the rounds
that there are have to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
UNSYNCED = HERE / "unsynced"
SHARE = 0.10  # of a core
RESOLUTION = 0.02  # seconds: two ticks
TRIES = 3
PATIENCE = 3
LIMIT = 240.0  # seconds a case
LEAST = 3  # undisturbed rounds without which nothing is said


class Run(NamedTuple):
    """One process: seconds of wall, user and system time, peak memory in bytes, CPU seconds of other processes meanwhile."""

    wall: float
    user: float
    system: float
    peak: int
    others: float

    @property
    def cpu(self) -> float:
        return self.user + self.system

    @property
    def disturbed(self) -> bool:
        return self.others > SHARE * self.wall + RESOLUTION


@dataclass(frozen=True)
class Contender:
    """A command line and the file or folder that it makes, which ``check`` judges after each run and which is then removed.

    ``base``: others are compared with it. ``synced`` False takes fsync from it. ``every`` n: it runs in every n-th round. ``aside``: the
    output is left beside its place instead of being removed, see `set_aside`.
    """

    name: str
    argv: list[str]
    output: Path | None = None
    check: Callable[[Path], None] | None = None
    base: bool = False
    synced: bool = True
    core: int | None = None
    every: int = 1
    aside: bool = False


@dataclass
class Series:
    """The rounds that count: each maps a contender's name to its run. Repeated runs and thrown-out rounds are counted."""

    rounds: list[dict[str, Run]] = field(default_factory=list)
    repeated: int = 0
    thrown_out: int = 0
    disturbed: int = 0  # runs that are kept although they were disturbed, because that was asked for

    def runs(self, name: str) -> list[Run]:
        return [entry[name] for entry in self.rounds if name in entry]


class TooNoisy(Exception):
    """There were not enough undisturbed rounds."""


def measure(argv: Sequence[str], log: Path, *, synced: bool = True, core: int | None = None) -> Run:
    """Run ``argv`` in `meter`; raises `SystemExit` with its output where it fails."""
    os.sync()
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once, as in an installation
    environment.pop("PYTHONPATH", None)
    if not synced:
        environment["PYTHONPATH"] = str(UNSYNCED)
    meter = [sys.executable, "-I", "-S", str(HERE / "meter.py"), str(log), "-" if core is None else str(core), *argv]
    done = subprocess.run(meter, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, env=environment)
    status, *figures = json.loads(done.stdout)
    if status != 0:
        raise SystemExit(f"{' '.join(argv)}: exit {status}\n{log.read_text(errors='replace')}")
    return Run(*figures)


def run_once(contender: Contender, log: Path) -> Run:
    """One run, its output checked and removed."""
    if contender.output is not None:
        remove(contender.output)
    run = measure(contender.argv, log, synced=contender.synced, core=contender.core)
    if contender.output is not None:
        if contender.check is not None:
            contender.check(contender.output)
        (set_aside if contender.aside else remove)(contender.output)
    return run


def alternate(
    contenders: Sequence[Contender],
    rounds: int,
    log: Path,
    *,
    keep_disturbed: bool = False,
    before: Callable[[], None] = lambda: None,
    once: Callable[[Contender, Path], Run] = run_once,
) -> Series:
    """``rounds`` undisturbed rounds, or as many as there were; `TooNoisy` below `LEAST`. ``before`` is called before each run."""
    series = Series()
    end = time.monotonic() + LIMIT
    for begun in range(rounds * (1 if keep_disturbed else PATIENCE)):
        if len(series.rounds) == rounds or time.monotonic() > end:
            break
        turn = begun % len(contenders)
        kept: dict[str, Run] = {}
        for contender in [*contenders[turn:], *contenders[:turn]]:
            if len(series.rounds) % contender.every:
                continue
            run = None
            for attempt in range(TRIES):
                before()
                run = once(contender, log)
                if not run.disturbed or keep_disturbed:
                    break
                series.repeated += attempt < TRIES - 1
                run = None
            if run is None:
                break
            kept[contender.name] = run
        else:
            series.rounds.append(kept)
            series.disturbed += sum(run.disturbed for run in kept.values())
            continue
        series.thrown_out += 1
    if len(series.rounds) < min(LEAST, rounds):
        raise TooNoisy(f"{len(series.rounds)} of {rounds} rounds were undisturbed")
    return series


def set_aside(path: Path) -> None:
    """Rename ``path`` to a name beside it that is not in use.

    For a minute after 10,000 files were removed ext4 takes 0.65 ms instead of 0.03 to make one: it passes over the inodes that were just
    freed one by one. Nobody's new tree stands where as large a one was removed just now.
    """
    number = 0
    while (place := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    path.rename(place)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
