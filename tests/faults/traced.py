"""Faults at system calls of the installed command, by strace: the N-th call fails, pretends to have worked, or is where a signal comes."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.command import environment
from tests.faults.oracle import Fault

# Of each call that touches the folder of the sources and outputs: the errors that a system can give there.
_DISK = ("ENOSPC", "EIO", "EDQUOT", "EINTR")
ERRORS: dict[str, tuple[str, ...]] = {
    "openat": ("ENOSPC", "EIO", "EDQUOT", "EINTR", "EMFILE", "EROFS", "EACCES"),
    "read": ("EIO", "EINTR"),
    "pread64": ("EIO", "EINTR"),
    "preadv": ("EIO", "EINTR"),
    "preadv2": ("EIO", "EINTR"),
    "copy_file_range": (*_DISK, "EXDEV", "EOPNOTSUPP"),
    "sendfile": (*_DISK, "EINVAL"),
    "write": _DISK,
    "writev": _DISK,
    "pwrite64": (*_DISK, "EFBIG"),
    "pwritev": (*_DISK, "EFBIG"),
    "pwritev2": (*_DISK, "EFBIG"),
    "fallocate": (*_DISK, "EOPNOTSUPP", "EFBIG"),
    "ftruncate": _DISK,
    "sync_file_range": ("EIO", "ENOSPC", "ESPIPE"),
    "fadvise64": ("EINVAL",),
    "fsync": _DISK,
    "fdatasync": _DISK,
    "close": _DISK,
    "link": (*_DISK, "EPERM", "EMLINK"),
    "linkat": (*_DISK, "EPERM", "EMLINK"),
    "rename": (*_DISK, "EACCES"),
    "renameat": (*_DISK, "EACCES"),
    "renameat2": (*_DISK, "EACCES"),
    "unlink": ("EIO", "EINTR"),
    "unlinkat": ("EIO", "EINTR"),
    "mkdir": _DISK,
    "rmdir": ("EIO",),
    "fchmod": ("EPERM", "EIO"),
    "flock": ("ENOLCK", "EINTR", "EAGAIN"),
    "newfstatat": ("EIO", "EACCES"),
    "statx": ("EIO", "EACCES"),
    "lseek": ("EIO",),
}
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
WRITES = ("write", "pwrite64", "pwritev")  # calls that may pretend to have written
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")
_HERE = re.compile(r"AT_FDCWD<[^>]*>")


@dataclass(frozen=True)
class Call:
    """The ``number``-th call of ``name`` in its thread (from 1), with its ``text`` as strace shows it, and which ``file`` it is about."""

    name: str
    number: int
    text: str
    file: str


def calls(command: list[str], folder: Path, log: Path) -> list[Call]:
    """What ``command`` calls, without a fault, that touches ``folder``; in order."""
    traced = [
        "strace",
        "-f",
        "-y",
        "--seccomp-bpf",
        "-qq",
        "-e",
        "signal=none",
        "-e",
        "trace=" + ",".join(ERRORS),
        "-o",
        str(log),
    ]
    done = subprocess.run([*traced, *command], env=environment(), cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: list[Call] = []
    counts: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:  # "resumed"
            continue
        thread, name, rest = match.groups()
        counts[thread, name] += 1
        text = _HERE.sub("", rest)
        touched = re.findall(re.escape(str(folder)) + r"([^>\"]*)", text)
        if touched:
            found.append(Call(name, counts[thread, name], text, touched[0].lstrip("/") or "."))
    return found


def faults(found: list[Call]) -> Iterator[Fault]:
    """Every error and every signal at every call."""
    for call in found:
        where = f"{call.name}:{{}}:when={call.number}"
        about = "temporary" if ".ckpt-tmp" in call.file else "folder" if call.file == "." else "file"
        for error in ERRORS[call.name]:
            yield Fault(call.name, error, where.format(f"error={error}"), about, call.text)
        if call.name in WRITES and about == "temporary":
            count = call.text.rsplit("= ", 1)[-1].strip()
            if count.isdigit():
                yield Fault(call.name, "nothing written", where.format(f"retval={count}"), about, call.text)
        for signal in SIGNALS:
            yield Fault(call.name, signal, where.format(f"signal={signal}"), about, call.text)


def run(command: list[str], folder: Path, fault: Fault, log: Path, timeout: float = 120) -> tuple[int, str, bool]:
    """(exit code, standard error, whether the fault came about) of ``command`` under ``fault``."""
    name = fault.inject.split(":")[0]
    # A signal is not delivered by strace 6.1 where a filter chooses the calls; without one every call stops twice.
    stops = ["-e", f"signal={fault.kind}"] if fault.kind in SIGNALS else ["-e", "signal=none", "--seccomp-bpf"]
    traced = ["strace", "-f", "-qq", *stops, "-e", f"trace={name}", "-e", f"inject={fault.inject}", "-o", str(log)]
    done = subprocess.run(
        [*traced, *command],
        env=environment(),
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    told = log.read_text(errors="replace")
    said = done.stderr.decode("utf-8", "replace")
    hit = f"--- {fault.kind} " in told or "+++ killed by" in told if fault.kind in SIGNALS else "(INJECTED)" in told
    # In a process of another program text the same number is another call: of the loader, before there is a program.
    return done.returncode, said, hit and "error while loading shared libraries" not in said
