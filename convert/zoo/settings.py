"""What a user asked of a migration."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from formats import registry

SHARE = 0.8  # of the available memory, for all workers together
FLOOR = 1 << 30  # bytes that a worker may take at least
ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Settings:
    """One call of ``convert migrate``. ``options`` are fields of `convert.job.Job` that are not as usual; ``run`` is a dict."""

    source: str
    destination: str
    targets: tuple[str, ...]
    jobs: int = 2
    journal: str | None = None  # the folder of the journal, of a remote destination
    listed: str | None = None  # a file that lists what of the source is meant
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    force: bool = False
    check: bool = False
    dry_run: bool = False
    identify: bool = False
    digest: str = "fast"
    retries: int = 3  # of what failed by a passing fault of the system
    timeout: float | None = None  # seconds for one checkpoint
    memory: int | None = None  # bytes for all workers together
    engine: str = "local"
    ray_address: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "source": self.source,
            "destination": self.destination,
            "targets": list(self.targets),
            "jobs": self.jobs,
            "engine": self.engine,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "digest": self.digest,
            "force": self.force,
            "check": self.check,
            "dry_run": self.dry_run,
            "identify": self.identify,
            "retries": self.retries,
            "options": self.options,
        }
        given = {"list": self.listed, "timeout": self.timeout, "memory": self.memory, "ray_address": self.ray_address}
        return said | {name: value for name, value in given.items() if value is not None}


@cache
def is_program(target: str) -> bool:
    """Whether the target is a model that runs, and not only weights."""
    return bool(registry.writer(target).CAPABILITIES.program)


def options_for(target: str, options: dict[str, Any]) -> dict[str, Any]:
    """What of ``options`` counts for ``target``: how a model is run is nothing to weights that nobody runs."""
    runs = options.get("verify") == "run" or is_program(target)
    return options if runs else {name: value for name, value in options.items() if name != "run"}


def spelled(target: str, options: dict[str, Any]) -> str:
    """What of the settings an output depends on; where it changes, the output is made again."""
    return json.dumps(options_for(target, options), sort_keys=True, separators=(",", ":"))


def available_memory() -> int:
    """Bytes that processes can still take."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 8 << 30


def memory_budget(settings: Settings) -> int:
    """Bytes for all workers together."""
    return settings.memory or max(FLOOR, int(available_memory() * SHARE))
