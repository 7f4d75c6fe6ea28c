"""What a conversion of weights loads: nothing heavy, nothing that unpickles, and never because of an input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import command

HEAVY = {
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "safetensors",
    "typer",
    "click",
    "rich",
    "pickle",
    "_pickle",
    "pickletools",
}
# What a plain conversion does without: together they would take as long as everything that is ours.
SLOW = {
    "argparse",
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "inspect",
    "json",
    "pathlib",
    "re",
    "signal",
    "threading",
    "typing",
}
SOURCE = command.ROOT / "tests" / "fixtures" / "torch1.13.1_py3.11"

# Runs a job in a fresh interpreter; the last line of its output lists the top-level modules that are loaded afterwards.
SCRIPT = """
import json, sys
{job}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def loaded_after(job: str) -> set[str]:
    """Top-level modules in `sys.modules` after ``job`` has run in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(job=job)], capture_output=True, text=True, check=False, env=command.environment()
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules() -> list[str]:
    """Every module of the two packages but the command line's own, which imports typer."""
    found = []
    for package in ("convert", "formats"):
        for path in sorted((command.ROOT / package).rglob("*.py")):
            parts = path.relative_to(command.ROOT).with_suffix("").parts
            if not parts[1].startswith("cli") and parts[-1] != "__main__":
                found.append(".".join(part for part in parts if part != "__init__"))
    return found


def test_importing_everything_loads_nothing_heavy() -> None:
    job = "\n".join(f"import {name}" for name in modules())
    assert not loaded_after(job) & HEAVY


@pytest.mark.parametrize("name", ["tinynet_train_numpy_namespace_zip.ckpt", "tinynet_full_custom_legacy.pt"])
@pytest.mark.parametrize("target", ["safetensors", "pth", "pth.tar"])
def test_a_conversion_loads_nothing_heavy(name: str, target: str, tmp_path: Path) -> None:
    arguments = [str(SOURCE / name), "--to", target, "-o", str(tmp_path / f"out.{target}")]
    job = f"from convert.__main__ import main\nassert main({arguments!r}) == 0"
    assert not loaded_after(job) & HEAVY
    assert (tmp_path / f"out.{target}").stat().st_size > 0


@pytest.mark.parametrize("target", ["safetensors", "pth", "pth.tar"])
@pytest.mark.parametrize(
    "name",
    [
        "bilstm_sd_zip.pt",
        "bilstm_sd_legacy.pt",
        "tinynet_full_custom_zip.pt",
        "tinynet_train_numpy_namespace_zip.ckpt",
        "safetensors",
    ],
)
def test_a_plain_conversion_starts_fast(name: str, target: str, tmp_path: Path) -> None:
    source = SOURCE / name
    if name == "safetensors":
        source = tmp_path / "in.safetensors"
        said = json.dumps({"ckpt_convert.tensors": json.dumps({"version": 1, "parameters": [0]})}, separators=(",", ":"))
        header = b'{"__metadata__":%b,"a.b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' % said.encode()
        source.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    arguments = [str(source), "--to", target, "-o", str(tmp_path / f"out.{target}")]
    script = f"""
import sys
before = set(sys.modules)
from convert.__main__ import main
assert main({arguments!r}) == 0
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=command.environment())
    assert done.returncode == 0, done.stderr
    assert not SLOW.intersection(done.stdout.split())


def test_strided_tensors_need_no_numpy(tmp_path: Path) -> None:
    """Where the compiled copy is built; the matrix is large enough for NumPy's import to pay."""
    pytest.importorskip("formats.core._strided", reason="formats.core._strided is not built: there was no compiler")
    import torch

    weight = torch.arange(7 << 20, dtype=torch.float32).view(1 << 10, -1).t()
    torch.save({"w": weight}, tmp_path / "in.pth")
    arguments = [str(tmp_path / "in.pth"), "--to", "safetensors", "-o", str(tmp_path / "out.safetensors")]
    assert "numpy" not in loaded_after(f"from convert.__main__ import main\nassert main({arguments!r}) == 0")
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "out.safetensors")["w"], weight)


def test_memory_is_mapped_and_no_file(tmp_path: Path) -> None:
    """A mapped file that shrinks kills the process."""
    source = tmp_path / "in.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[1000000],"data_offsets":[0,1000000]}}'
    source.write_bytes(len(header).to_bytes(8, "little") + header + bytes(1_000_000))
    job = f"""
import mmap
real, mapped = mmap.mmap, []
def anonymous(file, *arguments, **named):
    mapped.append(file)
    return real(file, *arguments, **named)
mmap.mmap = anonymous
from convert.__main__ import main
assert main({[str(source), "--to", "pth", "-o", str(tmp_path / "out.pth")]!r}) == 0
assert set(mapped) == {{-1}}, mapped
"""
    loaded_after(job)


def test_the_check_sees_what_is_loaded() -> None:
    assert "pickle" in loaded_after("import pickle")
