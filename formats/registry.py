"""Which formats there are, and which one an input is. One row a format; others come by the entry point ``ckpt_convert.formats``."""

from __future__ import annotations

import sys

from formats.core.checkpoint import Checkpoint
from formats.core.errors import (
    AmbiguousCheckpoint,
    CheckpointError,
    CorruptCheckpoint,
    LimitExceeded,
    SystemIOError,
    UnknownFormat,
    Unsupported,
)
from formats.core.files import SourceFile, located
from formats.core.probe import Probe
from formats.core.protocol import Format, Match

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path
    from types import ModuleType
    from typing import Any

ENTRY_POINT = "ckpt_convert.formats"
MAX_DEPTH = 2  # archives around a checkpoint
_ZIP = (b"PK",)

ROWS: tuple[Format, ...] = (
    Format(
        "torch-zip", "torch.save, ZIP container (torch ≥ 1.6, and 1.4 by option)", "formats.torch_zip", heads=_ZIP,
        members=frozenset({"data.pkl"}),
    ),
    Format(
        "torch-legacy", "torch.save, legacy pickle (torch 0.1.10 – 1.5)", "formats.torch_legacy", heads=(b"\x80", b"(", b"L", b"I", b"\x8a")
    ),
    Format(
        "torchscript", "TorchScript (torch.jit.save, mobile .ptl)", "formats.torchscript", heads=_ZIP,
        members=frozenset({"constants.pkl"}),
    ),
    Format(
        "torchscript-json", "TorchScript of torch 1.0 – 1.3 (model.json)", "formats.torchscript_json", heads=_ZIP,
        members=frozenset({"model.json"}),
    ),
    Format(
        "pickled-module", "plain pickle of a module, of tensors or of NumPy arrays", "formats.pickled_module",
        heads=(b"\x80", b"(", b"c", b"]", b"}"), nests=True,
    ),
    Format("torch-package", "torch.package", "formats.torch_package", heads=_ZIP, members=frozenset({"extern_modules"})),
    Format(
        "exported-program", "ExportedProgram (torch.export.save, .pt2)", "formats.exported_program", heads=_ZIP, nests=True,
        members=frozenset({"archive_format", "serialized_exported_program.json"}),
    ),
    Format("folder", "folder that once was a ZIP checkpoint", "formats.folder", files=False, folders=True),
    Format("torch-tar", "torch.save, TAR (torch ≤ 0.1.9)", "formats.torch_tar", heads=(b"ustar",), at=257,
        members=frozenset({"storages", "tensors"}),
    ),
    Format(
        "safetensors", "safetensors", "formats.safetensors", suffixes=(".safetensors",), heads=(b"{",), at=8, writes=True,
        targets=("safetensors",),
    ),
    Format("torch-save", "torch.save, ZIP container", "formats.torch_save", (".pth",), reads=False, writes=True, targets=("pth",)),
    Format("pth-tar", "training checkpoint", "formats.pth_tar", (".pth.tar",), reads=False, writes=True, targets=("pth.tar",)),
    Format(
        "sharded", "sharded model (index of safetensors or .bin)", "formats.sharded", (".safetensors.index.json", ".bin.index.json"),
        heads=(b"{", b" ", b"\n", b"\r", b"\t"), folders=True, nests=True, writes=True, targets=("safetensors",), option="max_shard_size",
    ),
    Format("wrapped", "archive around checkpoints (zip, tar, gz, bz2, xz, zst)", "formats.wrapped", nests=True, surest=Match.CONTAINER),
    Format("torch-distributed", "torch.distributed.checkpoint folder", "formats.distributed", files=False, folders=True, nests=True),
    Format("deepspeed", "DeepSpeed ZeRO folder (stages 1, 2, 3)", "formats.deepspeed", files=False, folders=True, nests=True),
    Format("onnx", "ONNX model: its initializers", "formats.onnx", heads=(b"\x08",)),
    Format(
        "onnx-save", "ONNX model: a program with its weights", "formats.onnx_save", (".onnx",), reads=False, writes=True,
        targets=("onnx",),
    ),
    Format(
        "torch-legacy-save", "torch.save, legacy pickle", "formats.torch_legacy_save", (".pth",), reads=False, writes=True,
        targets=("pth",), option="legacy",
    ),
    Format("npz", "NumPy .npz", "formats.npz", heads=_ZIP, members=frozenset({".npy"})),
    Format("npz-save", "NumPy .npz", "formats.npz_save", (".npz",), reads=False, writes=True, targets=("npz",)),
)  # fmt: skip


_plugins: list[tuple[Format, ...]] = []  # once they are known


def plugins() -> tuple[Format, ...]:
    """Rows of other packages. Asking costs a walk over all installed packages, so nobody asks before our own rows have failed."""
    if _plugins:
        return _plugins[0]
    from importlib.metadata import entry_points

    found: list[Format] = []
    for point in entry_points(group=ENTRY_POINT):
        row = point.load()
        if not isinstance(row, Format):
            raise Unsupported(f"plugin {point.name!r} of {point.value!r} is a {type(row).__name__}, not a formats.Format")
        found.append(row)
    _plugins.append(tuple(found))
    return _plugins[0]


