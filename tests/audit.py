"""What a file makes happen while it is read or converted, as the interpreter itself reports it (``sys.addaudithook``, PEP 578).

    python -m tests.audit FILE…          one line each: read or refused, and whatever was not allowed

Nothing is allowed but opening the named input for reading, looking into it where it is a folder, and making the named output. Every
other event counts: import, exec, compile, subprocess, os.*, socket, ctypes. To make that strict, every module that a read could
load is loaded beforehand: all of ours, and whatever one of their functions imports.

As a program for tests it reads JSON lines ``{"path": …, "out": folder or null}`` and answers each with a JSON line.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What changes nothing outside the process and loads nothing into it.
_HARMLESS = frozenset({
    "array.__new__", "builtins.id", "object.__getattr__", "sys._getframe", "_thread.start_new_thread", "_thread.start_joinable_thread",
    "gc.get_objects", "time.sleep", "fcntl.flock", "resource.setrlimit", "cpython._PySys_ClearAuditHooks", "sys.unraisablehook",
})  # fmt: skip
_LOOKING = frozenset({"os.listdir", "os.scandir", "os.getxattr", "os.listxattr", "glob.glob", "pathlib.Path.glob"})
_MAKING = frozenset({
    "os.rename", "os.remove", "os.chmod", "os.mkdir", "os.truncate", "os.link", "os.utime", "tempfile.mkstemp", "shutil.rmtree", "os.rmdir",
})  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Codecs that a reader of ours names itself; Python loads each at its first use.
_CODECS = (
    "ascii",
    "cp437",
    "latin-1",
    "raw_unicode_escape",
    "unicode_escape",
    "utf-8",
    "utf-8-sig",
    "utf-32",
    "utf-32-le",
    "utf-32-be",
)
# Too large to load for nothing, and never needed to read; a read that loads one of them is found out.
_HEAVY = frozenset({"torch", "onnx", "onnxruntime", "onnxscript", "rich", "typer", "click", "timm", "torchvision", "numpy",
                    "safetensors", "ml_dtypes"})  # fmt: skip


class Watch:
    """The events of one block, and which files may be touched in it."""

    def __init__(self, source: Path, out: Path | None) -> None:
        self.source = os.path.abspath(source)
        self.folder = os.path.isdir(self.source)
        self.out = None if out is None else os.path.abspath(out)
        self.events: list[str] = []

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _HARMLESS or (event == "mmap.__new__" and args[0] == -1):  # memory, no file
            return
        if event == "open":
            path, mode, flags = args
            writing = bool(flags & _WRITING) if isinstance(flags, int) else any(c in "wax+" for c in mode or "")
            if self._inside_out(path) or (not writing and self._inside_source(path)):
                return
            # What is compressed around a checkpoint is inflated into a file that never has a name.
            # (What `tempfile` opens is the folder itself, with O_TMPFILE: a folder cannot be opened for writing in any other way.)
            if path == tempfile.gettempdir():
                return
        elif event in _LOOKING and (self._inside_source(args[0]) or self._inside_out(args[0])):
            return
        elif event in _MAKING and all(self._inside_out(path) for path in args[: 2 if event == "os.rename" else 1]):
            return
        self.events.append(f"{event} {args!r:.200}")

    def _inside_source(self, path: Any) -> bool:
        if isinstance(path, int):  # an open descriptor: of the input's own folder
            return True
        text = os.fsdecode(path)
        if not os.path.isabs(text) and self.folder and ".." not in text.split("/"):
            return True  # beside the descriptor of the folder
        text = text if ".." in text.split("/") else os.path.abspath(text)
        return text == self.source or (self.folder and text.startswith(self.source + os.sep) and ".." not in text.split("/"))

    def _inside_out(self, path: Any) -> bool:
        if self.out is None:
            return False
        if isinstance(path, int):
            return True
        text = os.path.abspath(os.fsdecode(path))
        return text == self.out or text.startswith(self.out + os.sep)


_watching: list[Watch] = []
_hooked = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watching:
        watch = _watching.pop()  # what the watch itself does is not watched
        watch.see(event, args)
        _watching.append(watch)


@contextmanager
def watching(source: Path, out: Path | None = None) -> Iterator[list[str]]:
    """The events that were not allowed while the block ran. A hook cannot be taken away again: use a process of its own for much."""
    global _hooked  # noqa: PLW0603
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    watch = Watch(source, out)
    _watching.append(watch)
    try:
        yield watch.events
    finally:
        _watching.pop()


def preload() -> None:
    """Load every module of ours and whatever one of them imports anywhere, so that a later import can only be the input's doing."""
    import convert
    import formats

    for package in (formats, convert):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            source = Path(found.module_finder.path, *([] if not found.ispkg else [found.name.rpartition(".")[2]]))  # type: ignore[union-attr]
            path = source / "__init__.py" if found.ispkg else source / f"{found.name.rpartition('.')[2]}.py"
            if path.exists():  # a compiled module imports nothing
                _load_all_named_in(path)
            if "cli" not in found.name and not found.name.endswith("__main__"):
                _load(found.name)
    from formats import registry

    registry.plugins()  # looks over what is installed, once
    tempfile.gettempdir()
    for codec in _CODECS:
        b"".decode(codec)
        "".encode(codec)


def _load_all_named_in(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _load(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            _load(node.module)
            for alias in node.names:
                if node.module.partition(".")[0] in ("convert", "formats"):
                    _load(f"{node.module}.{alias.name}")


def _load(name: str) -> None:
    if name.partition(".")[0] not in _HEAVY and name not in sys.modules and "cli" not in name:
        try:
            importlib.import_module(name)
        except ImportError:
            pass


def examine(path: Path, out: Path | None = None) -> dict[str, Any]:
    """Read every tensor of ``path``, or convert it into the folder ``out``, under watch."""
    from convert import api
    from formats import registry
    from formats.core.errors import CheckpointError

    outcome, why, tensors = "read", "", 0
    with watching(path, out) as events:
        try:
            if out is None:
                with registry.open(path) as checkpoint:
                    for _, tensor in checkpoint.tensors():
                        tensors += 1
                        for part in getattr(tensor, "components", {"": tensor}).values():
                            if part.nbytes <= 64 << 20:
                                for _piece in part.chunks():
                                    pass
            else:
                api.convert(path, to="safetensors", out_dir=out)
        except CheckpointError as error:
            outcome, why = "refused", str(error)
    return {"outcome": outcome, "why": why, "tensors": tensors, "events": list(events)}


def main() -> None:
    preload()
    if len(sys.argv) > 1:
        for name in sys.argv[1:]:
            found = examine(Path(name))
            print(f"{name}: {found['outcome']}, {len(found['events'])} events not allowed", *found["events"], sep="\n  ")
        return
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(examine(Path(asked["path"]), Path(asked["out"]) if asked["out"] else None)), flush=True)


if __name__ == "__main__":
    main()
