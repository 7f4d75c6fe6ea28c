"""One bit changed, or the end cut off: is a tensor ever silently wrong? ``python -m tests.flips`` (``make flips``) tries all.

Each container with a checksum over its data is changed in 20,000 single bits, or all where it has fewer, and cut at every length. Each
changed file is converted: it must be refused, or every tensor that was written is, by name, type, shape and bytes, what the whole file
gives, as the safetensors package reads it. Containers without a checksum are not here, because no reader can tell: legacy pickle,
TAR, safetensors, a ZIP written with ``compute_crc32=False``.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import multiprocessing
import os
import random
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FLIPS = 20_000


def sample() -> dict[str, Any]:
    """Two layers' worth of tensors, a few hundred bytes that no compression makes vanish."""
    import torch

    generator = torch.Generator().manual_seed(3)
    return {
        "layer.weight": torch.randn(8, 6, generator=generator), "layer.bias": torch.randn(8, generator=generator).half(),
        "norm.running_mean": torch.randn(6, generator=generator), "norm.num_batches_tracked": torch.tensor(7),
    }  # fmt: skip


def _saved(tree: Any) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(tree, out)
    return out.getvalue()


def _npz(compressed: bool) -> bytes:
    import numpy

    out = io.BytesIO()
    (numpy.savez_compressed if compressed else numpy.savez)(out, **{key: value.numpy() for key, value in sample().items()})
    return out.getvalue()


def _zipped(members: dict[str, bytes], method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def _deflated(data: bytes) -> bytes:
    """A checkpoint that somebody has zipped anew."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return _zipped({name: archive.read(name) for name in archive.namelist()}, zipfile.ZIP_DEFLATED)


def _ours(target: str) -> bytes:
    from convert import api

    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "source.pth")
        source.write_bytes(_saved(sample()))
        api.convert(source, to=target, out=Path(name, "out"))
        return Path(name, "out").read_bytes()


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


CONTAINERS: dict[str, Callable[[], bytes]] = {
    "torch.save": lambda: _saved(sample()),
    "torch.save, training (.pth.tar)": lambda: _saved({"epoch": 3, "state_dict": sample(), "best": 0.5}),
    "torch.save, zipped anew": lambda: _deflated(_saved(sample())),
    "pth of ours": lambda: _ours("pth"),
    "npz": lambda: _npz(False),
    "npz, compressed": lambda: _npz(True),
    "npz of ours": lambda: _ours("npz"),
    "gzip around torch.save": lambda: gzip.compress(_saved(sample()), mtime=0),
    "bzip2 around torch.save": lambda: bz2.compress(_saved(sample())),
    "xz around torch.save": lambda: lzma.compress(_saved(sample())),
    "zstd around torch.save": lambda: _zstd(_saved(sample())),
    "zip around torch.save": lambda: _zipped({"policy.pth": _saved(sample())}, zipfile.ZIP_STORED),
    "zip around torch.save, deflated": lambda: _zipped({"policy.pth": _saved(sample())}, zipfile.ZIP_DEFLATED),
}

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


class Converter:
    """Converts one file after the other in a folder in memory."""

    def __init__(self) -> None:
        shared = Path("/dev/shm")
        self.place = tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None)
        self.source, self.out = Path(self.place.name, "model.bin"), Path(self.place.name, "out")
        self.out.mkdir()

    def __call__(self, data: bytes) -> Tensors | None:
        """What the safetensors package reads from the conversion of ``data``; None where it was refused. Anything else is raised."""
        from safetensors import deserialize

        from convert import api
        from formats.core.errors import CheckpointError

        self.source.write_bytes(data)
        try:
            api.convert(self.source, to="safetensors", out_dir=self.out)
        except CheckpointError:
            assert not any(self.out.iterdir()), "refused, and something is left"
            return None
        found: Tensors = {}
        for path in self.out.iterdir():
            for name, entry in deserialize(path.read_bytes()):
                found[name] = entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])
            path.unlink()
        return found


def changes(data: bytes, flips: int, cuts: int | None) -> Iterator[tuple[str, bytes]]:
    """``flips`` files with one other bit (all where there are no more), and all cut-off ones or ``cuts`` of them."""
    bits = 8 * len(data)
    rng = random.Random(0)
    for bit in range(bits) if flips >= bits else sorted(rng.sample(range(bits), flips)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield "flip", bytes(changed)
    for length in range(len(data)) if cuts is None else sorted(rng.sample(range(len(data)), cuts)):
        yield "cut", data[:length]


def trial(name: str, *, flips: int = FLIPS, cuts: int | None = None, part: int = 0, parts: int = 1) -> Counter[str]:
    """Counts of ``flip refused``, ``flip equal``, ``flip wrong`` and the same of ``cut``, for every ``parts``-th change."""
    data = CONTAINERS[name]()
    convert = Converter()
    whole = convert(data)
    assert whole is not None, f"{name} cannot be read"
    assert {key: entry[2] for key, entry in whole.items()} == {k: v.numpy().tobytes() for k, v in sample().items()}
    counts: Counter[str] = Counter({"bytes": len(data) if part == 0 else 0})
    for number, (kind, changed) in enumerate(changes(data, flips, cuts)):
        if number % parts == part:
            found = convert(changed)
            counts[f"{kind} {'refused' if found is None else 'equal' if found == whole else 'wrong'}"] += 1
    return counts


def _part(arguments: tuple[str, int, int]) -> tuple[str, Counter[str]]:
    name, part, parts = arguments
    return name, trial(name, part=part, parts=parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begun = time.monotonic()
    totals = {name: Counter[str]() for name in CONTAINERS}
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for name, counts in pool.imap(_part, [(n, part, options.jobs) for n in CONTAINERS for part in range(options.jobs)]):
            totals[name] += counts
    columns = ("bytes", "flip refused", "flip equal", "flip wrong", "cut refused", "cut equal", "cut wrong")
    print(f"{'container':<34}" + "".join(f"{column:>14}" for column in columns))
    for name, counts in totals.items():
        print(f"{name:<34}" + "".join(f"{counts[column]:>14,}" for column in columns))
    if options.json:
        document = {
            "seconds": round(time.monotonic() - begun),
            "containers": {n: {c: t[c] for c in columns} for n, t in totals.items()},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(counts["flip wrong"] or counts["cut wrong"] for counts in totals.values()))


if __name__ == "__main__":
    sys.exit(main())
