"""The engine of one machine: warm worker processes, fed ahead, watched, and replaced when they die.

Small tasks are sent ahead, so that a worker never waits for this process; a worker answers in order, so that the first task without an
answer is the one that it died of. What takes much memory is sent only where it fits beside what runs, and alone where it never fits.
"""

from __future__ import annotations

import heapq
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from convert.zoo.engine import died
from convert.zoo.settings import Settings, memory_budget
from formats.core.errors import Unsupported

AHEAD = 16  # tasks that a worker may hold
AHEAD_BYTES = 8 << 20  # … and bytes of their sources, beside the first
LARGE = 256 << 20  # bytes of memory: such a task is not sent ahead
RECYCLE = 2000  # tasks after which a worker is replaced, for what it may have left in memory
BATCH = 0.005  # seconds in which outcomes gather while every worker has enough to do: each one by itself would cost a change of processes
BACK_OFF = 0.5  # seconds before the first retry; each further one waits four times as long
DEATHS = 2  # workers that a checkpoint may cost

ROOT = Path(__file__).parents[2]  # where this package is imported from
# `-P` keeps the folder in which somebody keeps checkpoints off the path that modules come from.
START = "import sys; sys.path.insert(0, sys.argv[3]); from convert.zoo.worker import started; started()"


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    held: deque[dict[str, Any]] = field(default_factory=deque)
    since: float = 0.0  # when the first of them began
    taken: int = 0
    rest: bytes = b""
    ended: str | None = None  # why we have ended it

    @property
    def memory(self) -> int:
        return max((int(task["memory"]) for task in self.held), default=0)


