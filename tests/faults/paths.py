"""The write paths: one row each. A row makes its sources, and says which command turns them into which files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.command import argv, environment

FIXTURES = Path(__file__).parent.parent / "fixtures"
TEMPORARY = ".ckpt-tmp"  # what the names of unfinished files and folders end with


@dataclass(frozen=True)
class WritePath:
    """``arguments`` are of the command, run in the folder of the sources; ``{}`` in them is that folder. ``sources(folder, seed)`` makes
    sources of one shape whose values depend on the seed."""

    name: str
    sources: Callable[[Path, int], None]
    arguments: tuple[str, ...]
    force: bool = True  # whether there is a --force, or else the command replaces nothing
    entry: str = ""  # of several files the one that names the others
    replaces: bool = False  # what is there, without being told to
    resumes: bool = False  # the next run is the same command, and goes on
    own: tuple[str, ...] = ()  # beginnings of names whose content depends on times and tries: whole is what the next run can read
    slow: bool = False  # runs a model, takes seconds: a sample of faults is enough
    seeds: tuple[int, int] = (1, 2)
    code: int = 0

    def command(self, folder: Path, *, force: bool = False) -> list[str]:
        return [
            *argv(),
            *(a.replace("{}", str(folder)) for a in self.arguments),
            *(("--force",) if force and self.force and not self.replaces else ()),
        ]


@dataclass
class Reference:
    """What a path's command makes without a fault: ``inputs``, the ``new`` files, and ``old`` ones of other values under the same names."""

    inputs: dict[str, bytes]
    new: dict[str, bytes]
    old: dict[str, bytes] = field(default_factory=dict)
    entry: str = ""
    own: tuple[str, ...] = ()

    def of(self, found: dict[str, bytes]) -> dict[str, bytes]:
        """``found`` less what is the command's own."""
        return {name: data for name, data in found.items() if not name.startswith(self.own or ("/",))}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``: relative name → content; folders end with a slash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() and not path.is_symlink():
            found[name + "/"] = b""
        else:
            data = path.read_bytes() if path.is_file() else b"?"
            page = name.endswith(".html") and data.startswith(b"<!") and data.rstrip().endswith(b"</html>")
            found[name] = b"a whole page" if page else data  # what it says of the machine may differ
    return found


def restore(folder: Path, content: dict[str, bytes]) -> None:
    """Make ``folder`` hold exactly ``content``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in content.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def reference(path: WritePath, folder: Path) -> Reference:
    """Run ``path`` in ``folder`` without a fault, twice: with other values first, then with its own. Outputs that hold the time of day
    or the folder's name would make no reference, so all runs of a path use one folder."""
    made = []
    for seed in reversed(path.seeds):
        restore(folder, {})
        path.sources(folder, seed)
        before = snapshot(folder)
        done = subprocess.run(path.command(folder), env=environment(), cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == path.code, f"{path.name}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        after = snapshot(folder)
        assert {name: after.get(name) for name in before} == before, f"{path.name}: a source was changed"
        made.append((before, {n: data for n, data in after.items() if n not in before and not n.startswith(path.own or ("/",))}))
    (_, old), (inputs, new) = made
    assert new, f"{path.name}: nothing was written"
    return Reference(inputs, new, old if path.force else {}, path.entry, path.own)


def _torch() -> Any:
    import torch

    return torch


def weights(seed: int, count: int = 6, side: int = 40) -> dict[str, Any]:
    torch = _torch()
    generator = torch.Generator().manual_seed(seed)
    return {f"layer{i}.weight": torch.randn(side, side, generator=generator) for i in range(count)}


@cache
def _saved(seed: int, kind: str) -> bytes:
    import io

    torch = _torch()
    if kind == "big":  # enough for two threads
        content: Any = weights(seed, 6, 500)
    elif kind == "training":
        model = torch.nn.Linear(8, 8)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(seed)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
        content = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": seed}
    else:
        content = weights(seed)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _source(kind: str = "plain") -> Callable[[Path, int], None]:
    return lambda folder, seed: (folder / "in.pt").write_bytes(_saved(seed, kind)) and None


def _fixture(name: str) -> Callable[[Path, int], None]:
    return lambda folder, seed: shutil.copyfile(FIXTURES / name, folder / "in.pt") and None


def _convert(to: str, *more: str) -> tuple[str, ...]:
    return ("{}/in.pt", "--to", to, *more)


def _program(folder: Path, seed: int) -> None:
    torch = _torch()
    generator = torch.Generator().manual_seed(seed)
    state = {"one.weight": torch.randn(3, 4, generator=generator), "one.bias": torch.randn(3, generator=generator)}
    torch.save(state, folder / "in.pt")


def _to_diagnose(folder: Path, seed: int) -> None:
    _program(folder, seed)
    torch = _torch()
    state = torch.load(folder / "in.pt", weights_only=True)
    torch.save(state, folder / "like.pt")
    torch.save({f"{'net' if seed == 1 else 'older'}.{name}": tensor for name, tensor in state.items()}, folder / "in.pt")


def _to_compare(folder: Path, seed: int) -> None:
    _program(folder, seed)
    shutil.copyfile(folder / "in.pt", folder / "out.pth")


def _tree(folder: Path, seed: int) -> None:
    for number, name in enumerate(("one.pt", "deep/two.pt", "deep/copy.pt")):
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / name).write_bytes(_saved(seed + 10 * min(number, 1), "plain"))


