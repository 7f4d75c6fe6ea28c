"""What has to be true after a fault: the old files whole or the new ones whole, nothing left over, one line that says why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.faults.paths import TEMPORARY, Reference, snapshot

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGKILL": -9}
# Calls on a temporary file or its folder whose failure must not be called success.
_VITAL = ("write", "writev", "pwrite64", "pwritev", "pwritev2", "fsync", "fdatasync", "rename", "renameat", "renameat2")


@dataclass(frozen=True)
class Fault:
    """``kind`` is an error's or a signal's name; ``inject`` is how it is asked for; ``about`` is what the call was about."""

    call: str
    kind: str
    inject: str
    about: str = ""
    text: str = ""


def judge(reference: Reference, folder: Path, fault: Fault, code: int, said: str, *, forced: bool) -> list[str]:
    """What is wrong with the outcome; empty where nothing is."""
    told = code == 69 and "the exporting process" in said  # it was that one's call, and the command says so
    wrong = [f"exit {code}" for _ in range(1) if code not in allowed(fault) and not told]
    if code == 0 and fault.call in _VITAL and fault.about in ("temporary", "folder") and fault.kind.startswith("E"):
        if fault.kind not in ("EINTR", "EINVAL", "EOPNOTSUPP"):
            wrong.append(f"exit 0 although {fault.call} failed")
    if "Traceback" in said or "Exception ignored" in said:
        wrong.append("a traceback")
    if code not in (0, -9) and not said.strip():
        wrong.append("nothing was said")
    return wrong + left(reference, folder, fault.kind == "SIGKILL", code, unlink=fault.call.startswith("unlink"), forced=forced)


def allowed(fault: Fault) -> set[int]:
    """The exit codes that tell the truth about ``fault``."""
    if fault.kind.startswith("SIG"):
        return {CODES[fault.kind], 0} if fault.kind != "SIGKILL" else {-9}
    if fault.kind == "nothing written":
        return {70}
    return {0, 73, 74}


def left(reference: Reference, folder: Path, killed: bool, code: int, *, unlink: bool = False, forced: bool) -> list[str]:
    """What is wrong with the files."""
    now = reference.of(snapshot(folder))
    before = {**reference.inputs, **(reference.old if forced else {})}
    known = {name: data for name, data in now.items() if not (killed or unlink) or TEMPORARY not in name}
    if known == {**reference.inputs, **reference.new} or (known == before and code != 0):
        return []
    wrong: list[str] = []
    states: dict[str, str] = {}
    for name, data in reference.inputs.items():
        if now.pop(name, None) != data:
            wrong.append(f"the source {name} was changed")
    for name, data in reference.new.items():
        found = now.pop(name, None)
        if found == data:
            states[name] = "new"
        elif found is None and name not in before:
            states[name] = "none"
        elif found is not None and found == before.get(name):
            states[name] = "old"
        elif found is None and killed and name == reference.entry and len(reference.new) > 1:
            continue  # a set's last file: never beside parts of another set, see the next run
        else:
            wrong.append(f"{name} is {'gone' if found is None else f'neither old nor new ({len(found)} bytes)'}")
    extra = [name for name in now if not (killed or unlink) or TEMPORARY not in name]
    if extra:
        wrong.append(f"left over: {', '.join(extra)}")
    if code == 0 and set(states.values()) != {"new"}:
        wrong.append(f"exit 0, and the files are {states}")
    # What differs decides: files that are the same in both sets belong to either.
    telling = {states[name] for name in states if not name.endswith("/") and reference.old.get(name) != reference.new[name]}
    if forced and {"old", "new"} <= telling and set(reference.new) == set(states):
        wrong.append(f"old and new files together: {states}")
    return wrong


def settled(reference: Reference, folder: Path, *, forced: bool) -> bool:
    """Whether the folder is just as before, or just as a run without a fault leaves it."""
    now = reference.of(snapshot(folder))
    return now in ({**reference.inputs, **(reference.old if forced else {})}, {**reference.inputs, **reference.new})
