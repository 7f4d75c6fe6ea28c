#!/usr/bin/env python3
"""Run commands one at a time under limits and report what became of each: a JSON list of arguments in, a JSON object out.

A process of its own, and a small one: the kernel counts a child's peak memory from what its parent had when it was forked, so a
test process that holds torch could measure nothing below its own size. Standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

CPU_SECONDS = 5  # of processor time: a machine that is busy with something else fails nothing
WALL_SECONDS = 30  # for what waits without working
ADDRESS_SPACE = 16 << 30  # bytes; keeps the machine alive when a limit of ours fails
FILE_SIZE = 1 << 30  # bytes in any one output


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(argv: list[str]) -> dict[str, object]:
    """Exit status (negative: the signal), the two outputs, processor and wall seconds, and peak memory in bytes."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "start_new_session": True}
        child = subprocess.Popen(argv, preexec_fn=_limit, **options)  # noqa: PLW1509 - this process has one thread
        pid = 0
        while not pid:
            pid, status, used = os.wait4(child.pid, os.WNOHANG)
            if not pid:
                if time.monotonic() - begun > WALL_SECONDS:
                    os.killpg(child.pid, signal.SIGKILL)
                time.sleep(0.002)
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read(1 << 20).decode("utf-8", "backslashreplace"))
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "exit": child.returncode,
            "stdout": texts[0],
            "stderr": texts[1],
            "cpu": used.ru_utime + used.ru_stime,
            "wall": time.monotonic() - begun,
            "peak": used.ru_maxrss * unit,
        }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
