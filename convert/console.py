"""The command's edge: what goes to standard output and standard error, and how a call ends. The only place that prints."""

from __future__ import annotations

import os
import sys

from formats.core.errors import SystemIOError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any, NoReturn, TextIO

    from convert.job import Job
    from convert.report import Failure
else:
    import _signal as signal  # what `signal` is, without `enum`

INTERRUPTED = 130
CLOSED = 141  # as a shell shows a program that SIGPIPE ended
_ENDINGS = {getattr(signal, "SIGTERM", 0): "terminated", getattr(signal, "SIGHUP", 0): "hung up"}


class Closed(Exception):
    """Whoever read our output has gone. Not an OSError: typer would end with exit code 1."""


_reserved: list[TextIO] = []  # standard output, where nobody but `out` may write to it


def reserve_stdout() -> None:
    """From now on standard output is for `out` alone: what libraries print there goes to standard error."""
    if not _reserved:
        sys.stdout.flush()
        _reserved.append(os.fdopen(os.dup(1), "w", buffering=1, encoding=sys.stdout.encoding, errors="backslashreplace"))
        os.dup2(2, 1)
        sys.stdout = sys.stderr


def _stdout() -> TextIO:
    return _reserved[0] if _reserved else sys.stdout


def flush() -> None:
    """Let standard output's readers have what was written."""
    try:
        _stdout().flush()
    except BrokenPipeError:
        raise Closed from None
    except OSError as error:
        raise _unwritable(_stdout(), error) from error


def out(text: str) -> None:
    """One line, or several, on standard output: data."""
    _write(_stdout(), text)


def err(text: str) -> None:
    """One line, or several, on standard error: everything else. Where nothing can be written there, the exit code says it alone."""
    try:
        _write(sys.stderr, text)
    except SystemIOError:
        pass


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text if text.endswith("\n") else text + "\n")
    except BrokenPipeError:
        raise Closed from None
    except OSError as error:
        raise _unwritable(stream, error) from error


def _unwritable(stream: TextIO, error: OSError) -> SystemIOError:
    """The error of a standard stream on a full disk; what is still buffered goes nowhere, so that it is not tried once more."""
    data = stream is _stdout()
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return SystemIOError(f"standard {'output' if data else 'error'} cannot be written: {error.strerror}")


def emit(document: dict[str, Any]) -> None:
    """The one JSON document. Everything beyond ASCII is escaped, so that lone surrogates of a file's names cannot break it."""
    import json

    out(json.dumps(finite(document), indent=2))


def finite(value: Any) -> Any:
    """NaN and infinities as text: JSON has neither."""
    if isinstance(value, float) and value - value != 0:
        return str(value)
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def complain(failure: Failure) -> None:
    """The error's line and its hint."""
    for line in failure.lines():
        err(line)


def usage(what: str, *, hint: str | None = "convert --help", json: bool = False) -> int:
    """Say that the call was put wrongly; exit code 2."""
    from convert.report import Failure, Report

    report = Report(failure=Failure(2, "usage", what, hint=hint))
    assert report.failure is not None
    err("convert: " + report.failure.lines()[0])
    for line in report.failure.lines()[1:]:
        err(line)
    if json:
        emit(report.document())
    return 2


def default(job: Job) -> int:
    """Run the default command and report."""
    from convert import pipeline

    report = pipeline.run(job)
    if report.failure is not None:
        complain(report.failure)
    for result in report.results:
        if result.failure is not None:
            complain(result.failure)
        elif not job.json:
            text = "\n".join(result.lines())
            out(text) if job.dry_run else err(text)
    if job.json:
        emit(report.document())
    return report.exit


class Ended(BaseException):
    """A signal asked the program to end: unwinds the stack, so that temporaries are removed. No KeyboardInterrupt: typer catches those."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class signals:  # noqa: N801 - used like a function of contextlib, which takes `functools` and `collections` with it
    """SIGINT, SIGTERM and SIGHUP raise `Ended`, the first of them once: while it unwinds, another one must not stop the removal of
    temporaries. What was set before is set again at the end; what somebody has set to be ignored (nohup) stays so."""

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            number = getattr(signal, name, None)
            try:
                if number is not None and (old := signal.getsignal(number)) in (signal.SIG_DFL, signal.default_int_handler):
                    signal.signal(number, self._end)
                    self.before[number] = old
            except ValueError:  # not the main thread: whoever runs us has the signals
                break

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> NoReturn:
        for other in self.before:
            signal.signal(other, signal.SIG_IGN)
        raise Ended(number)


def guarded(arguments: Sequence[str], action: Any) -> int:
    """``action()``'s exit code, with every way in which it may end badly made one line."""
    try:
        with signals():
            return _guarded(arguments, action)
    except Ended as ended:
        err(f"convert: {_ENDINGS.get(ended.number, 'interrupted')}")
        return 128 + ended.number
    except KeyboardInterrupt:
        err("convert: interrupted")
        return INTERRUPTED


def _guarded(arguments: Sequence[str], action: Any) -> int:
    debug = "--debug" in arguments
    json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        code = int(action())
        flush()
        return code
    except (Closed, BrokenPipeError):
        # Whoever read has gone; the interpreter must not try to flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _stdout().fileno())
        return CLOSED
    except Exception as error:
        if debug:
            import traceback

            err(traceback.format_exc())
        return _unexpected(error, json=json)


def _unexpected(error: Exception, *, json: bool) -> int:
    from convert.report import Failure, Report

    failure = Failure.of(error)
    complain(failure)
    if json:
        emit(Report(failure=failure).document())
    return failure.exit
