"""Writing: the new file whole or the old file whole, whatever fails at whichever system call."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.core import moving, output, streaming
from formats.core.errors import CheckpointError, CorruptCheckpoint, OutputError, ParityFailed, SystemIOError
from formats.core.files import SourceFile
from formats.core.layout import Data, Late, Layout, Literal
from formats.core.output import write_layouts
from formats.core.readback import PIECE
from formats.core.storage import BytesStorage, FileSpan, Storage, Swapped, Window, plain_span
from formats.core.zip import ZipDirectory

ROOT = Path(__file__).parents[3]


def noise(count: int, seed: int = 0) -> bytes:
    import random

    return random.Random(seed).randbytes(count)


def layout(storages: list[Storage], name: str = "", *, late: bool = True) -> tuple[Layout, bytes]:
    """A header, the storages with a late segment of their CRC-32 before each, a tail; and the bytes that are to come out."""
    made = Layout(0, name=name)
    parts = [b"HEADER"]
    made.literals.append(Literal(0, parts[0]))
    at = 6
    for index, storage in enumerate(storages):
        raw = b"".join(bytes(piece) for piece in storage.chunks(0, storage.nbytes))
        if late:
            made.late.append(Late(at, 4, lambda crcs, index=index: crcs[index].to_bytes(4, "little")))
            parts.append(zlib.crc32(raw).to_bytes(4, "little"))
            at += 4
        made.data.append(Data(at, storage, f"t{index}"))
        parts.append(raw)
        at += len(raw)
    made.literals.append(Literal(at, b"TAIL"))
    parts.append(b"TAIL")
    made.size = at + 4
    return made, b"".join(parts)


def folder_of(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SourceFile]:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "source"
    path.write_bytes(noise(9 << 20))
    file = SourceFile(path)
    yield file
    file.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "target"


def of_kind(kind: str, source: SourceFile, at: int, size: int) -> Storage:
    if kind == "window":
        return Window(FileSpan(source, 0, source.size), at, size)
    if kind == "swapped":
        return Swapped(FileSpan(source, at, size - size % 4), 4)
    return BytesStorage(noise(size, at)) if kind == "memory" else FileSpan(source, at, size)


SIZES = st.sampled_from([0, 1, 7, 4095, 70_000, PIECE - 1, PIECE, PIECE + 1])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(SIZES, st.integers(0, 6 << 20), st.sampled_from(["span", "window", "swapped", "memory"])), max_size=12),
       st.booleans(), st.booleans(), st.sampled_from([0, 64 << 20]))  # fmt: skip
def test_any_layout(
    source: SourceFile, out: Path, parts: list[tuple[int, int, str]], verify: bool, late: bool, inline: int
) -> None:
    """All sizes, orders and kinds of storage arrive; so do their checksums."""
    storages: list[Storage] = []
    for size, at, kind in parts:
        storages.append(of_kind(kind, source, at, size))
    planned, wanted = layout(storages, late=late)
    told: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "ALONE", inline)
        patch.setattr(streaming, "EACH", 0)
        patch.setattr(moving, "GATHERED", 100_000)
        (written,) = write_layouts([planned], out, force=True, verify=verify, observe=lambda *at: told.append(at))
    assert out.read_bytes() == wanted
    assert (written.path, written.size) == (out, len(wanted))
    if verify or late:
        assert written.crcs == [zlib.crc32(wanted[d.offset : d.offset + d.storage.nbytes]) for d in planned.data]
    assert [total for _, total in told] == [len(wanted)] * len(told)
    assert sum(s.nbytes for s in storages) == (told[-1][0] if told else 0)
    assert folder_of(out.parent) == {out.name}


def test_tiny_tensors_take_few_system_calls(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 tensors in reverse order, headers between them: a write for each megabyte, not for each tensor."""
    storages: list[Storage] = [FileSpan(source, 64 * i, 60) for i in reversed(range(20_000))]
    planned, wanted = layout(storages)
    calls: list[int] = []
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: calls.append(at) or write(fd, view, at))
    write_layouts([planned], out)
    assert out.read_bytes() == wanted
    assert len(calls) < 20


