"""The command on URLs: a real S3-compatible server, one that heeds conditions, and a web server; all on loopback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.__main__ import main
from tests import command, servers
from tests.parts import needs

TENSORS = {f"layer{index}.weight": torch.randn(300, 400, generator=torch.manual_seed(index)) for index in range(95)}  # 45.6 MB
MID = dict(list(TENSORS.items())[:40])  # 19.2 MB, three parts of an upload
SMALL = {f"l{index}.weight": torch.full((16, 16), float(index)) for index in range(10)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bucket's folder."""
    root = tmp_path_factory.mktemp("buckets")
    nets = root / "models" / "nets"
    nets.mkdir(parents=True)
    torch.save(TENSORS, nets / "big.pth")
    torch.save(SMALL, nets / "small.pth")
    torch.save({"model": SMALL, "optimizer": TENSORS}, nets / "training.pth")
    torch.save(MID, nets / "mid.pth")
    save_file(SMALL, nets / "small.safetensors")
    # All of it before the server starts, which does not look at its folders again at once.
    zoo = root / "models" / "zoo"
    (zoo / "deep").mkdir(parents=True)
    torch.save(SMALL, zoo / "a.pth")
    torch.save({"state_dict": MID, "epoch": 3}, zoo / "deep" / "b.pth.tar")
    (zoo / "deep" / "notes.txt").write_text("no checkpoint")
    (zoo / "shards").mkdir()
    main([str(zoo / "a.pth"), "--to", "safetensors", "--max-shard-size", "4KB", "-o", str(zoo / "shards" / "m.safetensors")])
    return root


@pytest.fixture(scope="module")
def rclone(tree: Path) -> Iterator[servers.Relay]:
    needs("s3")
    with servers.rclone(tree) as port, servers.relay(port) as relay:
        yield relay


@pytest.fixture
def s3(rclone: servers.Relay) -> servers.Relay:
    rclone.reset()
    return rclone


@pytest.fixture(scope="module")
def conditional(tree: Path) -> Iterator[servers.Relay]:
    needs("s3")
    needs("moto")
    import boto3

    with servers.moto() as port, servers.relay(port) as relay:
        client = boto3.client(
            "s3", endpoint_url=relay.url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
        )
        client.create_bucket(Bucket="models")
        client.upload_file(str(tree / "models" / "nets" / "mid.pth"), "models", "nets/mid.pth")
        relay.client = client
        yield relay


@pytest.fixture
def moto(conditional: servers.Relay) -> servers.Relay:
    conditional.reset()
    return conditional


@dataclass
class Done:
    """How a call ended."""

    returncode: int
    stdout: str
    stderr: str


