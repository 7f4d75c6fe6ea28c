"""A zoo of 10^6 checkpoints, 1 PB, on object storage: hours, requests, memory and cost as functions of workers and bandwidth.

    python -m benchmarks.scale_simulation               print the tables of docs/scale.md
    python -m benchmarks.scale_simulation --write       put them there
    python -m benchmarks.scale_simulation --check       exit 1 where docs/scale.md has others
    python -m benchmarks.scale_simulation --journal N   measure the journal: rows a second, bytes a row, memory of the driver

A discrete-event simulation, seeded: files are taken from one queue by workers, largest first or in the order of a listing; a worker's
time for a file is the slowest of network and CPU, plus requests; workers are taken away at random and what they had is done again; the
driver dies once and resumes from the journal. The rates stand below, each with where it was measured or which assumption it is.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from pathlib import Path
from typing import NamedTuple

FILES, TOTAL = 1_000_000, 10**15
PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
SAMPLE = 20_000  # files that are simulated; each stands for FILES / SAMPLE, on a cluster smaller by the same factor
SHARE = FILES // SAMPLE
SEED = 8

# -- measured on one core of the machine of benchmarks/results/speed-2026-11-25.json (user + system seconds: least disturbed)
CPU_GB = 2.05  # GB/s converted and verified: 500 MB in 300 tensors, 0.281 s less 0.038 s of start
CPU_FILE = 0.0027  # s a file in a warm worker, journal included: 5.44 s for 2,000 files of 100 kB
TORCH_GB, TORCH_FILE = 0.77, 1.43  # torch.load + save_file, a process each: 2.08 s for 500 MB, 1.49 s for 45 MB
PEAK_MB, TORCH_PEAK = 26, 1.46  # resident: a worker; torch, as a multiple of the file
# -- measured by --journal 100000, the same machine with other work on it
JOURNAL_ROWS, JOURNAL_BYTES, DRIVER_BYTES = 1926, 1036, 4871
# -- assumptions, stated and not measured here
NIC = 1.25  # GB/s a node of four cores, each way (10 Gbit)
STREAM = 0.09  # GB/s of one ranged GET
STREAMS = 8  # ranges in flight a worker
LATENCY = 0.03  # s to the first byte
PART = 64 << 20  # bytes a GET and a part of a multipart PUT
GET_RATE, PUT_RATE = 5500, 3500  # requests a second that a prefix of S3 takes
RESUME, REPLACED = 300, 120  # s until a new driver has read its journal and the listing; until a lost node is replaced
DISPATCH = 1000  # tasks a second that one driver of Ray gives out
GET_USD, PUT_USD, STORE_USD = 0.4e-6, 5e-6, 0.023  # a request, a request, a GB-month
NODE_USD, SPOT_USD = 0.20, 0.07  # an hour of four cores, 16 GB and 10 Gbit
LOST = 0.05  # spot nodes taken away an hour
FAILING = 0.002  # of files that fail at first (throttling, resets) and are tried again


class Outcome(NamedTuple):
    hours: float
    busy: float  # share of the worker-hours that moved bytes
    tail: float  # hours after the queue was empty
    again: float  # GB that were converted more than once


def sizes(count: int = SAMPLE, seed: int = SEED) -> list[float]:
    """Bytes of each file: lognormal (half of a hub's files are under some 100 MB, most bytes in a few large ones), from 10 kB to 50 GB,
    scaled to a mean of TOTAL / FILES. Files of larger models come as shards of at most 50 GB."""
    draw = random.Random(seed)
    drawn = [min(max(draw.lognormvariate(0.0, 2.2) * 1e8, 1e4), 5e10) for _ in range(count)]
    for _ in range(40):  # the cap moves the mean
        scale = (TOTAL / FILES) / (sum(drawn) / count)
        if abs(scale - 1) < 1e-9:
            break
        drawn = [min(max(size * scale, 1e4), 5e10) for size in drawn]
    return drawn


def requests(size: float) -> tuple[int, int]:
    """(GETs, PUTs) of one file: the end and the directory of the ZIP, the pickle, then ranges; parts, their beginning and end."""
    parts = max(1, -(-int(size) // PART))
    return 3 + parts, 1 if parts == 1 else parts + 2


def seconds(size: float, nodes_share: float, cpu_gb: float = CPU_GB, cpu_file: float = CPU_FILE, streams: int = STREAMS) -> float:
    """One file in one worker, which has a core and ``nodes_share`` GB/s of its node's network, reading and writing at once."""
    gets, puts = requests(size)
    network = size / 1e9 / min(nodes_share, STREAM * streams)
    waiting = LATENCY * (3 + (gets - 3 + puts) / streams)
    return max(network, size / 1e9 / cpu_gb) + waiting + cpu_file


def simulate(
    files: list[float], workers: int, *, largest_first: bool = True, spot: bool = False, torch: bool = False,
    driver_dies: float | None = None, seed: int = SEED,
) -> Outcome:  # fmt: skip
    """``workers`` workers for ``files``; each is a quarter of a node. ``driver_dies``: at that second everything in hand is lost, and
    work goes on `RESUME` later."""
    draw = random.Random(seed)
    rates = (TORCH_GB, TORCH_FILE) if torch else (CPU_GB, CPU_FILE)
    queue = sorted(files) if largest_first else list(reversed(files))
    free = [(0.0, worker, 0.0, 0.0) for worker in range(workers)]  # done at, worker, begun at, bytes in hand
    heapq.heapify(free)
    busy = again = empty = end = 0.0
    while queue:
        now, worker, *_ = heapq.heappop(free)
        if driver_dies is not None and now >= driver_dies:
            held, free, driver = free, [], driver_dies
            driver_dies = None
            for done, other, begun, size in [(now, worker, now, 0.0), *held]:
                if size and begun < driver < done:
                    again += size / 1e9 * (driver - begun) / (done - begun)
                    queue.append(size)
                heapq.heappush(free, (driver + RESUME, other, 0.0, 0.0))
            continue
        size = queue.pop()
        took = seconds(size, NIC / 4, *rates)
        if torch:  # downloads, then converts, then uploads: nothing overlaps
            network = size / 1e9 / min(NIC / 4, STREAM * STREAMS)
            took += 2 * network + size / 1e9 / TORCH_GB - max(network, size / 1e9 / TORCH_GB)
        lost = draw.expovariate(LOST / 3600) if spot else float("inf")
        if lost < took:
            again += size / 1e9 * lost / took
            queue.append(size)
            heapq.heappush(free, (now + lost + REPLACED, worker, 0.0, 0.0))
            continue
        if draw.random() < FAILING:
            took *= 1.5
            again += size / 2e9
        busy += took
        if not queue:
            empty = now
        end = max(end, now + took)
        heapq.heappush(free, (now + took, worker, now, size))
    return Outcome(end / 3600, busy / (workers * end), (end - empty) / 3600, again)


def bounds(files: list[float], prefixes: int) -> dict[str, float]:
    """Hours that no number of workers gets under."""
    gets, puts = (sum(kind) * SHARE for kind in zip(*map(requests, files), strict=True))
    return {
        f"requests of {prefixes} prefix{'es' if prefixes > 1 else ''}": max(gets / GET_RATE, puts / PUT_RATE) / prefixes / 3600,
        "the journal": FILES / JOURNAL_ROWS / 3600,
        "the driver": FILES / DISPATCH / 3600,
        "the largest file": seconds(max(files), NIC / 4) / 3600,
    }


def tables() -> str:
    files = sizes()
    ordered = sorted(files)
    gets, puts = (sum(kind) * SHARE for kind in zip(*map(requests, files), strict=True))
    text = [
        f"Sizes: median {ordered[len(ordered) // 2] / 1e6:.0f} MB, 99 % under {ordered[len(ordered) * 99 // 100] / 1e9:.1f} GB, largest "
        f"{ordered[-1] / 1e9:.0f} GB; the largest hundredth holds {sum(ordered[-len(ordered) // 100 :]) / sum(ordered):.0%} of the bytes.",
        "",
        f"Requests: {gets / 1e6:.1f} million GETs ({gets * GET_USD:,.0f} USD) and "
        f"{puts / 1e6:.1f} million PUTs ({puts * PUT_USD:,.0f} USD), "
        f"{(gets + puts) / FILES:.0f} a file; "
        f"the second petabyte costs {TOTAL / 1e9 * STORE_USD:,.0f} USD a month to keep.",
        "",
        "| workers | nodes | hours, 16 prefixes | bounded by | hours, one prefix | nodes, USD |",
        "|---|---|---|---|---|---|",
    ]
    for workers in (100, 200, 1000, 4000, 20000):
        found = simulate(files, workers // SHARE)
        spread = bounds(files, 16) | {"the nodes' network": found.hours}
        single = bounds(files, 1) | {"the nodes' network": found.hours}
        by = max(spread, key=lambda name: spread[name])
        hours = spread[by]
        text.append(
            f"| {workers:,} | {workers // 4:,} | {hours:.2f} | {by} | {max(single.values()):.2f} | "
            f"{workers / 4 * hours * NODE_USD:,.0f} |"
        )
    text += ["", "| 200 workers | hours | moving bytes | TB done again | nodes, USD |", "|---|---|---|---|---|"]
    plain = simulate(files, 200 // SHARE)
    for title, found, price in (
        ("largest first", plain, NODE_USD),
        ("in the order of the listing", simulate(files, 200 // SHARE, largest_first=False), NODE_USD),
        ("spot, 5 % of nodes lost an hour", simulate(files, 200 // SHARE, spot=True), SPOT_USD),
        ("the driver dies after half", simulate(files, 200 // SHARE, driver_dies=plain.hours * 1800), NODE_USD),
        ("torch.load + save_file, a process each", simulate(files, 200 // SHARE, torch=True), NODE_USD),
    ):
        text.append(
            f"| {title} | {found.hours:.2f} | {found.busy:.0%} | {found.again * SHARE / 1e3:.2f} | {50 * found.hours * price:,.0f} |"
        )
    text += ["", "| nodes with | hours of 200 workers |", "|---|---|"]
    for gbit in (5, 10, 25, 50):
        took = sum(seconds(size, gbit / 8 / 4, streams=4 * STREAMS) for size in files) * SHARE / 200 / 3600
        text.append(f"| {gbit} Gbit, 32 ranges in flight a worker | {took:.2f} |")
    memory = max(files) * TORCH_PEAK / 1e9
    text += [
        "",
        f"Memory: {PEAK_MB} MB a worker, {PEAK_MB * 4} MB a node; "
        f"torch holds {memory:.0f} GB for the largest file, more than the node has.",
        "",
        f"Journal: {FILES * JOURNAL_BYTES / 1e9:.1f} GB for 10^6 rows of {JOURNAL_BYTES:,} bytes; "
        f"{JOURNAL_ROWS:,} rows a second in groups, so "
        f"{FILES / JOURNAL_ROWS / 60:.1f} minutes of writing in all; "
        f"{FILES * DRIVER_BYTES / 1e9:.1f} GB of memory in the driver, which holds every row.",
    ]
    return "\n".join(text)


def journal(rows: int) -> str:
    """Rows a second and bytes a row of the journal itself, groups of 200, and what an open one holds in memory."""
    import subprocess
    import tempfile
    import time

    from convert.zoo.journal import Journal

    with tempfile.TemporaryDirectory() as folder:
        book = Journal(folder)
        book.begin("scale", {}, "now")
        started = time.perf_counter()
        for first in range(0, rows, 200):
            book.commit([_noted(number) for number in range(first, min(first + 200, rows))])
        rate = rows / (time.perf_counter() - started)
        book.end("now")
        book.close()
        nbytes = book.path.stat().st_size
        code = (
            "import sys\nfrom convert.zoo.journal import Journal\nheld=lambda:int(open('/proc/self/statm').read().split()[1])*4096\n"
            "a=held()\nj=Journal(sys.argv[1],write=False)\nprint(held()-a)"
        )
        held = int(subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout)
    return f"{rate:,.0f} rows a second, {nbytes / rows:.0f} bytes a row, {held / rows:.0f} bytes a row in memory"


def _noted(number: int) -> dict[str, object]:
    name = f"organisation-{number % 997}/model-{number}/pytorch_model.bin"
    output = {
        "path": name.replace(".bin", ".safetensors"), "selected": "state_dict", "tensors": 300, "verdict": "bytes",
        "files": [{"path": name.replace(".bin", ".safetensors"), "bytes": 10**9, "digest": f"crc32:{number:08x}"}],
    }  # fmt: skip
    source = {
        "root": name, "kind": "file", "size": 10**9, "mtime_ns": 10**18 + number, "digest": f"sha256:{number:064x}",
        "format": "torch-zip", "title": "torch.save, ZIP container", "run": 1,
    }  # fmt: skip
    left = [
        {"path": "optimizer", "tensors": 390, "nbytes": 2 * 10**9, "summary": "optimizer state"},
        {"path": "epoch", "summary": "int 90"},
    ]
    conversion = {
        "settings": f"{number % 7:064x}", "stem": name[:-4], "status": "done", "outputs": [output], "dropped": left, "notes": [],
        "attempts": 1, "seconds": 1.25, "tool": "ckpt-convert 0.1.0", "run": 1,
    }  # fmt: skip
    return {"name": name, "source": source, "conversions": {"safetensors": conversion}}


BEGIN, END = "<!-- simulation: begin -->", "<!-- simulation: end -->"


def page(old: str) -> str:
    """docs/scale.md with today's tables."""
    before, _, rest = old.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(description="A petabyte of checkpoints, simulated.")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    parser.add_argument("--check", action="store_true", help="compare them with docs/scale.md")
    parser.add_argument("--journal", type=int, metavar="N", help="measure the journal with N rows")
    chosen = parser.parse_args()
    if chosen.journal:
        print(journal(chosen.journal))
    elif chosen.write:
        PAGE.write_text(page(PAGE.read_text()))
    elif chosen.check:
        return int(page(PAGE.read_text()) != PAGE.read_text())
    else:
        print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())
