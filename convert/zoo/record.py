"""Outcomes on their way into the journal and into the document."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from convert.zoo.journal import Journal
from convert.zoo.place import Store
from convert.zoo.settings import spelled

SLICE = 1.0  # seconds between two groups
GROUP = 4000  # outcomes that a group may have


def noted(outcome: dict[str, Any], task: dict[str, Any], run: int, tool: str, root: str, place: str) -> dict[str, Any]:
    """What the journal keeps of an outcome; its paths become relative to ``place``, the destination."""
    source = {key: outcome.get(key) for key in ("size", "mtime_ns", "digest", "format", "title", "architecture", "ignored")}
    source |= {"root": root, "kind": task["kind"], "run": run}
    conversions, released = {}, []
    for record in outcome["records"]:
        error = record.get("error")
        if outcome.get("ignored") is not None or (error is not None and error["kind"] == "exists"):
            released.append(record["to"])
            continue
        outputs = [_relative(output, place) for output in record["outputs"]]
        conversions[record["to"]] = {
            "settings": spelled(record["to"], task["options"]), "stem": task["stem"], "status": record["status"], "outputs": outputs,
            "dropped": record.get("dropped"), "notes": record.get("notes"), "error": error, "copy_of": record.get("copy_of"),
            "attempts": outcome.get("attempts", 1), "seconds": record["seconds"], "tool": tool, "run": run,
        }  # fmt: skip
    if outcome.get("ignored") is not None:
        released = [target["to"] for target in task["targets"]]
    return {"name": outcome["name"], "source": source, "conversions": conversions, "released": released}


def _relative(output: dict[str, Any], place: str) -> dict[str, Any]:
    def below(path: str) -> str:
        return os.path.relpath(path, place).replace(os.sep, "/")

    files = [{**one, "path": below(one["path"])} for one in output["files"]]
    return {**output, "path": below(output["path"]), "files": files}


class Recorder:
    """Takes notes at once, and commits them in groups behind the migration's back; `failures` are of groups that are not durable."""

    def __init__(self, journal: Journal, store: Store) -> None:
        self.journal = journal
        self.store = store
        self.group: list[dict[str, Any]] = []
        self.failures: list[tuple[list[dict[str, Any]], OSError]] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._busy: Future[None] | None = None
        self._last = time.monotonic()

    def take(self, entry: dict[str, Any]) -> None:
        """Note one outcome."""
        self.journal.note(entry)
        self.group.append(entry)

    def step(self) -> None:
        """Begin to commit what has gathered, if it is time."""
        if self._busy is not None and self._busy.done():
            self._busy.result()
            self._busy = None
        if self._busy is None and self.group and (time.monotonic() - self._last >= SLICE or len(self.group) >= GROUP):
            group, self.group = self.group, []
            self._last = time.monotonic()
            self._busy = self._pool.submit(self._commit, group, self.journal.turn())

    def finish(self) -> None:
        """Commit everything; return when it is durable."""
        if self._busy is not None:
            self._busy.result()
            self._busy = None
        if self.group:
            group, self.group = self.group, []
            self._commit(group, self.journal.turn())
        self._pool.shutdown()

    def _commit(self, group: list[dict[str, Any]], turn: int) -> None:
        try:
            self.store.sync()
        except OSError as error:
            self.failures.append((group, error))
            return
        self.journal.commit(group)
        self.journal.drop(turn)
