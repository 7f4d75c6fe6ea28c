"""A source and its output run side by side: which program, whose loaders, which inputs; and the same again from a report.

`convert.parity` judges torch modules and ONNX files; here they are made from checkpoints. The source's weights are read by torch itself
wherever it can read them, the output by the library of its format, so that a fault of our readers cannot hide in both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert import loaders
from convert.job import Job, RunOptions
from convert.parity.criterion import FAILED, PASSED
from convert.parity.ladder import Reference, Settings, check_modules, check_onnx, diagnose, diagnose_module, environment
from convert.parity.outcome import DIGESTS, Parity, Row
from convert.plan import PROVENANCE
from convert.program import Program, ProgramSpec, build
from convert.report import Output
from convert.trial import trial
from formats import registry
from formats.core.errors import CheckpointError, CorruptCheckpoint, ParityFailed, SystemIOError, Unsupported, UsageError
from formats.core.files import located, opened
from formats.core.output import write_bytes

if TYPE_CHECKING:
    from convert.select import Choice
    from formats.core.checkpoint import Checkpoint
    from formats.core.layout import Layout

Say = Callable[[str], None]


@dataclass(slots=True)
class Original:
    """The model of a source as a program. ``reader`` is whose reading of the weights it holds."""

    program: Program
    choice: Choice
    reader: str
    recipe: dict[str, Any] = field(default_factory=dict)


def original(checkpoint: Checkpoint, choice: Choice, options: RunOptions) -> Original:
    """The program of ``choice`` with weights as torch reads them, or as we do where torch cannot. Raises what `build` raises."""
    readers: list[str] = []

    def weights() -> Mapping[str, Any]:
        try:
            known = loaders.load(checkpoint.path, checkpoint.format)
            found = loaders.state_dict_at(known.value, choice)
            if found is not None and set(found) >= set(choice.state_dict.tensors):
                readers.append(known.library)
                return _versioned({key: found[key] for key in choice.state_dict.tensors}, choice)
            readers.append(f"ckpt-convert ({known.library} gives another structure)")
        except CheckpointError as error:
            readers.append(f"ckpt-convert ({error.what})")
        from convert.arrays import torch_tensor

        return _versioned({key: torch_tensor(view) for key, view in choice.state_dict.tensors.items()}, choice)

    golden = None if options.golden is None else (Path(options.golden[0]), Path(options.golden[1]))
    program = build(ProgramSpec(options.arch, options.inputs, options.trust_source, golden), checkpoint, choice, weights)
    if not program.specs:
        raise UsageError(f"{program.source}: its input is not known", hint="--input 1x3x224x224[:dtype], once for each argument")
    reader = readers[0] if readers else "ckpt-convert, from the records of the model" if program.kind == "whole" else "torch"
    arch = program.source if program.kind in ("arch", "identified") else options.arch
    recipe = {
        "source": str(checkpoint.path), "select": choice.path, "stripped": choice.stripped, "arch": arch,
        "inputs": [str(spec) for spec in program.specs], "trust_source": options.trust_source, "seed": options.seed,
        "batches": list(options.batches), "disabled_optimizers": list(options.disabled), "source weights read by": reader,
        "program": program.document(),
    }  # fmt: skip
    return Original(program, choice, reader, recipe)


def _versioned(weights: dict[str, Any], choice: Choice) -> Mapping[str, Any]:
    """A state dict with the versions of modules that the file gives, as torch's own has them."""
    from collections import OrderedDict

    found = OrderedDict(weights)
    if choice.state_dict.versions and not choice.stripped:
        found._metadata = dict(choice.state_dict.versions)  # type: ignore[attr-defined]
    return found


def settings(options: RunOptions, say: Say | None = None) -> Settings:
    return Settings(seed=options.seed, batches=options.batches or None, disabled=options.disabled, tell=say, local=options.local)


