"""Who follows a migration: a person at a terminal, a log, or a machine that reads JSON lines."""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any

from convert import console
from convert.text import count, shown, size

PERIOD = 15.0  # seconds between two lines of a log
WINDOW = 20.0  # seconds that the speed is taken over


def failure_lines(row: dict[str, Any]) -> list[str]:
    """``NAME: what`` and at most one hint, printable."""
    error = row["error"]
    place = error.get("path") or row["source"]
    target = f" (to {error['target']})" if error.get("target") else ""
    lines = [f"{shown(place, 300)}: {shown(error['what'], 600)}{target}"]
    return lines + ([f"hint: {shown(error['hint'], 2000)}"] if error.get("hint") else [])


class Log:
    """Failures as they come, and a line now and then: nothing else is news."""

    def __init__(self) -> None:
        self.checkpoints = self.nbytes = self.through = self.bytes_through = self.failed = 0
        self.begun = self.told = time.monotonic()

    def begin(self, checkpoints: int, nbytes: int) -> None:
        self.checkpoints, self.nbytes = checkpoints, nbytes
        self.begun = self.told = time.monotonic()

    def row(self, row: dict[str, Any], nbytes: int) -> None:
        self.through += 1
        self.bytes_through += nbytes
        if row["status"] == "failed":
            self.failed += 1
            for line in failure_lines(row):
                console.err(line)

    def tick(self) -> None:
        if time.monotonic() - self.told >= PERIOD:
            self.told = time.monotonic()
            console.err(self.line())

    def say(self, what: str) -> None:
        console.err(shown(what, 400))

    def line(self) -> str:
        """How far it is, how fast, and how long it will take."""
        seconds = max(time.monotonic() - self.begun, 1e-3)
        speed = self.bytes_through / seconds
        text = f"{self.through:,} of {count(self.checkpoints, 'checkpoint')}, {size(self.bytes_through)} of {size(self.nbytes)}"
        text += f", {size(int(speed))}/s"
        if speed > 0:
            text += f", {_span((self.nbytes - self.bytes_through) / speed)} left"
        return text + (f", {self.failed:,} failed" if self.failed else "")

    def close(self) -> None:
        pass


class Terminal(Log):
    """A bar for the files with bytes, speed and time left; failures stand above it."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", markup=False),
        )
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5)
        self.task = self.bar.add_task("looking for checkpoints", total=None, told="")
        self.bar.start()
        self.recent: deque[tuple[float, int]] = deque()

    def begin(self, checkpoints: int, nbytes: int) -> None:
        super().begin(checkpoints, nbytes)
        self.bar.update(self.task, total=checkpoints, description="migrating")

    def row(self, row: dict[str, Any], nbytes: int) -> None:
        self.through += 1
        self.bytes_through += nbytes
        self.recent.append((time.monotonic(), nbytes))
        if row["status"] == "failed":
            self.failed += 1
            for line in failure_lines(row):
                self.bar.console.print(line, markup=False, highlight=False, style="red" if not line.startswith("hint") else None)

    def tick(self) -> None:
        self.bar.update(self.task, completed=self.through, told=self._told())

    def say(self, what: str) -> None:
        self.bar.console.print(shown(what, 400), markup=False, highlight=False)

    def _told(self) -> str:
        now = time.monotonic()
        while self.recent and now - self.recent[0][0] > WINDOW:
            self.recent.popleft()
        speed = sum(nbytes for _, nbytes in self.recent) / max(min(WINDOW, now - self.begun), 0.2)
        text = f"{size(self.bytes_through)} of {size(self.nbytes)}  {size(int(speed))}/s"
        if speed > 0:
            text += f"  {_span((self.nbytes - self.bytes_through) / speed)} left"
        return text + (f"  {self.failed:,} failed" if self.failed else "")

    def close(self) -> None:
        self.bar.stop()


class Events:
    """A JSON document a line on standard output: ``begin``, a ``row`` for each checkpoint as it comes, and ``end``."""

    def begin(self, checkpoints: int, nbytes: int) -> None:
        self._tell({"event": "begin", "checkpoints": checkpoints, "bytes": nbytes})

    def row(self, row: dict[str, Any], nbytes: int) -> None:
        self._tell({"event": "row", **row})

    def tick(self) -> None:
        pass

    def say(self, what: str) -> None:
        self._tell({"event": "note", "what": what})

    def end(self, document: dict[str, Any]) -> None:
        """Everything but the rows, which have been told."""
        self._tell({"event": "end"} | {key: value for key, value in document.items() if key != "rows"})

    def close(self) -> None:
        pass

    def _tell(self, document: dict[str, Any]) -> None:
        console.out(json.dumps(console.finite(document), separators=(",", ":")))
        console.flush()


class Silent(Log):
    """Failures alone, for whoever waits for the one document."""

    def tick(self) -> None:
        pass


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def summary(document: dict[str, Any]) -> list[str]:
    """The closing lines, for people."""
    totals, settings = document["totals"], document["settings"]
    if "space" in document:
        lines = [_planned(row) for row in document["rows"] if row["status"] in ("planned", "failed")]
        lines += [f"{shown(entry['source'], 300)}: left alone: {shown(entry['kind'], 200)}" for entry in document["ignored"]]
        space = document["space"]
        lines.append(
            f"{totals['planned']:,} to convert, {totals['unchanged']:,} unchanged, {totals['failed']:,} cannot be converted; about "
            f"{size(space['needed'])} needed" + (f", {size(space['free'])} free" if "free" in space else "")
        )
        return lines
    parts = [f"{totals[status]:,} {status}" for status in ("done", "copied", "unchanged", "failed") if totals[status]]
    checked = ", all as they were written" if settings["check"] and not totals["failed"] else ""
    seconds = document["seconds"]
    lines = [f"{count(totals['checkpoints'], 'checkpoint')}: {', '.join(parts) or 'none'}{checked} ({seconds:.1f} s)"]
    if totals["by_reason"]:
        lines.append("failed: " + ", ".join(f"{number:,} {kind}" for kind, number in totals["by_reason"].items()))
    if totals["ignored"]:
        kinds: dict[str, int] = {}
        for entry in document["ignored"]:
            kind = shown(entry["kind"].partition(" that begins")[0].partition("; it begins")[0], 80)
            kinds[kind] = kinds.get(kind, 0) + 1
        told = sorted(kinds.items(), key=lambda item: -item[1])
        more = f" and {len(told) - 5} other kinds" if len(told) > 5 else ""
        lines.append("left alone: " + ", ".join(f"{number:,} × {kind}" for kind, number in told[:5]) + more)
    return lines


def _planned(row: dict[str, Any]) -> str:
    if row["status"] == "failed":
        return failure_lines(row)[0]
    outputs = ", ".join(f"{shown(output['path'], 300)} ({size(output['bytes'])})" for output in row["outputs"])
    return f"{shown(row['source'], 300)} ({size(row.get('bytes', 0))}) → {outputs}"
