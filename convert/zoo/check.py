"""``--check``: is everything that the journal calls done still what was written? Nothing is converted; the next run mends what is not."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from convert.zoo import rows
from convert.zoo.document import document
from convert.zoo.engine import engine_of
from convert.zoo.journal import CLAIMED, NAME, Journal, lock
from convert.zoo.plan import BASE, PATIENCE, SLOWEST
from convert.zoo.run import TOOL, WAIT, Watch, now, opened, store_of
from convert.zoo.settings import Settings
from convert.zoo.store import OWN
from convert.zoo.walk import wanted
from formats.core.errors import ParityFailed, UsageError

DAMAGED = "damaged"


def check(settings: Settings, watch: Watch) -> dict[str, Any]:
    """The document of a check: rows are ``unchanged``, or ``failed`` with kind ``damaged`` or ``unfinished``."""
    store = store_of(settings.destination, settings.journal)
    if not Path(store.home, OWN, NAME).exists():
        raise UsageError("holds no journal: nothing was migrated into it", path=settings.destination)
    started, began = time.monotonic(), now()
    store.make()
    try:
        with lock(store.home), opened(store) as journal:
            found = _check(settings, watch, journal, store.root)
    finally:
        store.close()
    return document(found, [], settings.document(), tool=TOOL, started=began, seconds=time.monotonic() - started)


def _check(settings: Settings, watch: Watch, journal: Journal, root: str) -> list[dict[str, Any]]:
    names = [name for name in journal.conversions if wanted(name, settings.include, settings.exclude)]
    targets = settings.targets or tuple(sorted({to for rows_of in journal.conversions.values() for to in rows_of}))
    tasks = [task for number, name in enumerate(names) if (task := _task(number, name, journal, targets, root)) is not None]
    watch.begin(len(tasks), sum(task["size"] for task in tasks))
    wrong: dict[str, list[dict[str, Any]]] = {}
    engine = engine_of(settings)
    try:
        for task in tasks:
            engine.submit(task)
        by_id = {task["id"]: task for task in tasks}
        while engine.pending:
            for outcome in engine.wait(WAIT):
                name = outcome["name"]
                wrong[name] = [one for one in outcome["files"] if "what" in one]
                _mark(journal, name, targets, {os.path.relpath(one["path"], root) for one in wrong[name]})
                watch.row(_row(name, journal, targets, wrong[name], root), by_id[outcome["id"]]["size"])
            watch.tick()
    finally:
        engine.close()
    return [_row(name, journal, targets, wrong.get(name, []), root) for name in names]


def _task(number: int, name: str, journal: Journal, targets: tuple[str, ...], root: str) -> dict[str, Any] | None:
    files = [
        {**one, "path": os.path.join(root, one["path"])}
        for to, row in journal.conversions[name].items() if to in targets
        for output in row["outputs"] or () for one in output["files"]
    ]  # fmt: skip
    size = sum(one["bytes"] for one in files)
    task = {"id": number, "verb": "check", "name": name, "files": files, "size": size, "memory": BASE}
    return task | {"seconds": PATIENCE + size / SLOWEST} if files else None


def _mark(journal: Journal, name: str, targets: tuple[str, ...], damaged: set[str]) -> None:
    """What is damaged is no longer done, so that the next run makes it again."""
    marked = {}
    for to, row in journal.conversions[name].items():
        if to in targets and any(one["path"] in damaged for output in row["outputs"] or () for one in output["files"]):
            row["status"] = DAMAGED
            marked[to] = row
    if marked:
        journal.commit([{"name": name, "source": journal.sources.get(name, {}), "conversions": marked}])


def _row(name: str, journal: Journal, targets: tuple[str, ...], wrong: list[dict[str, Any]], root: str) -> dict[str, Any]:
    error: dict[str, Any] | None = None
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        error = {
            "exit": ParityFailed.exit_code, "kind": DAMAGED, "what": first["what"] + more,
            "path": os.path.relpath(first["path"], root).replace(os.sep, "/"), "hint": "the same call without --check makes it again",
        }  # fmt: skip
    elif any(row["status"] == CLAIMED for to, row in journal.conversions[name].items() if to in targets):
        error = {
            "exit": ParityFailed.exit_code, "kind": "unfinished", "what": "was begun and never finished",
            "hint": "the same call without --check goes on",
        }  # fmt: skip
    return rows.row(name, journal.sources.get(name, {}), journal.conversions[name], targets, (), error)
