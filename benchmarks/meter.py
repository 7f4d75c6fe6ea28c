"""Run one command and print ``status wall user system peak``: exit status, seconds, seconds, seconds, bytes.

    python -I -S meter.py LOG COMMAND ARGUMENT…

A process of its own, and as small as an interpreter can be: the kernel counts the peak memory of a child from what its parent had
when it was forked, so nothing below this process's own size (some 10 MB) can be seen. What the command prints goes to LOG.
"""

import os
import sys
import time


def main(log: str, *command: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [(os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    begun = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    _, status, used = os.wait4(child, 0)
    wall = time.perf_counter() - begun
    unit = 1 if sys.platform == "darwin" else 1024
    print(os.waitstatus_to_exitcode(status), wall, used.ru_utime, used.ru_stime, used.ru_maxrss * unit)


if __name__ == "__main__":
    main(*sys.argv[1:])