def prove(
    source: Original, output: Path, options: RunOptions, *, strict: bool = True, bisect: bool = True, say: Say | None = None
) -> Parity:
    """Run ``source`` and the file at ``output`` on the same inputs. ``strict``: an ONNX file has to hold every weight bit for bit."""
    chosen = settings(options, say)
    with registry.open(output) as written:
        kind = written.format
    program = source.program
    if program.kind == "exported" and not options.batches and program.specs[0].shape:
        chosen = replace(chosen, batches=(program.specs[0].shape[0],))  # most are exported for one batch size
    reference: Reference | None = None
    candidate: Any = None
    if kind == "onnx":
        try:
            reference = Reference(program.module, program.specs, chosen)
        except Exception:  # the check itself says why
            reference = None
        found = check_onnx(program.module, output, program.specs, chosen, reference=reference, strict=strict)
        found.recipe["output read by"] = "onnx and onnxruntime"
    else:
        loaded = loaders.load(output, kind)
        try:
            candidate = program.with_weights(_untied(loaded.tensors(), program.module.state_dict()))
        except Unsupported as error:  # another set of keys, or other shapes: no question of running it
            row = Row(DIGESTS, FAILED, error.what)
            found = Parity(rows=[row], no_program="the output's weights do not fit", environment=environment(chosen))
        else:
            found = check_modules(program.module, candidate, program.specs, chosen)
        found.recipe["output read by"] = loaded.library
    found.recipe = source.recipe | {"output": str(output)} | found.recipe
    found.notes += [*program.notes, *([f"assumed: {program.assumption}"] if program.assumption else [])]
    if bisect and found.verdict == "failed":
        if candidate is not None:
            diagnose_module(found, Reference(program.module, program.specs, chosen), candidate, chosen)
        elif reference is not None:
            diagnose(found, reference, output, chosen)
    return found


