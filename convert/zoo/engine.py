"""What carries a plan out: tasks go in, outcomes come out, in whatever order they end. `convert.zoo.work` says what the two look like."""

from __future__ import annotations

from typing import Any, Protocol

from convert.zoo.settings import Settings


class Engine(Protocol):
    """Tries again what failed in passing (``transient``), and says how often in ``attempts``; a death ends as an outcome with ``death``."""

    deaths: int  # workers that have died, and may have left something half-written

    def submit(self, task: dict[str, Any]) -> None:
        """Take a task in; it may begin at once."""
        ...

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """The outcomes that have come, waiting for one at most so long."""
        ...

    @property
    def pending(self) -> int:
        """Tasks without an outcome yet."""
        ...

    def close(self) -> None:
        """End everything that still runs; temporaries are removed where that is possible."""
        ...


def engine_of(settings: Settings) -> Engine:
    """The engine that ``settings`` name."""
    if settings.engine == "ray":
        from convert.zoo.ray_engine import RayEngine

        return RayEngine(settings)
    from convert.zoo.processes import Processes

    return Processes(settings)


def died(
    task: dict[str, Any], what: str, *, kind: str = "killed", exit_code: int = 69, hint: str | None = None
) -> dict[str, Any]:
    """The outcome of a task whose worker has died."""
    error = {"exit": exit_code, "kind": kind, "what": what} | ({"hint": hint} if hint else {})
    targets = [target["to"] for target in task.get("targets", ())]
    made: dict[str, Any] = {"id": task["id"], "name": task["name"], "verb": task["verb"], "death": what, "seconds": 0.0}
    if task["verb"] == "check":
        return made | {"files": [{"path": one["path"], "what": what} for one in task["files"]]}
    records = [{"to": to, "status": "failed", "outputs": [], "error": error, "seconds": 0.0} for to in targets]
    return made | {"records": records, "size": task["size"], "mtime_ns": task["mtime_ns"]}
