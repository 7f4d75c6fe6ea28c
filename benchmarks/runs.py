"""How each kind of case is made and run: inputs, contenders, rounds, and what is cleaned up after."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contenders as lines
from benchmarks.cases import Case
from benchmarks.inputs import KINDS
from benchmarks.measuring import ROOT, Contender, Series, alternate, remove, run_once

ROOM = 3  # what is at once on the disk, in units of the weights: input, reference, one output


class Skipped(Exception):
    """The case cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Bench:
    """Where inputs and outputs are made, and how patient this run is. ``keep_inputs``: they stay for the next time."""

    work: Path
    rounds: int | None = None
    keep_disturbed: bool = False
    keep_inputs: bool = False
    cold: bool = False

    @property
    def log(self) -> Path:
        return self.work / "log"

    def run(self, case: Case, contenders: list[Contender], before: Callable[[], None] = lambda: None) -> Series:
        """Everything once, unmeasured (page cache, compiled modules; peers have just made the reference), then the rounds.

        Trees are not converted once more: what a first file is charged for modules is nothing among hundreds.
        """
        for contender in contenders:
            if contender.name != lines.NAIVE and not case.files:
                run_once(contender, self.log)
        return alternate(contenders, self.rounds or case.rounds, self.log, keep_disturbed=self.keep_disturbed, before=before)

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """An empty folder, removed afterwards."""
        path = self.work / name
        remove(path)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            remove(path)

    @contextmanager
    def checkpoint(self, kind: str, nbytes: int, tensors: int) -> Iterator[tuple[Path, Path]]:
        """A checkpoint, and what torch and safetensors make of it as safetensors."""
        stem = f"{kind}-{nbytes}-{tensors}"
        source = self.work / "inputs" / f"{stem}.{'safetensors' if kind == 'safetensors' else 'pth'}"
        reference = self.work / "inputs" / f"{stem}.reference"
        source.parent.mkdir(parents=True, exist_ok=True)
        if not (source.exists() and reference.exists()):
            if (free := shutil.disk_usage(self.work).free) < ROOM * nbytes:
                raise Skipped(f"{free >> 20} MiB are free on the disk, {ROOM * nbytes >> 20} needed")
            make = [sys.executable, "-m", "benchmarks.inputs", str(source), str(nbytes), str(tensors), kind, str(reference)]
            subprocess.run(make, check=True, cwd=ROOT)
        try:
            yield source, reference
        finally:
            if not self.keep_inputs:
                remove(source)
                remove(reference)


def run(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    """The rounds of a case, and the contenders that others are compared with."""
    if case.kind in KINDS:
        return conversion(case, bench)
    return {"start": start, "digests": digests, "migrate": migration, "onnx": onnx}[case.kind](case, bench)


def _bases(contenders: list[Contender]) -> list[str]:
    return [contender.name for contender in contenders if contender.base]


def conversion(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    packed = case.kind in ("strided", "channels-last", "rnn")
    with bench.checkpoint(case.kind, case.nbytes, case.tensors) as (source, reference), bench.folder("out") as out:
        contenders = lines.copies(reference if packed else source, out, core=case.core)
        to = "pth" if case.kind == "safetensors" else "safetensors"
        contenders += lines.conversions(source, out, reference, to, core=case.core)
        if case.every:
            contenders.append(lines.naive(source, out, reference, case.kind, case.every))
        return bench.run(case, contenders, cooling(source) if bench.cold else lambda: None), _bases(contenders)


def cooling(source: Path) -> Callable[[], None]:
    """Drops the source from the page cache."""

    def cool() -> None:
        with source.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    return cool


def start(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    with bench.checkpoint("zip", 4000, 1) as (source, reference), bench.folder("out") as out:
        shipped, unsynced, _ = lines.conversions(source, out, reference)
        nothing = Contender("python -c pass", [sys.executable, "-c", "pass"], base=True)
        contenders = [nothing, Contender("convert --version", [*lines.command(), "--version"]), shipped, unsynced]
        return bench.run(case, contenders), _bases(contenders)


def digests(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    if "--digest" not in subprocess.run([*lines.command(), "x", "--help"], capture_output=True, text=True, check=False).stdout:
        raise Skipped("the command has no --digest")
    with bench.checkpoint("zip", case.nbytes, case.tensors) as (source, reference), bench.folder("out") as out:
        contenders = lines.copies(source, out)
        for entry in lines.conversions(source, out, reference)[:2]:
            name = entry.name.replace("convert", "convert --digest")
            contenders.append(Contender(name, [*entry.argv, "--digest"], entry.output, entry.check, synced=entry.synced))
        return bench.run(case, contenders), _bases(contenders)


def migration(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    """A tree of hard links to a few files, so that it fits the page cache; what is written is written in full."""
    with (
        bench.checkpoint("zip", case.nbytes, case.tensors) as (one, reference),
        bench.folder("tree") as tree,
        bench.folder("out") as out,
    ):
        if (free := shutil.disk_usage(bench.work).free) < 2 * case.nbytes * case.files:
            raise Skipped(f"{free >> 20} MiB are free on the disk, {2 * case.nbytes * case.files >> 20} needed")
        plant(one, tree, case.files)
        contenders = [*loops(tree, out, one.stat().st_size, case.files), *migrations(tree, out, reference, case.files)]
        return bench.run(case, contenders), _bases(contenders)


def plant(one: Path, tree: Path, files: int) -> None:
    """``files`` hard links to copies of ``one``; a file takes some 60,000 links."""
    for number in range(min(files, 4)):
        shutil.copyfile(one, tree / f"{number:05}.pth")
    for number in range(4, files):
        os.link(tree / f"{number % 4:05}.pth", tree / f"{number:05}.pth")


def loops(tree: Path, out: Path, nbytes: int, files: int) -> list[Contender]:
    """cp of each file in a shell's loop, with and without sync of each."""

    def check(made: Path) -> None:
        if [path.stat().st_size for path in made.iterdir()] != [nbytes] * files:
            raise SystemExit(f"{made}: not {files} files of {nbytes} bytes")

    return [
        Contender(name, ["sh", "-c", f'mkdir "$2" && {script}', "sh", str(tree), str(out / "d")], out / "d", check, base=True)
        for name, script in (("loop of cp", lines.COPY_ALL), ("loop of cp + fsync", lines.COPY_ALL_AND_SYNC))
    ]


def migrations(tree: Path, out: Path, reference: Path, files: int) -> list[Contender]:
    """`convert migrate` with two workers, and unsynced; the first output of a run is judged, the others have to be equal to it in size."""
    from benchmarks.outputs import Judged

    judge = Judged(reference)

    def check(made: Path) -> None:
        found = sorted(made.rglob("*.safetensors"))
        if len(found) != files or len({path.stat().st_size for path in found}) != 1:
            raise SystemExit(f"{made}: not {files} outputs of one size")
        judge(found[0])
        judge(found[-1])

    argv = [*lines.command(), "migrate", str(tree), str(out / "m"), "--to", "safetensors", "--jobs", "2"]
    return [
        Contender("migrate, two workers", argv, out / "m", check),
        Contender("migrate, two workers, unsynced", argv, out / "m", check, synced=False),
    ]


def onnx(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    raise Skipped("python -m benchmarks.onnx_memory measures it, in minutes and with torchvision")
