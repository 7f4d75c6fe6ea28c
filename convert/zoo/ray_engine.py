"""The engine of many machines: each task is one of an existing Ray cluster's. Where it runs, when, and how often again, is Ray's business.

Every node needs this package (the extra ``[ray]``) and sees source and destination under the same paths. The journal stays with the
driver. What a node has written it makes durable itself: the driver could not answer for another machine's cache.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from typing import Any

from convert.zoo.engine import died
from convert.zoo.settings import Settings
from formats.core.errors import LimitExceeded, SystemIOError, Unsupported

AHEAD = 4  # tasks that Ray holds for each of its processors: enough to choose from, few enough to forget


class Passing(Exception):
    """Asks Ray for another try; the outcome is what stands if there is none."""

    def __init__(self, outcome: dict[str, Any]) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def on_node(task: dict[str, Any]) -> dict[str, Any]:
    """Carry out ``task`` on the node that Ray has chosen."""
    from convert.zoo.work import perform

    with _Alarm(float(task["seconds"])):
        outcome = perform(task)
    if outcome.pop("transient", False):
        raise Passing(outcome)
    return outcome


class _Alarm:
    """Raises `LimitExceeded` in the work when its time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.possible = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self.possible:
            self.before = signal.signal(signal.SIGALRM, self._over)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        if self.possible:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.before)

    def _over(self, *_: object) -> None:
        raise LimitExceeded(f"took more than {self.seconds:g} s and was ended", hint="--timeout gives more time")


class RayEngine:
    """See `convert.zoo.engine.Engine`."""

    deaths = 1  # Ray does not tell of those that it made good

    def __init__(self, settings: Settings) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise Unsupported("--engine ray needs Ray", hint="pip install 'ckpt-convert[ray]'") from error
        self.ray: Any = ray
        self.ours = not ray.is_initialized()
        if self.ours:
            address = settings.ray_address or "auto"  # never a cluster of our own
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=True)
            except Exception as error:
                hint = "ray start --head makes one; --ray-address or RAY_ADDRESS says where it is"
                raise SystemIOError(f"no Ray cluster answers at {address}: {error!s:.200}", hint=hint) from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.largest = int(max((node.get("memory", 0) for node in nodes), default=0))
        self.most = max(1, int(ray.cluster_resources().get("CPU", 1))) * AHEAD
        self.remote = ray.remote(on_node)
        self.retries = settings.retries
        self.queue: deque[dict[str, Any]] = deque()
        self.running: dict[Any, dict[str, Any]] = {}

    @property
    def pending(self) -> int:
        return len(self.queue) + len(self.running)

    def submit(self, task: dict[str, Any]) -> None:
        # A try that a dying node has half made, or made and not told, must not stand in the way of the next.
        targets = [dict(target, force=True) for target in task.get("targets", ())]
        self.queue.append(task | {"targets": targets, "sync": True})

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        while self.queue and len(self.running) < self.most:
            task = self.queue.popleft()
            memory = min(int(task["memory"]), self.largest)  # more than any node has would never be given a place
            options = {"num_cpus": 1, "memory": memory, "max_retries": max(1, self.retries), "retry_exceptions": [Passing]}
            self.running[self.remote.options(**options).remote(task)] = task
        if not self.running:
            time.sleep(min(seconds, 0.01))
            return []
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        return [self._outcome(one) for one in ready]

    def close(self) -> None:
        for one in self.running:
            self.ray.cancel(one, force=True)
        self.running.clear()
        if self.ours:
            self.ray.shutdown()  # the connection; the cluster is not ours to end

    def _outcome(self, one: Any) -> dict[str, Any]:
        task = self.running.pop(one)
        try:
            outcome: dict[str, Any] = self.ray.get(one)
        except self.ray.exceptions.RayTaskError as error:
            passing = error.cause if isinstance(getattr(error, "cause", None), Passing) else error
            if isinstance(passing, Passing):
                outcome = passing.outcome
            else:
                outcome = died(task, f"internal error on a node: {str(error).strip().splitlines()[-1]:.200}", kind="internal")
        except self.ray.exceptions.RayError as error:
            outcome = died(task, f"the worker that converted it died: {type(error).__name__}")
        return outcome
