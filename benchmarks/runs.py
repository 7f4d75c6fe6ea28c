"""How each kind of case is made and run: inputs, contenders, rounds, and what is cleaned up after."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks import contenders as lines
from benchmarks.cases import Case
from benchmarks.inputs import KINDS
from benchmarks.measuring import ROOT, Contender, Series, alternate, remove, run_once
from benchmarks.outputs import Judged

SMALL = 10**6  # bytes
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
        if not (source.exists() and reference.exists()):
            self._make(ROOM * nbytes, source, nbytes, tensors, kind, reference)
        try:
            yield source, reference
        finally:
            if not self.keep_inputs:
                remove(source)
                remove(reference)

    @contextmanager
    def tree(self, nbytes: int, tensors: int, files: int) -> Iterator[Path]:
        """A folder of different checkpoints, with the references of its first and last beside it."""
        folder = self.work / "inputs" / f"tree-{nbytes}-{tensors}-{files}"
        references = [folder.with_name(f"{folder.name}.{place}") for place in ("first", "last")]
        if not all(path.exists() for path in references):
            remove(folder)
            self._make(2 * nbytes * files, folder, nbytes, tensors, "tree", files)
        try:
            yield folder
        finally:
            if not self.keep_inputs:
                for path in (folder, *references):
                    remove(path)

    def need(self, room: int) -> None:
        """Raise `Skipped` where fewer than ``room`` bytes are free."""
        if (free := shutil.disk_usage(self.work).free) < room:
            raise Skipped(f"{free >> 20} MiB are free on the disk, {room >> 20} needed")

    def _make(self, room: int, *arguments: object) -> None:
        self.need(room)
        (self.work / "inputs").mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "benchmarks.inputs", *map(str, arguments)], check=True, cwd=ROOT)


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
    """`convert --digest` where there is such an option; `migrate --digest sha256` of the one file, with all that a migration is."""
    options = subprocess.run([*lines.command(), "x", "--help"], capture_output=True, text=True, check=False).stdout
    with bench.checkpoint("zip", case.nbytes, case.tensors) as (source, reference), bench.folder("out") as out:
        contenders = lines.copies(source, out)
        for entry in lines.conversions(source, out, reference)[:2]:
            if "--digest" in options:
                contenders.append(
                    replace(entry, name=entry.name.replace("convert", lines.DIGEST), argv=[*entry.argv, "--digest"])
                )
        for entry in migrations(source, source, out, 1):
            judge = Judged(reference)
            contenders.append(
                replace(
                    entry,
                    name=entry.name.replace("migrate, two workers", lines.MIGRATE_DIGEST),
                    argv=[*entry.argv, "--digest", "sha256"],
                    check=lambda made, judge=judge: judge(next(made.rglob("*.safetensors"))),
                )
            )
        return bench.run(case, contenders), _bases(contenders)


def migration(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    with bench.tree(case.nbytes, case.tensors, case.files) as tree, bench.folder("out") as out:
        nbytes = sorted({path.stat().st_size for path in tree.iterdir()})
        if case.nbytes < SMALL:  # where a loop would measure the start of cp
            bench.need(2 * (bench.rounds or case.rounds) * case.nbytes * case.files)
            copy = Contender("cp -r", ["cp", "-r", str(tree), str(out / "d")], out / "d", copied(nbytes, case.files), base=True)
            contenders = [replace(entry, aside=True) for entry in (copy, migrations(tree, tree, out, case.files)[0])]
        else:
            contenders = [*loops(tree, out, nbytes, case.files), *migrations(tree, tree, out, case.files)]
        return bench.run(case, contenders), _bases(contenders)


def copied(nbytes: list[int], files: int) -> Callable[[Path], None]:
    """A check for copies of a tree of ``files`` files of these sizes."""

    def check(made: Path) -> None:
        sizes = [path.stat().st_size for path in made.iterdir()]
        if len(sizes) != files or sorted(set(sizes)) != nbytes:
            raise SystemExit(f"{made}: not {files} files of {nbytes} bytes")

    return check


def loops(tree: Path, out: Path, nbytes: list[int], files: int) -> list[Contender]:
    """cp of each file in a shell's loop, with and without sync of each."""
    check = copied(nbytes, files)
    return [
        Contender(name, ["sh", "-c", f'mkdir "$2" && {script}', "sh", str(tree), str(out / "d")], out / "d", check, base=True)
        for name, script in (("loop of cp", lines.COPY_ALL), ("loop of cp + fsync", lines.COPY_ALL_AND_SYNC))
    ]


def migrations(tree: Path, whole: Path, out: Path, files: int) -> list[Contender]:
    """`convert migrate` with two workers, and unsynced.

    How many outputs there are is checked, and two of them as those of a conversion are; ``whole`` is the tree that ``tree`` is the
    beginning of, with its references beside it.
    """
    judges = {"00000.safetensors": Judged(whole.with_name(f"{whole.name}.first"))}
    if tree == whole:
        judges[f"{files - 1:05}.safetensors"] = Judged(whole.with_name(f"{whole.name}.last"))

    def check(made: Path) -> None:
        found = {path.name: path for path in made.rglob("*.safetensors")}
        if len(found) != files:
            raise SystemExit(f"{made}: {len(found)} outputs of {files} files")
        for name, judge in judges.items():
            judge(found[name])

    argv = [*lines.command(), "migrate", str(tree), str(out / "m"), "--to", "safetensors", "--jobs", "2"]
    return [
        Contender("migrate, two workers", argv, out / "m", check),
        Contender("migrate, two workers, unsynced", argv, out / "m", check, synced=False),
    ]


def onnx(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    """Memory is measured by a module of its own, which prints its own table."""
    module = "benchmarks.onnx_memory"
    if find_spec("torchvision") is None:
        raise Skipped("torchvision is not installed; docs/parity.md has the table")
    if subprocess.run([sys.executable, "-m", module], check=False, cwd=ROOT).returncode:
        raise SystemExit(f"python -m {module} failed")
    raise Skipped(f"python -m {module} has said it above")
