"""Measure ``convert FILE --to safetensors`` as a whole process, against cp and against torch, and check what it wrote.

Every contender runs once a round, in an order that turns from round to round; a ratio is the median of the rounds' own ratios to
the cp of the same round. Page cache warm, dirty pages flushed before each run. Each output is compared, tensor by tensor, with what
`torch.load` + `safetensors.torch.save_file` wrote in the same round; a run that fails or differs ends the measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
NAIVE = "import sys, torch; from safetensors.torch import save_file; save_file(torch.load(sys.argv[1]), sys.argv[2])"
PIECE = 1 << 20  # bytes compared at once


@dataclass
class Run:
    """One process: seconds of wall, user and system time, peak memory in bytes, and cores that the rest of the machine used."""

    wall: float
    user: float
    system: float
    peak: int
    others: float


@dataclass
class Measured:
    """All runs of one contender on one input; ``ratios`` are to the cp of the same round."""

    contender: str
    runs: list[Run] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


def command() -> list[str]:
    script = Path(sys.executable).with_name("ckpt-convert")
    return [str(script)] if script.exists() else [sys.executable, "-m", "convert"]


def contenders(source: Path, out: Path) -> dict[str, tuple[list[str], Path]]:
    """{name: (command line, its output)}."""
    convert, bare, naive, copy, durable = (out / name for name in ("a.safetensors", "b.safetensors", "c.safetensors", "d", "e"))
    return {
        "cp": (["cp", str(source), str(copy)], copy),
        "cp + fsync": (["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(durable)], durable),
        "convert": ([*command(), str(source), "--to", "safetensors", "-o", str(convert)], convert),
        "convert --verify none": ([*command(), str(source), "--to", "safetensors", "--verify", "none", "-o", str(bare)], bare),
        "torch + save_file": ([sys.executable, "-c", NAIVE, str(source), str(naive)], naive),
    }


def _busy() -> float:
    """CPU seconds that all processes of the machine have used, where the kernel says so."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def measure(argv: list[str], log: Path) -> Run:
    """Run ``argv`` in `meter`; raises `SystemExit` with its output where it fails."""
    os.sync()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once, as in an installation
    before = _busy()
    meter = [sys.executable, "-I", "-S", str(HERE / "meter.py"), str(log), *argv]
    done = subprocess.run(meter, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, env=environment)
    status, wall, user, system, peak = done.stdout.split()
    if status != "0":
        raise SystemExit(f"{' '.join(argv)}: exit {status}\n{log.read_text(errors='replace')}")
    own = float(user) + float(system)
    return Run(float(wall), float(user), float(system), int(peak), max(_busy() - before - own, 0.0) / float(wall))


