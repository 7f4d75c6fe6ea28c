"""An ext4 file system on a disk that remembers, and the disks that a power cut would have left."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.powercuts.recorder import Entry

SIZE = 24 << 20  # bytes of a disk
ROOT = Path(__file__).parents[2]


def why_not() -> str | None:
    """Why power cuts cannot be tried here; None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only an administrator of a Linux system may mount"
    for program in ("mkfs.ext4", "mount", "umount", "losetup"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        return f"mfusepy or libfuse is not here: {error}"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    with tempfile.TemporaryDirectory(prefix="powercuts-") as folder:
        image = made(Path(folder) / "image")
        try:
            with mounted(image, Path(folder) / "disk"):
                return None
        except (subprocess.CalledProcessError, OSError) as error:
            said = (getattr(error, "stderr", b"") or b"").decode("utf-8", "replace").strip() or str(error)
            return f"mounting is not allowed here: {said:.200}"


def memory() -> str | None:
    """A folder in memory for the images, where there is one: writing them is most of the time that a cut takes."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 8 * SIZE else None


def _run(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def made(path: Path) -> Path:
    """An image with an empty ext4 on it, made as a distribution makes it: with a journal that orders data before names."""
    with path.open("wb") as file:
        file.truncate(SIZE)
    _run("mkfs.ext4", "-q", path)
    return path


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Mount ``image``, its journal replayed, at ``folder``."""
    folder.mkdir(exist_ok=True)
    _run("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    for patience in range(50):
        if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.02 * (patience + 1))
    raise OSError(f"{folder} stays mounted")


@dataclass
class Recording:
    """What a run did to its disk: the image before, what was written and flushed, and when the run had ended (as an index of it)."""

    image: bytes
    entries: list[Entry]
    ended: int
    end: float
    code: int


@contextmanager
def _busy(folder: Path) -> Iterator[None]:
    """Somebody else on the same disk who flushes it all the time, so that whatever is half done gets there half done."""
    stop = threading.Event()
    flush = ctypes.CDLL(None, use_errno=True).syncfs
    fd = os.open(folder, os.O_RDONLY)

    def work() -> None:
        while not stop.wait(0.004):
            flush(fd)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.close(fd)


def record(image: Path, work: Path, action: Callable[[Path], int], *, after: float, busy: bool = False) -> Recording:
    """Run ``action(mount point)``, which returns its exit code, on a copy of ``image``; go on for ``after`` seconds.

    ``busy``: somebody else flushes the disk all the time; then what comes after the end proves nothing, and ends at once.
    """
    from tests.powercuts.recorder import DISK, entries

    outer, inner, log = work / "outer", work / "inner", work / "log"
    for folder in (outer, inner):
        folder.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    recorder = subprocess.Popen(
        [sys.executable, "-m", "tests.powercuts.recorder", str(image), str(outer), str(log)], cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while not (outer / DISK).exists():
            if recorder.poll() is not None or time.monotonic() > deadline:
                raise OSError("the recorder did not start")
            time.sleep(0.02)
        with mounted(outer / DISK, inner):
            with _busy(inner) if busy else nullcontext():
                code = action(inner)
            end = time.time()
            ended = len(entries(log))
            time.sleep(0 if busy else after)
            found = entries(log)
    finally:
        _unmount(outer)  # the recorder ends with its file system
        try:
            recorder.wait(10)
        except subprocess.TimeoutExpired:
            recorder.kill()
            recorder.wait()
    return Recording(image.read_bytes(), found, ended, end, code)


@dataclass(frozen=True)
class Cut:
    """A disk after the current failed before entry ``at`` of a recording: ``lost`` says what of the unflushed writes it has not kept."""

    at: int
    after_end: bool
    lost: str  # "nothing", "all unflushed", "some unflushed"
    seconds: float = -1.0  # after the run's end


def cuts(recording: Recording, *, most: int | None = None, busy: bool = False) -> list[Cut]:
    """At each write until the end, and each half second after it; each as the disk may have kept what it was not told to flush."""
    points = [(at, False, -1.0) for at in range(recording.ended) if recording.entries[at].data is not None]
    for half in range(0 if busy else 17):
        at = sum(entry.time <= recording.end + half / 2 for entry in recording.entries)
        points.append((max(at, recording.ended), True, half / 2))
    found = [Cut(at, ended, lost, when) for at, ended, when in points for lost in ("nothing", "all unflushed", "some unflushed")]
    if most is not None and len(found) > most:
        last = [cut for cut in found if cut.after_end][: most // 3]
        early = [cut for cut in found if not cut.after_end]
        found = random.Random(1).sample(early, min(len(early), most - len(last))) + last
    return found


def disk(recording: Recording, cut: Cut) -> bytes:
    """What is on the disk after ``cut``."""
    image = bytearray(recording.image)
    kept = recording.entries[: cut.at]
    flushed = max((at for at, entry in enumerate(kept) if entry.data is None), default=0)
    chance = random.Random(cut.at)
    for at, entry in enumerate(kept):
        if entry.data is None:
            continue
        if at > flushed and (cut.lost == "all unflushed" or (cut.lost == "some unflushed" and chance.random() < 0.5)):
            continue
        image[entry.offset : entry.offset + len(entry.data)] = entry.data
    return bytes(image)
