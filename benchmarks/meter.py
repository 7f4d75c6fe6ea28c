"""Run one command and print what it took and what the rest of the machine did meanwhile, as one line of JSON.

    python -I -S meter.py LOG CORE COMMAND ARGUMENT…

A process of its own, and as small as an interpreter can be: the kernel counts the peak memory of a child from what its parent had
when it was forked, so nothing below this process's own size (some 10 MB) can be seen. What the command prints goes to LOG. CORE is the
number of the core that the command has to itself, or ``-``.

``others`` is the CPU time of all other processes and of the hypervisor during the run: all that ``/proc/stat`` counts as busy, less the
command and its children, less the kernel's own threads, which mostly write back what the command wrote.
"""

import os
import sys
import time

KTHREADD = b"2"  # the parent of all kernel threads


def main(log: str, core: str, *command: str) -> None:
    if core != "-":
        os.sched_setaffinity(0, {int(core)})
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [(os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    threads = -kernel_threads()
    rest = -busy()
    begun = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    _, status, used = os.wait4(child, 0)
    wall = time.perf_counter() - begun
    rest += busy()
    threads += kernel_threads()
    others = max((rest - threads) / os.sysconf("SC_CLK_TCK") - used.ru_utime - used.ru_stime, 0.0)
    unit = 1 if sys.platform == "darwin" else 1024
    status = os.waitstatus_to_exitcode(status)
    sys.stdout.write(f"[{status}, {wall}, {used.ru_utime}, {used.ru_stime}, {used.ru_maxrss * unit}, {others}]\n")


def busy() -> int:
    """Ticks that the cores were not idle, stolen ones included; 0 where the kernel does not say."""
    try:
        fields = read("/proc/stat").split(b"\n", 1)[0].split()
    except OSError:
        return 0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return user + nice + system + irq + softirq + steal


def kernel_threads() -> int:
    """Ticks that the kernel's threads have run."""
    total = 0
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return 0
    for number in numbers:
        try:
            fields = read(f"/proc/{number}/stat").rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[1] == KTHREADD:
            total += int(fields[11]) + int(fields[12])
    return total


def read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main(*sys.argv[1:])
