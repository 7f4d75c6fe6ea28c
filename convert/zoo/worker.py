"""The other side of `convert.zoo.processes`: a warm process that takes tasks from standard input, a JSON line each, and tells outcomes.

It dies with whoever started it, and is the first that the system kills when memory runs out; what libraries print goes to standard
error. Its memory is limited, so that a hostile file takes only this process down.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from contextlib import suppress

import formats.core.local_path  # noqa: F401 - before anybody loads pathlib, whose paths take twice as long

PR_SET_PDEATHSIG = 1
COLLECT = 100  # tasks between two collections of garbage
LONG = 1.0  # seconds: after such a task, too; it may have built a model


def main(memory: int, parent: int, alone: bool) -> int:
    """Work until standard input ends. ``memory`` is in bytes; ``alone``: there are cores for a second thread."""
    _die_with(parent)
    _limit(memory)
    telling = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us says when to stop
    from convert.console import Ended, signals
    from convert.zoo.work import perform
    from formats.core import streaming

    streaming.THREADS = alone
    with suppress(ImportError):  # one import for all tasks: `crc32_for` takes it where it is there, for small files too
        import isal.isal_zlib  # noqa: F401
    gc.freeze()
    gc.disable()  # describing tensors makes many objects and no cycles
    try:
        with signals(), os.fdopen(os.dup(0), "rb") as tasks:
            for number, line in enumerate(tasks, 1):
                outcome = perform(json.loads(line))
                told = json.dumps(outcome, separators=(",", ":")).encode() + b"\n"
                while told:
                    told = told[os.write(telling, told) :]
                if number % COLLECT == 0 or outcome["seconds"] > LONG:
                    gc.collect()
    except Ended as ended:  # the temporaries are gone by now
        return 128 + ended.number
    return 0


def _die_with(parent: int) -> None:
    with suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if hasattr(os, "getppid") and os.getppid() != parent:
        raise SystemExit(1)


def _limit(memory: int) -> None:
    with suppress(Exception):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    with suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"500")
        os.close(fd)


def started() -> None:
    """`main` with the arguments that `convert.zoo.processes` starts it with."""
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[4] == "alone"))