def load(row: Format) -> Any:
    """The module behind a row."""
    __import__(row.module)  # names come from the rows above alone
    return sys.modules[row.module]


def readers() -> Iterator[Format]:
    """Built-in readers first, then those of plugins."""
    yield from (row for row in ROWS if row.reads)
    yield from (row for row in plugins() if row.reads)


def targets() -> list[str]:
    """Every name that ``--to`` takes."""
    return [target for row in (*ROWS, *plugins()) if row.writes and not row.option for target in row.targets]


def target_row(target: str, options: Collection[str] = ()) -> Format:
    """The row of the writer for ``--to target``, given the names of the writer's ``options``."""

    def fitting(rows: tuple[Format, ...]) -> list[Format]:
        found = [row for row in rows if target in row.targets and (not row.option or row.option in options)]
        return sorted(found, key=lambda row: not row.option)

    found = fitting(ROWS) or fitting(plugins())
    if found:
        return found[0]
    raise Unsupported(f"no writer for {target!r}", hint=f"targets are {', '.join(targets())}")


def writer(target: str, options: Collection[str] = ()) -> Any:
    """The writer module for ``--to target``, given the names of the writer's ``options``."""
    return load(target_row(target, options))


def suffixes() -> list[str]:
    """Every suffix that a writer gives its files, longest first."""
    return sorted({s for row in (*ROWS, *plugins()) for s in row.suffixes}, key=len, reverse=True)


def _matches(rows: Iterator[Format], probe: Probe) -> list[tuple[Match, Format]]:
    found = []
    for row in rows:
        if not (row.folders if probe.folder else row.files and _begins(row, probe)):
            continue
        if row.members and not probe.folder and not probe.has_member(row.members):
            continue
        module: ModuleType = load(row)
        match = module.sniff(probe)
        if match > Match.NO:
            found.append((match, row))
    return found


def _begins(row: Format, probe: Probe) -> bool:
    return not row.heads or probe.head.startswith(row.heads, row.at) or probe.path.name.endswith(row.suffixes or ("\0",))


def detect(probe: Probe) -> Format:
    """The one row whose reader is surest. Raises `UnknownFormat` where none is, `AmbiguousCheckpoint` where two are equally sure."""
    own = [row for row in ROWS if row.reads]
    found = _matches((row for row in own if row.surest is Match.CERTAIN), probe)
    if not found or max(found, key=lambda m: m[0])[0] < Match.CERTAIN:
        found += _matches((row for row in own if row.surest is not Match.CERTAIN), probe)
    if not found or max(found, key=lambda m: m[0])[0] < Match.CERTAIN:
        found += _matches((row for row in plugins() if row.reads), probe)
    if not found:
        from formats.core.foreign import recognise

        raise recognise(probe)
    best = max(match for match, _ in found)
    rows = [row for match, row in found if match == best]
    if len(rows) > 1:
        names = " and ".join(row.name for row in rows)
        raise AmbiguousCheckpoint(f"content fits {names} equally well", path=probe.path)
    return rows[0]


def open(path: Path | str) -> Checkpoint:
    """Describe the checkpoint at ``path``. Whatever a malformed input makes a reader raise comes out as one `CheckpointError`."""
    return _open(located(path), 0)


def _open(source: Path | SourceFile, depth: int) -> Checkpoint:
    path = source.path if isinstance(source, SourceFile) else source
    try:
        if depth > MAX_DEPTH:
            raise LimitExceeded(f"lies more than {MAX_DEPTH} archives deep", path=path, hint="unpack the outer archive first")
        probe = Probe(source)
        checkpoint: Checkpoint | None = None
        try:
            row = detect(probe)
            module = load(row)
            if row.nests:
                checkpoint = module.read(source, lambda inner: _open(inner, depth + 1))
            elif not probe.folder and hasattr(module, "read_file"):
                checkpoint = module.read_file(probe.file)  # the very file that was recognised, and its directory, if it has one
            elif not isinstance(source, SourceFile):
                checkpoint = module.read(source)
            else:
                raise Unsupported(f"is {row.title} inside another file", path=path, hint="unpack it first")
        finally:
            if checkpoint is None or probe.folder or all(file is not probe.file for file in checkpoint.files):
                probe.close()
        return checkpoint
    except CheckpointError as error:
        raise error.with_path(path) from error.__cause__
    except OSError as error:
        raise SystemIOError(f"cannot be read: {error.strerror or error}", path=path) from error
    except (RecursionError, MemoryError) as error:
        raise CorruptCheckpoint(f"asks for too much: {type(error).__name__}", path=path) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, ArithmeticError) as error:
        raise CorruptCheckpoint(f"is malformed: {type(error).__name__}: {error!s:.160}", path=path) from error


__all__ = ["ROWS", "UnknownFormat", "detect", "open", "plugins", "readers", "suffixes", "target_row", "targets", "writer"]
