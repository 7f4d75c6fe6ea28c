"""The Python interface; the command line calls the same functions.

Everything raises `formats.core.errors.CheckpointError`, whose text is one line and whose ``exit_code`` is the command's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from convert.job import Job, RunOptions
from convert.report import Result
from convert.text import dotted
from formats import registry
from formats.core.errors import CheckpointError, Unsupported, UsageError
from formats.core.files import located
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

if TYPE_CHECKING:
    import numpy
    import torch

    from formats.core.checkpoint import Checkpoint

StrPath = str | os.PathLike[str]


class Tensor:
    """A tensor that has not been read yet: ``dtype`` (torch's name), ``shape``, ``nbytes``; `numpy` and `torch` read it."""

    __slots__ = ("view",)

    def __init__(self, view: AnyTensor) -> None:
        self.view = view

    @property
    def dtype(self) -> str:
        return self.view.dtype.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def nbytes(self) -> int:
        """Size in bytes of the row-major values."""
        return self.view.nbytes

    def chunks(self) -> Iterator[memoryview]:
        """The row-major little-endian bytes in pieces; each is valid until the next is asked for."""
        return self._plain().chunks()

    def tobytes(self) -> bytes:
        """All row-major little-endian bytes."""
        return self._plain().tobytes()

    def numpy(self) -> numpy.ndarray[Any, Any]:
        """A new array of the values. bfloat16 and float8 need the package ``ml_dtypes``; `Unsupported` says so where it is missing."""
        from convert.arrays import numpy_array

        return numpy_array(self._plain())

    def torch(self) -> torch.Tensor:
        """A new tensor of the values on the CPU, sparse and quantised ones as torch has them."""
        from convert.arrays import torch_tensor

        return torch_tensor(self.view)

    def _plain(self) -> TensorView:
        if isinstance(self.view, CompositeTensor):
            raise Unsupported(f"a {self.view.kind} tensor is several plain ones", hint="torch() gives it as torch has it")
        return self.view

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {list(self.shape)})"


class Opened:
    """A checkpoint whose structure has been read. Closing it closes the file."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @property
    def format(self) -> str:
        """Name of the reader, as in ``convert formats``."""
        return self.checkpoint.format

    @property
    def tree(self) -> Any:
        """What the file holds, as data: dicts, lists, scalars, `TensorView`, inert `Record`."""
        return self.checkpoint.tree

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the file, whatever it is for, by the dotted path of keys that leads to it."""
        return {dotted(path): Tensor(view) for path, view in self.checkpoint.tensors()}

    def state_dict(self, *, select: str | None = None, ema: bool = False) -> dict[str, Tensor]:
        """The model's tensors by key. Raises `AmbiguousCheckpoint` where there are several models and ``select`` names none."""
        from convert.select import choose
        from formats.core.errors import AmbiguousCheckpoint

        choices = choose(self.checkpoint, select=select, ema=ema)
        if len(choices) > 1:
            names = ", ".join(choice.path for choice in choices)
            raise AmbiguousCheckpoint(
                f"holds {len(choices)} models: {names}", path=self.checkpoint.path, hint="select=… names one"
            )
        return {key: Tensor(view) for key, view in choices[0].state_dict.tensors.items()}

    def close(self) -> None:
        self.checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Opened({str(self.checkpoint.path)!r}, {self.format})"


def open(path: StrPath) -> Opened:
    """Read the structure of the checkpoint at ``path``: no tensor's bytes, and nothing of the file is run."""
    return Opened(registry.open(located(path)))


def convert(
    source: StrPath,
    *,
    to: str,
    out: StrPath | None = None,
    out_dir: StrPath | None = None,
    select: str | None = None,
    ema: bool = False,
    strip: bool = True,
    keep: str | None = None,
    verify: str = "bytes",
    force: bool = False,
    dry_run: bool = False,
    tied: str = "duplicate",
    dtype: str | None = None,
    dequantize: bool = False,
    run: RunOptions | None = None,
) -> Result:
    """Convert ``source`` to the format ``to`` and say what was done; the options are those of the command.

    ``run`` says which program and inputs ``to="onnx"`` and ``verify="run"`` take, where they are not to be found out.
    Raises what the command would have ended with; nothing is left behind then.
    """
    from convert.pipeline import convert_one

    job = Job(
        sources=(os.fspath(source),), to=to, output=None if out is None else os.fspath(out),
        out_dir=None if out_dir is None else os.fspath(out_dir), select=select, ema=ema, strip=strip, keep=keep,
        verify=verify, force=force, dry_run=dry_run, tied=tied, dtype=dtype, dequantize=dequantize, run=run,
    )  # fmt: skip
    return convert_one(located(source), job)


def inspect(path: StrPath, *, values: bool = False) -> dict[str, Any]:
    """What is in the file, as the document that ``convert inspect --json`` prints; ``values`` looks for NaN, Inf and all-zero."""
    from convert.inspection import inspect as inspected

    return inspected(located(path), values=values).document()


def verify(
    source: StrPath, output: StrPath, *, select: str | None = None, ema: bool = False, run: RunOptions | None = None
) -> dict[str, Any]:
    """Compare every tensor of ``output``, read by the format's own library, with ``source``; the document of ``convert verify``.

    With ``run``, and for an ONNX output, both models are run too; a failure is in the document, not raised.
    """
    if run is not None or Path(output).suffix.lower() == ".onnx":
        from convert.proof import compare

        return compare(located(source), located(output), run or RunOptions(), select=select, ema=ema, bisect=True).document()
    from convert.verification import verify as verified

    return verified(located(source), located(output), select=select, ema=ema).document()


__all__ = ["CheckpointError", "Opened", "RunOptions", "Tensor", "UsageError", "convert", "inspect", "open", "verify"]