_RUN = ("--arch", "tests.faults.net:Net", "--input", "2x4")

PATHS: tuple[WritePath, ...] = (
    WritePath("safetensors", _source(), _convert("safetensors")),
    WritePath("safetensors, 6 MB", _source("big"), _convert("safetensors")),
    WritePath(
        "sharded safetensors", _source(), _convert("safetensors", "--max-shard-size", "15KB"), entry="in.safetensors.index.json"
    ),
    WritePath("safetensors, --keep all", _source("training"), _convert("safetensors", "--keep", "all"), entry="in.safetensors"),
    WritePath("pth", _source(), _convert("pth")),
    WritePath("pth, 6 MB", _source("big"), _convert("pth")),
    WritePath("pth.tar", _source("training"), _convert("pth.tar")),
    WritePath("legacy pth", _source(), _convert("pth", "--legacy")),
    WritePath("npz", _source(), _convert("npz")),
    WritePath(
        "class sources",
        _fixture("torch1.6.0_py3.8/tinynet_full_custom_legacy.pt"),
        ("inspect", "{}/in.pt", "--save-source", "{}/classes"),
        force=False,
    ),
    WritePath(
        "doctor --write-rules", _to_diagnose, ("doctor", "{}/in.pt", "--like", "{}/like.pt", "--write-rules", "{}/in.rules")
    ),
    WritePath(
        "parity report", _to_compare, ("verify", "{}/in.pt", "{}/out.pth", "--run", *_RUN, "--html", "{}/r.html"), replaces=True, slow=True
    ),
    WritePath("onnx", _program, _convert("onnx", *_RUN), slow=True),
    WritePath("run before the rename", _program, _convert("safetensors", "--verify", "run", *_RUN), slow=True),
    WritePath(
        "migrate", _tree, ("migrate", "{}/tree", "{}/out", "--to", "safetensors", "--jobs", "1"), force=False, slow=True,
        resumes=True, own=("out/.ckpt-convert", "out/report."),
    ),
    WritePath("release", _source("training"), ("release", "{}/in.pt", "{}/out", "--to", "safetensors", "--name", "model"), slow=True),
)  # fmt: skip


def by_name(name: str) -> WritePath:
    return next(path for path in PATHS if path.name == name)


def listed(content: dict[str, bytes]) -> str:
    return json.dumps({name: len(data) for name, data in content.items()})
