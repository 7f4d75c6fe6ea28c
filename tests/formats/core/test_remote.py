"""URLs as paths, and remote files read at positions; the place is fsspec's own memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from formats.core import remote_file
from formats.core.errors import CheckpointError, CorruptCheckpoint, OutputError, SystemIOError, Unsupported, UsageError
from formats.core.files import SourceFile, located, opened
from formats.core.remote import RemotePath, remote, told
from formats.core.remote_file import BLOCK, CHUNK, GAP, RemoteFile

BYTES = bytes(range(251)) * 80_000  # 20 MB


@pytest.fixture
def store() -> dict[str, object]:
    memory = pytest.importorskip("fsspec.implementations.memory")
    memory.MemoryFileSystem.store.clear()
    memory.MemoryFileSystem.pseudo_dirs[:] = [""]
    return memory.MemoryFileSystem()


@pytest.fixture
def big(store) -> RemoteFile:
    store.pipe_file("/models/big.bin", BYTES)
    return opened(located("memory://models/big.bin"))


def test_a_url_keeps_its_slashes() -> None:
    path = located("s3://bucket/nets/in.pth.tar")
    assert isinstance(path, RemotePath)
    assert str(path) == os.fspath(path) == path.url == "s3://bucket/nets/in.pth.tar"
    assert (path.name, path.suffix, path.stem) == ("in.pth.tar", ".tar", "in.pth")
    assert str(path.parent) == "s3://bucket/nets"
    assert str(path.parent.parent) == "s3://bucket"
    assert str(path.with_name("out.safetensors")) == "s3://bucket/nets/out.safetensors"
    assert str(path.parent / "a" / "b") == "s3://bucket/nets/a/b"
    assert str((path.parent / "a/b").relative_to(path.parent)).endswith("a/b")
    assert isinstance(path.parent / "a", RemotePath)
    assert path == located("s3://bucket/nets/in.pth.tar") != located("gs://bucket/nets/in.pth.tar")
    assert located(path) is path


@pytest.mark.parametrize("name", ["s3:/bucket/key", "./s3://bucket/key", "a.pth", "C://x", "weights://"[:3], "/tmp/s3:x"])
def test_what_is_no_url_is_a_local_path(name: str) -> None:
    assert type(located(name)) is type(Path(name))


def test_a_local_file_called_like_a_place_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3:" / "x").mkdir(parents=True)
    (tmp_path / "s3:" / "x" / "in.bin").write_bytes(b"local")
    monkeypatch.chdir(tmp_path)
    for name in ("s3:/x/in.bin", "./s3://x/in.bin"):
        file = opened(located(name))
        assert type(file) is SourceFile
        assert file.read(0, 5) == b"local"
        file.close()


@pytest.mark.parametrize(
    "url", ["s3://", "s3://b//k", "s3://b/../k", "s3://b/./k", "s3://b/k::file:///etc/passwd", "file:///etc/passwd", "local://x"]
)
def test_what_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        located(url)


def test_secrets_of_a_url_are_not_shown() -> None:
    path = located("https://me:pass-4711@host/nets/in.pth?X-Amz-Signature=abc-4711#part")
    assert path.url == "https://me:pass-4711@host/nets/in.pth?X-Amz-Signature=abc-4711"
    assert str(path) == "https://host/nets/in.pth"
    assert path.name == "in.pth"
    assert "4711" not in repr(path) + str(path.parent) + path.parent.url
    error = RuntimeError("GET https://me:pass-4711@host/nets/in.pth?X-Amz-Signature=abc-4711 failed")
    assert "4711" not in str(told(error, path, "cannot be read"))


def test_keys_of_the_environment_are_taken_out_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    said = told(RuntimeError("signing with very-secret failed"), Path("s3://b/k"), "cannot be read")
    assert "very-secret" not in said.what
    assert said.exit_code == 74


def test_an_unknown_kind_of_place() -> None:
    with pytest.raises(UsageError, match=r"no kind of place"):
        remote("nowhere-at-all://b/k").info()


def test_a_library_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(scheme: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(Unsupported, match="s3fs") as raised:
        remote("s3://b/k").info()
    assert raised.value.exit_code == 69
    assert raised.value.hint == "pip install 'ckpt-convert[remote]'"


def test_what_is_read_is_what_is_there(big: RemoteFile) -> None:
    assert big.size == len(BYTES)
    for offset, length in [(0, 10), (len(BYTES) - 10, 10), (BLOCK - 1, 2), (12_345_678, 3_000_000), (0, len(BYTES))]:
        assert big.read(offset, length) == BYTES[offset : offset + length]
    assert b"".join(map(bytes, big.pieces(7, 9_000_000))) == BYTES[7:9_000_007]


@pytest.mark.parametrize(("offset", "length"), [(len(BYTES) - 5, 6), (len(BYTES) + 1, 1), (-1, 2)])
def test_reads_beyond_the_end_are_refused(big: RemoteFile, offset: int, length: int) -> None:
    with pytest.raises(CorruptCheckpoint):
        big.read(offset, length)


def test_only_what_is_announced_is_fetched(big: RemoteFile) -> None:
    wanted = [(1000, 100), (1200, 100), (5_000_000, 3 * CHUNK // 2), (19_000_000, 5)]
    big.expect(wanted)
    for offset, length in wanted:
        assert big.read(offset, length) == BYTES[offset : offset + length]
    assert big.received == sum(length for _, length in wanted) + 100  # what lies between two near ones
    assert big.requests == 1 + 2 + 1


def test_reading_on_takes_longer_ranges(big: RemoteFile) -> None:
    at = 0
    while at < len(BYTES):
        big.read(at, min(1000, len(BYTES) - at))
        at += 1000
    assert big.requests < 20
    assert big.received == len(BYTES)


def test_a_jump_costs_one_block(big: RemoteFile) -> None:
    big.read(15_000_000, 10)
    assert (big.requests, big.received) == (1, BLOCK)


def test_memory_is_bounded_over_all_files(store) -> None:
    store.pipe_file("/models/big.bin", BYTES)
    files = [opened(located("memory://models/big.bin")) for _ in range(12)]
    for file in files:
        for _ in file.pieces(0, file.size):
            held = sum(one.stop - one.start for one in remote_file._held.values())
            assert held <= remote_file.HELD
    for file in files:
        file.close()
    assert not remote_file._held


def test_a_short_answer_is_an_error(big: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteFile, "_ranged", lambda self, start, stop: BYTES[start : stop - 1])
    with pytest.raises(SystemIOError, match=r"gave 65535 bytes from byte 0 where 65536 were asked for"):
        big.read(0, 10)


def test_a_file_that_changed_is_noticed(store, big: RemoteFile) -> None:
    assert not big.changed()
    store.pipe_file("/models/big.bin", BYTES[:-1])
    assert big.changed()
    store.rm_file("/models/big.bin")
    assert big.changed()


def test_near_neighbours_and_far_ones() -> None:
    assert GAP < CHUNK
    with pytest.raises(OutputError, match=r"takes no uploads"):
        remote("https://host/x.pth").check_upload()
    with pytest.raises(OutputError, match=r"names a bucket"):
        remote("s3://bucket").check_upload()
    with pytest.raises(OutputError, match=r"at most 1024"):
        remote("s3://bucket/" + "x" * 1100).check_upload()


def test_what_is_not_there(store) -> None:
    with pytest.raises(SystemIOError, match=r"there is no such"):
        opened(located("memory://models/none.bin"))
    store.pipe_file("/models/a/b.bin", b"x")
    with pytest.raises(CheckpointError, match=r"is a folder"):
        opened(located("memory://models/a"))
    assert [path.name for path in located("memory://models").iterdir()] == ["a"]
