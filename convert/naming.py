"""Where an output stands and what it is called, and whether it may be made there: decided before a byte is written."""

from __future__ import annotations

import os

from formats.core.errors import OutputError
from formats.core.files import located

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LONGEST_NAME = 255  # bytes, the limit of every common file system


# What people call the files that this program reads; every one of them is taken off a source's name.
SUFFIXES = frozenset((
    ".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl", ".pickle", ".th", ".t7", ".sav", ".model", ".jit", ".ptl", ".pt2", ".zip", ".npz",
    ".onnx", ".safetensors", ".gz", ".xz", ".bz2", ".zst",
))  # fmt: skip


def stem(name: str, suffixes: Iterable[str]) -> str:
    """``name`` less every known suffix at its end, the longest first: ``in.pth.tar`` → ``in``. Never empty."""
    endings = tuple({suffix.lower() for suffix in suffixes})
    while True:
        lower = name.lower()
        if not lower.endswith(endings):
            return name
        longest = max((len(suffix) for suffix in endings if lower.endswith(suffix) and len(suffix) < len(name)), default=0)
        if not longest:
            return name
        name = name[:-longest]


def target(source: Path, to: str, suffixes: Iterable[str], output: str | None, out_dir: str | None) -> Path:
    """The output of a source that holds one model."""
    if output is not None:
        return located(output)
    folder = source.parent if out_dir is None else located(out_dir)
    return folder / (stem(source.name or source.resolve().name, suffixes) + "." + to)


def of_model(base: Path, name: str, to: str) -> Path:
    """``base`` for one of several models: ``in.safetensors`` → ``in.generator.safetensors``."""
    if not name:
        return base
    suffix = "." + to
    kept = base.name[: -len(suffix)] if base.name.lower().endswith(suffix.lower()) else base.name
    ending = base.name[len(kept) :]
    return base.with_name(f"{kept}.{_file_name(name)}{ending}")


def _file_name(name: str) -> str:
    """A model's name comes from the file: only harmless characters of it get into a file name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name).strip(".")[:80] or "model"


def check_place(path: Path, source: Path, *, named: bool, create: bool) -> None:
    """What can be said before ``source`` is read: the folder takes files (``create``: or can be made), and the name is not too long.

    Only a ``named`` output is sure to be called so: of several models each gets a name of its own.
    """
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise OutputError(f"name of {len(os.fsencode(path.name))} bytes, at most {LONGEST_NAME} can be written", path=path)
    if named and path.is_dir():
        raise OutputError("is a folder", path=path, hint="name a file with -o, or a folder with --out-dir")
    if named and same(path, source):
        raise OutputError("is the source itself, which is never changed", path=path, hint="name another output with -o")
    upload = getattr(path, "check_upload", None)
    if upload is not None:  # a remote place has no folders
        upload()
        return
    folder = path.parent
    while create and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    _check_folder(folder)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it."""
    if folder.is_dir():
        return
    if getattr(folder, "check_upload", None) is not None:  # a remote place has no folders
        return
    missing = [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the output's folder cannot be made: {error.strerror}", path=folder) from error
    from formats.core.replacing import flush_folder

    for made in missing:  # its name is durable when the folder around it is flushed
        flush_folder(made.parent)


class Exists(OutputError):
    """The output is there already and nobody said that it may be replaced."""

    kind = "exists"


def check(path: Path, source: Path, *, force: bool) -> None:
    """Raise `OutputError` where ``path`` cannot or must not become an output of ``source``."""
    from formats.core.output import check_output

    if same(path, source):
        raise OutputError("is the source itself, which is never changed", path=path, hint="name another output with -o")
    if not force and path.is_file() and not path.is_symlink():
        raise Exists("exists already", path=path, hint="--force replaces it")
    upload = getattr(path, "check_upload", None)
    if upload is not None:
        upload()
    elif path.parent.is_dir():  # a folder that is still to be made holds nothing
        check_output(path, force=force)


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise OutputError("the output's folder is not there", path=folder, hint="--out-dir makes it")
    if not folder.is_dir():
        raise OutputError("the output's folder is no folder", path=folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError("the output's folder cannot be written to", path=folder)


def same(first: Path, second: Path) -> bool:
    """Whether both names lead to one file, by links of either kind."""
    try:
        return os.path.samestat(first.stat(), second.stat())
    except OSError:
        return False
