"""``convert release``: weights in every format asked for, then what is drawn from them, in a folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert import __version__, naming, pipeline
from convert.job import Job
from convert.release import architecture, names, tensors
from convert.release.bom import bom
from convert.release.card import card
from convert.release.config import config
from convert.release.folder import whole
from convert.release.manifest import VERSION, dtypes, dumps
from convert.release.settings import Settings
from convert.report import Output, Result
from convert.zoo import digest
from formats import registry
from formats.core.errors import OutputError, ParityFailed, SystemIOError
from formats.core.ties import tied


@dataclass(slots=True)
class Release:
    """One release folder that was made. ``manifest`` is the document; ``notes`` are for people."""

    folder: Path
    manifest: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        said = {key: value for key, value in self.manifest.items() if key not in ("tensors", "version")}
        return {"folder": str(self.folder), **said, "tensors": len(self.manifest["tensors"]), "notes": self.notes}


def publish(settings: Settings, *, origin: Mapping[str, Any] | None = None) -> list[Release]:
    """Make the release of one checkpoint; of several models in it each gets a folder of its own, named after it, in ``settings.folder``.

    ``origin`` tells of what the checkpoint was itself made from: its sha256, and what was dropped then. Raises `CheckpointError`; then
    nothing is left behind.
    """
    settings.check()
    source = settings.source
    place, origin_place = settings.folder.resolve(), source.resolve()
    if place == origin_place or place in origin_place.parents or origin_place in place.parents:
        raise OutputError("holds the source, or lies in it; a source is never changed", path=settings.folder)
    try:
        files = source_files(source)
        with whole(settings.folder, force=settings.force) as folder:
            written = {target: _write(settings, folder / f".{target}", target) for target in settings.targets}
            first = written[settings.targets[0]]
            made = []
            for number, output in enumerate(first.outputs):
                place = folder / names.harmless(output.model) if len(first.outputs) > 1 else folder
                place.mkdir(exist_ok=True)
                results = {target: result.outputs[number] for target, result in written.items()}
                made.append(_one(settings, place, results, first, files))
            for release in made:
                if origin is not None:
                    release.manifest["dropped"] += origin.get("dropped", ())
                    release.manifest["source"] |= {"origin_sha256": origin["sha256"]} if "sha256" in origin else {}
                _finish(settings, release)
            for target in settings.targets:
                shutil.rmtree(folder / f".{target}")
            for release in made:
                if settings.sign is not None:
                    from convert.release.signing import sign

                    sign(release.folder, settings.sign)
                release.folder = settings.folder / release.folder.relative_to(folder)
    except OSError as error:
        raise SystemIOError(f"{error.strerror or error}", path=error.filename or source) from error
    return made


def source_files(source: Path) -> list[dict[str, Any]]:
    """{sha256, bytes} of the source, of all its files where there are several; by their names, which are not recorded."""
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.is_file())
    else:
        with registry.open(source) as checkpoint:
            paths += sorted(
                {file.path for file in checkpoint.files if file.path.is_file() and not naming.same(file.path, source)}
            )
    return [{"sha256": digest.sha256(path), "bytes": path.stat().st_size} for path in paths]


def _write(settings: Settings, folder: Path, target: str) -> Result:
    folder.mkdir()
    run: dict[str, Any] = {} if settings.run is None else {"verify": "run", "run": settings.run}
    job = Job(
        (str(settings.source),), target, output=str(folder / f"weights.{target}"), keep="none", sync=False, keys=settings.keys,
        **run, **settings.options,
    )  # fmt: skip
    return pipeline.convert_one(settings.source, job)


def _one(settings: Settings, place: Path, outputs: dict[str, Output], result: Result, files: list[dict[str, Any]]) -> Release:
    """Name and describe one model's files, which move to ``place``."""
    first = next(iter(outputs.values()))
    rows: list[dict[str, Any]] = []
    loaders: dict[str, str] = {}
    for target, output in outputs.items():
        found, loader = tensors.read(output.path, target)
        if loader is not None:
            loaders[target] = loader
        if not rows:
            rows = found
        elif wrong := tensors.difference(rows, found):
            raise ParityFailed(f"as {target} it is not the same: {wrong[0]}", path=settings.source)
    known, note, ties = _architecture(settings, first, rows)
    name = _name(settings, first, known)
    weights = []
    for target, output in outputs.items():
        sha256 = digest.sha256(output.path)
        path = place / names.file_name(name, sha256, target)
        output.path.rename(path)
        one = {"name": path.name, "format": target, "bytes": path.stat().st_size, "sha256": sha256}
        if target == "safetensors":
            one["also"] = names.HUB_WEIGHTS
            _second_name(path, place / names.HUB_WEIGHTS)
        weights.append(one)
    counted = dtypes(rows)
    source = {"format": result.format, "files": files, "selected": first.selected, "why": first.why}
    rules: dict[str, Any] = {"tied": settings.options.get("tied", "duplicate")}
    if first.stripped:
        rules["stripped"] = first.stripped
    if first.keys:
        rules["keys"] = first.keys
    if first.casting is not None:
        rules["cast"] = first.casting.document(written=True)
    manifest: dict[str, Any] = {
        "version": VERSION, "tool": f"ckpt-convert {__version__}", "name": name, "model": first.model or None,
        "license": settings.license, "date": settings.date, "about": None, "content_sha256": tensors.content_sha256(rows),
        "parameters": sum(found["elements"] for found in counted.values()),
        "tensor_bytes": sum(found["bytes"] for found in counted.values()), "dtypes": counted, "architecture": known,
        "source": source, "rules": rules, "dropped": [left.document() for left in result.dropped],
        "verification": {"bytes": "read back and equal", "loaders": loaders, "parity": _parity(settings, outputs)},
        "files": weights, "tied": ties or None, "tensors": rows,
    }  # fmt: skip
    return Release(place, {key: value for key, value in manifest.items() if value is not None}, [note] if note else [])


