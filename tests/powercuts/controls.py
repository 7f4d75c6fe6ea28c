"""Writers that do not flush, to see that the harness finds them out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.command import environment
from tests.faults.paths import Reference, restore, snapshot
from tests.powercuts.trial import Writer

# os._exit: what comes to the disk while the interpreter ends comes after the writer's end.
_SAFETENSORS = "from safetensors.torch import save_file; save_file(torch.load('in.pt'), 'out.safetensors')"
_TORCH = "torch.save(torch.load('in.pt'), 'out.pt')"
_RENAMED = "torch.save(torch.load('in.pt'), 'out.tmp'); os.replace('out.tmp', 'out.pt')"


def _weights(folder: Path, seed: int, name: str) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    torch.save({"weight": torch.randn(1000, 1200, generator=generator)}, folder / name)


def controls(root: Path) -> list[Writer]:
    """safetensors' own writer; torch's, over an old file; and torch's by way of a temporary file that nobody flushes."""
    found = []
    for name, code, output, forced in (
        ("safetensors.torch.save_file, new file", _SAFETENSORS, "out.safetensors", False),
        ("torch.save over an old file", _TORCH, "out.pt", True),
        ("torch.save to a temporary file, renamed, not flushed", _RENAMED, "out.pt", False),
    ):
        folder = root / output / name.replace(" ", "-")
        restore(folder, {})
        _weights(folder, 1, "in.pt")
        inputs = snapshot(folder)

        def action(folder: Path, code: str = code) -> int:
            code = f"import os, torch; {code}; os._exit(0)"
            return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), check=False).returncode

        assert action(folder) == 0
        new = {output: (folder / output).read_bytes()}
        _weights(folder, 2, "old")
        old = {output: (folder / "old").read_bytes()} if forced else {}
        found.append(Writer(name, Reference(inputs, new, old), action, None, forced))
    return found
