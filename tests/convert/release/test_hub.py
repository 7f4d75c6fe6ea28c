"""torch.hub itself downloads a release from a server on loopback and compares the hash in the name."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.convert.release.folders import copy, make, weights


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.parametrize("target", ["pth", "pth.tar"])
def test_torch_hub_takes_the_release(target: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = make(saved, tmp_path / "out", "--name", "tiny-net.v1", to=("safetensors", target))
    file = weights(folder, target)
    with _served(folder) as address:
        loaded = torch.hub.load_state_dict_from_url(
            f"{address}/{file.name}", model_dir=str(tmp_path / "cache"), progress=False, check_hash=True, weights_only=True
        )
    loaded = loaded.get("state_dict", loaded)
    original = torch.load(saved, weights_only=False)["state_dict"]
    assert {f"module.{key}" for key in loaded} == set(original)
    assert all(torch.equal(value, original[f"module.{key}"]) for key, value in loaded.items())


def test_torch_hub_refuses_other_bytes_under_the_name(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same check that passes above fails where it should: it is the hash that is compared."""
    import torch

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = copy(make(saved, tmp_path / "out"), tmp_path / "other")
    file = weights(folder, "pth")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with _served(folder) as address, pytest.raises(RuntimeError, match="invalid hash value"):
        torch.hub.load_state_dict_from_url(
            f"{address}/{file.name}", model_dir=str(tmp_path / "c"), progress=False, check_hash=True
        )