def call(*arguments: str | Path, **extra: str) -> Done:
    """The command in this process (a process of its own would spend its time on importing the libraries of S3)."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # a client keeps the server and the keys that it was made with
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in extra.items():
            patch.setenv(name, value)
        code = main(list(map(str, arguments)))
    return Done(code, out.getvalue(), err.getvalue())


def run(relay: servers.Relay, *arguments: str | Path, code: int = 0) -> Done:
    done = call(*arguments, **relay.environment())
    assert done.returncode == code, f"exit {done.returncode} of {arguments}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert servers.SECRET not in done.stdout + done.stderr
    return done


def same(file: Path, tensors: dict[str, torch.Tensor]) -> bool:
    loaded = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    loaded = loaded.get("state_dict", loaded)
    return set(loaded) == set(tensors) and all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_inspect_reads_structure_alone(s3: servers.Relay, tree: Path) -> None:
    done = run(s3, "inspect", "s3://models/nets/big.pth", "--json")
    assert len(json.loads(done.stdout)["tensors"]) == 95
    size = (tree / "models" / "nets" / "big.pth").stat().st_size
    reads = s3.reads("big.pth")
    assert sum(one.received for one in reads) < size / 100
    assert len(reads) <= 4
    assert len(s3.passed) <= 8


def test_a_conversion_reads_each_byte_once(s3: servers.Relay, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "big.safetensors"
    run(s3, "s3://models/nets/big.pth", "--to", "safetensors", "-o", out)
    assert same(out, TENSORS)
    size = (tree / "models" / "nets" / "big.pth").stat().st_size
    reads = s3.reads("big.pth")
    assert sum(one.received for one in reads) <= 1.05 * size
    assert len(reads) <= 12
    assert all(one.range for one in reads)


def test_what_is_not_converted_is_not_read(s3: servers.Relay, tree: Path, tmp_path: Path) -> None:
    run(s3, "s3://models/nets/training.pth", "--to", "safetensors", "-o", tmp_path / "x.safetensors")
    assert same(tmp_path / "x.safetensors", SMALL)
    assert sum(one.received for one in s3.reads("training.pth")) < 400_000


@pytest.mark.parametrize("target", ["safetensors", "pth", "pth.tar"])
def test_beside_the_source(s3: servers.Relay, tree: Path, target: str) -> None:
    done = run(s3, "s3://models/nets/big.pth", "--to", target, "-o", f"s3://models/out/big.{target}")
    assert f"written to s3://models/out/big.{target}: 45.6 MB, uploaded, every part checked" in done.stderr
    made = tree / "models" / "out" / f"big.{target}"
    assert same(made, TENSORS)
    run(s3, tree / "models" / "nets" / "big.pth", "--to", target, "-o", made.parent / "local")
    assert made.read_bytes() == (made.parent / "local").read_bytes()
    (made.parent / "local").unlink()


def test_the_name_of_the_output(s3: servers.Relay, tree: Path) -> None:
    run(s3, "s3://models/nets/training.pth", "--to", "safetensors")
    assert same(tree / "models" / "nets" / "training.safetensors", SMALL)


@pytest.mark.parametrize("target", ["pth", "npz"])
def test_from_a_local_source(s3: servers.Relay, tree: Path, target: str) -> None:
    """The checksums in a ZIP's headers stand before the data: they come from a first pass over the source."""
    local = tree / "models" / "nets" / "small.safetensors"
    run(s3, local, "--to", target, "--out-dir", "s3://models/up")
    if target == "pth":
        assert same(tree / "models" / "up" / "small.pth", SMALL)
    again = run(s3, local, "--to", target, "--out-dir", "s3://models/up", code=73)
    assert f"s3://models/up/small.{target}: exists already" in again.stderr
    run(s3, local, "--to", target, "--out-dir", "s3://models/up", "--force")


def test_shards_and_their_index(s3: servers.Relay, tree: Path) -> None:
    run(
        s3,
        "s3://models/nets/big.pth",
        "--to",
        "safetensors",
        "--max-shard-size",
        "10MB",
        "-o",
        "s3://models/shards/m.safetensors",
    )
    names = [
        one.path.partition("?")[0].rpartition("/")[2] for one in s3.passed if one.method == "POST" and "uploadId" in one.path
    ]
    assert names[-1] == "m.safetensors.index.json"  # the index last
    assert len(names) == 6
    for place in ("s3://models/shards/m.safetensors.index.json", "s3://models/shards"):
        done = run(s3, "diff", "s3://models/nets/big.pth", place)
        assert "the same: 95 tensors" in done.stdout


def test_the_installed_command(s3: servers.Relay) -> None:
    done = command.run("identify", "s3://models/nets/small.pth", **s3.environment())
    assert done.returncode == 69
    assert done.stdout == "" or "no architecture" in done.stdout + done.stderr


def test_verify_and_diff(s3: servers.Relay, tree: Path) -> None:
    run(s3, "verify", "s3://models/nets/small.pth", "s3://models/nets/small.safetensors")
    done = run(s3, "diff", "s3://models/nets/small.pth", "s3://models/nets/big.pth", code=70)
    assert done.stdout


