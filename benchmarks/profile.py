"""What each step of a conversion costs: the imports, then the calls from the top down.

    python -m benchmarks.profile in.pth --to safetensors [any other option of the command]

Runs the command three times: alone, with ``-X importtime``, with cProfile. The last two slow down what they look at (calls of a microsecond
count double), so their figures are shares of a whole, and the whole is the first. Only the main thread is profiled. Outputs go to a
folder that is removed.
"""

from __future__ import annotations

import argparse
import itertools
import pstats
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contenders import command
from benchmarks.measuring import ROOT, measure

MAIN = "import sys; from convert.__main__ import main; main(sys.argv[1:])"
PROFILED = (
    "import cProfile, sys; path = sys.argv.pop(1); profile = cProfile.Profile(); profile.enable()\n{main}\nprofile.create_stats()"
)
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|( *)(\S+)")
LEAST = 0.02  # of the whole: what costs less is not shown
DEPTH = 12
Function = tuple[str, int, str]


def imports(stderr: str) -> list[tuple[str, int, int]]:
    """(module, own microseconds, microseconds with what it imports first) of ``-X importtime``, in the order of their ends."""
    return [(found[4], int(found[1]), int(found[2])) for found in map(LINE.match, stderr.splitlines()) if found]


def import_rows(found: Sequence[tuple[str, int, int]], most: int = 15) -> Iterator[str]:
    """Own times by top-level package, then the dearest modules."""
    packages: dict[str, list[int]] = defaultdict(list)
    for module, own, _ in found:
        packages[module.partition(".")[0]].append(own)
    total = sum(own for _, own, _ in found)
    yield f"imports: {len(found)} modules, {total / 1000:.1f} ms"
    for package, times in sorted(packages.items(), key=lambda item: -sum(item[1]))[:most]:
        yield f"  {sum(times) / 1000:>8.2f} ms  {package} ({len(times)} modules)"
    yield "dearest modules, own time"
    for module, own, _ in sorted(found, key=lambda row: -row[1])[:most]:
        yield f"  {own / 1000:>8.2f} ms  {module}"


def call_rows(stats: pstats.Stats) -> Iterator[str]:
    """The tree of calls, each with its share of the whole, what it took with all that it called, and how often it was called."""
    entries = stats.stats  # type: ignore[attr-defined]
    children: dict[Function, list[tuple[float, int, Function]]] = defaultdict(list)
    for function, (_, _, _, _, callers) in entries.items():
        for caller, (calls, _, _, cumulative) in callers.items():
            children[caller].append((cumulative, calls, function))
    root = next(function for function in entries if function[2] == "main" and function[0].endswith("__main__.py"))
    whole = entries[root][3]

    def below(function: Function, cumulative: float, calls: int, path: tuple[Function, ...]) -> Iterator[str]:
        yield f"  {cumulative / whole:>6.1%} {cumulative * 1000:>9.2f} ms {calls:>8} × {'  ' * len(path)}{_name(function)}"
        if len(path) < DEPTH and not function[0].startswith("<frozen importlib"):  # imports have a table of their own
            for cost, times, child in sorted(children[function], key=lambda row: -row[0]):
                if cost >= LEAST * whole and child not in path and child != function:
                    yield from below(child, cost, times, (*path, function))

    yield f"calls, main thread: {whole * 1000:.1f} ms under the profiler"
    yield from below(root, whole, 1, ())


def _name(function: Function) -> str:
    file, line, name = function
    if not line:
        return name
    path = Path(file)
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{line} {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="those of the command, without an output")
    arguments = parser.parse_args().arguments
    if not arguments:
        parser.error("nothing to convert")
    with tempfile.TemporaryDirectory(dir=Path(arguments[0]).resolve().parent if Path(arguments[0]).exists() else None) as folder:
        numbers = itertools.count()

        def base() -> list[str]:  # a folder for each run: an output that is there already would have to be taken apart
            return [*arguments, "--out-dir", f"{folder}/{next(numbers)}"]

        log = Path(folder) / "log"
        whole = min(measure([*command(), *base()], log) for _ in range(4))
        print(f"alone: {whole.wall * 1000:.1f} ms, {whole.cpu * 1000:.1f} ms of CPU time, {whole.peak / 1e6:.1f} MB at most")
        nothing = min(measure([sys.executable, "-c", "pass"], log) for _ in range(4))
        print(f"python -c pass: {nothing.wall * 1000:.1f} ms\n")
        argv = [sys.executable, "-X", "importtime", "-c", MAIN, *base()]
        timed = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
        print("\n".join(import_rows(imports(timed.stderr))), end="\n\n")
        kept = Path(folder) / "profile"
        script = PROFILED.format(main=MAIN) + "; profile.dump_stats(path)"
        subprocess.run([sys.executable, "-c", script, str(kept), *base()], capture_output=True, check=True, cwd=ROOT)
        print("\n".join(call_rows(pstats.Stats(str(kept)))))


if __name__ == "__main__":
    main()
