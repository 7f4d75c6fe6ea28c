"""What will be written and what will not: the only place that decides what a target cannot hold. Nothing is read or written here."""

from __future__ import annotations

from convert import __version__, naming
from convert.job import Job
from convert.report import Left, Output
from formats.core.checkpoint import Checkpoint, Content, StateDict
from formats.core.composites import DESCRIPTION, REST, Expanded, expand
from formats.core.errors import Unsupported
from formats.core.layout import Layout
from formats.core.plain_json import dumps
from formats.core.protocol import Capabilities
from formats.core.record import record
from formats.core.tensor import CompositeTensor
from formats.core.ties import tied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from convert.casting import Casting
    from convert.reshape import Reshaping
    from convert.select import Choice, Dropped

PROVENANCE = "ckpt_convert"  # metadata key: where the weights came from, as JSON
MODEL_KEY = "state_dict"  # under which a container of more than weights keeps them


@record
class Planned:
    """One output with everything that it takes to write it."""

    output: Output
    layouts: list[Layout]


@record
class Plan:
    """All outputs of one source, and what of the source is in none of them."""

    outputs: list[Planned]
    dropped: list[Left]
    notes: list[str]


def plan(
    checkpoint: Checkpoint,
    choices: list[Choice],
    dropped: list[Dropped],
    writer: Any,
    base: Path,
    job: Job,
    keys: Reshaping | None = None,
) -> Plan:
    """Lay out one output for each of ``choices``. Raises `Unsupported`, naming the tensor, for what ``writer`` cannot hold."""
    capabilities: Capabilities = writer.CAPABILITIES
    if capabilities.program:
        raise Unsupported(f"--to {job.to} needs a model that runs, and weights are no program")
    left = [Left(d.path, d.tensors, d.nbytes, d.summary) for d in dropped]
    made = Plan([], left, list(checkpoint.notes))
    whole = _whole(checkpoint, choices, capabilities, job, made)
    beside = _beside(checkpoint, choices, capabilities, job, made) if whole is None else {}
    foreign = _foreign_metadata(checkpoint, capabilities, made)
    for choice in choices:
        model, change = (choice.state_dict, None) if keys is None else keys.apply(choice.state_dict)
        casting = _casting(job)
        if casting is not None:
            model = casting.apply(model)
        expanded = _fitted(model, capabilities, job)
        content = Content(StateDict(expanded.tensors, model.versions), beside, {})
        if capabilities.metadata:
            content.metadata = foreign | _metadata(
                checkpoint, choice, expanded, made.dropped, change.account if change else {}, casting
            )
        if expanded.unsaid:
            made.notes.append(f"versions of {len(expanded.unsaid)} modules are no plain data and were left out")
        path = naming.of_model(base, choice.name, job.to)
        before: list[Layout] = []
        if whole is not None and capabilities.extras:
            content.tree = whole
        elif whole is not None:
            from convert.optimizer_names import named
            from convert.rest import Kept

            said: dict[str, Any] = {"model": choice.path, "stripped": choice.stripped}
            if optimizers := [names.document() for names in named(whole, [choice.state_dict])]:
                said["optimizers"] = optimizers
            kept = Kept(whole, model, path, said)
            content.metadata |= kept.metadata
            before = kept.layouts
        notes: list[str] = []
        own = writer.plan(content, {"notes": notes, "name": path.name, **job.writer_options()})
        if all(one.name for one in own):
            path = path.with_name(own[-1].name)  # shards: the index stands for all of them
        layouts = [*before, *own]
        made.notes += notes
        output = Output(
            path=path,
            model=choice.name,
            selected=choice.path,
            why=choice.why,
            tensors=len(model.tensors),
            tensor_bytes=sum(tensor.nbytes for tensor in expanded.tensors.values()),
            stripped=choice.stripped,
            aliases=expanded.aliases,
            duplicates=expanded.duplicates,
            composites={key: entry["kind"] for key, entry in expanded.composites.items()},
            extras=[str(key) for key in beside],
            files=[(path.parent / one.name if one.name else path, one.size) for one in layouts],
            keys=change.document if change else {},
            remarks=change.lines if change else [],
            casting=casting,
        )
        made.notes += choice.notes
        made.outputs.append(Planned(output, layouts))
    if keys is not None:
        made.notes += keys.finish()
    return made


def _casting(job: Job) -> Casting | None:
    if job.dtype is None and not job.dequantize:
        return None
    from convert.casting import Casting

    return Casting.of(job)


def _fitted(model: StateDict, capabilities: Capabilities, job: Job) -> Expanded:
    """``model`` as the target can hold it, with what gives the original back."""
    target = job.to
    if not capabilities.ties and job.tied != "duplicate":
        _check_ties(model, capabilities, job)
    if not capabilities.composites:
        fitted = expand(model, capabilities.dtypes, ties="alias" if job.tied == "alias" else "duplicate")
        if fitted.composites and not capabilities.metadata:
            key, entry = next(iter(fitted.composites.items()))
            raise Unsupported(f"tensor {key!r:.120} is {entry['kind']} {entry['dtype']}, which {target} cannot hold")
        return fitted
    fitted = Expanded()
    for key, tensor in model.tensors.items():
        parts = tensor.components.values() if isinstance(tensor, CompositeTensor) else (tensor,)
        for part in parts:
            if part.dtype.name not in capabilities.dtypes:
                raise Unsupported(f"tensor {key!r:.120} has dtype {part.dtype.name}, which {target} cannot hold")
    fitted.tensors = dict(model.tensors)
    return fitted


