"""Exporting in a process of its own, under a limit of time and of memory: one bad model takes nothing down."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from convert.text import size
from formats.core.errors import (
    CheckpointError,
    CorruptCheckpoint,
    LimitExceeded,
    ParityFailed,
    SystemIOError,
    Unsupported,
    UsageError,
)

if TYPE_CHECKING:
    from convert.onnx_graph import Exported
    from convert.program import Program

TIMEOUT = 900.0  # seconds; the slowest of 54 nets took 130 on two busy cores
REQUEST, RESULT, PROGRAM, ERRORS = "request.json", "result.json", "program.onnx", "errors.txt"
_ERRORS: dict[str, type[CheckpointError]] = {
    error.kind: error for error in (Unsupported, ParityFailed, UsageError, CorruptCheckpoint, LimitExceeded, SystemIOError)
}


@dataclass(frozen=True, slots=True)
class Request:
    """What the other process is to do. ``builder`` is ``module:function`` of this installation (never text from an input); called with
    ``arguments`` it gives the module with its weights, or a `convert.program.Program`, which knows its inputs. ``inputs`` are spelled as
    ``--input`` takes them."""

    builder: str
    arguments: dict[str, Any]
    inputs: tuple[str, ...]
    exporter: str | None = None
    opset: int | None = None
    dynamic: bool = True
    simplify: bool = True
    threads: int | None = None
    path: tuple[str, ...] = field(default=())  # further folders to import from
    # ``module:function`` again: a context of (program, its `convert.programs.skeleton.Skeleton`). Tried first where it is given.
    weightless: str | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)


def described(program: Program) -> dict[str, Any]:
    """What the two processes tell each other of a program."""
    return {
        "kind": program.kind, "source": program.source, "assumption": program.assumption,
        "inputs": [str(spec) for spec in program.specs], "prefix": program.fit.prefix if program.fit is not None else "",
    }  # fmt: skip


def memory_limit() -> int:
    """Three quarters of the machine's memory, in bytes: the usual limit."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    except (AttributeError, ValueError, OSError):
        return 16 << 30


def run(
    request: Request,
    *,
    timeout: float = TIMEOUT,
    memory: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Export as ``request`` says. ``say`` is told each step. Raises what the export ended with; `LimitExceeded` for time or memory."""
    from convert.onnx_graph import Exported

    memory = memory or memory_limit()
    with tempfile.TemporaryDirectory(prefix="ckpt-onnx-") as folder:
        place = Path(folder)
        (place / REQUEST).write_text(json.dumps(request.document()))
        step, peak = _watched(place, request, timeout, memory, say)
        try:
            result = json.loads((place / RESULT).read_text())
            program = (place / PROGRAM).read_bytes() if result.get("status") == "done" else b""
        except (OSError, ValueError) as error:
            raise Unsupported(f"the exporting process ended while {step or 'starting'}: {_last(place / ERRORS)}") from error
    if result["status"] != "done":
        raise _ERRORS.get(result.get("kind", ""), Unsupported)(result["what"], hint=result.get("hint"))
    exported = Exported(program=program, **result["exported"])
    if peak:
        exported.seconds["peak memory, MB"] = round(peak / 1e6)
    return exported


def _watched(place: Path, request: Request, timeout: float, memory: int, say: Callable[[str], None]) -> tuple[str, int]:
    """(the last step that was told, the largest memory seen)."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([*request.path, *(entry for entry in sys.path if entry)])
    if request.threads is not None:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(request.threads)
    step, peak = "", 0
    started = time.monotonic()
    with (place / ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "convert.onnx_worker", str(place)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env=environment, start_new_session=True,
        )  # fmt: skip
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert process.stdout is not None
        listener = threading.Thread(target=_listen, args=(process.stdout, told), daemon=True)
        listener.start()
        try:
            while process.poll() is None:
                try:
                    step = told.get(timeout=0.1)
                    say(step)
                except queue.Empty:
                    pass
                if time.monotonic() - started > timeout:
                    raise LimitExceeded(
                        f"the export took more than {timeout:g} s while {step or 'starting'}", hint="--export-timeout allows more"
                    )
                held = resident(process.pid)
                peak = max(peak, held)
                if held > memory:
                    raise LimitExceeded(
                        f"the export took {size(held)} of memory while {step or 'starting'}, {size(memory)} are allowed",
                        hint="--export-memory allows more",
                    )
        finally:
            if process.poll() is None:
                _end(process)
            process.wait()
            listener.join(5)
            process.stdout.close()
    while not told.empty():
        step = told.get()
        say(step)
    return step, peak


def _listen(stream: IO[bytes], told: queue.SimpleQueue[str]) -> None:
    for line in stream:
        told.put(line.decode("utf-8", "replace").strip()[:200])


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and what it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0


def _last(path: Path) -> str:
    """The last line that the process wrote, most likely its error."""
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it was killed or crashed without a word"