def test_source_order(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is read from front to back, wherever its parts go; by two movers, each of them so."""
    monkeypatch.setattr(streaming, "THREADS", False)
    storages: list[Storage] = [FileSpan(source, i << 20, 1 << 20) for i in (3, 0, 8, 1, 5)]
    planned, wanted = layout(storages)
    reads: list[int] = []
    read = SourceFile.read_into
    monkeypatch.setattr(SourceFile, "read_into", lambda self, at, view: reads.append(at) or read(self, at, view))
    write_layouts([planned], out)
    assert out.read_bytes() == wanted
    assert reads == sorted(reads)


def test_pieces_end_on_the_destinations_boundaries(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, wanted = layout([FileSpan(source, 5, 3 * PIECE)], late=False)
    calls: list[tuple[int, int]] = []
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: calls.append((at, at + len(view))) or write(fd, view, at))
    write_layouts([planned], out)
    assert out.read_bytes() == wanted
    assert calls[:4] == [(6, PIECE), (PIECE, 2 * PIECE), (2 * PIECE, 3 * PIECE), (3 * PIECE, 3 * PIECE + 6)]


@pytest.mark.parametrize("slip", ["hole", "overlap", "short", "long"])
def test_a_planners_slip_is_caught(source: SourceFile, out: Path, slip: str) -> None:
    planned, _ = layout([FileSpan(source, 0, 100), FileSpan(source, 100, 100)])
    if slip in ("hole", "overlap"):
        planned.data[1].offset += 1 if slip == "hole" else -1
    else:
        planned.size += 1 if slip == "long" else -1
    with pytest.raises(ParityFailed):
        write_layouts([planned], out)
    assert not folder_of(out.parent)


# -- decided before anything is read -------------------------------------------------------------------------------------------------


def refused(planned: Layout, path: Path, *, force: bool = True, sources: Any = ()) -> OutputError:
    before = folder_of(path.parent) if path.parent.is_dir() else set()
    with pytest.raises(OutputError) as caught:
        write_layouts([planned], path, force=force, sources=sources)
    assert not path.parent.is_dir() or folder_of(path.parent) == before
    assert caught.value.exit_code == 73
    return caught.value


def test_where_no_output_can_be(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, _ = layout([FileSpan(source, 0, 100)])
    monkeypatch.setattr(SourceFile, "read_into", lambda *_: pytest.fail("the source was read"))
    refused(planned, out.parent / "missing" / "x")
    refused(planned, source.path / "x")
    refused(planned, out.parent / ("n" * 300))
    (out.parent / "folder").mkdir()
    assert "folder" in str(refused(planned, out.parent / "folder"))
    os.mkfifo(out.parent / "pipe")
    assert "pipe" in str(refused(planned, out.parent / "pipe"))
    refused(planned, Path("/dev/null"))
    (out.parent / "link").symlink_to(out.parent / "elsewhere")
    assert "elsewhere" in str(refused(planned, out.parent / "link"))
    assert (out.parent / "link").is_symlink()
    assert "source" in str(refused(planned, source.path))
    os.link(source.path, out.parent / "hard")
    assert "source" in str(refused(planned, out.parent / "hard"))
    memory, _ = layout([BytesStorage(b"x")])
    assert "source" in str(refused(memory, source.path, sources=[source]))
    out.write_bytes(b"old")
    assert "exists" in str(refused(planned, out, force=False))
    assert out.read_bytes() == b"old"


def test_a_folder_that_takes_nothing(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, _ = layout([FileSpan(source, 0, 100)])
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written to" in str(refused(planned, out))
    monkeypatch.undo()
    fail_open(monkeypatch, errno.EROFS)
    refused(planned, out)


def fail_open(patch: pytest.MonkeyPatch, code: int) -> None:
    real = os.open

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest, **named)

    patch.setattr(os, "open", opened)


def test_names_of_several_files(source: SourceFile, out: Path) -> None:
    for names in (("", "../x"), ("a", "a"), ("", "target"), ("a/b",)):
        layouts = [layout([FileSpan(source, 0, 10)], name)[0] for name in names]
        with pytest.raises(OutputError):
            write_layouts(layouts, out)
    assert not folder_of(out.parent)


# -- several files, modes, flushing --------------------------------------------------------------------------------------------------


def test_all_files_are_whole_before_the_first_has_its_name(
    source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [layout([FileSpan(source, i, 5000)], name) for i, name in enumerate(("one", "two", ""))]
    events: list[str] = []
    for name in ("link", "replace", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os,
            name,
            lambda *args, name=name, real=real: events.append(f"{name} {os.path.basename(str(args[-1]))}") or real(*args),
        )
    written = write_layouts([planned for planned, _ in plans], out)
    assert [w.path.name for w in written] == ["one", "two", "target"]
    for (_, wanted), done in zip(plans, written, strict=True):
        assert done.path.read_bytes() == wanted
    kinds = [event.split()[0] for event in events]
    assert kinds == ["fsync"] * 3 + ["link"] * 3 + ["fsync"]
    assert [event.split()[1] for event in events[3:6]] == ["one", "two", "target"]
    assert folder_of(out.parent) == {"one", "two", "target"}


def test_bytes_are_on_the_disk_before_their_name(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a caller who makes many names durable at once: a power cut in between must not leave a name for nothing."""
    planned, _ = layout([FileSpan(source, 0, 100)])
    events: list[str] = []
    for name in ("link", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: events.append(name) or real(*args))
    write_layouts([planned], out, sync=False)
    assert events == ["fsync", "link"]


def test_modes(source: SourceFile, out: Path) -> None:
    planned, _ = layout([FileSpan(source, 0, 10)])
    before = os.umask(0o027)
    try:
        write_layouts([planned], out)
        assert stat.S_IMODE(out.stat().st_mode) == 0o640
        out.chmod(0o604)
        write_layouts([planned], out, force=True)
        assert stat.S_IMODE(out.stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_a_file_that_appears_meanwhile_is_left_alone(source: SourceFile, out: Path) -> None:
    """Two runs on one output: one of them wins, whole; the other says so."""
    planned, _ = layout([FileSpan(source, 0, 100_000)])
    with pytest.raises(OutputError, match="meanwhile"):
        write_layouts([planned], out, observe=lambda *_: out.write_bytes(b"theirs") and None)
    assert out.read_bytes() == b"theirs"
    assert folder_of(out.parent) == {"target"}


def test_without_hard_links(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, wanted = layout([FileSpan(source, 0, 100_000)])
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    write_layouts([planned], out)
    assert out.read_bytes() == wanted
    with pytest.raises(OutputError):
        write_layouts([planned], out)


# -- damage is found -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [0, 64 << 20])
@pytest.mark.parametrize("size", [100, 3 << 20])
@pytest.mark.parametrize("victim", ["data", "rest"])
def test_a_byte_that_changes_on_its_way(
    source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch, inline: int, size: int, victim: str
) -> None:
    """One flipped bit in what the disk gives back: no output."""
    monkeypatch.setattr(streaming, "ALONE", inline)
    monkeypatch.setattr(streaming, "EACH", 0)
    planned, wanted = layout([FileSpan(source, 0, size)])
    real = os.pwrite

    def pwrite(fd: int, view: memoryview, at: int) -> int:
        place = 10 + size // 2 if victim == "data" else 2
        if at <= place < at + len(view):
            damaged = bytearray(view)
            damaged[place - at] ^= 4
            return real(fd, damaged, at)
        return real(fd, view, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(ParityFailed) as caught:
        write_layouts([planned], out)
    assert caught.value.exit_code == 70
    assert not folder_of(out.parent)
    monkeypatch.undo()
    write_layouts([planned], out)
    assert out.read_bytes() == wanted


def stored(tmp_path: Path, content: bytes) -> ZipDirectory:
    path = tmp_path / "in" / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("r", content)
    return ZipDirectory(SourceFile(path))


@pytest.mark.parametrize("part", ["whole", "window", "swapped"])
def test_a_source_that_contradicts_its_checksum(tmp_path: Path, source: SourceFile, out: Path, part: str) -> None:
    """Also where the tensor is only a part of the record, and the damage is in the other part."""
    archive = stored(tmp_path, noise(200_000))
    span = plain_span(archive.storage("r"))
    assert span is not None
    at = span[1]
    path = archive.file.path
    raw = bytearray(path.read_bytes())
    raw[at + 150_000] ^= 1
    path.write_bytes(raw)
    record = ZipDirectory(SourceFile(path)).storage("r")
    storage: Storage = {
        "whole": lambda: record,
        "window": lambda: Window(record, 0, 1000),
        "swapped": lambda: Swapped(record, 4),
    }[part]()
    planned, _ = layout([storage])
    with pytest.raises(CorruptCheckpoint, match=r"t0.*CRC-32"):
        write_layouts([planned], out)
    assert not folder_of(out.parent)
    write_layouts([planned], out, verify=False)


def test_a_source_that_changes(source: SourceFile, out: Path) -> None:
    planned, _ = layout([FileSpan(source, 0, 5 << 20)])

    def touch(done: int, _: int) -> None:
        os.utime(source.path, ns=(done, done))

    with pytest.raises(SystemIOError, match="changed while it was read"):
        write_layouts([planned], out, observe=touch)
    assert not folder_of(out.parent)


def test_a_source_that_shrinks(source: SourceFile, out: Path) -> None:
    planned, _ = layout([FileSpan(source, 0, 8 << 20)])
    with pytest.raises(CorruptCheckpoint, match="t0"):
        write_layouts([planned], out, observe=lambda *_: os.truncate(source.path, 3 << 20))
    assert not folder_of(out.parent)


class Lying:
    """A storage that gives another number of bytes than it declares."""

    location = "cpu"

    def __init__(self, declared: int, given_: int) -> None:
        self.nbytes = declared
        self.given = given_

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        yield memoryview(bytes(self.given))


@pytest.mark.parametrize("declared", [100, 2 << 20])
@pytest.mark.parametrize("difference", [-1, 1])
def test_a_storage_that_lies(out: Path, declared: int, difference: int) -> None:
    planned = Layout(declared, data=[Data(0, Lying(declared, declared + difference), "liar")])
    with pytest.raises(CorruptCheckpoint, match="liar"):
        write_layouts([planned], out)
    assert not folder_of(out.parent)


# -- faults at each system call --------------------------------------------------------------------------------------------------------

CALLS = ("open", "posix_fallocate", "pwrite", "preadv", "fsync", "fstat", "link", "replace", "close", "fchmod", "lstat", "stat")


class Interrupted(BaseException):
    """What a signal's handler raises."""


def faulty(patch: pytest.MonkeyPatch, call: str, number: int, failure: Callable[[], Any]) -> list[int]:
    """The ``number``-th use of ``os.call`` from now on fails; returns the list that counts uses."""
    real, count = getattr(os, call), [0]

    def fail(*args: Any, **named: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            result = failure()
            if call == "close":
                real(*args, **named)  # close fails after closing
            if isinstance(result, BaseException):
                raise result
        return real(*args, **named)

    patch.setattr(os, call, fail)
    return count


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, 0])
def test_each_system_call_fails_once(source: SourceFile, out: Path, call: str, code: int, force: bool) -> None:
    """The n-th use of each call fails (or is interrupted by a signal that raises), for every n: old file whole or new file whole."""
    planned, wanted = layout([FileSpan(source, 100, 2 << 20), FileSpan(source, 0, 50), FileSpan(source, 4 << 20, 700_000)])
    for number in range(1, 200):
        if force:
            out.write_bytes(b"old")
        else:
            out.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            if number % 2:
                patch.setattr(streaming, "ALONE", 0)
                patch.setattr(streaming, "EACH", 0)
            count = faulty(patch, call, number, lambda: OSError(code, os.strerror(code)) if code else Interrupted())
            try:
                write_layouts([planned], out, force=force)
                failed = False
            except CheckpointError as error:
                assert error.exit_code in (65, 70, 73, 74), error  # noqa: PT017
                failed = True
            except Interrupted:
                failed = True
            except OSError as error:
                assert call in ("stat", "fstat", "lstat", "close"), error  # noqa: PT017
                failed = True
        assert not any(thread.name == "mover" for thread in threading.enumerate())
        left = folder_of(out.parent)
        assert left <= {"target"}, f"{call} #{number} left {left}"
        if out.exists():
            assert out.read_bytes() in ((b"old", wanted) if failed else (wanted,))
        else:
            assert failed
            assert not force
        if count[0] < number:
            return
    pytest.fail(f"{call} was used 200 times")


@pytest.mark.parametrize("call", ["close", "unlink"])
def test_what_fails_when_all_is_done_is_no_failure(
    source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The output has its name, durably. Whoever tried again would be told that it exists already."""
    planned, wanted = layout([FileSpan(source, 100, 50)])
    real, flush = getattr(os, call), os.fsync
    flushed: list[int] = []

    def fail(what: Any) -> None:
        if len(flushed) == 2:  # the file and its folder
            if call == "close":
                real(what)
            raise OSError(errno.EIO, "broken")
        real(what)

    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(fd) or flush(fd))
    monkeypatch.setattr(os, call, fail)
    write_layouts([planned], out)
    assert out.read_bytes() == wanted


def test_short_writes_and_reads(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, wanted = layout([FileSpan(source, 100, 3 << 20), FileSpan(source, 0, 50)])
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: write(fd, view[: len(view) // 2 + 1], at))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: read(fd, [views[0][: len(views[0]) // 3 + 1]], at))
    write_layouts([planned], out)
    assert out.read_bytes() == wanted


def test_a_full_disk_is_noticed_first(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, _ = layout([FileSpan(source, 100, 3 << 20)])
    monkeypatch.setattr(SourceFile, "read_into", lambda *_: pytest.fail("the source was read"))
    with pytest.MonkeyPatch.context() as patch:
        faulty(patch, "posix_fallocate", 1, lambda: OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(SystemIOError, match=rf"{planned.size} bytes are needed, \d+ are free"):
            write_layouts([planned], out)
    assert not folder_of(out.parent)


def test_without_fallocate(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, wanted = layout([FileSpan(source, 100, 3 << 20)])
    faulty(monkeypatch, "posix_fallocate", 1, lambda: OSError(errno.EOPNOTSUPP, "not here"))
    write_layouts([planned], out)
    assert out.read_bytes() == wanted


def test_without_positioned_calls(source: SourceFile, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have neither preadv nor pwrite."""
    planned, wanted = layout([FileSpan(source, 100, 6 << 20), FileSpan(source, 0, 50)])
    for name in ("preadv", "pwrite", "posix_fallocate", "link", "fchmod"):
        monkeypatch.delattr(os, name)
    write_layouts([planned], out)
    assert out.read_bytes() == wanted


def test_a_limit_of_file_size(source: SourceFile, out: Path) -> None:
    planned, _ = layout([FileSpan(source, 100, 3 << 20)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(SystemIOError):
            write_layouts([planned], out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not folder_of(out.parent)


_CHILD = """
import signal, sys
from pathlib import Path
from formats.core.files import SourceFile
from formats.core.layout import Data, Layout
from formats.core.output import write_layouts
from formats.core.storage import FileSpan
def stop(*_): raise KeyboardInterrupt
signal.signal(signal.SIGTERM, stop)
file = SourceFile(sys.argv[1])
data = [Data(i * file.size, FileSpan(file, 0, file.size), "t") for i in range(40)]
def tell(done, _):
    if done == file.size: print("begun", flush=True)
try:
    write_layouts([Layout(40 * file.size, data=data)], Path(sys.argv[2]), force=True, observe=tell)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals(source: SourceFile, out: Path, sent: signal.Signals) -> None:
    """A run that is stopped leaves the old file; and nothing else, where it could be told."""
    out.write_bytes(b"old")
    for delay in (0.0, 0.02, 0.05):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(source.path), str(out)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(sent)
        code = child.wait(60)
        child.stdout.close()
        if code == 0:  # it was done already
            assert out.stat().st_size == 40 * source.size
            out.write_bytes(b"old")
            continue
        assert out.read_bytes() == b"old"
        left = folder_of(out.parent) - {"target"}
        if sent is signal.SIGKILL:
            assert all(name.startswith(".") and name.endswith(output.TEMPORARY_SUFFIX) for name in left)
            for name in left:
                (out.parent / name).unlink()
        else:
            assert code == 130
            assert not left
