"""``convert inspect --audit`` beside two scanners of pickles, picklescan and modelscan: what each misses, and whom it alarms for nothing.

    python -m benchmarks.audit_scanners [--json benchmarks/results/audit_scanners.json]

The files: the hostile ones (those of the archive and those built by code), the corpus of published checkpoints, and what old releases of
torch wrote. Which of them do harm is not asked of any scanner: a file does if the path that all payloads make stands in it, in whatever
layer of compression, or if it is built as a gadget. The scanners live in an environment of their own under ``.cache/``, because their
pins are not ours; each file is given to each of them in a process that is started again where one died or took more than 20 s.
"""

from __future__ import annotations

import argparse
import bz2
import json
import lzma
import re
import selectors
import subprocess
import sys
import tempfile
import venv
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("picklescan==1.0.5", "modelscan==0.8.8")
PATIENCE = 20  # seconds for one file
MARK = b"ptc-canary"
# Hostile by another way than a call: a codec, an extension, a persistent id.
CALL_NOTHING = frozenset(
    ("op-codecs-encode", "op-ext4", "op-persid-text", "op-pid-empty", "op-pid-none", "ext1", "ext2", "buffer")
)
# Built to call, though with a payload that has no mark.
CALLED = frozenset(
    ("newobj-ex-with-keywords", "stack-global-from-memo", "partial-in-a-set", "python2-names", "op-load-from-bytes")
)
# Counted for nobody: a dangerous name that is not called, or the mark in what is no pickle (a program around an archive, a TAR's link).
NEITHER = frozenset(("geo-wrapper-subclass", "op-build-dict-update", "tar-type-callable", "build-of-a-slot-state", "pid-module",
                     "reduce-with-itself", "tar-extra-abs", "tar-symlink-then-file", "self-extracting-program-around-it"))  # fmt: skip

PICKLESCAN = """
import sys, json, logging
logging.disable(logging.CRITICAL)
from picklescan.scanner import scan_file_path
for line in sys.stdin:
    try:
        found = scan_file_path(line.strip())
        levels = {g.safety.name for g in found.globals}
        answer = ["alarm"] if found.issues_count else ["suspicious"] if "Suspicious" in levels else ["error"] if found.scan_err else []
    except BaseException as error:
        answer = ["error"]
    print("@" + json.dumps(answer), flush=True)
"""
MODELSCAN = """
import sys, json, logging
logging.disable(logging.CRITICAL)
from modelscan.modelscan import ModelScan
for line in sys.stdin:
    try:
        found = ModelScan().scan(line.strip())
        severities = {issue["severity"] for issue in found["issues"]}
        answer = ["alarm"] if severities & {"CRITICAL", "HIGH"} else ["suspicious"] if severities else ["error"] if found["errors"] else []
    except BaseException as error:
        answer = ["error"]
    print("@" + json.dumps(answer), flush=True)
"""
OURS = """
import sys, json
from pathlib import Path
from convert.audit import look_around, watching
from convert.severity import CRITICAL, SUSPICIOUS
from formats import registry
from formats.core.errors import CheckpointError
for line in sys.stdin:
    path = Path(line.strip())
    with watching(path) as notes:
        try:
            registry.open(path).close()
        except CheckpointError:
            pass
        look_around(notes, path)
    found = notes.audit()
    answer = ["alarm"] if found.count(CRITICAL) else ["suspicious"] if found.count(SUSPICIOUS) else []
    print("@" + json.dumps(answer), flush=True)
"""


class Scanner:
    """One scanner in a process of its own."""

    def __init__(self, python: Path, program: str) -> None:
        self.command = [str(python), "-W", "ignore", "-c", program]
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, path: Path) -> str:
        """``alarm``, ``suspicious``, ``error``, ``died`` or nothing."""
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        assert self.process.stdin
        assert self.process.stdout
        print(path, file=self.process.stdin, flush=True)
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while ready.select(PATIENCE):
                line = self.process.stdout.readline()
                if line.startswith("@"):
                    return next(iter(json.loads(line[1:])), "")
                if not line:
                    break
        self.process.kill()
        self.process.wait()
        self.process = None
        return "died"

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def environment() -> Path:
    """The Python that has the scanners."""
    folder = ROOT / ".cache" / "scanners"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return python