def _untied(weights: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``weights`` with the keys that the program ties to one that is there, as formats without ties leave them out."""
    found = dict(weights)
    first: dict[Any, str] = {}
    for key, value in own.items():
        if value.numel() and key in found:
            first.setdefault((value.data_ptr(), value.shape, value.stride()), key)
    for key, value in own.items():
        kept = first.get((value.data_ptr(), value.shape, value.stride()))
        if key not in found and kept is not None:
            found[key] = found[kept]
    return found


def write_and_run(checkpoint: Checkpoint, layouts: list[Layout], outputs: list[Output], job: Job, say: Say) -> None:
    """Write what was planned beside its place, run it against the source, and only then give it its name.

    Raises `ParityFailed` where it is not the source. Without a program the bytes alone are compared, and the report says why.
    """
    from formats.core.output import write_layouts

    options = job.run or RunOptions()
    target = outputs[0].path
    with trial(target, force=job.force) as folder:
        write_layouts(layouts, folder / target.name, verify=True, sources=checkpoint.files)
        for output in outputs:
            try:
                choice, _ = _matching(checkpoint, folder / output.path.name, output.selected or ".", False)
                found = prove(original(checkpoint, choice, options), folder / output.path.name, options, say=say)
            except (Unsupported, UsageError) as error:
                if options.arch is not None:
                    raise
                row = Row(DIGESTS, PASSED, "every byte read back and equal")
                found = Parity(rows=[row], no_program=error.what, environment=environment(settings(options)))
            found.recipe["output"] = str(output.path)
            settle(found, output, options)


def settle(found: Parity, output: Output, options: RunOptions) -> None:
    """Write down what was found; a failure ends here."""
    output.parity = found.document()
    output.verified = found.verdict
    output.remarks += found.lines()
    if options.html is not None:
        from convert.parity.page import page

        write_bytes(page(output.parity, output.path.name).encode("utf-8"), Path(options.html), force=True)
    if found.exit:
        blame = f"; {found.diagnosis[1]}" if len(found.diagnosis) > 1 else ""
        raise ParityFailed(f"{output.path.name} is not its source: {found.reason}{blame}", hint=_hint(found))


def _hint(found: Parity) -> str:
    line = next((line for line in found.diagnosis if "disabled_optimizers" in line), None)
    if line is None:
        return "--html FILE shows where"
    names = line.partition("[")[2].partition("]")[0].replace("'", "").replace(", ", " --disable-optimizer ")
    return f"--disable-optimizer {names} writes it, for sessions of onnxruntime that leave it out too"


def compare(
    source: Path,
    output: Path,
    options: RunOptions,
    *,
    select: str | None = None,
    ema: bool = False,
    bisect: bool = False,
    say: Say | None = None,
) -> Parity:
    """``convert verify`` with a run: bytes and program of ``output`` against ``source``."""
    with registry.open(source) as checkpoint:
        choice, strict = _matching(checkpoint, output, select, ema)
        found = prove(original(checkpoint, choice, options), output, options, strict=strict, bisect=bisect, say=say)
    found.recipe |= {
        "source": str(source),
        "output": str(output),
        "sha256": {"source": _sha256(source), "output": _sha256(output)},
        "ema": ema,
    }
    return found


def _matching(checkpoint: Checkpoint, output: Path, select: str | None, ema: bool) -> tuple[Choice, bool]:
    """(the model that ``output`` was made from, whether we made it)."""
    from convert.select import choose

    with registry.open(output) as written:
        account = _account(written.metadata)
        keys = {path[-1] if len(path) == 1 else ".".join(map(str, path)) for path, _ in written.tensors()}
    strip = account is None or isinstance(account.get("stripped"), str) or "stripped" not in account
    if account is not None and select is None and not ema and isinstance(account.get("selected"), str):
        select = account["selected"] or "."
    choices = choose(checkpoint, select=select, ema=ema, strip=strip)
    best = max(choices, key=lambda choice: len(keys & set(choice.state_dict.tensors)))
    return best, account is not None


def _account(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    for place in (metadata, metadata.get("__metadata__"), metadata.get("metadata_props"), metadata.get("properties")):
        if isinstance(place, Mapping) and isinstance(place.get(PROVENANCE), str):
            try:
                found = json.loads(place[PROVENANCE])
            except ValueError:
                return None
            return found if isinstance(found, dict) else None
    return None


def replay(report: Path, say: Say | None = None) -> tuple[Parity, list[str]]:
    """Repeat the check that ``report`` tells of; the finding, and in what it is not the report's."""
    try:
        document = json.loads(report.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemIOError(f"cannot be read: {error.strerror}", path=report) from error
    except ValueError as error:
        raise CorruptCheckpoint(f"is no JSON report: {error!s:.100}", path=report) from error
    told = document.get("parity", document) if isinstance(document, dict) else None
    recipe = told.get("recipe") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(recipe, dict) or not isinstance(recipe.get("source"), str):
        raise CorruptCheckpoint("is no report of a parity check: it has no recipe", path=report)
    if recipe.get("trust_source"):
        raise Unsupported(
            "the report asks to run the source's own code", path=report, hint="say so yourself: convert verify … --trust-source"
        )
    arch = recipe.get("arch")
    if isinstance(arch, str) and not arch.startswith(("torchvision:", "timm:")):
        raise Unsupported(
            f"the report asks to run {arch!r:.120}, which is code",
            path=report,
            hint=f"say so yourself: convert verify … --arch {arch}",
        )
    options = RunOptions(
        arch=arch if isinstance(arch, str) else None,
        inputs=tuple(str(text) for text in recipe.get("inputs", [])),
        seed=int(recipe.get("seed", 0)),
        batches=tuple(int(batch) for batch in recipe.get("batches", [])),
        disabled=tuple(str(name) for name in recipe.get("disabled_optimizers", [])),
    )
    select = recipe.get("select")
    found = compare(
        located(recipe["source"]),
        located(str(recipe.get("output"))),
        options,
        select=(select or ".") if isinstance(select, str) else None,
        say=say,
    )
    differences = []
    for name, digest in (recipe.get("sha256") or {}).items():
        if found.recipe["sha256"].get(name) != digest:
            differences.append(f"the {name} is another file than the report's")
    if found.verdict != told.get("verdict"):
        differences.append(f"verdict {found.verdict}, the report says {told.get('verdict')}")
    then, now = (told.get("environment") or {}).get("versions") or {}, found.environment["versions"]
    differences += [f"{name} {now.get(name)}, the report's was {then.get(name)}" for name in then if now.get(name) != then[name]]
    return found, differences


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    digest, file = hashlib.sha256(), opened(path)
    try:
        for piece in file.pieces(0, file.size):
            digest.update(piece)
    finally:
        file.close()
    return digest.hexdigest()
