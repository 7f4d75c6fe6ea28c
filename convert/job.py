"""What a user asked of the default command, whichever way it was parsed."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("none", "bytes", "run")
KEEPS = ("none", "all")


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """Which keys are written and how they are named; applied in the order of these fields, ``reverse`` and ``like`` aside."""

    only: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()  # files
    reverse: bool = False  # undo what the rules files say
    strip_prefix: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()  # REGEX=TEXT
    add_prefix: tuple[str, ...] = ()
    fill_missing: tuple[str, ...] = ()
    like: str | None = None  # the checkpoint that fill_missing takes values from
    into: str | None = None  # the checkpoint that is warm-started


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
    keys: KeyOptions | None = None
