"""Which checkpoints SRC means: a tree, a glob, an index file, a list beside it, or one checkpoint."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import Any

from convert.zoo.place import Tree
from convert.zoo.walk import LocalTree
from formats.core.errors import CheckpointError, UsageError
from formats.core.files import SourceFile

MAX_LIST = 256 << 20  # bytes of a list or of an index
INDEXES = (".json", ".jsonl")
PATHS = ("path", "source", "file", "name")  # under which an index's entry says where the checkpoint is
LISTS = ("rows", "checkpoints", "files", "models")  # under which an index keeps its entries


def tree_of(source: str, listed: str | None, destination: str | None) -> Tree:
    """The tree that ``source`` means, told apart so:

    - with ``--list FILE``: the folder SRC, and of it what FILE lists, a path a line, relative to SRC (or absolute, below it);
    - a URL: all that is below it, or the one file that it is;
    - a folder: all of it;
    - something with ``*``, ``?`` or ``[`` that is no file of that name: a glob (``**`` is any depth); its root is the part before them;
    - a file ``.json`` or ``.jsonl`` without a ``weight_map``: an index, paths or objects with a ``path``, relative to the index's folder,
      and with what counts for this checkpoint alone: ``select``, ``ema``, ``arch``, ``input``;
    - any other file: that one checkpoint.
    """
    if "://" in source:
        from convert.zoo.remote_tree import RemoteTree
        from formats.core.remote import remote as place_of

        remote = place_of(source)
        if listed is not None or glob.has_magic(source):
            raise UsageError("is a remote tree, which is migrated whole", path=remote, hint="--include and --exclude choose")
        return RemoteTree(remote)
    apart = Path(destination) if destination is not None else None
    path = Path(source)
    if listed is not None:
        if not path.is_dir():
            raise UsageError("is no folder, which the list's paths are relative to", path=source)
        return LocalTree(path, _below(path, _lines(listed), listed), apart)
    if path.is_dir():
        if apart is not None and apart.is_dir() and os.path.samefile(path, apart):
            raise UsageError("source and destination are one folder", path=destination)
        return LocalTree(path, None, apart)
    if not path.exists() and glob.has_magic(source):
        return _globbed(source, apart)
    if not path.exists():
        raise UsageError("is not there", path=source)
    if path.suffix.lower() in INDEXES:
        entries = _index(path)
        if entries is not None:
            names = [_below(path.parent, [place], source)[0] for place, _ in entries]
            own = {name: options for name, (_, options) in zip(names, entries, strict=True) if options}
            return LocalTree(path.parent, list(dict.fromkeys(names)), apart, own)
    return LocalTree(path.parent, [path.name], apart)


def _globbed(pattern: str, apart: Path | None) -> Tree:
    parts = Path(pattern).parts
    fixed = next(count for count, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed]) if fixed else Path()
    found = sorted(glob.glob(str(Path(*parts[fixed:])), root_dir=root, recursive=True, include_hidden=True))
    if not found:
        raise UsageError(f"fits nothing below {root}", path=pattern)
    return LocalTree(root, [name.replace(os.sep, "/") for name in found], apart)


def _lines(path: str) -> list[str]:
    text = _text(Path(path))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _text(path: Path) -> str:
    file = SourceFile(path)
    try:
        if file.size > MAX_LIST:
            raise UsageError(f"list of {file.size} bytes, at most {MAX_LIST} are read", path=path)
        return file.read(0, file.size).decode("utf-8", "surrogateescape")
    finally:
        file.close()


def _index(path: Path) -> list[tuple[str, dict[str, Any]]] | None:
    """The paths of an index and what it says of each; None for what is none: a sharded model's own."""
    lines: Any
    try:
        text = _text(path)
        if path.suffix.lower() == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            lines = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is no index: {error!s:.160}", path=path) from error
    if isinstance(lines, dict):
        if "weight_map" in lines:
            return None
        lines = next((lines[key] for key in LISTS if isinstance(lines.get(key), list)), None)
    if not isinstance(lines, list):
        raise UsageError(
            "is an index without a list of entries", path=path, hint=f"a list, or an object with a list {LISTS[0]!r}"
        )
    found = []
    for number, entry in enumerate(lines, 1):
        place = entry if isinstance(entry, str) else None
        if isinstance(entry, dict):
            place = next((entry[key] for key in PATHS if isinstance(entry.get(key), str)), None)
        if not place:
            raise UsageError(
                f"entry {number} of the index has no path", path=path, hint=f"a text, or an object with {PATHS[0]!r}"
            )
        found.append((place, _own(entry, path, number) if isinstance(entry, dict) else {}))
    if not found:
        raise UsageError("is an index without entries", path=path)
    return found


def _own(entry: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """``select``, ``ema``, ``arch`` and ``input`` of one checkpoint, as the options of these names; other keys are not ours."""
    made: dict[str, Any] = {}
    inputs = entry.get("input", [])
    inputs = [inputs] if isinstance(inputs, str) else inputs
    texts = [entry.get("select", ""), entry.get("arch", ""), *(inputs if isinstance(inputs, list) else [None])]
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry.get("ema", False), bool):
        raise UsageError(f"entry {number} of the index has a select, ema, arch or input of a wrong type", path=path)
    made |= {key: entry[key] for key in ("select", "ema") if entry.get(key)}
    run = {"arch": entry["arch"]} if entry.get("arch") else {}
    run |= {"inputs": inputs} if inputs else {}
    return made | ({"run": run} if run else {})


def _below(root: Path, paths: list[str], listed: str) -> list[str]:
    """Each path as a place below ``root``."""
    base = os.path.abspath(root)
    found: dict[str, None] = {}
    for path in paths:
        place = os.path.relpath(os.path.normpath(os.path.join(base, path)), base).replace(os.sep, "/")
        if place == ".." or place.startswith("../"):
            raise UsageError(f"{path!r:.200} is not below {root}, whose tree is mirrored", path=listed)
        found["" if place == "." else place] = None
    return list(found)
