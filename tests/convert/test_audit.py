"""``inspect --audit``: what a loader that trusts pickles would have run, from every pickle of every container, also of refused files."""

from __future__ import annotations

import collections
import functools
import gzip
import io
import json
import os
import pickle
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from convert import audit
from convert.mentions import Audit
from convert.severity import CRITICAL, KNOWN, NOTE, SUSPICIOUS, severity
from formats import registry
from formats.core.errors import CheckpointError
from tests import command


class Runs:
    """Its pickle calls ``function``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.called = function, args

    def __reduce__(self) -> Any:
        return self.called


PAYLOAD = Runs(os.system, "true")


def audited(path: Path) -> Audit:
    with audit.watching(path) as notes:
        try:
            registry.open(path).close()
        except CheckpointError:
            pass
        audit.look_around(notes, path)
    return notes.audit()


def severities(path: Path) -> dict[str, str]:
    return {mention.name: mention.severity for mention in audited(path).mentions}


SYSTEM = f"{os.name if os.name == 'nt' else 'posix'}.system"


def saved(tree: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(tree, out, **options)
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def array_of_objects() -> bytes:
    out = io.BytesIO()
    numpy.save(out, numpy.array([PAYLOAD, 1], dtype=object), allow_pickle=True)
    return out.getvalue()


STATE = {"w": torch.ones(2), "x": PAYLOAD}
CONTAINERS = {
    "zip": lambda: saved(STATE),
    "legacy": lambda: saved(STATE, _use_new_zipfile_serialization=False),
    "pickle": lambda: pickle.dumps(PAYLOAD),
    "old pickle": lambda: pickle.dumps({"a": PAYLOAD}, 0),
    "module": lambda: pickle.dumps(STATE, 2),
    "zip in zip": lambda: zipped(policy=saved(STATE)),
    "zip in tar": lambda: tarred(policy=saved(STATE)),
    "gzip": lambda: gzip.compress(saved(STATE)),
    "member that nobody reads": lambda: zipped(**{"a/data.pkl": pickle.dumps({}), "a/version": b"3", "a/extra.pkl": pickle.dumps(PAYLOAD)}),
    "npy": array_of_objects,
    "npz": lambda: zipped(**{"a.npy": array_of_objects()}),
    "cut off": lambda: saved(STATE)[:-30],
    "bytes before": lambda: b"junk" + saved(STATE),
    "after the model": lambda: pickle.dumps({"a": 1}) + pickle.dumps(PAYLOAD),
    "broken after the call": lambda: pickle.dumps(PAYLOAD)[:-1] + b"\xff\xff",
    "pickle in a pickle": lambda: pickle.dumps(Runs(pickle.loads, pickle.dumps(PAYLOAD))),
    "tar storages": lambda: tarred(storages=pickle.dumps(PAYLOAD), tensors=pickle.dumps(0), pickle=pickle.dumps({})),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_every_container(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTAINERS[name]())
    assert severities(path)[SYSTEM] == CRITICAL


def test_calls_are_counted_once_and_say_where(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(saved([PAYLOAD, PAYLOAD, Runs(os.system, "x")]))
    (found,) = [mention for mention in audited(path).mentions if mention.name == SYSTEM]
    assert (found.calls, found.objects, found.where) == (2, 0, ["archive/data.pkl"])


def test_named_is_not_called(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(pickle.dumps({"f": os.system, "g": collections.OrderedDict}))
    found = {mention.name: (mention.calls, mention.severity) for mention in audited(path).mentions}
    assert found == {SYSTEM: (0, CRITICAL), "collections.OrderedDict": (0, KNOWN)}


@pytest.mark.parametrize(
    ("name", "called", "objects", "wanted"),
    [
        ("os.system", 1, 0, CRITICAL),
        ("nt.system", 0, 0, CRITICAL),
        ("__builtin__.eval", 1, 0, CRITICAL),
        ("builtins.exec", 1, 0, CRITICAL),
        ("subprocess.Popen", 1, 0, CRITICAL),
        ("socket.socket", 1, 0, CRITICAL),
        ("shutil.rmtree", 1, 0, CRITICAL),
        ("pty.spawn", 1, 0, CRITICAL),
        ("torch.serialization.os.system", 1, 0, CRITICAL),
        ("torch.nn.modules.module.__builtins__.eval", 1, 0, CRITICAL),
        ("torch.hub.load", 1, 0, CRITICAL),
        ("numpy.testing._private.utils.runstring", 1, 0, CRITICAL),
        ("torch.load", 1, 0, CRITICAL),
        ("builtins.getattr", 1, 0, SUSPICIOUS),
        ("operator.attrgetter", 1, 0, SUSPICIOUS),
        ("functools.partial", 1, 0, SUSPICIOUS),
        ("importlib.util.find_spec", 1, 0, SUSPICIOUS),
        ("nobody.knows.this", 1, 0, SUSPICIOUS),
        ("torch.nobody", 1, 0, SUSPICIOUS),
        ("importlib.import_module", 1, 0, CRITICAL),
        ("nobody.knows.This", 1, 1, NOTE),
        ("nobody.knows.This", 0, 0, NOTE),
        ("torch._utils._rebuild_tensor_v2", 5, 0, KNOWN),
        ("torch.FloatStorage", 0, 0, KNOWN),
        ("torch.float32", 0, 0, KNOWN),
        ("torch.nn.modules.linear.Linear", 1, 1, KNOWN),
        ("collections.OrderedDict", 9, 0, KNOWN),
        ("argparse.Namespace", 1, 1, KNOWN),
        ("numpy.core.multiarray.scalar", 1, 0, KNOWN),
        ("__torch__.Net", 1, 1, KNOWN),
        ("__builtin__.set", 1, 0, KNOWN),
    ],
)
def test_severity(name: str, called: int, objects: int, wanted: str) -> None:
    assert severity(name, called, objects) == wanted


def test_an_object_of_an_unknown_class_is_no_call_of_an_unknown_function(tmp_path: Path) -> None:
    class Local:
        pass

    Local.__qualname__, Local.__module__ = "Gone", "nobody"
    import sys
    import types

    sys.modules["nobody"] = types.ModuleType("nobody")
    sys.modules["nobody"].Gone = Local  # type: ignore[attr-defined]
    try:
        for protocol, name in ((0, "copy_reg"), (2, "new"), (4, "new")):
            (tmp_path / f"{name}{protocol}").write_bytes(pickle.dumps([Local(), torch.ones(1)], protocol))
    finally:
        del sys.modules["nobody"]
    for path in tmp_path.iterdir():
        assert severities(path)["nobody.Gone"] == NOTE


def test_plain_checkpoints_alarm_nobody(tmp_path: Path, fixtures: Path) -> None:
    for path in sorted(fixtures.glob("[!_]*/*")):
        assert not [m.name for m in audited(path).mentions if m.severity in (CRITICAL, SUSPICIOUS)], path


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(saved({"w": torch.ones(2), "x": PAYLOAD, "y": functools.partial(int)}))
    done = command.run("inspect", "--audit", path)
    assert done.returncode == 0
    text = done.stdout[done.stdout.index("\nAudit of 1 pickle") :]
    assert (
        text.index("critical")
        < text.index(SYSTEM)
        < text.index("suspicious")
        < text.index("functools.partial")
        < text.index("known")
    )
    document = json.loads(command.run("inspect", "--audit", "--json", path).stdout)
    assert document["status"] == "done"
    assert document["audit"][0] == {"name": SYSTEM, "calls": 1, "severity": "critical", "where": ["archive/data.pkl"]}


def test_the_command_on_a_refused_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(saved(STATE)[:-30])
    done: subprocess.CompletedProcess[str] = command.run("inspect", "--audit", path)
    assert done.returncode == 65
    assert SYSTEM in done.stdout
    assert done.stderr.splitlines()[0].startswith(f"{path}: ")
    document = json.loads(command.run("inspect", "--audit", "--json", path).stdout)
    assert (document["status"], document["exit"]) == ("failed", 65)
    assert [entry["name"] for entry in document["audit"] if entry["severity"] == "critical"] == [SYSTEM]


def test_names_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04\x8c\x08os\x1b[31m\n\x8c\x06system\x93(t\x52.")
    done = command.run("inspect", "--audit", path)
    assert "\x1b" not in done.stdout + done.stderr
    assert "system" in done.stdout
