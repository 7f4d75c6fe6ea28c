"""``--golden INPUT OUTPUT``: which member of a class gives the output that is known, decided by running them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.programs import arch as arches
from convert.programs import inputs
from convert.programs.weights import load
from formats.core.errors import Unsupported, UsageError

if TYPE_CHECKING:
    import torch

    from convert.identify import IdentifyResult
    from convert.signatures.table import Member

AGREES = 1e-3  # relative error of a float32 output that another machine computed, with room to spare
FARTHER = 10  # how many times farther off every other function must be


def decide(
    result: IdentifyResult, weights: Mapping[str, torch.Tensor], golden: tuple[Path, Path]
) -> tuple[Member, dict[str, float]]:
    """The member whose output on the golden input is the golden output, and every function's relative error ``||f(x) - y|| / ||y||``.

    Of equal functions one is run. Raises `Unsupported`, with the errors, where none agrees or two agree about as well.
    """
    x, y = (_tensor(path) for path in golden)
    functions: dict[Any, Member] = {}
    preferred = sorted(
        result.members, key=lambda member: (member is not result.member, member.library != "torchvision", len(member.name))
    )
    for member in preferred:
        functions.setdefault(member.group if member.group >= 0 else member.name, member)
    errors: dict[str, float] = {}
    for member in functions.values():
        errors[member.name] = _error(result, member, weights, x, y)
    ranked = sorted(errors, key=errors.__getitem__)
    told = ", ".join(f"{name} is off by {errors[name]:.1e}" for name in ranked)
    if errors[ranked[0]] > AGREES:
        raise Unsupported(f"no architecture gives the golden output: {told}", path=golden[1])
    if len(ranked) > 1 and errors[ranked[1]] < FARTHER * max(errors[ranked[0]], 1e-7):
        raise Unsupported(f"the golden output does not tell architectures apart: {told}", path=golden[1])
    return next(member for member in functions.values() if member.name == ranked[0]), errors


def _tensor(path: Path) -> torch.Tensor:
    spec = inputs.parse(str(path))
    if spec.sample is None:
        raise UsageError(f"--golden {path}: is no file")
    return inputs.make(spec, 0)


def _error(
    result: IdentifyResult, member: Member, weights: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> float:
    import torch

    text = result.arch_of(member)
    try:
        module = arches.make(arches.parse(text), _no_files)
        load(module, weights, what=text, prefix=result.prefix)
        with torch.no_grad():
            output = module(x)
    except (Unsupported, RuntimeError, AssertionError):  # it does not take this input or these weights: it is not the one
        return float("inf")
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    if output.shape != y.shape:
        return float("inf")
    return float((output.double() - y.double()).norm() / y.double().norm().clamp_min(1e-300))


_no_files: Callable[[Path], Any] = Path  # never called: members come from libraries
