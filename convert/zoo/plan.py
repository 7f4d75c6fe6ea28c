"""What is to be done for each entry of a tree, given what the journal knows. Nothing is converted here, and nothing written."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert import naming
from convert.zoo import digest
from convert.zoo.journal import CLAIMED, Journal
from convert.zoo.place import Entry, Store
from convert.zoo.settings import Settings, is_program, spelled
from formats import registry
from formats.core.errors import CheckpointError

BASE = 64 << 20  # bytes that a worker takes for the smallest checkpoint
PROGRAM = 1500 << 20  # … and to run a model
PATIENCE = 300.0  # seconds for the smallest checkpoint
SLOWEST = 2e6  # bytes a second
DONE = ("done", "copied")


@dataclass(slots=True)
class Plan:
    """``tasks`` in their order; ``waiting`` are tasks whose source looks like another's, by that one's name."""

    tasks: list[dict[str, Any]] = field(default_factory=list)
    waiting: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unchanged: dict[str, Entry] = field(default_factory=dict)  # nothing is to be done for any target
    touched: dict[str, tuple[int, int]] = field(default_factory=dict)  # same bytes, other time: the state that is true now
    ignored: dict[str, tuple[str, int]] = field(default_factory=dict)  # name → (what it is, bytes)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)  # name → error
    entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def all_tasks(self) -> list[dict[str, Any]]:
        return [*self.tasks, *(task for waiting in self.waiting.values() for task in waiting)]

    @property
    def needed(self) -> int:
        """Bytes that the outputs will take, about: weights are as large as their source."""
        return sum(task["size"] * len(task["targets"]) for task in self.all_tasks)


def plan(entries: Iterable[Entry], root: str, journal: Journal, store: Store, settings: Settings) -> Plan:
    """Decide for every entry; ``root`` is the source's."""
    made = Plan()
    usable = []
    for entry in entries:
        made.entries[entry.name] = entry
        if entry.kind in ("link", "special"):
            what = "a link, which is not followed" if entry.kind == "link" else "no regular file"
            made.ignored[entry.name] = (what, entry.size)
        elif entry.kind == "unreadable":
            made.refused[entry.name] = {"exit": 74, "kind": "io", "what": f"cannot be listed: {entry.where}"}
        else:
            usable.append(entry)
    names = _Names(usable, journal, settings, store)
    for entry in usable:
        _decide(entry, root, journal, store, settings, names, made)
    _pair(made, journal, settings, root)
    made.tasks.sort(
        key=lambda task: (-(task["memory"] // (256 << 20)), task["id"])
    )  # the large ones first: they are the tail else
    return made


def _decide(entry: Entry, root: str, journal: Journal, store: Store, settings: Settings, names: _Names, made: Plan) -> None:
    before = journal.sources.get(entry.name)
    conversions = journal.conversions.get(entry.name, {})
    same = before is not None and _same(entry, before, root)
    if before is not None and before["root"] not in (root, None) and not same and conversions and not settings.force:
        what = f"its output belongs to the checkpoint of this name in {before['root']}"
        made.refused[entry.name] = {"exit": 73, "kind": "output", "what": what, "hint": "another destination, or --force"}
        return
    if before is not None and same:
        if before["mtime_ns"] != entry.mtime_ns or before["root"] != root:
            made.touched[entry.name] = (entry.size, entry.mtime_ns)
        if before["ignored"] is not None and not settings.force:
            made.ignored[entry.name] = (before["ignored"], entry.size)
            return
    stem, plain = names.of[entry.name]
    options = settings.options | (entry.options or {})
    folder = entry.name.rpartition("/")[0]
    targets: list[dict[str, Any]] = []
    for to in settings.targets:
        row = conversions.get(to)
        if row is None:
            if not settings.force and store.state(f"{folder}/{stem}.{to}" if folder else f"{stem}.{to}") is not None:
                path = os.path.join(store.root, folder, f"{stem}.{to}")
                made.refused[entry.name] = {
                    "exit": 73, "kind": "exists", "what": "exists already, and no migration made it", "path": path, "target": to,
                    "hint": "--force replaces it",
                }  # fmt: skip
                continue
        elif (
            same and not settings.force and row["status"] in DONE and row["settings"] == spelled(to, options)
            and row["stem"] == stem and intact(row, store)
        ):  # fmt: skip
            continue
        targets.append({"to": to, "force": settings.force or row is not None})
    if not targets:
        if entry.name not in made.refused:
            made.unchanged[entry.name] = entry
        return
    memory, seconds = _estimate(entry.size, [str(target["to"]) for target in targets])
    made.tasks.append({
        "id": len(made.tasks), "verb": "plan" if settings.dry_run else "convert", "name": entry.name, "source": entry.where,
        "kind": entry.kind, "size": entry.size, "mtime_ns": entry.mtime_ns, "listing": entry.listing,
        "folder": os.path.join(store.root, folder) if folder else store.root, "stem": stem, "plain": plain, "targets": targets,
        "options": options, "reserved": names.reserved(entry.name), "digest": settings.digest,
        "identify": settings.identify, "memory": memory, "seconds": settings.timeout or seconds,
    })  # fmt: skip


def _same(entry: Entry, before: dict[str, Any], root: str) -> bool:
    """Whether the source is what was converted: by size and time, and where only the time is another, by a digest of all of it."""
    if entry.size != before["size"] or entry.kind != before["kind"]:
        return False
    if entry.listing:
        return bool(entry.listing == before["digest"])
    if entry.mtime_ns == before["mtime_ns"] and before["root"] == root:
        return True
    recorded = str(before["digest"] or "")
    if not recorded.startswith("sha256:"):
        return False
    try:
        return digest.of_source(entry.where, "sha256") == recorded
    except CheckpointError:
        return False


def intact(row: dict[str, Any], store: Store) -> bool:
    """Whether every output stands as it was written, by size and time; where only the time is another, by its digest."""
    for one in (one for output in row["outputs"] or () for one in output["files"]):
        state = store.state(one["path"])
        if state is None or state[0] != one["bytes"]:
            return False
        if state[1] != one["mtime_ns"]:
            try:
                if not digest.matches(os.path.join(store.root, one["path"]), one["digest"]):
                    return False
            except CheckpointError:
                return False
    return bool(row["outputs"])


def _estimate(size: int, targets: list[str]) -> tuple[int, float]:
    """(bytes of memory, seconds) that a conversion may take at most, as a rule."""
    programs = sum(map(is_program, targets))
    if programs:
        return PROGRAM + 5 * size, PATIENCE + programs * 900 + size / SLOWEST * 4
    return BASE + size // 8, PATIENCE + len(targets) * size / SLOWEST


class _Names:
    """The stem of each entry's outputs: what it was before, else its name less its suffixes, else, beside a namesake, all its name."""

    def __init__(self, entries: list[Entry], journal: Journal, settings: Settings, store: Store) -> None:
        self.root, self.targets = store.root, settings.targets
        self.of: dict[str, tuple[str, bool]] = {}
        known = {*naming.SUFFIXES, *(suffix for row in registry.ROWS for suffix in row.suffixes)}
        known |= {suffix for target in settings.targets for suffix in registry.target_row(target).suffixes}
        natural = {entry.name: naming.stem(entry.name.rpartition("/")[2], known) for entry in entries}
        fixed = {name: str(next(iter(rows.values()))["stem"]) for name, rows in journal.conversions.items() if rows}
        users: dict[tuple[str, str], set[str]] = defaultdict(set)
        for name in {**natural, **fixed}:
            users[name.rpartition("/")[0], fixed.get(name) or natural[name]].add(name)
        for entry in entries:
            folder, _, own = entry.name.rpartition("/")
            stem = fixed.get(entry.name)
            if stem is None:
                stem = natural[entry.name] if len(users[folder, natural[entry.name]]) == 1 else own
            self.of[entry.name] = (stem, stem == natural[entry.name])
        self.followers: dict[tuple[str, str], list[str]] = defaultdict(list)
        likely = [e for e in entries if e.kind != "file" or Path(e.name).suffix.lower() in naming.SUFFIXES]
        stems = {(e.name.rpartition("/")[0], self.of[e.name][0]) for e in likely}
        for folder, stem in stems:
            for at in (at for at, character in enumerate(stem) if character == "."):
                if (folder, stem[:at]) in stems:
                    self.followers[folder, stem[:at]].append(stem)

    def reserved(self, name: str) -> list[str]:
        """Outputs of neighbours that one of several models in ``name`` might be called like."""
        folder, stem = name.rpartition("/")[0], self.of[name][0]
        found = self.followers.get((folder, stem), ())
        return sorted(os.path.join(self.root, folder, f"{other}.{to}") for other in found for to in self.targets)


def _pair(made: Plan, journal: Journal, settings: Settings, root: str) -> None:
    """Find sources that look the same, by size and then by digest: the first is converted, the others wait for its outputs."""
    if settings.dry_run or settings.force:
        return
    by_size: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for task in made.tasks:
        if task["kind"] == "file" and task["size"]:
            by_size[task["size"]].append(task)
    done: dict[tuple[int, str], str] = {}
    for name in made.unchanged:
        known = journal.sources[name]
        if known["kind"] == "file" and known["size"] in by_size:
            done.setdefault((known["size"], known["digest"]), name)
    sizes = {size for size, _ in done}
    candidates = [task for size, tasks in by_size.items() if len(tasks) > 1 or size in sizes for task in tasks]
    with ThreadPoolExecutor(max_workers=max(1, settings.jobs)) as pool:
        for task, found in zip(candidates, pool.map(lambda task: _digested(task, settings.digest), candidates), strict=True):
            task["known"] = found
    waits = set()
    for task in candidates:
        if task["known"] is None:
            continue
        first = done.setdefault((task["size"], task["known"]), task["name"])
        if first != task["name"]:
            made.waiting.setdefault(first, []).append(task)
            waits.add(task["name"])
    made.tasks = [task for task in made.tasks if task["name"] not in waits]


def _digested(task: dict[str, Any], mode: str) -> str | None:
    if "://" in task["source"]:  # to compare two remote files both are read: converting one of them costs less
        return None
    try:
        return digest.of_source(task["source"], mode)
    except CheckpointError:
        return None


__all__ = ["CLAIMED", "DONE", "Plan", "intact", "plan"]
