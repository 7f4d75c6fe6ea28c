"""One copy of the weights for two files: initializers of an ONNX file that point into a ``.safetensors`` file beside it.

A tensor is pointed at only where its dtype, shape and bytes are those of the source, by sha256 of both sides; names do not matter, so
that prefixes, renamed keys and ties on either side do no harm. What the other file does not hold byte for byte stays inside.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.parity import digests
from convert.text import count, shown, size
from formats import registry
from formats.core.errors import CorruptCheckpoint, SystemIOError, Unsupported, UsageError
from formats.core.storage import plain_span
from formats.core.tensor import TensorView

if TYPE_CHECKING:
    from formats.core.checkpoint import Checkpoint


@dataclass(slots=True)
class Shared:
    """The open file beside the output: ``places`` maps an initializer to its byte offset in it."""

    path: Path
    checkpoint: Checkpoint
    places: dict[str, int] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)  # initializer → why it stays in the ONNX file
    nbytes: int = 0

    def find(self, weights: Mapping[str, TensorView], expected: Mapping[str, str], prefix: str) -> None:
        """Look for each of ``weights`` by its digest in ``expected``. Raises `CorruptCheckpoint` where a tensor has a weight's name, dtype
        and shape and other values: that is another checkpoint's file. Raises `Unsupported` where nothing at all can be shared."""
        held: dict[str, TensorView] = {
            ".".join(map(str, at)): view for at, view in self.checkpoint.tensors() if isinstance(view, TensorView)
        }
        named = {key: digests.of_view(view) for key, view in held.items()}
        by_digest: dict[str, str] = {}
        for key, digest in named.items():
            by_digest.setdefault(digest, key)
        other = []
        for key, view in weights.items():
            there = next((name for name in (key, prefix + key) if name in held), None)
            if there is not None and named[there] != expected[key]:
                twin = held[there]
                if twin.dtype.name == view.dtype.name and twin.shape == view.shape:
                    other.append(key)
                    continue
                self.inside[key] = f"is {twin.dtype.name} {list(twin.shape)} there, {view.dtype.name} {list(view.shape)} here"
                there = None
            there = there or by_digest.get(expected[key])
            if there is None:
                self.inside.setdefault(key, "is not there")
                continue
            self.inside.pop(key, None)
            span = plain_span(held[there].row_major())
            if span is None or span[1] % max(view.dtype.itemsize, 1) or not view.nbytes:
                self.inside[key] = "is empty" if not view.nbytes else "does not lie there at a whole number of elements"
                continue
            self.places[key] = span[1]
            self.nbytes += view.nbytes
        if other:
            raise CorruptCheckpoint(
                f"holds other weights than the source: {count(len(other), 'tensor')} of {len(weights):,} differ in value, "
                f"{shown(other[0], 80)} first",
                path=self.path, hint="convert the source itself to safetensors and point at that",
            )  # fmt: skip
        if not self.places:
            key, why = next(iter(self.inside.items()), ("", "there are no weights"))
            raise Unsupported(f"holds none of the weights as they are: {shown(key, 80)} {why}", path=self.path)

    def remark(self) -> str:
        """One line for the report."""
        text = f"weights: {count(len(self.places), 'tensor')} ({size(self.nbytes)}) lie in {self.path.name}, which has to stay beside it"
        if self.inside:
            key, why = next(iter(self.inside.items()))
            text += f"; {count(len(self.inside), 'tensor')} inside the .onnx ({shown(key, 60)} {why}{' …' if len(self.inside) > 1 else ''})"
        return text

    def account(self) -> dict[str, Any]:
        """What the output's metadata say of it."""
        return {"file": self.path.name, "tensors": len(self.places), "inside": sorted(self.inside)}


@contextmanager
def shared(name: str | None, output: Path) -> Iterator[Shared | None]:
    """The file that ``--external-data NAME`` means, open; None for None. It has to lie beside ``output`` and stay as it is."""
    if name is None:
        yield None
        return
    path = located(name, output)
    with registry.open(path) as checkpoint:
        if checkpoint.format != "safetensors":
            raise Unsupported(f"--external-data points into safetensors, this is {checkpoint.format}", path=path)
        yield Shared(path, checkpoint)
        if any(file.changed() for file in checkpoint.files):
            raise SystemIOError("changed while it was read", path=path)


def located(name: str, output: Path) -> Path:
    """``NAME`` beside ``output``, or a path that leads there. Raises `UsageError` where it lies elsewhere or is the output itself."""
    given = Path(name)
    path = output.parent / given.name
    if given.name != name and os.path.realpath(given.parent) != os.path.realpath(output.parent):
        raise UsageError(
            f"--external-data {name}: lies in another folder than the output {output}",
            hint="an ONNX file can name nothing but a file beside it: -o puts it there",
        )
    if path.is_symlink():
        raise UsageError(f"--external-data {name}: is a link, which runtimes do not follow", hint="name the file itself")
    if path.is_file() and path.stat().st_nlink > 1:
        raise UsageError(f"--external-data {name}: has several hard links, which runtimes refuse", hint="copy it")
    if os.path.realpath(path) == os.path.realpath(output):
        raise UsageError(f"--external-data {name}: is the output itself")
    return path


@contextmanager
def at_home(path: Path) -> Iterator[Path]:
    """``path``, in the folder of a trial, under a hidden name in the folder above: beside the file that it points into. onnx refuses data
    behind links of either kind, so it is the model that gets a second name, inside the block."""
    folder = path.parent
    twin = folder.with_name(folder.name.replace(".d.", ".m."))
    twin.unlink(missing_ok=True)  # of a run that was killed
    try:
        try:
            os.link(path, twin)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, twin)
        yield twin
    finally:
        twin.unlink(missing_ok=True)
