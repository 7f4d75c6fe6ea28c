"""What a user asked of the default command, whichever way it was parsed."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("none", "bytes", "run")
KEEPS = ("none", "all")


@dataclass(frozen=True, slots=True)
class Job:
    """One call of ``convert SOURCE… --to TARGET``. ``keep`` None means whatever the target can hold."""

    sources: tuple[str, ...]
    to: str
    output: str | None = None
    out_dir: str | None = None
    select: str | None = None
    ema: bool = False
    strip: bool = True
    keep: str | None = None
    verify: str = "bytes"
    force: bool = False
    dry_run: bool = False
    json: bool = False
    debug: bool = False
