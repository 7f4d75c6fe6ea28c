"""What a conversion did, as data; text, JSON and the exit code all come from here."""

from __future__ import annotations

from convert.text import count, shown, size
from formats.core.errors import CheckpointError
from formats.core.record import made, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from convert.casting import Casting

INTERNAL = 69  # exit code of a fault of the program itself: the tool cannot


@record
class Failure:
    """Why something ended: the exit code, the kind of error, and its one line in parts."""

    exit: int
    kind: str
    what: str
    path: str | None = None
    hint: str | None = None

    @classmethod
    def of(cls, error: Exception, source: object = None) -> Failure:
        """``source`` is named where the error names no file. What is no `CheckpointError` is a fault of the program."""
        if isinstance(error, CheckpointError):
            path = source if error.path is None else error.path
            return cls(error.exit_code, error.kind, error.what, None if path is None else str(path), error.hint)
        if isinstance(error, OSError):  # of a call that nobody expected to fail
            path = source if error.filename is None else error.filename
            return cls(74, "io", error.strerror or str(error), None if path is None else str(path))
        what = f"internal error: {type(error).__name__}: {error!s:.300}"
        hint = "this is a fault of the program: --debug shows where"
        return cls(INTERNAL, "internal", what, None if source is None else str(source), hint)

    def lines(self) -> list[str]:
        """``FILE: what`` and at most one hint, printable."""
        what = shown(self.what, 600)
        first = what if self.path is None else f"{shown(self.path, 300)}: {what}"
        return [first] if self.hint is None else [first, f"hint: {shown(self.hint, 2000)}"]

    def document(self) -> dict[str, Any]:
        return _filled({"exit": self.exit, "kind": self.kind, "what": self.what, "path": self.path, "hint": self.hint})


@record
class Left:
    """Something of the source that is not in the output. ``nbytes`` counts tensor bytes."""

    path: str
    tensors: int
    nbytes: int
    summary: str

    def line(self) -> str:
        amount = f"{count(self.tensors, 'tensor')}, {size(self.nbytes)}" if self.tensors else shown(self.summary)
        return f"{shown(self.path)}: {amount}"

    def document(self) -> dict[str, Any]:
        return {"path": self.path, "tensors": self.tensors, "bytes": self.nbytes, "summary": self.summary}


@record
class Output:
    """One model and the file that it goes to. ``nbytes`` is the file's size, ``tensor_bytes`` its tensors'."""

    path: Path
    model: str
    selected: str
    why: str
    tensors: int
    tensor_bytes: int
    stripped: str | None = None
    aliases: dict[str, str] = made(factory=dict)  # tied keys that are written under another
    duplicates: dict[str, str] = made(factory=dict)  # tied keys that are written in full beside another
    composites: dict[str, str] = made(factory=dict)  # key → kind, where spelled as several plain tensors
    extras: list[str] = made(factory=list)  # what travels beside the model
    files: list[tuple[Path, int]] = made(factory=list)
    sha256: dict[Path, str] = made(factory=dict)  # of each file, where the job asks for it
    digests: dict[Path, str] = made(factory=dict)  # crc32:… of each file, where the writing knew it without reading again
    verified: str = "none"
    parity: dict[str, Any] = made(factory=dict)  # what running both models found
    keys: dict[str, Any] = made(factory=dict)  # what became of the keys, where something was asked for
    remarks: list[str] = made(factory=list)  # the same for people
    casting: Casting | None = None  # of what was cast; its counts are there once the output is written
    written: bool = False

    @property
    def nbytes(self) -> int:
        return sum(nbytes for _, nbytes in self.files)

    def document(self) -> dict[str, Any]:
        return _filled({
            "path": str(self.path),
            "model": self.model or None,
            "selected": self.selected,
            "why": self.why,
            "tensors": self.tensors,
            "tensor_bytes": self.tensor_bytes,
            "bytes": self.nbytes,
            "files": [_filled({"path": str(path), "bytes": nbytes, "sha256": self.sha256.get(path)}) for path, nbytes in self.files],
            "stripped": self.stripped,
            "aliases": self.aliases or None,
            "duplicates": self.duplicates or None,
            "composites": self.composites or None,
            "extras": self.extras or None,
            "keys": self.keys or None,
            "cast": None if self.casting is None else self.casting.document(written=self.written),
            "verified": self.verified,
            "parity": self.parity or None,
        })  # fmt: skip

    def lines(self, *, planned: bool) -> list[str]:
        place = shown(self.selected) if self.selected else "the file is its state dict"
        name = f"model {shown(self.model)}" if self.model else "model"
        lines = [f"{name}: {place} ({count(self.tensors, 'tensor')}, {size(self.tensor_bytes)}): {shown(self.why, 300)}"]
        if self.stripped:
            lines.append(f"stripped from the keys: {shown(self.stripped)}")
        if self.extras:
            lines.append(f"kept beside the model: {_listed([shown(e) for e in self.extras])}")
        if self.aliases:
            lines.append(f"tied, written once: {_listed([f'{shown(a)} = {shown(b)}' for a, b in self.aliases.items()])}")
        if self.duplicates:
            said = _listed([f"{shown(a)} = {shown(b)}" for a, b in self.duplicates.items()])
            lines.append(f"tied, each written in full: {said}")
        if self.composites:
            spelled = _listed([f"{shown(key)} ({shown(kind)})" for key, kind in self.composites.items()])
            lines.append(f"written as component tensors: {spelled}")
        lines += self.remarks
        if self.casting is not None:
            lines += self.casting.lines(written=self.written)
        verb = "would be written to" if planned else "written to"
        proof = "uploaded, every part checked" if getattr(self.path, "url", None) else "read back and equal"
        outcomes = {"bytes": f", {proof}", "none": ", not verified"}
        checked = "" if planned else outcomes.get(self.verified, f", {self.verified}")
        lines.append(f"{verb} {shown(self.path, 300)}: {size(self.nbytes)}{checked}")
        lines += _digested(self.sha256)
        return lines