def _architecture(
    settings: Settings, output: Output, rows: list[dict[str, Any]]
) -> tuple[dict[str, Any] | None, str | None, dict[str, str]]:
    """(the architecture, a note, which keys are tied in the source)."""
    from convert.select import choose

    weights = {row["name"]: (tuple(row["shape"]), row["dtype"]) for row in rows}
    with registry.open(settings.source) as checkpoint:
        strip = output.stripped is not None
        choice = choose(checkpoint, select=output.selected or ".", strip=strip)[0]
        known, note = architecture.of_model(checkpoint, choice, weights, settings.arch)
        ties = tied(choice.state_dict.tensors) if settings.keys is None else {}
    return known, note, ties


def _name(settings: Settings, output: Output, known: dict[str, Any] | None) -> str:
    """As given, else the architecture's, else ``model``: never the source's file name, so that equal input makes an equal release."""
    base = settings.name or (names.harmless(known["model"]) if known else "model")
    if output.model:
        base = output.model if base == "model" and settings.name is None else f"{base}-{output.model}"
    return base if base == settings.name else names.harmless(base)


def _second_name(path: Path, second: Path) -> None:
    """The hub's name for the same file: a hard link, so that it takes no space; the hub keeps equal files once, too."""
    try:
        os.link(path, second)
    except OSError:  # a file system without links
        shutil.copyfile(path, second)


def _parity(settings: Settings, outputs: dict[str, Output]) -> dict[str, Any]:
    """The verdict of running each output against the source: the weakest, and on what it was reached. Figures would be this machine's."""
    if settings.run is None:
        return {"verdict": "not run"}
    found = [output.parity for output in outputs.values()]
    verdict = next((one["verdict"] for one in found if one["verdict"] != "proved"), "proved")
    recipe = found[0].get("recipe", {})
    return {"verdict": verdict} | {
        key: recipe[key] for key in ("arch", "inputs", "seed", "batches") if recipe.get(key) not in (None, [])
    }


def _finish(settings: Settings, release: Release) -> None:
    """Write what is drawn from the manifest, and the sums of everything."""
    manifest, folder = release.manifest, release.folder
    if settings.about is not None:
        manifest["about"] = hashlib.sha256(settings.about.strip().encode()).hexdigest()
    texts = {names.MANIFEST: dumps(manifest), names.CARD: card(manifest, settings.about), names.BOM: bom(manifest)}
    described = config(manifest)
    if described is not None:
        texts[names.CONFIG] = described
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    known = {one[name]: one["sha256"] for one in manifest["files"] for name in ("name", "also") if name in one}
    (folder / names.SUMS).write_bytes(sums(known | {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}))


def sums(digests: Mapping[str, str]) -> bytes:
    """``SHA256SUMS`` of {name: sha256}, as ``sha256sum`` writes and checks it."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(digests.items())).encode()
