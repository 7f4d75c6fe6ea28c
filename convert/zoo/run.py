"""A migration from beginning to end: list → plan → claim → convert → note → commit → report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from convert import __version__
from convert.zoo import rows
from convert.zoo.document import document
from convert.zoo.engine import Engine, engine_of
from convert.zoo.journal import Journal, lock
from convert.zoo.place import Store, Tree
from convert.zoo.plan import Plan, plan
from convert.zoo.record import Recorder, noted
from convert.zoo.reports import write
from convert.zoo.settings import Settings, spelled
from convert.zoo.sources import tree_of
from convert.zoo.store import LocalStore
from formats import registry
from formats.core.errors import UsageError

TOOL = f"ckpt-convert {__version__}"
WAIT = 0.25  # seconds that the driver waits for an outcome before it looks at the clock


class Watch(Protocol):
    """Who follows a run."""

    def begin(self, checkpoints: int, nbytes: int) -> None:
        """So much is to be done."""
        ...

    def row(self, row: dict[str, Any], nbytes: int) -> None:
        """A checkpoint is through; ``nbytes`` of the work are behind us."""
        ...

    def tick(self) -> None:
        """Time has passed."""
        ...

    def say(self, what: str) -> None:
        """Something that a person wants to know."""
        ...


def store_of(destination: str, journal: str | None = None) -> Store:
    """The store that ``destination`` means; ``journal`` is the folder of its journal where that is not the destination."""
    if "://" in destination:
        from convert.zoo.remote_store import RemoteStore
        from formats.core.remote import remote

        return RemoteStore(remote(destination), journal)
    if journal is not None:
        raise UsageError("--journal is for a remote destination: a local one has its journal in it")
    return LocalStore(destination)


def migrate(settings: Settings, watch: Watch) -> dict[str, Any]:
    """Carry out ``settings``; the document of `convert.zoo.document`. Raises `CheckpointError` where nothing could begin."""
    for target in settings.targets:
        registry.target_row(target)
    if settings.check:
        from convert.zoo.check import check

        return check(settings, watch)
    store = store_of(settings.destination, settings.journal)
    tree = tree_of(settings.source, settings.listed, settings.destination)
    if settings.dry_run:
        return Migration(settings, watch, tree, store, Journal(store.root, home=store.home, write=False)).run()
    store.make()
    try:
        with lock(store.home), opened(store) as journal:
            return Migration(settings, watch, tree, store, journal).run()
    finally:
        store.close()


@contextmanager
def opened(store: Store) -> Iterator[Journal]:
    """The journal, with everything that a killed run has left taken in and its half-written files removed."""
    journal = Journal(store.root, home=store.home)
    try:
        if not journal.clean:
            store.sweep()
            found = journal.left_over()
            if found:
                store.sync()
                journal.commit(found)
        journal.drop(0)
        journal.drop(1)
        if not journal.clean:
            journal.load()
        yield journal
    finally:
        journal.close()


class Migration:
    """One run."""

    def __init__(self, settings: Settings, watch: Watch, tree: Tree, store: Store, journal: Journal) -> None:
        self.settings = settings
        self.watch = watch
        self.store = store
        self.journal = journal
        self.tree = tree
        self.root = os.path.abspath(tree.root) if "://" not in tree.root else tree.root
        self.sources = {name: dict(row) for name, row in journal.sources.items()}
        self.conversions = {name: dict(row) for name, row in journal.conversions.items()}
        self.fresh: dict[str, list[str]] = {}
        self.errors: dict[str, dict[str, Any]] = {}
        self.ignored: dict[str, tuple[str, int]] = {}
        self.started = time.monotonic()
        self.began = now()

    def run(self) -> dict[str, Any]:
        entries = self.tree.entries(self.settings.include, self.settings.exclude)
        made = plan(entries, self.root, self.journal, self.store, self.settings)
        self.errors |= made.refused
        self.ignored |= made.ignored
        free = self.store.free()
        space = (
            {"needed": made.needed} if free is None and "://" in self.store.root else {"needed": made.needed, "free": free or 0}
        )
        tasks = made.all_tasks
        if not self.settings.dry_run:
            self._prepare(made, tasks)
            if space.get("free", made.needed) < made.needed:
                self.watch.say(f"note: the outputs may need {space['needed']} bytes, {space['free']} are free")
        self.watch.begin(len(tasks), sum(task["size"] for task in tasks))
        for name in made.refused:
            if not any(task["name"] == name for task in tasks):
                self.watch.row(self._row(name, made), 0)
        if tasks:
            self._carry_out(made, {task["id"]: task for task in tasks})
        names = [name for name in made.entries if name not in self.ignored]
        finished = document(
            [self._row(name, made) for name in names],
            [{"source": name, "kind": kind, "bytes": nbytes} for name, (kind, nbytes) in self.ignored.items()],
            self.settings.document(), tool=TOOL, started=self.began, seconds=time.monotonic() - self.started,
            space=space if self.settings.dry_run else None,
        )  # fmt: skip
        if not self.settings.dry_run:
            self.journal.end(now())
            write(finished, self.store.home)
        return finished

    def _prepare(self, made: Plan, tasks: list[dict[str, Any]]) -> None:
        """What has to be known durably before the first output is written."""
        self.journal.begin(TOOL, self.settings.document(), self.began)
        self.journal.claim(
            (task["name"], target["to"], spelled(target["to"], task["options"]), task["stem"])
            for task in tasks for target in task["targets"]
        )  # fmt: skip
        touched = []
        for name, (size, mtime_ns) in made.touched.items():
            self.sources[name] |= {"root": self.root, "size": size, "mtime_ns": mtime_ns}
            touched.append({"name": name, "source": self.sources[name], "conversions": {}})
        if touched:
            self.journal.commit(touched)

    def _carry_out(self, made: Plan, tasks: dict[int, dict[str, Any]]) -> None:
        engine = engine_of(self.settings)
        recorder = None if self.settings.dry_run else Recorder(self.journal, self.store)
        try:
            for task in made.tasks:
                engine.submit(task)
            for name in [name for name in made.waiting if name in made.unchanged]:
                self._release(name, made, engine)
            while engine.pending:
                for outcome in engine.wait(WAIT):
                    self._take(outcome, tasks[outcome["id"]], made, recorder)
                    self._release(outcome["name"], made, engine)
                if recorder is not None:
                    recorder.step()
                self.watch.tick()
        finally:
            engine.close()
            if recorder is not None:
                recorder.finish()
                if engine.deaths:
                    self.store.sweep()
                self._not_durable(recorder)

    def _take(self, outcome: dict[str, Any], task: dict[str, Any], made: Plan, recorder: Recorder | None) -> None:
        name = outcome["name"]
        entry = noted(outcome, task, self.journal.run, TOOL, self.root, self.store.root)
        if recorder is not None:
            recorder.take(entry)
        if outcome.get("ignored") is not None:
            self.ignored[name] = (outcome["ignored"], task["size"])
            return
        self.sources[name] = entry["source"]
        rows_of = self.conversions.setdefault(name, {})
        rows_of |= entry["conversions"]
        for target in entry["released"]:
            rows_of.pop(target, None)
            self.errors[name] = next(record["error"] for record in outcome["records"] if record["to"] == target)
        self.fresh[name] = list(entry["conversions"])
        self.watch.row(self._row(name, made), task["size"])

    def _release(self, name: str, made: Plan, engine: Engine) -> None:
        """Let the tasks go that waited for ``name``, with what became of it."""
        for task in made.waiting.pop(name, ()):
            stem = next((str(row["stem"]) for row in self.conversions.get(name, {}).values()), "")
            outputs = {
                to: [self._absolute(output) for output in row["outputs"]]
                for to, row in self.conversions.get(name, {}).items()
                if row["status"] in ("done", "copied") and row["settings"] == spelled(to, task["options"])
            }
            if outputs:
                told = {key: self.sources[name].get(key) for key in ("format", "title", "architecture")}
                left = {to: {key: row.get(key) for key in ("dropped", "notes")} for to, row in self.conversions[name].items()}
                where = made.entries[name].where
                task["twin"] = {"name": name, "source": where, "stem": stem, "outputs": outputs, "told": told, "left": left}
            engine.submit(task)

    def _absolute(self, output: dict[str, Any]) -> dict[str, Any]:
        files = [{**one, "path": os.path.join(self.store.root, one["path"])} for one in output["files"]]
        return {**output, "path": os.path.join(self.store.root, output["path"]), "files": files}

    def _not_durable(self, recorder: Recorder) -> None:
        for group, error in recorder.failures:
            for entry in group:
                what = f"the output could not be made durable: {error.strerror or error}"
                self.errors[entry["name"]] = {"exit": 74, "kind": "io", "what": what}

    def _row(self, name: str, made: Plan) -> dict[str, Any]:
        source = self.sources.get(name) or {"size": made.entries[name].size if name in made.entries else None}
        return rows.row(
            name, source, self.conversions.get(name, {}), self.settings.targets, self.fresh.get(name, ()), self.errors.get(name)
        )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