@record
class Result:
    """What became of one source."""

    source: str
    status: str = "failed"  # done | planned | failed | skipped
    format: str | None = None
    title: str | None = None
    nbytes: int | None = None
    outputs: list[Output] = made(factory=list)
    dropped: list[Left] = made(factory=list)
    notes: list[str] = made(factory=list)
    failure: Failure | None = None
    sha256: dict[Path, str] = made(factory=dict)  # of the files read, where the job asks for it

    @property
    def exit(self) -> int:
        return 0 if self.failure is None else self.failure.exit

    def document(self) -> dict[str, Any]:
        return _filled({
            "source": self.source,
            "status": self.status,
            "format": self.format,
            "bytes": self.nbytes,
            "sha256": {str(path): digest for path, digest in self.sha256.items()} or None,
            "outputs": [output.document() for output in self.outputs],
            "dropped": [left.document() for left in self.dropped],
            "notes": self.notes or None,
            "error": None if self.failure is None else self.failure.document(),
        })  # fmt: skip

    def lines(self) -> list[str]:
        """One short block; a failure's line is for the caller to print."""
        if self.failure is not None:
            return []
        amount = "" if self.nbytes is None else f", {size(self.nbytes)}"
        lines = [f"{shown(self.source, 300)}: {self.title or self.format}{amount}"]
        lines += ["  " + line for line in _digested(self.sha256)]
        for output in self.outputs:
            lines += ["  " + line for line in output.lines(planned=self.status == "planned")]
        if self.dropped:
            lines.append("  not written:")
            lines += ["    " + left.line() for left in self.dropped]
        lines += ["  note: " + shown(note, 300) for note in self.notes]
        return lines


@record
class Report:
    """What became of all sources of one call."""

    results: list[Result] = made(factory=list)
    failure: Failure | None = None  # of the call itself

    @property
    def exit(self) -> int:
        """The worst exit code; 0 only if everything is done."""
        codes = [result.exit for result in self.results]
        return max([*codes, 0 if self.failure is None else self.failure.exit])

    def document(self) -> dict[str, Any]:
        from convert import __version__

        return _filled({
            "status": "done" if self.exit == 0 else "failed",
            "exit": self.exit,
            "version": __version__,
            "results": [result.document() for result in self.results],
            "error": None if self.failure is None else self.failure.document(),
        })  # fmt: skip


def _digested(digests: dict[Path, str]) -> list[str]:
    return [f"sha256 {digest}  {shown(path, 300)}" for path, digest in digests.items()]


def _filled(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value is not None}


def _listed(items: list[str], most: int = 4) -> str:
    if len(items) <= most:
        return ", ".join(items)
    return ", ".join(items[: most - 1]) + f" and {len(items) - most + 1:,} more"
