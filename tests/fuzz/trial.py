"""One input, and the oracle: an error of ours in one line, or success with every byte as the container's own library reads it."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formats import registry
from formats.core.errors import CheckpointError
from formats.core.tensor import CompositeTensor, TensorView
from formats.core.unpickle import unpickle
from tests.audit import watching
from tests.fuzz.differences import deliberate
from tests.fuzz.judge import LARGEST, Judge, Listing, listed, spelled
from tests.fuzz.targets import Target

CPU_SECONDS = 5.0
MEMORY = 256 << 20  # bytes that one input may add
LINE = 1200  # characters of an error


class TooSlow(BaseException):
    """Raised by the timer inside what does not end."""


@dataclass
class Tally:
    """What became of the inputs of one target."""

    executions: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)  # what went wrong → file of the first such input

    def document(self) -> dict[str, Any]:
        return {"executions": self.executions, **dict(self.counts), "findings": self.findings}


class Trial:
    """A folder for the case (in memory where there is one), the judge, and what was found so far."""

    def __init__(self, target: Target, base: Path | None, crashes: Path | None, *, judge: Judge | None = None) -> None:
        self.target = target
        shared = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None))
        self.case = self.folder / "case.dir" if not target.opened or base else self.folder
        if base is not None and base.is_dir():
            shutil.copytree(base, self.case)
        self.case.mkdir(exist_ok=True)
        self.file = self.case / target.file
        self.opened = self.case / target.opened if target.opened else self.case
        self.crashes = crashes
        self.owns_judge = judge is None
        self.judge = judge or Judge()
        self.tally = Tally()
        signal.signal(signal.SIGVTALRM, self._slow)

    def _slow(self, *_: Any) -> None:
        raise TooSlow

    def close(self) -> None:
        if self.owns_judge:
            self.judge.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- one input -----------------------------------------------------------------------------------------------------------------
    def run(self, data: bytes) -> str | None:
        """What is wrong with our reading of ``data``, or None. Findings are counted and kept, once for each kind."""
        self.file.write_bytes(data)
        self.tally.executions += 1
        before, begun = _peak(), time.process_time()
        wrong = None
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS * 1.2)
        found: Listing | None = None
        events: list[str] = []
        try:
            with watching(self.case if self.case != self.folder else self.opened) as events:
                found = self._read(data)
        except CheckpointError as error:
            wrong = self._line(error)
            self.tally.counts["refused"] += 1
        except TooSlow:
            wrong = "does not end"
        except Exception as error:
            wrong = f"raises {type(error).__name__}: {str(error)[:80]}"
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if wrong is None and time.process_time() - begun > CPU_SECONDS:
            wrong = "takes more than 5 s"
        if wrong is None and _peak() - before > MEMORY:
            wrong = "takes more than 256 MiB"
        if events:
            wrong = f"event: {events[0]}"
        if wrong is None and found is not None:
            self.tally.counts["read"] += 1
            wrong = self._judged(data, found)
        if wrong is not None:
            self._keep(data, wrong)
        return wrong

    def _read(self, data: bytes) -> Listing:
        if self.target.name == "pickle":
            return [["", spelled_ours(data), [], None]]
        with registry.open(self.opened) as checkpoint:
            try:
                return listed(checkpoint.tree, _describe)
            except CheckpointError as error:  # of the data: who reads them knows the file
                raise error.with_path(self.opened) from error

    def _line(self, error: CheckpointError) -> str | None:
        """An error must be one line that names the file, and no sign that a limit was met by accident."""
        text = str(error)
        if self.target.name != "pickle" and str(self.opened) not in text and str(self.case) not in text:
            return f"an error without the file: {error.what:.60}"
        if "\n" in text or len(text) > LINE + len(str(self.opened)):
            return f"an error of {len(text)} characters or several lines: {text:.60}"
        if any(word in text for word in ("MemoryError", "RecursionError")):
            return f"{text.partition(': ')[2]:.80}"
        if "is malformed: " in text:
            self.tally.counts["malformed"] += 1
        return None

    def _judged(self, data: bytes, found: Listing) -> str | None:
        if self.target.judge is None:
            return None
        answer = self.judge.ask(self.target.judge, self.file)
        if "read" not in answer:
            self.tally.counts["judge died" if "died" in answer else "judge refused"] += 1
            return None
        theirs = answer["read"]
        if self.target.judge in ("script", "safetensors", "numpy", "onnx"):  # no order of theirs, or no paths
            ours = {_dotted(entry[0]).removeprefix("state_dict."): entry[1:] for entry in found}
            odd = [
                e
                for e in theirs
                if ours.get(_dotted(e[0]), [None])[0] != "composite" and not _same(ours.get(_dotted(e[0])), e[1:])
            ]
        else:
            odd = [a for a, b in zip(found, theirs, strict=False) if a[0] != b[0] or not _same(a[1:], b[1:])]
            odd += [*found[len(theirs) :], *theirs[len(found) :]]
        if not odd:
            self.tally.counts["equal"] += 1
            return None
        again = self.judge.ask(self.target.judge, self.file)
        if again != answer:
            self.tally.counts["judge contradicts itself"] += 1
            return None
        reason = deliberate(self.target.name, data, found, theirs)
        if reason:
            self.tally.counts[f"deliberate: {reason}"] += 1
            return None
        return f"differs from {self.target.judge} at {odd[0]!s:.100}"

    def _keep(self, data: bytes, wrong: str) -> None:
        self.tally.counts["wrong"] += 1
        kind = "".join("0" if c.isdigit() else c for c in wrong)[:70]
        if kind in self.tally.findings or len(self.tally.findings) >= 100:
            return
        name = f"{self.target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        self.tally.findings[kind] = name
        if self.crashes is not None:
            self.crashes.mkdir(parents=True, exist_ok=True)
            (self.crashes / name).write_bytes(data)
            (self.crashes / f"{name}.txt").write_text(wrong + "\n", "utf-8", "backslashreplace")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _dotted(path: str) -> str:
    return ".".join(part[1:] if part[:1] == "s" else part for part in path.split("/")[1:])


def _same(ours: Any, theirs: Any) -> bool:
    if ours is None:
        return False
    if "composite" in (ours[0], theirs[0]):
        return bool(ours[0] == theirs[0])
    return ours[:2] == theirs[:2] and (None in (ours[2], theirs[2]) or ours[2] == theirs[2])


def _describe(node: Any) -> list[Any] | None:
    if type(node) is CompositeTensor:
        for part in node.components.values():
            if part.nbytes <= LARGEST:
                part.tobytes()
        return ["composite", None, None]
    if type(node) is not TensorView:
        return None
    sha = None if node.nbytes > LARGEST else hashlib.sha256(node.tobytes()).hexdigest()
    return [node.dtype.name, list(node.shape), sha]


def spelled_ours(data: bytes) -> str:
    """The value of a pickle of plain values, with nothing rebuilt."""
    found = unpickle(data)
    if found.names:
        return "names"
    return spelled(found.value)
