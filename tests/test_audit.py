"""The proof that nothing of an input happens: each file is read and converted under the interpreter's audit hook (see `tests.audit`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import command
from tests.corpus import fetch
from tests.test_hostile import Case, cases

ROOT = Path(__file__).parent.parent
Auditor = Callable[[Path, Path | None], dict[str, Any]]
FIXTURES = sorted(path.relative_to(ROOT) for path in (ROOT / "tests" / "fixtures").glob("[!_]*/*"))


class Child:
    """The process that reads; started again where a file has ended it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, path: Path, out: Path | None) -> dict[str, Any]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.audit"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=command.environment(),
            )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"path": str(path), "out": str(out) if out else None}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"the process ended with {self.process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self.process is not None:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait(30)


@pytest.fixture(scope="module")
def audited() -> Iterator[Auditor]:
    child = Child()
    yield child
    child.close()


def check(audited: Auditor, path: Path, tmp_path: Path) -> str:
    """Read it, convert it; gives what became of the reading."""
    read = audited(path, None)
    assert read["events"] == []
    converted = audited(path, tmp_path)
    assert converted["events"] == []
    return str(read["outcome"])


@pytest.mark.hostile
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_hostile(case: Case, hostile: Path, audited: Auditor, tmp_path: Path) -> None:
    check(audited, hostile / case.file, tmp_path)


@pytest.mark.parametrize("path", [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in FIXTURES])
def test_fixture(path: Path, audited: Auditor, tmp_path: Path) -> None:
    assert check(audited, ROOT / path, tmp_path) == "read"


@pytest.mark.corpus
@pytest.mark.parametrize("name", [row["file"] for row in fetch.rows()])
def test_corpus(name: str, corpus: Path, audited: Auditor, tmp_path: Path) -> None:
    check(audited, corpus / name, tmp_path)


@pytest.mark.parametrize(
    ("body", "event"),
    [
        ("import antigravity", "import"),
        ("exec('pass')", "exec"),
        ("compile('0', 'x', 'eval')", "compile"),
        ("__import__('subprocess').run(['true'])", "subprocess.Popen"),
        ("__import__('os').system('true')", "os.system"),
        ("__import__('socket').socket().close()", "socket.__new__"),
        ("__import__('ctypes').CDLL(None)", "ctypes.dlopen"),
        ("open(__file__).close()", "open"),
        ("open(path, 'ab').close()", "open"),
        ("__import__('os').listdir('/')", "os.listdir"),
        ("__import__('os').remove(path)", "os.remove"),
        ("__import__('os').open('../x', 0, dir_fd=0)", "open"),
        ("__import__('shutil').rmtree('/nowhere', ignore_errors=True)", "shutil.rmtree"),
    ],
)
def test_the_watch_sees(body: str, event: str, tmp_path: Path) -> None:
    """Whatever a payload would do is an event that is reported: otherwise the tests above would prove nothing."""
    (tmp_path / "file").write_bytes(b"x")
    program = (
        "import sys, os, socket, subprocess, ctypes, shutil\nfrom pathlib import Path\n"
        "from tests.audit import watching\npath = sys.argv[1]\n"
        f"with watching(Path(path)) as events:\n  try:\n    {body}\n  except Exception:\n    pass\nprint(*events, sep='\\n')"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "file")],
        env={**command.environment(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert event in [line.split()[0] for line in done.stdout.splitlines()], done.stderr
