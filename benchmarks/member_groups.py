"""Which architectures of one class of state dicts are the same function: run them on equal weights and one input, in float64.

Writes `GROUPS`: {first member: [[group, relative difference from the first member's output]…]}; classes that are in it already are not
run again, so an interrupted run goes on. Equal means a relative difference
below 1e-9: two implementations of one function agree to 1e-12 in float64, and an eps of 1e-5 for 1e-6 already shows at 1e-7.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

GROUPS = Path(__file__).with_name("results") / "member_groups.json"
EQUAL = 1e-9
MOST_PARAMETERS = 130_000_000  # larger members are not run: group -1
SIDE = 128  # pixels, where every member takes it: convolutions in float64 are slow


def main() -> None:
    """Run every class with several members."""
    import warnings

    import torch

    from benchmarks.build_signatures import classes_of, collected

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/signatures"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    found: dict[str, Any] = json.loads(GROUPS.read_text()) if GROUPS.exists() else {}
    for members in sorted(classes_of(collected(options.work)), key=lambda members: _parameters(members[0])):
        first = f"{members[0]['library']}:{members[0]['name']}"
        if len(members) == 1 or first in found:
            continue
        begun = time.perf_counter()
        found[first] = groups(members)
        print(f"{time.perf_counter() - begun:6.1f} s  {first}: {found[first]}", flush=True)
        rows = (f"  {json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found))
        GROUPS.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def groups(members: list[dict[str, Any]]) -> list[list[Any]]:
    """[group, difference from the first member] for each of ``members``; group -1 and None where a member is not run."""
    if _parameters(members[0]) > MOST_PARAMETERS:
        return [[-1, None] for _ in members]
    size = members[0]["preprocessing"].get("input_size") or [3, 224, 224]
    small = [3, SIDE, SIDE]
    return _groups(members, small, strict=True) or _groups(members, size, strict=False)


def _parameters(member: dict[str, Any]) -> int:
    return sum(math.prod(shape) for _, shape in member["entries"])


def _groups(members: list[dict[str, Any]], size: list[int], *, strict: bool) -> list[list[Any]]:
    """`groups` at an input size; ``strict``: nothing where a member does not take it."""
    weights: dict[str, Any] | None = None
    outputs: list[Any] = []
    result: list[list[Any]] = []
    numbers: list[int] = []
    for member in members:
        try:
            weights, output = _run(member, weights, size)
        except Exception as error:
            if strict:
                return []
            print(f"{member['library']}:{member['name']} is not run: {type(error).__name__}: {error!s:.160}", file=sys.stderr)
            result.append([-1, None])
            continue
        group = next((number for number, other in zip(numbers, outputs, strict=True) if _difference(other, output) < EQUAL), None)
        if group is None:
            group = len(set(numbers))
        outputs.append(output)
        numbers.append(group)
        difference = _difference(outputs[0], output) if group else 0.0
        result.append([group, float(f"{difference:.1e}") if math.isfinite(difference) else None])
    return result


def _run(member: dict[str, Any], weights: dict[str, Any] | None, size: list[int]) -> tuple[dict[str, Any], Any]:
    import torch

    from benchmarks import zoo_models

    torch.manual_seed(0)
    try:
        model = zoo_models.build(member["library"], member["name"], classes=10)
    except TypeError:
        model = zoo_models.build(member["library"], member["name"])
    model = model.double().eval()
    inputs = torch.randn(1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if weights is None:
        weights = _stirred(model.state_dict())
    own = model.state_dict()
    model.load_state_dict({key: weights.get(key, value) for key, value in own.items()})
    with torch.no_grad():
        return weights, _flat(model(inputs))


def _stirred(state: dict[str, Any]) -> dict[str, Any]:
    """Fresh weights without their symmetries: no zero gammas, no unit statistics, which would hide what a model does with them."""
    import torch

    stirred = {}
    for key, value in state.items():
        if not value.is_floating_point():
            stirred[key] = value
        elif key.endswith("running_var"):
            stirred[key] = torch.rand_like(value) + 0.5
        elif value.dim() <= 1:
            stirred[key] = value + 0.1 * torch.randn_like(value)
        else:
            stirred[key] = torch.where(value == 0, 0.02 * torch.randn_like(value), value)
    return stirred


def _flat(output: Any) -> Any:
    import torch

    if isinstance(output, torch.Tensor):
        return output.flatten()
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return torch.cat([_flat(part) for part in output])
    raise TypeError(f"output is a {type(output).__name__}")


def _difference(one: Any, other: Any) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).norm() / one.norm().clamp_min(1e-300))


if __name__ == "__main__":
    main()
