"""What a worker does with one task: convert a checkpoint to each target, copy what another name already became, or check outputs.

A task and its outcome are plain JSON documents, so that any engine can carry them. A task::

    {"id": 7, "verb": "convert" | "plan" | "check", "name": "nets/a.pth", "source": "/zoo/nets/a.pth", "kind": "file",
     "folder": "/out/nets", "stem": "a", "plain": true,        # plain: the stem is the one that the name gives by itself
     "targets": [{"to": "safetensors", "force": false}], "options": {"keep": "none", …},      # of `convert.job.Job`
     "reserved": ["/out/nets/a.b.safetensors"],                # outputs of neighbours, never to be taken
     "twin": {"name": "nets/b.pth", "source": "/zoo/nets/b.pth", "stem": "b", "outputs": {"safetensors": [OUTPUT…]},
              "told": {"format": …}, "left": {"safetensors": {"dropped": …}}},       # a source that looks the same, and is done
     "digest": "fast", "identify": false, "sync": false}       # sync: make each output durable; else the driver makes many so

An outcome repeats ``id`` and ``name``, and holds the state of the source as it was before it was read, and one record a target.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

from convert import naming
from convert.job import Job, RunOptions
from convert.pipeline import convert_one
from convert.report import Failure, Output, Result
from convert.zoo import copies, digest
from convert.zoo.settings import options_for
from formats.core.errors import CheckpointError, OutputError, SystemIOError, UnknownFormat
from formats.core.files import located
from formats.core.record import changed

# What the system may do otherwise the next time it is asked.
TRANSIENT = frozenset({
    errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT, errno.ENOBUFS, errno.ECONNRESET, errno.EHOSTUNREACH,
    errno.ENETUNREACH, errno.ENETDOWN, getattr(errno, "ESTALE", errno.EIO), getattr(errno, "EREMOTEIO", errno.EIO),
})  # fmt: skip
CHANGED = "changed while it was read"


def perform(task: dict[str, Any]) -> dict[str, Any]:
    """Do what ``task`` says; whatever goes wrong is in the outcome."""
    started = time.perf_counter()
    outcome: dict[str, Any] = {"id": task["id"], "name": task["name"], "verb": task["verb"]}
    if task["verb"] == "check":
        outcome["files"] = [_checked(one) for one in task["files"]]
    else:
        _source(task, outcome)
        outcome["records"] = records = []
        for target in task["targets"]:
            record = copies.of_twin(task, target)
            if record is not None:
                outcome |= task["twin"]["told"]
            else:
                record = _converted(task, target, outcome)
            records.append(record)
            if outcome.get("ignored") is not None:
                break
        outcome["transient"] = any(record.pop("transient", False) for record in records)
        if task.get("identify") and any(record["status"] != "failed" for record in records):
            _identify(task, outcome)
    outcome["seconds"] = round(time.perf_counter() - started, 4)
    return outcome


def _source(task: dict[str, Any], outcome: dict[str, Any]) -> None:
    """The state of the source before anything is read; a listing of many parts has it from the walk."""
    if task["kind"] != "file":
        outcome |= {"size": task["size"], "mtime_ns": task["mtime_ns"], "digest": task["listing"]}
        return
    try:
        state = os.stat(task["source"]) if "://" not in task["source"] else located(task["source"]).stat()
        outcome |= {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
        outcome["digest"] = task.get("known") or digest.of_source(task["source"], task["digest"])
    except (OSError, CheckpointError):
        pass  # the conversion says it better


def _converted(task: dict[str, Any], target: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    record: dict[str, Any] = {"to": target["to"], "status": "failed", "outputs": []}
    try:
        result = _run(task, target)
        record["outputs"] = [_output(output, task, write=task["verb"] == "convert") for output in result.outputs]
        outcome |= {"format": result.format, "title": result.title}
        record["status"] = "planned" if task["verb"] == "plan" else "done"
        record["dropped"] = [left.document() for left in result.dropped]
        record["notes"] = list(result.notes)
    except UnknownFormat as error:
        if task["kind"] == "file" and Path(task["source"]).suffix.lower() not in naming.SUFFIXES:
            outcome["ignored"] = error.what.removeprefix("is ")
        record["error"] = _error(error, task)
    except Exception as error:  # a fault of ours in one file is no reason to leave the others
        record["error"] = _error(error, task)
        record["transient"] = _transient(error)
    record["seconds"] = round(time.perf_counter() - started, 4)
    return record


def _run(task: dict[str, Any], target: dict[str, Any]) -> Result:
    folder, to = located(task["folder"]), target["to"]
    job = Job(
        (task["source"],), to,
        output=None if task["plain"] else str(folder / f"{task['stem']}.{to}"), out_dir=str(folder) if task["plain"] else None,
        force=target["force"], dry_run=task["verb"] == "plan", sync=task.get("sync", False), **_options(to, task["options"]),
    )  # fmt: skip
    source = located(task["source"])
    if task["verb"] == "convert" and (task["reserved"] or not task["plain"]):
        naming.make_folder(folder)
    if task["reserved"] and task["verb"] == "convert":
        _refuse_reserved(convert_one(source, changed(job, dry_run=True, force=True)), task["reserved"])
    return convert_one(source, job)


def _options(to: str, given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a job; how a model is run comes as a dict of lists, since it came as JSON."""
    options = dict(options_for(to, given))
    if "run" in options:
        run: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options["run"].items()}
        options["run"] = RunOptions(**run)
    return options


