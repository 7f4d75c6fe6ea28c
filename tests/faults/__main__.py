"""Every write path under every fault, by the installed command.

    python -m tests.faults [--only NAME]... [--sample N] [--jobs N]      needs strace

Prints a table, path by path: how many faults of each kind came about, and what went wrong. Exit code 1 where something did.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.command import environment
from tests.faults import oracle, traced
from tests.faults.paths import PATHS, Reference, WritePath, reference, restore, snapshot

KINDS = ("ENOSPC", "EIO", "EDQUOT", "EINTR", "other errors", "nothing written", "SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
SLOW = 60  # faults of a path that runs a model, where no --sample says otherwise


@dataclass
class Tally:
    """What became of one path's faults."""

    path: str
    counts: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    missed: int = 0  # faults that did not come about: the run took another way

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def line(self) -> str:
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(self.codes.items()))
        return (
            f"{self.path}: {self.total} faults, {len(self.wrong)} failures; exit codes {codes}; {self.missed} did not come about"
        )


def try_path(path: WritePath, root: Path, sample: int | None, seed: int = 0) -> Tally:
    """All faults of one path, in a folder of its own."""
    tally = Tally(path.name)
    folder, log = root / "work", root / "log"
    base = reference(path, folder)
    for forced in (False, True) if path.force else (False,):
        before = {**base.inputs, **(base.old if forced else {})}
        command = path.command(folder, force=forced)
        restore(folder, before)
        found = list(traced.faults(traced.calls(command, folder, log)))
        most = sample if sample is not None else SLOW if path.slow else len(found)
        random.Random(seed).shuffle(found)
        for fault in found[:most]:
            restore(folder, before)
            code, said, hit = traced.run(command, folder, fault, log)
            if not hit:
                tally.missed += 1
                continue
            kind = fault.kind if fault.kind in KINDS else "other errors"
            tally.counts[kind] += 1
            tally.codes[code] += 1
            wrong = oracle.judge(base, folder, fault, code, said, forced=forced)
            if path.resumes or not oracle.settled(base, folder, forced=forced):
                wrong += next_run(path, base, folder)
            if wrong:
                tally.wrong.append(f"{fault.call} {fault.kind} ({fault.about}, {'--force' if forced else 'new'}): {'; '.join(wrong)}"
                                   f" | {said.strip()[:200]!r} | {fault.inject}")  # fmt: skip
    return tally


def next_run(path: WritePath, base: Reference, folder: Path) -> list[str]:
    """What is wrong with the run that follows: it has to succeed, and leave nothing of the one that was cut short."""
    force = any(name in snapshot(folder) for name in base.new) and not path.resumes
    if force and not path.force:
        return []  # it writes under other names then
    done = subprocess.run(
        path.command(folder, force=force), env=environment(), cwd=folder, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != path.code:
        return [f"the next run exits with {done.returncode}: {done.stderr.strip()[:200]}"]
    now = base.of(snapshot(folder))
    if now != {**base.inputs, **base.new}:
        return [f"after the next run there is {sorted(set(now) ^ {*base.inputs, *base.new}) or 'other content'}"]
    return []


def table(tallies: list[Tally]) -> str:
    """As Markdown."""
    head = ["write path", *KINDS, "all", "failures"]
    rows = [[t.path, *(str(t.counts[kind] or "–") for kind in KINDS), str(t.total), str(len(t.wrong))] for t in tallies]
    sums = [sum(t.counts[kind] for t in tallies) for kind in KINDS]
    rows.append(["**all**", *map(str, sums), str(sum(sums)), str(sum(len(t.wrong) for t in tallies))])
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", action="append", help="a write path's name, or a part of it")
    parser.add_argument("--sample", type=int, help="at most so many faults of a path, with --force and without")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    if shutil.which("strace") is None:
        print("strace is not here: nothing was tried", file=sys.stderr)
        return 1
    chosen = [path for path in PATHS if given.only is None or any(part in path.name for part in given.only)]
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch, ThreadPoolExecutor(given.jobs) as pool:
        roots = [Path(scratch) / str(number) for number in range(len(chosen))]
        for root in roots:
            root.mkdir()
        waiting = [pool.submit(try_path, path, root, given.sample) for path, root in zip(chosen, roots, strict=True)]
        tallies = []
        for job in waiting:
            tallies.append(job.result())
            print(tallies[-1].line(), file=sys.stderr, flush=True)
    for tally in tallies:
        for line in tally.wrong:
            print(f"{tally.path}: {line}", file=sys.stderr)
    print(table(tallies))
    return int(any(t.wrong for t in tallies))


if __name__ == "__main__":
    sys.exit(main())
