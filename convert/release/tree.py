"""Releases of a whole tree: each checkpoint gets a folder of its own, at the place that it has in the tree.

A tree that ``convert migrate`` made says in its ``report.json`` which of its files are one model in several formats, and the sha256 of what
each was made from; of any other tree every checkpoint is released, as its content tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from convert import naming
from convert.release import names
from convert.release.publish import Release, publish
from convert.release.settings import Settings
from convert.report import Failure
from formats import registry
from formats.core.errors import CheckpointError, CorruptCheckpoint, SystemIOError, UnknownFormat, UsageError
from formats.core.plain_json import of_bytes
from formats.core.probe import Probe

REPORT = "report.json"


@dataclass(slots=True)
class Item:
    """A checkpoint of a tree; ``place`` is below the tree, with "/"; ``origin`` what is known of what it was made from."""

    path: Path
    place: str
    origin: dict[str, Any] | None = None


@dataclass(slots=True)
class Releases:
    """What became of a call. ``failures`` are (source, why)."""

    made: list[Release] = field(default_factory=list)
    failures: list[tuple[Path, Failure]] = field(default_factory=list)

    @property
    def exit(self) -> int:
        return max((failure.exit for _, failure in self.failures), default=0)

    def document(self) -> dict[str, Any]:
        failed = [{"source": str(path), "error": failure.document()} for path, failure in self.failures]
        said = {"status": "failed" if failed else "done", "exit": self.exit, "releases": [one.document() for one in self.made]}
        return said | ({"failed": failed} if failed else {})


def is_tree(source: Path) -> bool:
    """Whether ``source`` is a folder that is not itself one checkpoint."""
    if not source.is_dir():
        return False
    try:
        registry.detect(Probe(source))
    except UnknownFormat:
        return True
    return False


def release(settings: Settings) -> Releases:
    """Release a checkpoint, or every one of a tree. Of a tree no bad one stops the rest; of one checkpoint the error is raised."""
    settings.check()
    if not is_tree(settings.source):
        return Releases(publish(settings))
    for option, given in (("--name", settings.name), ("--arch", settings.arch)):
        if given is not None:
            raise UsageError(f"{option} is for one model, and {settings.source} is a tree of them")
    _apart(settings)
    found = Releases()
    items = list(items_of(settings.source))
    if not items:
        raise UnknownFormat("is a folder without a checkpoint in it", path=settings.source)
    naming.make_folder(settings.folder)
    for item in items:
        place = settings.folder / item.place
        name = names.harmless(place.name)
        try:
            naming.make_folder(place.parent)
            made = publish(replace(settings, source=item.path, folder=place, name=name), origin=item.origin)
        except CheckpointError as error:
            found.failures.append((item.path, Failure.of(error, item.path)))
            continue
        if name != place.name:
            made[0].notes.append(f"called {name}: of {place.name!r} torch.hub would take another part for the hash")
        found.made += made
    return found


def _apart(settings: Settings) -> None:
    """A release is made beside a tree, never in it: it would be a checkpoint of the tree the next time."""
    source, folder = settings.source.resolve(), settings.folder.resolve()
    if folder == source or source in folder.parents:
        raise UsageError("lies in the tree that is to be released", path=settings.folder)


def items_of(tree: Path) -> Iterator[Item]:
    """The checkpoints of ``tree``, by their places."""
    report = tree / REPORT
    if report.is_file():
        yield from _reported(tree, report)
        return
    from convert.zoo.walk import LocalTree

    taken: set[str] = set()
    for entry in LocalTree(tree).entries():
        if entry.kind not in ("file", "folder", "index"):
            continue
        path = tree / entry.name
        try:
            registry.detect(Probe(path))
        except CheckpointError:
            if naming.stem(path.name, naming.SUFFIXES) == path.name:
                continue  # neither is one nor is called one
        place = _place(entry.name)
        if place in taken:
            place = entry.name  # a.pth beside a.safetensors: nobody says that they are one model
        taken.add(place)
        yield Item(path, place)


def _reported(tree: Path, report: Path) -> Iterator[Item]:
    """Of each model that a migration wrote the output in the best container; the report is a file, and its paths are not trusted."""
    try:
        document = of_bytes(report.read_bytes())
        rows = document["rows"]
        told = [(row, output) for row in rows for output in row.get("outputs", ())]
        ranked = sorted(told, key=lambda pair: _rank(pair[1]))
        best: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {}
        for row, output in ranked:
            if _rank(output) < len(_BEST):
                best.setdefault((str(row["source"]), str(output.get("model", ""))), (row, output))
        chosen = sorted(((str(output["path"]), _origin(row)) for row, output in best.values()), key=lambda pair: pair[0])
    except OSError as error:
        raise SystemIOError(f"cannot be read: {error.strerror}", path=report) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpoint(f"is no report of a migration: {type(error).__name__}: {error!s:.80}", path=report) from error
    for name, origin in chosen:
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts or not parts:
            raise CorruptCheckpoint(f"names {name!r:.120}, which is not in the tree", path=report)
        yield Item(tree / name, _place(name), origin)


def _origin(row: dict[str, Any]) -> dict[str, Any]:
    """What a row of a report says of the file that its outputs were made from."""
    left = [
        {"path": str(one["path"]), "tensors": int(one["tensors"]), "bytes": int(one["bytes"]), "summary": str(one["summary"])}
        for one in row.get("dropped", ())
    ]
    return {"dropped": left} | ({"sha256": row["sha256"]} if isinstance(row.get("sha256"), str) else {})


def _place(name: str) -> str:
    above, _, own = name.rpartition("/")
    return f"{above}/{naming.stem(own, naming.SUFFIXES)}".lstrip("/")


_BEST = ("safetensors", "pth", "pth.tar", "npz")


def _rank(output: dict[str, Any]) -> int:
    return _BEST.index(output["target"]) if output["target"] in _BEST else len(_BEST)