def _refuse_reserved(planned: Result, reserved: list[str]) -> None:
    for path in (path for output in planned.outputs for path, _ in output.files):
        if str(path) in reserved:
            raise OutputError("is the output of another checkpoint beside this one", path=path, hint="rename one of the two")


def _output(output: Output, task: dict[str, Any], *, write: bool) -> dict[str, Any]:
    """What the journal keeps of one output; paths are absolute here."""
    files: list[dict[str, Any]] = []
    for path, nbytes in output.files:
        one: dict[str, Any] = {"path": str(path), "bytes": nbytes}
        if write:
            state = path.stat()
            one |= {
                "bytes": state.st_size,
                "mtime_ns": state.st_mtime_ns,
                "digest": output.digests.get(path) or digest.crc32(path),
            }
            if task["digest"] == "sha256":
                one["sha256"] = digest.sha256(path)
        files.append(one)
    made: dict[str, Any] = {"path": str(output.path), "selected": output.selected, "tensors": output.tensors, "files": files}
    made |= {"verdict": output.verified, **({"model": output.model} if output.model else {})}
    ratio = (output.parity.get("worst") or {}).get("ratio") if output.parity else None
    return made | ({"ratio": ratio} if isinstance(ratio, (int, float)) else {})


def _error(error: Exception, task: dict[str, Any]) -> dict[str, Any]:
    made = Failure.of(error, task["source"]).document()
    if made.get("path") == task["source"]:
        del made["path"]
    return made


def _transient(error: BaseException | None) -> bool:
    """Whether the same may go well in a moment: the system's passing troubles, and a source that somebody was still writing."""
    if isinstance(error, SystemIOError) and error.what == CHANGED:
        return True
    while error is not None:
        if isinstance(error, OSError):
            return error.errno in TRANSIENT
        error = error.__cause__
    return False


def _identify(task: dict[str, Any], outcome: dict[str, Any]) -> None:
    from convert.identify import identify_file

    options = task["options"]
    try:
        found = identify_file(located(task["source"]), select=options.get("select"), ema=options.get("ema", False))
    except CheckpointError:
        return
    told = [result.lines()[0] for _, result in found]
    if told:
        outcome["architecture"] = "; ".join(told)


def _checked(one: dict[str, Any]) -> dict[str, Any]:
    """What is wrong with a finished file; nothing where it is as it was written."""
    path = located(one["path"])
    try:
        state = path.lstat()
        if state.st_size != one["bytes"]:
            return {"path": one["path"], "what": f"has {state.st_size} bytes, {one['bytes']} were written"}
        wanted = f"sha256:{one['sha256']}" if one.get("sha256") else one["digest"]
        if not digest.matches(path, wanted):
            return {"path": one["path"], "what": f"is not what was written: its {wanted.partition(':')[0]} is another"}
    except FileNotFoundError:
        return {"path": one["path"], "what": "is missing"}
    except (OSError, CheckpointError) as error:
        return {"path": one["path"], "what": f"cannot be read: {getattr(error, 'strerror', None) or error}"}
    return {"path": one["path"], "mtime_ns": state.st_mtime_ns}
