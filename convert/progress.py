"""A bar on standard error for what takes longer than a second, where somebody is there to see it."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

PATIENCE = 1.0  # seconds without a bar


class Progress:
    """``observe(done, total)`` takes bytes; rich is imported when the bar appears, and only on a terminal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._begun = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self.observe = self._observe if sys.stderr.isatty() and _alone() else None

    def _observe(self, done: int, total: int) -> None:
        if self._bar is None:
            if time.monotonic() - self._begun < PATIENCE or done >= total:
                return
            self._bar = _bar()
            self._task = self._bar.add_task(self._label(), total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)

    def _label(self) -> str:
        from convert.text import shown

        return shown(self.name, 40)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def _alone() -> bool:
    """Whether this is the main thread: a program that converts on several has no place for several bars."""
    threading = sys.modules.get("threading")
    return threading is None or threading.current_thread() is threading.main_thread()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Drawn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Drawn(*columns, console=Console(stderr=True), transient=True)


def steps() -> Callable[[str], None]:
    """Tells what a long work is doing, a line that the next one overwrites; on a terminal only."""
    if not sys.stderr.isatty():
        return lambda _: None

    def say(what: str) -> None:
        from convert.text import shown

        sys.stderr.write(f"\r\x1b[K{shown(what, 70)} …\r")
        sys.stderr.flush()

    return say