def _header(path: Path) -> tuple[dict[str, dict[str, object]], int]:
    """(entry by tensor, byte offset of the first) of a safetensors file."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    return entries, 8 + length


def _span(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        while start < stop:
            piece = stream.read(min(PIECE, stop - start))
            start += len(piece)
            yield piece or b"?"


def assert_equal(one: Path, other: Path) -> None:
    """Both files hold the same tensors, bit for bit; `SystemExit` names the first that differs."""
    (entries, base), (wanted, wanted_base) = _header(one), _header(other)
    if entries.keys() != wanted.keys():
        raise SystemExit(f"{one} and {other} hold different keys")
    if entries == wanted:  # one layout: the data can be compared in one go
        if any(
            a != b
            for a, b in zip(_span(one, base, one.stat().st_size), _span(other, wanted_base, other.stat().st_size), strict=True)
        ):
            raise SystemExit(f"{one} and {other} differ")
        return
    for key, entry in entries.items():
        spans = []
        for path, start, found in ((one, base, entry), (other, wanted_base, wanted[key])):
            low, high = found["data_offsets"]  # type: ignore[misc]
            spans.append(_span(path, start + low, start + high))
        same_type = (entry["dtype"], entry["shape"]) == (wanted[key]["dtype"], wanted[key]["shape"])
        if not same_type or any(a != b for a, b in zip(*spans, strict=True)):
            raise SystemExit(f"{one} and {other} differ in {key}")


def measure_input(size: str, count: int, rounds: int, work: Path) -> list[Measured]:
    """All contenders on one checkpoint; it is removed afterwards."""
    nbytes = int(float(size[:-1]) * UNITS[size[-1]])
    free = shutil.disk_usage(work).free
    if free < 6 * nbytes:
        raise SystemExit(f"{work}: {free >> 20} MiB free, {size} needs {6 * nbytes >> 20}")
    source, out = work / f"{size}-{count}.pth", work / "out"
    subprocess.run([sys.executable, "-m", "benchmarks.inputs", str(source), str(nbytes), str(count)], check=True, cwd=ROOT)
    out.mkdir(exist_ok=True)
    try:
        lines = contenders(source, out)
        measured = {name: Measured(name) for name in lines}
        names = list(lines)
        for argv, output in lines.values():  # warm: page cache, compiled modules
            measure(argv, work / "log")
            output.unlink()
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                measured[name].runs.append(measure(lines[name][0], work / "log"))
            naive = lines["torch + save_file"][1]
            for name in ("convert", "convert --verify none"):
                assert_equal(lines[name][1], naive)
            for name, entry in measured.items():
                entry.ratios.append(entry.runs[-1].wall / measured["cp"].runs[-1].wall)
                lines[name][1].unlink()
        return list(measured.values())
    finally:
        shutil.rmtree(out)
        source.unlink(missing_ok=True)


def measure_start(rounds: int, work: Path) -> list[Measured]:
    """Processes that do nothing; ratios are to the bare interpreter."""
    lines = {"python -c pass": [sys.executable, "-c", "pass"], "convert --version": [*command(), "--version"]}
    measured = {name: Measured(name) for name in lines}
    for _ in range(rounds):
        for name, argv in lines.items():
            measured[name].runs.append(measure(argv, work / "log"))
        for entry in measured.values():
            entry.ratios.append(entry.runs[-1].wall / measured["python -c pass"].runs[-1].wall)
    return list(measured.values())


def rows(title: str, measured: list[Measured]) -> Iterator[str]:
    """The table's lines: medians, and the least wall time."""
    others = statistics.median(run.others for entry in measured for run in entry.runs)
    mark = f"  (load: other processes used {others:.1f} cores)" if others > 0.2 else ""
    yield f"\n{title}, {len(measured[0].runs)} rounds{mark}"
    yield f"  {'':<24}{'wall s':>9}{'least':>9}{'CPU s':>9}{'peak MB':>9}{'ratio':>8}"
    for entry in measured:
        walls = [run.wall for run in entry.runs]
        cpu = statistics.median(run.user + run.system for run in entry.runs)
        peak = statistics.median(run.peak for run in entry.runs) / 1e6
        yield (
            f"  {entry.contender:<24}{statistics.median(walls):>9.3f}{min(walls):>9.3f}{cpu:>9.3f}{peak:>9.1f}"
            f"{statistics.median(entry.ratios):>8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["45M"], help="bytes of weights: 45M, 500M, 2G")
    parser.add_argument("--tensors", nargs="+", type=int, default=[20, 2000, 100_000], help="tensors in each checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where inputs and outputs are made, and removed")
    parser.add_argument("--json", type=Path, help="write every run there")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)

    results: dict[str, list[Measured]] = {"start-up": measure_start(max(asked.rounds, 9), asked.work)}
    print("\n".join(rows("start-up", results["start-up"])), flush=True)
    for size in asked.sizes:
        for count in asked.tensors:
            title = f"{size} in {count} tensors"
            results[title] = measure_input(size, count, asked.rounds, asked.work)
            print("\n".join(rows(title, results[title])), flush=True)
    if asked.json:
        machine = {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cores": os.cpu_count(),
            **{name: version(name) for name in ("torch", "safetensors")},
        }
        document = {
            "machine": machine,
            "rounds": asked.rounds,
            "results": {title: [asdict(entry) for entry in measured] for title, measured in results.items()},
        }
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"\n{asked.json}")


if __name__ == "__main__":
    main()
