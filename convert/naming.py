"""Where an output stands and what it is called, and whether it may be made there: decided before a byte is written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from formats.core.errors import OutputError

LONGEST_NAME = 255  # bytes, the limit of every common file system; the temporary's ending needs some of them
TEMPORARY = 24


# What people call the files that this program reads; every one of them is taken off a source's name.
SUFFIXES = frozenset((
    ".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl", ".pickle", ".th", ".t7", ".sav", ".model", ".jit", ".ptl", ".pt2", ".zip", ".npz",
    ".onnx", ".safetensors", ".gz", ".xz", ".bz2", ".zst",
))  # fmt: skip


def stem(name: str, suffixes: Iterable[str]) -> str:
    """``name`` less every known suffix at its end, the longest first: ``in.pth.tar`` → ``in``. Never empty."""
    ordered = sorted({s.lower() for s in suffixes}, key=len, reverse=True)
    while True:
        for suffix in ordered:
            if name.lower().endswith(suffix) and len(name) > len(suffix):
                name = name[: -len(suffix)]
                break
        else:
            return name


def target(source: Path, to: str, suffixes: Iterable[str], output: str | None, out_dir: str | None) -> Path:
    """The output of a source that holds one model."""
    if output is not None:
        return Path(output)
    folder = source.parent if out_dir is None else Path(out_dir)
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


def check_place(path: Path, source: Path, *, create: bool) -> None:
    """What can be said before ``source`` is read: the folder takes files (``create``: or can be made), and the name is not too long."""
    if len(os.fsencode(path.name)) > LONGEST_NAME - TEMPORARY:
        raise OutputError(
            f"name of {len(os.fsencode(path.name))} bytes, at most {LONGEST_NAME - TEMPORARY} can be written", path=path
        )
    if path.is_dir():
        raise OutputError("is a folder", path=path, hint="name a file with -o, or a folder with --out-dir")
    if same(path, source):
        raise OutputError("is the source itself, which is never changed", path=path, hint="name another output with -o")
    folder = path.parent
    while create and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    _check_folder(folder)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the output's folder cannot be made: {error.strerror}", path=folder) from error


class Exists(OutputError):
    """The output is there already and nobody said that it may be replaced."""

    kind = "exists"


def check(path: Path, source: Path, *, force: bool) -> None:
    """Raise `OutputError` where ``path`` cannot or must not become an output of ``source``."""
    if same(path, source):
        raise OutputError("is the source itself, which is never changed", path=path, hint="name another output with -o")
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot be made: {error.strerror}", path=path) from error
    if stat.S_ISDIR(found.st_mode):
        raise OutputError("is a folder", path=path, hint="name a file with -o, or a folder with --out-dir")
    if stat.S_ISLNK(found.st_mode):
        raise OutputError("is a symbolic link, which is never replaced", path=path, hint="name the file that it points to")
    if not stat.S_ISREG(found.st_mode):
        raise OutputError("is a device or a pipe, not a regular file", path=path)
    if not force:
        raise Exists("exists already", path=path, hint="--force replaces it")


def _check_folder(folder: Path) -> None:
    try:
        found = folder.stat()
    except OSError as error:
        raise OutputError(f"the output's folder: {error.strerror}", path=folder) from error
    if not stat.S_ISDIR(found.st_mode):
        raise OutputError("the output's folder is no folder", path=folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError("the output's folder cannot be written to", path=folder)


def same(first: Path, second: Path) -> bool:
    """Whether both names lead to one file, by links of either kind."""
    try:
        return os.path.samestat(first.stat(), second.stat())
    except OSError:
        return False