def test_no_bucket_no_file_no_access(s3: servers.Relay, tree: Path, tmp_path: Path) -> None:
    done = run(s3, "inspect", "s3://models/none.pth", code=74)
    assert done.stderr == "s3://models/none.pth: cannot be opened: there is no such file\n"
    done = run(s3, "inspect", "s3://nothing-here/none.pth", code=74)
    assert done.stderr == "s3://nothing-here/none.pth: cannot be opened: there is no such bucket\n"
    local = tree / "models" / "nets" / "small.pth"
    done = run(s3, local, "--to", "safetensors", "-o", "s3://nothing-here/x.safetensors", code=74)
    assert "there is no such bucket" in done.stderr
    done = call("inspect", "s3://models/nets/small.pth", **s3.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong-4711"})
    assert done.returncode == 74
    assert "access is denied" in done.stderr
    assert "4711" not in done.stdout + done.stderr


def test_a_server_that_dies_in_an_upload(s3: servers.Relay, tree: Path) -> None:
    s3.fault = lambda method, path, headers, number: "dead" if "partNumber=3" in path else None
    done = run(s3, "s3://models/nets/mid.pth", "--to", "safetensors", "-o", "s3://models/dead/x.safetensors", code=74)
    assert done.stderr.startswith("s3://models/dead/x.safetensors: cannot be written: ")
    assert done.stderr.count("\n") == 2
    assert "hint: parts of the upload may still be on the server, without a name" in done.stderr
    assert not (tree / "models" / "dead" / "x.safetensors").exists()  # parts lie there under another name until the server sweeps


def test_an_upload_that_is_refused_leaves_nothing(moto: servers.Relay) -> None:
    moto.fault = lambda method, path, headers, number: "drop" if "partNumber=2" in path else None
    done = run(moto, "s3://models/nets/mid.pth", "--to", "safetensors", "-o", "s3://models/dead/x.safetensors", code=74)
    assert "cannot be written" in done.stderr
    assert moto.client.list_objects_v2(Bucket="models", Prefix="dead/")["KeyCount"] == 0
    assert "Uploads" not in moto.client.list_multipart_uploads(Bucket="models")  # it was aborted
    assert any(one.method == "DELETE" and "uploadId" in one.path for one in moto.passed)


def test_nobody_is_overwritten(moto: servers.Relay) -> None:
    """Somebody else makes the object while we upload: the server is asked to give the name only if nobody has it."""

    def meanwhile(one: servers.Passed) -> None:
        if one.method == "HEAD" and one.status == 404 and any("partNumber" in other.path for other in moto.passed):
            moto.after = None
            moto.client.put_object(Bucket="models", Key="race/x.safetensors", Body=b"theirs")

    moto.after = meanwhile
    done = run(moto, "s3://models/nets/mid.pth", "--to", "safetensors", "-o", "s3://models/race/x.safetensors", code=73)
    assert "exists already: another run made it meanwhile" in done.stderr
    assert moto.client.get_object(Bucket="models", Key="race/x.safetensors")["Body"].read() == b"theirs"
    assert "Uploads" not in moto.client.list_multipart_uploads(Bucket="models")


def test_an_object_that_changes_while_it_is_read(moto: servers.Relay, tree: Path, tmp_path: Path) -> None:
    content = (tree / "models" / "nets" / "mid.pth").read_bytes()
    moto.client.put_object(Bucket="models", Key="changing.pth", Body=content)

    def change(method: str, path: str, headers: Mapping[str, str], number: int) -> None:
        """Another file is there before the first long range is asked for; its structure has been read by then."""
        first, _, last = headers.get("Range", "").removeprefix("bytes=").partition("-")
        if method == "GET" and last and int(last) - int(first) > 1_000_000:
            moto.fault = None
            moto.client.put_object(Bucket="models", Key="changing.pth", Body=content[::-1])

    for output in (str(tmp_path / "x.safetensors"), "s3://models/changed/x.safetensors"):
        moto.client.put_object(Bucket="models", Key="changing.pth", Body=content)
        moto.fault = change
        done = run(moto, "s3://models/changing.pth", "--to", "safetensors", "-o", output, code=74)
        assert done.stderr.startswith("s3://models/changing.pth: ")
        assert "changed while it was read" in done.stderr
    assert not list(tmp_path.iterdir())
    assert moto.client.list_objects_v2(Bucket="models", Prefix="changed/")["KeyCount"] == 0


@pytest.mark.parametrize("fault", ["short", "cut"])
def test_ranges_that_are_not_whole(s3: servers.Relay, tmp_path: Path, fault: str) -> None:
    s3.fault = lambda method, path, headers, number: (
        fault if method == "GET" and "mid.pth" in path and "bytes=0-" not in headers.get("Range", "") else None
    )
    done = run(s3, "s3://models/nets/mid.pth", "--to", "safetensors", "-o", tmp_path / "x.safetensors", code=74)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_passing_fault_is_tried_again(s3: servers.Relay, tmp_path: Path) -> None:
    seen: list[str] = []

    def once(method: str, path: str, headers: Any, number: int) -> str | None:
        if method == "GET" and "mid.pth" in path and len(seen) < 2:
            seen.append(path)
            return "drop"
        return None

    s3.fault = once
    run(s3, "s3://models/nets/mid.pth", "--to", "safetensors", "-o", tmp_path / "x.safetensors")
    assert len(seen) == 2
    assert same(tmp_path / "x.safetensors", MID)


def test_a_part_that_arrives_otherwise(s3: servers.Relay, tree: Path) -> None:
    s3.garble = "partNumber=2"
    done = run(s3, "s3://models/nets/mid.pth", "--to", "safetensors", "-o", "s3://models/garbled/x.safetensors", code=70)
    assert "part 2 has the digest" in done.stderr
    assert not any(one.method == "POST" and "uploadId" in one.path for one in s3.passed)  # it was never given its name
    s3.reset()
    s3.garble = "partNumber=1"  # the only part: nothing on the server tells encryption from a fault
    done = run(s3, "s3://models/nets/small.pth", "--to", "safetensors", "-o", "s3://models/garbled/x.safetensors", code=70)
    assert "is not on the server what was sent; it has been removed again" in done.stderr
    assert not [path for path in (tree / "models" / "garbled").rglob("*") if path.is_file()]


def test_a_tree_is_migrated(s3: servers.Relay, tree: Path, tmp_path: Path) -> None:
    environment = s3.environment()
    done = command.run("migrate", "s3://models/zoo", tmp_path, "--to", "safetensors", "--json", **environment)
    document = json.loads(done.stdout)
    assert [(row["source"], row["status"]) for row in document["rows"]] == [
        ("a.pth", "done"), ("deep/b.pth.tar", "done"), ("shards/m.safetensors.index.json", "done"),
    ]  # fmt: skip
    assert [row["source"] for row in document["ignored"]] == ["deep/notes.txt"]
    assert same(tmp_path / "a.safetensors", SMALL)
    assert same(tmp_path / "deep" / "b.safetensors", MID)
    assert same(tmp_path / "shards" / "m.safetensors", SMALL)
    s3.reset()
    done = command.run("migrate", "s3://models/zoo", tmp_path, "--to", "safetensors", "--json", **environment)
    assert {row["status"] for row in json.loads(done.stdout)["rows"]} == {"unchanged"}
    assert (
        sum(one.received for one in s3.reads(".pth") + s3.reads(".tar")) == 0
    )  # sizes, times and ETags of the listing say enough


def test_a_tree_is_migrated_to_a_bucket(s3: servers.Relay, tree: Path, tmp_path: Path) -> None:
    zoo, made = tmp_path / "zoo", tree / "models" / "up-zoo"
    (zoo / "deep").mkdir(parents=True)
    torch.save(SMALL, zoo / "a.pth")
    torch.save(SMALL, zoo / "copy.pth")
    torch.save({"state_dict": MID, "epoch": 3}, zoo / "deep" / "b.pth.tar")
    arguments = (
        "migrate",
        zoo,
        "s3://models/up-zoo",
        "--to",
        "safetensors",
        "--to",
        "pth",
        "--journal",
        tmp_path / "journal",
        "--json",
    )
    done = command.run(*arguments, **s3.environment())
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in json.loads(done.stdout)["rows"]} == {"done"}
    assert same(made / "a.safetensors", SMALL)
    assert same(made / "deep" / "b.safetensors", MID)
    assert same(made / "deep" / "b.pth", MID)
    assert sorted(path.name for path in made.iterdir()) == ["a.pth", "a.safetensors", "copy.pth", "copy.safetensors", "deep"]
    assert (tmp_path / "journal" / "report.html").exists()
    done = command.run(*arguments, **s3.environment())
    assert {row["status"] for row in json.loads(done.stdout)["rows"]} == {"unchanged"}
    done = command.run(*arguments, "--check", **s3.environment())
    assert done.returncode == 0, done.stdout
    call(
        "s3://models/nets/small.pth",
        "--to",
        "safetensors",
        "-o",
        "s3://models/up-zoo/deep/b.safetensors",
        "--force",
        **s3.environment(),
    )
    done = command.run(*arguments, "--check", **s3.environment())
    assert done.returncode == 70


