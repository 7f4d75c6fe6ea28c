"""Which architecture a release says it is of: only what names and shapes prove, or what the publisher names and they do not contradict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.hints import FILE_NAME, hints
from convert.identify import IdentifyResult, identify
from formats.core.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from convert.select import Choice
    from convert.signatures.table import Member
    from formats.core.checkpoint import Checkpoint

PROVED = ("only", "equal", "metadata")  # how a member may have been taken; "assumed" is no knowledge


def of_model(
    checkpoint: Checkpoint, choice: Choice, weights: dict[str, Any], arch: str | None
) -> tuple[dict[str, Any] | None, str | None]:
    """(what the manifest says of the architecture, a note for people). ``weights`` are the released tensors, {key: (shape, dtype)}.

    The source's own name is no hint here: the same bytes make the same release. Raises `UsageError` where ``arch`` does not fit.
    """
    said = {where: text for where, text in hints(checkpoint).items() if where != FILE_NAME}
    result = identify(weights, said)
    if arch is not None:
        return _given(checkpoint.path, choice, result, arch), None
    if result.status != "identified" or result.member is None:
        return None, None
    if result.basis not in PROVED:
        several = ", ".join(member.name for member in result.members[:4]) + (", …" if len(result.members) > 4 else "")
        return None, f"the weights are those of {len(result.members)} architectures ({several}): --arch names one"
    return _described(result, _for_timm(result), str(result.basis)), None


def _for_timm(result: IdentifyResult) -> Member:
    """Of members that are the same function timm's, whose form of config.json the hub reads; else the one that was taken."""
    assert result.member is not None
    taken = result.member
    if taken.library == "timm" or taken.group < 0:
        return taken
    same = [member for member in result.members if member.library == "timm" and member.group == taken.group]
    bare = taken.name.partition(":")[2]
    return min(same, key=lambda m: (m.name != f"timm:{bare}", len(m.name), m.name), default=taken)


def _described(result: IdentifyResult, member: Member, basis: str) -> dict[str, Any]:
    from convert.programs.arch import parse

    parsed = parse(result.arch_of(member))
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in parsed.arguments}
    classes = arguments.pop("num_classes", None)
    found: dict[str, Any] = {
        "name": f"{parsed.place}:{parsed.name}",
        "library": parsed.place,
        "model": parsed.name,
        "basis": basis,
    }
    if arguments:
        found["arguments"] = arguments
    if classes is None:
        classes = result._default_classes()
    return found if classes is None else found | {"classes": classes}


def _given(path: Path, choice: Choice, result: IdentifyResult, arch: str) -> dict[str, Any] | None:
    """``--arch``: taken from the table where that has it, else the model is built and has to take the weights strictly."""
    from convert.programs.arch import parse

    parsed = parse(arch)
    if parsed.kind not in ("timm", "torchvision"):
        return None  # for --run alone: nobody else could build it from a name
    if result.status == "identified" and not parsed.arguments:
        for member in result.members:
            if member.name == f"{parsed.place}:{parsed.name}":
                return _described(result, member, "given")
    from convert.arrays import torch_tensor
    from convert.programs.arch import make
    from convert.programs.userfile import UserFile
    from convert.programs.weights import load

    module = make(parsed, UserFile)
    weights = {key: torch_tensor(view) for key, view in choice.state_dict.tensors.items()}
    try:
        load(module, weights, what=arch)
    except Unsupported as error:
        raise UsageError(f"--arch {arch} is not what these weights belong to: {error.what}", path=path) from error
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in parsed.arguments}
    classes = arguments.pop("num_classes", getattr(module, "num_classes", None))
    found: dict[str, Any] = {
        "name": f"{parsed.place}:{parsed.name}",
        "library": parsed.place,
        "model": parsed.name,
        "basis": "given",
    }
    if arguments:
        found["arguments"] = arguments
    return found | ({"classes": classes} if isinstance(classes, int) else {})
