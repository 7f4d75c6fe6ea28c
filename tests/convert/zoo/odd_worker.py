"""A worker that does something else for checkpoints of certain names: it dies, hangs, swallows memory, or meets a passing fault.

`tests.convert.zoo.test_processes` has it started in place of the real one, whose loop, limits and answers it keeps.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from convert.pipeline import convert_one as really
from convert.zoo import work
from convert.zoo.worker import started
from formats.core.errors import SystemIOError

START = "import sys; sys.path.insert(0, sys.argv[3]); from tests.convert.zoo import odd_worker; odd_worker.begin()"


def odd(source: Path, job: Any) -> Any:
    marker = source.with_suffix(".marker")
    first = not marker.exists()
    with marker.open("a") as file:
        file.write("x")
    if source.name.startswith("deadly") or (source.name.startswith("unlucky") and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if source.name.startswith("endless"):
        time.sleep(600)
    if source.name.startswith("hungry"):
        held = [bytearray(1 << 30) for _ in range(64)]
        raise AssertionError(f"got {len(held)} GiB")
    if source.name.startswith("broken") or (source.name.startswith("flaky") and len(marker.read_text()) < 3):
        raise SystemIOError("cannot be read: Input/output error", path=source) from OSError(errno.EIO, "Input/output error")
    if source.name.startswith("faulty"):
        raise ZeroDivisionError("by mistake")
    return really(source, job)


def begin() -> None:
    work.convert_one = odd
    started()