class Processes:
    """See `convert.zoo.engine.Engine`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.budget = memory_budget(settings)
        self.queue: deque[dict[str, Any]] = deque()
        self.later: list[tuple[float, int, dict[str, Any]]] = []
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.made: list[dict[str, Any]] = []
        self.short_lived = self.deaths = 0
        self.company = "alone" if settings.jobs < cores() else "crowded"

    @property
    def pending(self) -> int:
        return len(self.queue) + len(self.later) + len(self.made) + sum(len(worker.held) for worker in self.workers)

    def submit(self, task: dict[str, Any]) -> None:
        self.queue.append(task)

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        while self.later and self.later[0][0] <= time.monotonic():
            self.queue.appendleft(heapq.heappop(self.later)[2])
        self._feed()
        if not self.made:
            busy = any(worker.held for worker in self.workers)
            if self.queue and all(len(worker.held) > AHEAD // 2 for worker in self.workers):
                time.sleep(min(seconds, BATCH))
            for key, _ in self.selector.select(min(seconds, 0.2 if busy or self.later else 0.0)):
                self._hear(key.data)
            if not busy and self.later:
                time.sleep(min(seconds, max(0.0, self.later[0][0] - time.monotonic())))
        self._watch()
        found, self.made = self.made, []
        return found

    def close(self) -> None:
        for worker in self.workers:
            with suppress(OSError):
                _of(worker.process.stdin).close()
            if worker.held:
                worker.process.terminate()
        until = time.monotonic() + 5
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(worker.process)
            _of(worker.process.stdout).close()
        self.workers.clear()
        self.selector.close()

    def _feed(self) -> None:
        """Give out what fits."""
        while self.queue:
            task = self.queue[0]
            worker = self._free(task)
            if worker is None:
                return
            self.queue.popleft()
            if not worker.held:
                worker.since = time.monotonic()
            worker.held.append(task)
            worker.taken += 1
            try:
                stream = _of(worker.process.stdin)
                stream.write(json.dumps(task, separators=(",", ":")).encode() + b"\n")
                stream.flush()
            except OSError:  # it has died; the end of its output will say so
                pass

    def _free(self, task: dict[str, Any]) -> _Worker | None:
        """A worker for ``task``, a new one where there may be more; None where it has to wait."""
        memory = int(task["memory"])
        others = [worker.memory for worker in self.workers if worker.held]
        if others and (memory + sum(others) > self.budget or sum(others) > self.budget):
            return None
        idle = next((worker for worker in self.workers if not worker.held and worker.ended is None), None)
        if idle is not None:
            return idle
        if len(self.workers) < self.settings.jobs:
            return self._start()
        if memory >= LARGE:
            return None
        open_ones = [
            worker for worker in self.workers
            if worker.ended is None and worker.memory < LARGE and len(worker.held) < AHEAD
            and sum(int(held["size"]) for held in worker.held) + int(task["size"]) <= AHEAD_BYTES + int(worker.held[0]["size"])
        ]  # fmt: skip
        return min(open_ones, key=lambda worker: len(worker.held), default=None)

    def _start(self) -> _Worker:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, str(self.budget), str(os.getpid()), str(ROOT), self.company],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        os.set_blocking(_of(process.stdout).fileno(), False)
        worker = _Worker(process)
        self.workers.append(worker)
        self.selector.register(_of(process.stdout), selectors.EVENT_READ, worker)
        return worker

    def _hear(self, worker: _Worker) -> None:
        try:
            told = os.read(_of(worker.process.stdout).fileno(), 1 << 20)
        except BlockingIOError:
            return
        if not told:
            self._bury(worker)
            return
        *lines, worker.rest = (worker.rest + told).split(b"\n")
        for line in lines:
            task = worker.held.popleft()
            worker.since = time.monotonic()
            self._take(task, json.loads(line))
        if not worker.held and worker.taken >= RECYCLE:
            self._dismiss(worker)

    def _take(self, task: dict[str, Any], outcome: dict[str, Any]) -> None:
        attempts = task["attempts"] = task.get("attempts", 0) + 1
        transient = outcome.pop("transient", False)
        outcome["records"] = [*task.get("before", ()), *outcome["records"]] if "records" in outcome else []
        if transient and attempts <= self.settings.retries:
            task["before"] = [record for record in outcome["records"] if record["status"] != "failed"]
            made = {record["to"] for record in task["before"]}
            task["targets"] = [dict(target, force=True) for target in task["targets"] if target["to"] not in made]
            heapq.heappush(self.later, (time.monotonic() + BACK_OFF * 4 ** (attempts - 1), task["id"], task))
            return
        outcome["attempts"] = attempts + task.get("deaths", 0)
        self.made.append(outcome)

    def _watch(self) -> None:
        """End what takes too long."""
        now = time.monotonic()
        for worker in self.workers:
            if worker.held and worker.ended is None and now - worker.since > float(worker.held[0]["seconds"]):
                worker.ended = f"took more than {float(worker.held[0]['seconds']):g} s and was ended"
                _kill(worker.process)

    def _bury(self, worker: _Worker) -> None:
        """A worker has died: the first task that it held is why, the others go back."""
        self._dismiss(worker)
        code = worker.process.wait()
        held, worker.held = list(worker.held), deque()
        self.deaths += 1
        if not held:
            self.short_lived += not worker.taken
            return
        if not worker.taken - len(held):
            self.short_lived += 1
            if self.short_lived > 4 * self.settings.jobs + 8:
                raise Unsupported(f"workers die as soon as they start ({_reason(code)})")
        else:
            self.short_lived = 0
        first, rest = held[0], held[1:]
        self.queue.extendleft(reversed(rest))
        first["deaths"] = first.get("deaths", 0) + 1
        if worker.ended is not None:
            outcome = died(first, worker.ended, kind="limit", exit_code=65, hint="--timeout gives more time")
        elif first["deaths"] < DEATHS:  # it may have been somebody else's fault
            for target in first.get("targets", ()):  # what stands there now is its own
                target["force"] = True
            self.queue.append(first)
            return
        else:
            outcome = died(first, f"the worker that converted it {_reason(code)}, {first['deaths']} times")
        outcome["attempts"] = first["deaths"] + first.get("attempts", 0)
        self.made.append(outcome)

    def _dismiss(self, worker: _Worker) -> None:
        self.selector.unregister(_of(worker.process.stdout))
        self.workers.remove(worker)
        with suppress(OSError):
            _of(worker.process.stdin).close()
        if worker.process.poll() is None and not worker.held:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(5)
        if not worker.held:
            _of(worker.process.stdout).close()


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _reason(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started, whatever sessions they have made for themselves."""
    for pid in _descendants(process.pid):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.kill()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [*_descendants(child), child]
    return found
