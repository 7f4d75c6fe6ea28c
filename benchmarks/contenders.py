"""The command lines that are measured: the command, with and without fsync and verification, cp, and torch with safetensors."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measuring import Contender
from benchmarks.outputs import Judged, equal_to_torch, of_size

CP, SYNCED = "cp", "cp + fsync"
CONVERT, UNSYNCED, UNVERIFIED, NAIVE = "convert", "convert, unsynced", "convert --verify none, unsynced", "torch + safetensors"
DIGEST, MIGRATE_DIGEST = "convert --digest", "migrate --digest sha256"

# What anybody would write. Hugging Face's conversion script does the same, key by key; strided tensors have to be packed for save_file.
TO_SAFETENSORS = (
    "import sys, torch; from safetensors.torch import save_file; "
    "save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])"
)
PACKED = (
    "import sys, torch; from safetensors.torch import save_file; loaded = torch.load(sys.argv[1], weights_only=True); "
    "save_file({key: tensor.contiguous().clone() for key, tensor in loaded.items()}, sys.argv[2])"
)
FROM_SAFETENSORS = "import sys, torch; from safetensors.torch import load_file; torch.save(load_file(sys.argv[1]), sys.argv[2])"
COPY_AND_SYNC = 'cp "$1" "$2" && sync "$2"'
COPY_ALL = 'for file in "$1"/*; do cp "$file" "$2/" || exit; done'
COPY_ALL_AND_SYNC = 'for file in "$1"/*; do cp "$file" "$2/" && sync "$2/${file##*/}" || exit; done'


def command() -> list[str]:
    """The installed command."""
    script = Path(sys.executable).with_name("ckpt-convert")
    return [str(script)] if script.exists() else [sys.executable, "-m", "convert"]


def copies(source: Path, out: Path, *, core: int | None = None) -> list[Contender]:
    """cp, and cp that ends when the bytes are on the disk."""
    check = of_size(source.stat().st_size)
    synced = ["sh", "-c", COPY_AND_SYNC, "sh", str(source), str(out / "e")]
    return [
        Contender(CP, ["cp", str(source), str(out / "d")], out / "d", check, base=True, core=core),
        Contender(SYNCED, synced, out / "e", check, base=True, core=core),
    ]


def conversions(source: Path, out: Path, reference: Path, to: str = "safetensors", *, core: int | None = None) -> list[Contender]:
    """The command as it is, without fsync, and without fsync and verification; outputs are judged against ``reference``."""
    lines = {CONVERT: (True, []), UNSYNCED: (False, []), UNVERIFIED: (False, ["--verify", "none"])}
    # The three write equal bytes, so one full comparison is enough: the later outputs have its digest.
    judge = Judged(reference, None if to == "safetensors" else equal_to_torch)
    output = out / f"a.{to}"
    return [
        Contender(name, [*command(), str(source), "--to", to, "-o", str(output), *more], output, judge, synced=synced, core=core)
        for name, (synced, more) in lines.items()
    ]


def naive(source: Path, out: Path, reference: Path, kind: str, every: int) -> Contender:
    """torch and safetensors in ten words of Python."""
    to = "pth" if kind == "safetensors" else "safetensors"
    script = FROM_SAFETENSORS if to == "pth" else TO_SAFETENSORS if kind in ("zip", "legacy") else PACKED
    output = out / f"c.{to}"
    judge = Judged(reference, equal_to_torch if to == "pth" else None)
    return Contender(NAIVE, [sys.executable, "-c", script, str(source), str(output)], output, judge, every=every)