def layers(data: bytes) -> Iterator[bytes]:
    """The bytes and everything that is compressed in them, up to a sum that no bomb can pass."""
    left, waiting = 64 << 20, [data]
    while waiting and left > 0:
        data = waiting.pop()
        left -= len(data) + 1
        if not data:
            continue
        yield data
        for opened in (zlib.decompressobj(31), bz2.BZ2Decompressor(), lzma.LZMADecompressor()):
            with suppress(OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
                waiting.append(opened.decompress(data, 1 << 20))
        for count, found in enumerate(re.finditer(rb"PK\x03\x04.{4}\x08\0", data, re.DOTALL)):
            if count == 100:
                break
            with suppress(zlib.error):
                start = found.start()
                skip = (
                    30
                    + int.from_bytes(data[start + 26 : start + 28], "little")
                    + int.from_bytes(data[start + 28 : start + 30], "little")
                )
                waiting.append(zlib.decompressobj(-15).decompress(data[start + skip :], 1 << 20))


def harmful(path: Path, attack_class: str, name: str) -> bool:
    if name in CALL_NOTHING:
        return False
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    marked = any(MARK in layer for file in files if file.stat().st_size < 64 << 20 for layer in layers(file.read_bytes()))
    return marked or attack_class == "rce-gadget" or name in CALLED


def samples(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """(name, class, path) of every file."""
    import csv

    from tests.corpus import fetch
    from tests.hostile.others import CASES

    archive = ROOT / "tests" / "hostile" / "cases.tar.xz"
    subprocess.run(["tar", "-S", "-xJf", str(archive), "-C", str(folder)], check=True)
    with (archive.parent / "manifest.tsv").open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            yield row["id"], row["attack_class"], folder / row["file"]
    (folder / "others").mkdir()
    for name, attack_class, _, build in CASES:
        path = folder / "others" / f"{name}.pth"
        build(path)
        yield name, attack_class, path
    for path in sorted((ROOT / "tests" / "fixtures").glob("*/*")):
        yield path.name, "fixture", path
    corpus = ROOT / ".cache" / "corpus"
    if fetch.fetch(corpus) == 0:
        for row in fetch.rows():
            yield row["file"], "corpus", corpus / row["file"]


def plain(path: Path) -> bool:
    """Whether a scanner can be given it: no pipe or device, in it neither, and no hole of a terabyte."""
    every = [path, *(path.rglob("*") if path.is_dir() else ())]
    return all(p.exists() and not p.is_symlink() and (p.is_dir() or (p.is_file() and p.stat().st_size < 1 << 30)) for p in every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    python = environment()
    scanners = {
        "convert inspect --audit": Scanner(Path(sys.executable), OURS),
        "picklescan": Scanner(python, PICKLESCAN),
        "modelscan": Scanner(python, MODELSCAN),
    }
    counts: dict[str, Counter[str]] = {name: Counter() for name in scanners}
    missed: dict[str, list[str]] = {name: [] for name in scanners}
    false: dict[str, list[str]] = {name: [] for name in scanners}
    files: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for sample, attack_class, path in samples(Path(name)):
            if sample in NEITHER or not plain(path):
                files["skipped"] += 1
                continue
            harm = harmful(path, attack_class, sample)
            files["harmful" if harm else "harmless"] += 1
            for scanner, scan in scanners.items():
                said = scan(path)
                counts[scanner][f"{'harmful' if harm else 'harmless'}: {said or 'nothing'}"] += 1
                if harm and said != "alarm":
                    missed[scanner].append(f"{sample} ({said or 'nothing'})")
                if not harm and said == "alarm":
                    false[scanner].append(sample)
    for scan in scanners.values():
        scan.close()
    rows: dict[str, Any] = {}
    print(
        f"{files['harmful']} files that do harm, {files['harmless']} that run nothing, {files['skipped']} that are counted for nobody"
    )
    print(f"{'':<26}{'missed':>10}{'only suspicious':>17}{'false alarms':>14}{'suspicious':>12}{'failed':>8}")
    for scanner, found in counts.items():
        rows[scanner] = {
            "missed": found["harmful: nothing"] + found["harmful: error"] + found["harmful: died"],
            "only_suspicious": found["harmful: suspicious"],
            "false_alarms": found["harmless: alarm"],
            "suspicious": found["harmless: suspicious"],
            "failed": sum(found[f"{kind}: {how}"] for kind in ("harmful", "harmless") for how in ("error", "died")),
        }
        row = rows[scanner]
        columns = [row[key] for key in ("missed", "only_suspicious", "false_alarms", "suspicious", "failed")]
        print(f"{scanner:<26}" + "".join(f"{value:>{width}}" for value, width in zip(columns, (10, 17, 14, 12, 8), strict=True)))
        rows[scanner] |= {"counts": dict(sorted(found.items())), "not_alarmed": missed[scanner], "false": false[scanner]}
    if options.json:
        options.json.write_text(json.dumps({"packages": PACKAGES, "files": dict(files), "scanners": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
