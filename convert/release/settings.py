"""What a publisher asks for, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.job import KeyOptions, RunOptions
from convert.release.tensors import LOADERS
from formats.core.errors import UsageError

TARGETS = tuple(LOADERS)


@dataclass(frozen=True, slots=True)
class Settings:
    """One call of ``convert release SOURCE FOLDER``. ``options`` are fields of a job: select, ema, strip, dtype, dequantize, tied."""

    source: Path
    folder: Path
    targets: tuple[str, ...] = ("safetensors",)
    name: str | None = None
    license: str | None = None
    about: str | None = None  # the publisher's own Markdown
    date: str | None = None  # as ISO 8601 has it, UTC
    sign: Path | None = None
    arch: str | None = None
    force: bool = False
    run: RunOptions | None = None  # run the model against its source too
    keys: KeyOptions | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `UsageError` for what can be told without looking at a file."""
        from convert.release import names

        if not self.targets:
            raise UsageError("a release needs --to TARGET", hint="--to safetensors --to pth")
        for target in self.targets:
            if target not in TARGETS:
                raise UsageError(f"--to {target}: a release holds weights as {', '.join(TARGETS)}")
        if self.name is not None:
            names.check(self.name)
        if self.license is not None and not self.license.strip():
            raise UsageError("--license is empty: leave it out where there is none to give")
        if self.keys is not None and (self.keys.into is not None or self.keys.like is not None or self.keys.fill_missing):
            raise UsageError("a release holds what its one source holds", hint="convert it first, and release what was written")


def date(text: str | None, epoch: str | None) -> str | None:
    """``--date`` (a day, or a time with its zone) or SOURCE_DATE_EPOCH as UTC; None where neither is given."""
    from datetime import UTC, datetime

    try:
        if text is not None:
            found = datetime.fromisoformat(text)
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        elif epoch:
            found = datetime.fromtimestamp(int(epoch), UTC)
        else:
            return None
        return found.strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        what = f"--date {text!r:.40}" if text is not None else f"SOURCE_DATE_EPOCH={epoch!r:.40}"
        raise UsageError(f"{what} is no time", hint="--date 2026-01-31") from error
