"""The same bytes under several names are converted once: the other names get copies of the outputs, compared and checked."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from convert import naming
from convert.zoo import digest
from formats.core.errors import CheckpointError, ParityFailed
from formats.core.files import SourceFile
from formats.core.temporary import Temporary

_CLONE = 0x40049409  # Linux's FICLONE: both files share their blocks until one is changed


def of_twin(task: dict[str, Any], target: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a copy; None where there is nothing to copy, or where it cannot be done and a conversion has to."""
    twin = task.get("twin")
    if twin is None or "://" in task["folder"] or task["verb"] != "convert" or target["to"] not in twin["outputs"]:
        return None
    started = time.perf_counter()
    outputs = twin["outputs"][target["to"]]
    try:
        if not _named_anew(outputs, twin["stem"]) or not digest.same_bytes(twin["source"], task["source"]):
            return None
        naming.make_folder(Path(task["folder"]))
        made = [_copied(output, task, twin["stem"], force=target["force"]) for output in outputs]
    except (OSError, CheckpointError):
        return None
    seconds = round(time.perf_counter() - started, 4)
    record: dict[str, Any] = {
        "to": target["to"],
        "status": "copied",
        "outputs": made,
        "seconds": seconds,
        "copy_of": twin["name"],
    }
    record |= twin["left"].get(target["to"], {})
    return record


def _named_anew(outputs: list[dict[str, Any]], stem: str) -> bool:
    """Whether each output is one file that carries the stem: shards and data beside a model name each other inside."""
    return all(len(one["files"]) == 1 and Path(one["path"]).name.startswith(stem + ".") for one in outputs)


def _copied(output: dict[str, Any], task: dict[str, Any], stem: str, *, force: bool) -> dict[str, Any]:
    source = Path(output["path"])
    target = Path(task["folder"]) / (task["stem"] + source.name[len(stem) :])
    if str(target) in task["reserved"]:
        raise FileExistsError(target)
    naming.check(target, Path(task["source"]), force=force)
    recorded = output["files"][0]
    temporary = Temporary(target)
    try:
        temporary.create(None)
        _fill(source, temporary.fd)
        os.fsync(temporary.fd)  # a name on the disk before its bytes would be a torn file
        temporary.close()
        if not digest.matches(temporary.path, recorded["digest"]):
            raise ParityFailed("is no longer what was written", path=source)
        temporary.rename(replace=force)
    finally:
        temporary.remove()
    state = target.stat()
    one = {**recorded, "path": str(target), "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    return {**output, "path": str(target), "files": [one]}


def _fill(source: Path, fd: int) -> None:
    """All of ``source``, by reference where the file system can share blocks."""
    file = SourceFile(source)
    try:
        try:
            import fcntl

            fcntl.ioctl(fd, _CLONE, file.fd)
            return
        except (ImportError, OSError):
            pass
        for piece in file.pieces(0, file.size):
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
    finally:
        file.close()