def _check_ties(model: StateDict, capabilities: Capabilities, job: Job) -> None:
    """Raise where ties stand in the way: asked to fail, or to leave keys out of a file that cannot say so."""
    ties = tied(model.tensors)
    if not ties or (job.tied == "alias" and capabilities.metadata):
        return
    first = ", ".join(f"{key!r:.80} is {kept!r:.80}" for key, kept in list(ties.items())[:4])
    said = f"{len(ties)} keys are tied to another: {first}{' …' if len(ties) > 4 else ''}"
    if job.tied == "fail":
        raise Unsupported(f"{said}; {job.to} holds no ties", hint="--tied duplicate writes each, --tied alias the first alone")
    raise Unsupported(f"{said}; {job.to} has no place to say so", hint="--tied duplicate writes each of them")


def _beside(checkpoint: Checkpoint, choices: list[Choice], capabilities: Capabilities, job: Job, made: Plan) -> dict[Any, Any]:
    """What travels beside the model; ``made.dropped`` loses its entries."""
    if not capabilities.extras:
        if job.keep == "all" and made.dropped:
            first = made.dropped[0]
            raise Unsupported(
                f"{job.to} holds one model and nothing beside it; --keep all would lose {first.line()}",
                hint="--to pth.tar holds the rest of a checkpoint too",
            )
        return {}
    if job.keep == "none":
        return {}
    if len(choices) != 1:
        if job.keep == "all":
            raise Unsupported(f"--keep all with {len(choices)} models is not clear", hint="--select names one of them")
        return {}
    from convert import extras

    kept: dict[Any, Any] = {}
    taken = {id(tensor) for tensor in choices[0].state_dict.tensors.values()}
    for key, value in extras.beside(checkpoint.tree, choices[0].node, taken).items():
        why = f"the model itself is kept under {MODEL_KEY!r}" if key == MODEL_KEY else None
        name = extras.foreign(value)
        if name is not None:
            why = f"holds {name}, which only its own class can make again"
        if why is None:
            kept[key] = value
        elif job.keep == "all":
            raise Unsupported(f"{key!r:.120} cannot be kept: {why}", hint="without --keep all it is left out and listed")
        else:
            made.notes.append(f"{key!s:.120} is not kept: {why}")
    tops = {str(key) for key in kept}
    made.dropped = [left for left in made.dropped if left.path not in tops and left.path.split(".", 1)[0] not in tops]
    return kept


def _whole(checkpoint: Checkpoint, choices: list[Choice], capabilities: Capabilities, job: Job, made: Plan) -> Any:
    """The whole tree where it travels as it is, beside or around the model: asked for, or put together from a model's rest."""
    restored = "rest" in checkpoint.metadata and capabilities.extras
    if job.keep != "all" and not restored:
        return None
    if not (capabilities.extras or capabilities.metadata):
        return None  # `_beside` says what would be lost
    if len(choices) != 1:
        raise Unsupported(f"--keep all with {len(choices)} models is not clear", hint="--select names one of them")
    from convert.modules import without_modules

    tree, modules = without_modules(checkpoint.tree)
    if modules:
        made.notes.append(f"{len(modules)} whole models are kept as state dicts ({', '.join(sorted(set(modules)))})")
    made.dropped = []
    return tree


def _foreign_metadata(checkpoint: Checkpoint, capabilities: Capabilities, made: Plan) -> dict[str, str]:
    """Text that the source says about itself and that is not ours."""
    said = checkpoint.metadata.get("__metadata__")
    if not isinstance(said, dict):
        return {}
    keys = checkpoint.tree if isinstance(checkpoint.tree, dict) else {}
    foreign = {
        key: value
        for key, value in said.items()
        if key not in (PROVENANCE, DESCRIPTION, REST, "format") and not (key in keys and value in keys)  # ties of that file
    }
    if foreign and not capabilities.metadata:
        made.dropped.append(Left("__metadata__", 0, 0, f"text metadata of {len(foreign)} entries"))
    return foreign


def _metadata(
    checkpoint: Checkpoint, choice: Choice, expanded: Expanded, dropped: list[Left], keys: dict[str, Any], casting: Casting | None
) -> dict[str, str]:
    """The output's own account of itself: nothing in it depends on when or where it was made, or on the source's name."""
    account: dict[str, Any] = {
        "version": 1,
        "tool": f"ckpt-convert {__version__}",
        "source": {"format": checkpoint.format},
        "selected": choice.path,
        "why": choice.why,
    }
    if choice.stripped:
        account["stripped"] = choice.stripped
    if dropped:
        account["dropped"] = [left.document() for left in dropped]
    if keys:
        account["keys"] = keys
    if casting is not None:
        account["cast"] = casting.document(written=False)
    # What `safetensors.torch.save_model` writes for tied tensors, where it would say nothing else.
    entries = {
        key: kept for key, kept in expanded.aliases.items() if key not in ("format", PROVENANCE, DESCRIPTION) and _is_text(key)
    }
    entries["format"] = "pt"
    entries[PROVENANCE] = dumps(account)
    if expanded.description is not None:
        entries[DESCRIPTION] = expanded.description
    return entries


def _is_text(key: str) -> bool:
    """Whether ``key`` has no lone surrogates, which only the JSON of the description can spell."""
    return key.isprintable() or not any("\ud800" <= character <= "\udfff" for character in key)
