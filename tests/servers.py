"""S3-compatible servers on loopback, and a relay before them that counts what passes and can misbehave.

`rclone serve s3` is a real server over real files; moto heeds ``If-None-Match``. Neither is reached but through a `Relay`.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.parts import program

KEY, SECRET = "testing-key", "testing-secret-4711"
PATIENCE = 30.0  # seconds for a server to start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def rclone(folder: Path) -> Iterator[int]:
    """``rclone serve s3``: each folder below ``folder`` is a bucket. Its port on loopback."""
    port = free_port()
    command = [
        program("rclone") or "rclone", "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}",
        "--vfs-cache-mode", "off", "--config", os.devnull, "--log-level", "ERROR",
    ]  # fmt: skip
    with _running(command, port):
        yield port


@contextmanager
def moto() -> Iterator[int]:
    """moto's S3, in memory; one bucket ``models``. Its port on loopback."""
    port = free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield port


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                if server.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise RuntimeError(f"{command[0]} does not serve: {said.read()[-2000:]!r}")
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@dataclass(slots=True)
class Passed:
    """One request that came by: its answer's status, and the bytes of both bodies."""

    method: str
    path: str
    status: int
    sent: int
    received: int
    range: str | None = None


@dataclass(slots=True)
class Relay:
    """Hands requests on to a server. ``fault(method, path, headers, number)`` may answer "drop" (close the connection without an
    answer), "cut" (half of the body under the whole length), "short" (half of the body as if it were all) or "dead" (drop this and
    everything after it); None hands the request on."""

    upstream: int
    fault: Callable[[str, str, Any, int], str | None] | None = None
    passed: list[Passed] = field(default_factory=list)
    port: int = 0
    dead: bool = False
    after: Callable[[Passed], None] | None = None
    garble: str = ""  # in bodies of requests whose path holds this, one bit is flipped
    client: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        self.passed.clear()
        self.fault = self.after = None
        self.garble = ""
        self.dead = False

    def reads(self, key: str) -> list[Passed]:
        """The ranges that were read of one object."""
        return [one for one in self.passed if one.method == "GET" and one.path.partition("?")[0].endswith(key)]

    def environment(self) -> dict[str, str]:
        """What a client of this server finds in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.url,
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }  # fmt: skip


@contextmanager
def relay(upstream: int) -> Iterator[Relay]:
    """A `Relay` before the server at port ``upstream``."""
    made = Relay(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    server.daemon_threads = True
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(made: Relay) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def _hand_on(self) -> None:
            body = self._body()
            fault = made.fault(self.command, self.path, self.headers, len(made.passed)) if made.fault else None
            if made.dead or fault in ("drop", "dead"):
                made.dead = made.dead or fault == "dead"
                made.passed.append(Passed(self.command, self.path, 0, len(body), 0))
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if made.garble and made.garble in self.path and body:
                body = body[:-1] + bytes([body[-1] ^ 1])
            upstream = http.client.HTTPConnection("127.0.0.1", made.upstream, timeout=30)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("transfer-encoding", "content-length")
            }
            if body or self.command in ("PUT", "POST"):
                headers["Content-Length"] = str(len(body))
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            whole = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(data))
            if fault == "short":
                data = data[: len(data) // 2]
                whole = str(len(data))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            if whole is not None:
                self.send_header("Content-Length", whole)
            self.end_headers()
            if fault == "cut":
                data = data[: len(data) // 2]
                self.close_connection = True
            self.wfile.write(data)
            one = Passed(self.command, self.path, answer.status, len(body), len(data), self.headers.get("Range"))
            made.passed.append(one)
            if made.after is not None:
                made.after(one)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _hand_on

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(re.split(rb"[;\r]", self.rfile.readline())[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

    return Handler