# -- https ---------------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def web(tree: Path) -> Iterator[Any]:
    needs("s3")  # brings aiohttp

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        ranges, received, requests = True, 0, 0

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, body: bool) -> None:
            kind = type(self)
            file = tree / "models" / self.path.partition("?")[0].lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data, asked = file.read_bytes(), self.headers.get("Range")
            if asked and kind.ranges:
                start, stop = asked.removeprefix("bytes=").split("-")
                part = data[int(start) : int(stop) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{stop}/{len(data)}")
            else:
                part = data
                self.send_response(200)
                if not kind.ranges:
                    self.send_header("Accept-Ranges", "none")
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            kind.requests += 1
            if body:
                kind.received += len(part)
                self.wfile.write(part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    Handler.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield Handler
    server.shutdown()
    server.server_close()


def test_a_web_server(web: Any, tmp_path: Path) -> None:
    web.ranges, web.received = True, 0
    url = f"{web.url}/nets/big.pth?token=secret-4711"
    done = call("inspect", url, "--json")
    assert web.received < 456_000
    assert "4711" not in done.stdout + done.stderr
    done = call(url, "--to", "safetensors", "--out-dir", tmp_path)
    assert same(tmp_path / "big.safetensors", TENSORS)
    assert web.received < 1.06 * 45_620_000
    done = call(url, "--to", "safetensors")
    assert done.returncode == 73
    assert "4711" not in done.stdout + done.stderr
    assert "http:// takes no uploads that appear whole or not at all" in done.stderr
    done = call("inspect", f"{web.url}/nets/none.pth?token=secret-4711")
    assert done.returncode == 74
    assert done.stderr.endswith("cannot be opened: there is no such file\n")
    done = call("inspect", f"{web.url}/nets/none.pth?token=secret-4711", "--debug")
    assert "4711" not in done.stdout + done.stderr


def test_a_web_server_without_ranges(web: Any) -> None:
    web.ranges = False
    done = call("inspect", f"{web.url}/nets/big.pth")
    assert done.returncode == 69
    assert "gives no ranges" in done.stderr
    assert "hint: download it first" in done.stderr


def test_a_server_that_is_not_there() -> None:
    needs("s3")
    done = call("inspect", f"http://127.0.0.1:{servers.free_port()}/x.pth")
    assert done.returncode == 74
    assert "does not answer" in done.stderr
