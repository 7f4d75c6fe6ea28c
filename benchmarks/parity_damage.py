"""Does the criterion work? Injects damage into nets with realistic weights and counts who notices, and who cries wolf over sound variants.

    python -m benchmarks.parity_damage [--only resnet] [--results build/parity_damage.jsonl] [--faults 2] [--seconds 600]
    python -m benchmarks.parity_damage --report build/parity_damage.jsonl

Each net's results are a line of the file as soon as they are there; nets that have one are not run again. Weights are damaged in a torch
module, which runs in eager float32; sound variants are the same weights run without oneDNN, channels last, sample by sample, and in
onnxruntime with all its optimisers. A fault is *material* where it moves an output, or the output of its own layer, by more than 1e-6 in
float64. Needs torchvision and timm for the nets that come from there; those that are missing are named.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.parity_nets import NETS, build
from convert.parity import configuration, criterion, inputs, probes
from convert.parity.criterion import FAILED
from convert.parity.ladder import Reference, Settings
from convert.parity.runners import CPU, OnnxRunner, TorchRunner, exactly

MATERIAL = 1e-6
CRITERIA = (
    "top-1",
    "cosine 1e-4",
    "torch verify=True",
    "allclose 1e-3",
    "assert_close",
    "float64 ratio",
    "local probe",
    "ratio or probe",
    "digests",
    "ladder",
)


def layers(net: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[str]:
    return [name for name, module in net.named_modules() if name and wanted(module)]


def weight_of(module: nn.Module) -> Any:
    """The first parameter of a layer's own with two axes or more: ``weight``, or ``weight_ih_l0`` of an LSTM."""
    return next((p for p in module._parameters.values() if p is not None and p.ndim >= 2), None)


def weighted(module: nn.Module) -> bool:
    return weight_of(module) is not None


def faults(net: nn.Module, each: int, draw: random.Random) -> Iterator[tuple[str, str, nn.Module]]:
    """(kind, layer, damaged copy) for every kind of damage that the net offers a place for."""
    weights = layers(net, weighted)
    norms = layers(
        net, lambda m: isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_var is not None and m.num_features > 1
    )
    square = [
        n
        for n in weights
        if len({*weight_of(net.get_submodule(n)).shape[:2]}) == 1 and weight_of(net.get_submodule(n)).shape[0] > 1
    ]
    biased = layers(net, lambda m: isinstance(getattr(m, "bias", None), nn.Parameter))
    with_eps = layers(net, lambda m: isinstance(getattr(m, "eps", None), float))
    first: dict[int, str] = {}
    tied = []
    for name in weights:
        if first.setdefault(weight_of(net.get_submodule(name)).data_ptr(), name) != name:
            tied.append(name)
    kinds: list[tuple[str, list[str], Callable[[Any], None]]] = [
        ("exponent bit", weights, lambda m: exponent(m, draw)),
        ("swapped BN statistics", norms, lambda m: swapped(m, draw)),
        ("transposed square weight", square, transposed),
        ("zeroed bias", biased, lambda m: m.bias.data.zero_()),
        ("wrong eps", with_eps, lambda m: setattr(m, "eps", 1e-3 if m.eps < 5e-4 else 1e-5)),
        ("rounded to bf16", weights, lambda m: weight_of(m).copy_(weight_of(m).bfloat16())),
        ("dropped alias", tied, lambda m: setattr(m, "weight", nn.Parameter(torch.empty_like(m.weight).normal_(0, 0.1)))),
    ]
    for kind, places, damage in kinds:
        for name in draw.sample(places, min(each, len(places))):
            broken = copy.deepcopy(net)
            with torch.no_grad():
                damage(broken.get_submodule(name))
            yield kind, name, broken
    yield "wrong batch dimension", "", FirstOfBatch(copy.deepcopy(net))
    yield "wrong batch dimension", "", Reversed(copy.deepcopy(net))


def exponent(module: Any, draw: random.Random) -> None:
    weight = weight_of(module).data.view(-1)
    bits = weight.view(torch.int32)
    at = draw.randrange(weight.numel())
    bits[at] ^= 1 << draw.randrange(23, 30)


def swapped(module: Any, draw: random.Random) -> None:
    a, b = draw.sample(range(module.num_features), 2)
    for values in (module.running_mean, module.running_var):
        values[[a, b]] = values[[b, a]].clone()


def transposed(module: Any) -> None:
    weight = weight_of(module)
    weight.copy_(weight.transpose(0, 1).clone())


class FirstOfBatch(nn.Module):
    """A program in which the batch was fixed: everything is the first sample."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *given: torch.Tensor) -> Any:
        return self.net(*(g[:1].expand_as(g) for g in given))


class Reversed(FirstOfBatch):
    """Samples in another order."""

    def forward(self, *given: torch.Tensor) -> Any:
        return self.net(*(g.flip(0) for g in given))


def noticed(reference: Reference, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """What each criterion on outputs says: True where it objects."""
    found = dict.fromkeys(CRITERIA[:6], False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for eager, got in zip(reference.eager, outputs, strict=True):
            for e, t in zip(eager.values(), got.values(), strict=True):
                if e.shape != t.shape:
                    return dict.fromkeys(found, True)
                if e.ndim > 1:
                    found["top-1"] |= bool((e.argmax(1) != t.argmax(1)).any())
                a, b = e.reshape(e.shape[0], -1).astype(np.float64), t.reshape(e.shape[0], -1).astype(np.float64)
                norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
                found["cosine 1e-4"] |= not bool((np.einsum("ij,ij->i", a, b) / np.maximum(norms, 1e-300) > 1 - 1e-4).all())
                off = np.abs(a - b)
                found["torch verify=True"] |= not bool(off.max(initial=0) < 5e-3)
                found["allclose 1e-3"] |= not np.allclose(b, a, rtol=1e-3, atol=1e-3)
                found["assert_close"] |= not np.allclose(b, a, rtol=1.3e-6, atol=1e-5)
    scores = [score for run in reference.judge(outputs, CPU) for score in run.scores]
    found["float64 ratio"] = any(score.status == FAILED for score in scores)
    found["ratio"] = max((score.ratio for score in scores if math.isfinite(score.ratio)), default=math.inf)
    return found


def moved(reference: Reference, broken: nn.Module) -> float:
    """How far the fault moves the outputs in float64, relative to their norm."""
    runner = TorchRunner(copy.deepcopy(broken), CPU, torch.float64)
    most = 0.0
    for sample, wide in zip(reference.samples, reference.wide, strict=True):
        got = runner(sample.arrays)
        for d, t in zip(wide.values(), got.values(), strict=True):
            norm = float(np.linalg.norm(d))
            off = float(np.linalg.norm(np.nan_to_num(t - d, nan=np.inf, posinf=1e300, neginf=1e300)))
            most = max(most, off / norm if norm else (math.inf if off else 0.0))
    return most


def judged(net: nn.Module, reference: Reference, broken: nn.Module, layer: str) -> dict[str, Any]:
    """Everything about one fault."""
    with exactly():
        outputs = [TorchRunner(broken, CPU)(sample.arrays) for sample in reference.samples]
        found = noticed(reference, outputs)
        # What fails the ratio has moved; only what passes is worth a second look in float64.
        found["moved"] = math.inf if found["float64 ratio"] else moved(reference, broken)
        inner = broken.net if isinstance(broken, FirstOfBatch) else broken
        wrong = []
        if layer:
            probed = probes.run(reference.wide_module, net, probes.of_module(inner), reference.samples[0].arrays, 0)
            wrong = [probe for probe in probed if probe.status == FAILED]
    found["local probe"] = bool(wrong)
    found["layer error"] = max((probe.error for probe in wrong if math.isfinite(probe.error)), default=0.0)
    # A block that holds the layer is off too; the innermost one is named.
    innermost = [p.layer for p in wrong if not any(q.layer.startswith(f"{p.layer}.") for q in wrong)]
    first_tie = {
        n for n, m in net.named_modules() if layer and getattr(m, "weight", 0) is getattr(net.get_submodule(layer), "weight", 1)
    }
    found["named"] = bool(innermost) and all(
        name in first_tie or layer == name or layer.startswith(f"{name}.") for name in innermost
    )
    found["ratio or probe"] = found["float64 ratio"] or found["local probe"]
    theirs = inner.state_dict()
    found["digests"] = any(
        not torch.equal(value, theirs[key]) for key, value in net.state_dict().items()
    )  # equal digests, equal bytes
    settings = bool(configuration.differences(configuration.of(net), configuration.of(inner)))
    found["ladder"] = found["ratio or probe"] or found["digests"] or settings
    return found


def variants(net: nn.Module, reference: Reference, specs: list[inputs.InputSpec]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(name, outputs) of ways to run the same weights that are sound."""
    runner = TorchRunner(net, CPU)
    with exactly():
        with torch.backends.mkldnn.flags(enabled=False):
            yield "without oneDNN", [runner(sample.arrays) for sample in reference.samples]
        if specs[0].dtype == "float32" and len(specs[0].shape) == 4:
            last = TorchRunner(copy.deepcopy(net).to(memory_format=torch.channels_last), CPU)
            yield "channels last", [last(sample.arrays) for sample in reference.samples]
        single = []
        for sample in reference.samples:
            parts = [runner([array[i : i + 1] for array in sample.arrays]) for i in range(sample.batch)]
            single.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        yield "sample by sample", single


def exported(net: nn.Module, specs: list[inputs.InputSpec], reference: Reference, optimise: bool) -> list[dict[str, Any]]:
    """onnxruntime's outputs."""
    import onnx

    from convert import onnx_graph
    from convert.parity.runners import flat

    made = onnx_graph.export(net, specs, exporter=onnx_graph.TORCHSCRIPT)
    model = onnx.load_model_from_string(made.program)
    state = net.state_dict()
    for name in made.weights:
        model.graph.initializer.append(onnx.numpy_helper.from_array(state[name].detach().numpy(), name))
    stream = io.BytesIO()
    onnx.save(model, stream)
    _ = flat
    runner = OnnxRunner(stream.getvalue(), optimise=optimise, threads=1)
    return [runner(sample.arrays) for sample in reference.samples]


def examine(name: str, size: str, each: int, seed: int) -> dict[str, Any]:
    """All faults and variants of one net."""
    started = time.perf_counter()
    net = build(name, size, seed)
    specs = [inputs.parse(size)]
    reference = Reference(net, specs, Settings(seed=seed))
    found: dict[str, Any] = {"net": name, "faults": [], "clean": []}
    conditions = [score.condition for run in reference.judge(reference.eager, CPU) for score in run.scores]
    found["condition"] = sorted(conditions)[len(conditions) // 2]
    found["inconclusive"] = sum(condition > criterion.ILL_CONDITIONED for condition in conditions)
    found["points"] = len(conditions)
    draw = random.Random(seed)
    for kind, layer, broken in faults(net, each, draw):
        entry = judged(net, reference, broken, layer)
        found["faults"].append({"kind": kind, "layer": layer, **entry})
    for label, outputs in variants(net, reference, specs):
        found["clean"].append({"variant": label, **noticed(reference, outputs)})
    with exactly(), torch.backends.mkldnn.flags(enabled=False):
        plain = probes.run(reference.wide_module, net, probes.of_module(net), reference.samples[1].arrays, seed)
    found["probes"] = {"layers": len(plain), "alarms": [probe.layer for probe in plain if probe.status == FAILED]}
    for label, optimise in (("onnxruntime", True), ("onnxruntime, optimisers off", False)):
        try:
            found["clean"].append({"variant": label, **noticed(reference, exported(net, specs, reference, optimise))})
        except Exception as error:
            found.setdefault("not exported", str(error)[:200])
    found["seconds"] = round(time.perf_counter() - started, 1)
    return found


def report(lines: list[dict[str, Any]]) -> str:
    """The table."""
    results = [line for line in lines if "error" not in line]
    every = [fault | {"net": line["net"]} for line in results for fault in line["faults"]]
    material = [fault for fault in every if fault["moved"] > MATERIAL or fault["layer error"] > MATERIAL]
    clean = [(line["net"], entry) for line in results for entry in line["clean"]]
    known = [
        (n, c)
        for n, c in clean
        if c["variant"] == "onnxruntime"
        and c["ratio"] > criterion.FACTOR
        and any(m == n and k["variant"] == "onnxruntime, optimisers off" and k["ratio"] <= criterion.FACTOR for m, k in clean)
    ]
    sound = [entry for pair in clean if pair not in known for entry in [pair[1]]]
    text = [
        f"{len(results)} architectures, {len(every)} faults, {len(material)} of them material; {len(sound)} sound runs of "
        f"{sum(line['points'] for line in results)} points, {sum(line['probes']['layers'] for line in results)} layers probed",
        "",
        "| criterion | detected, of material faults | of all faults | false alarms, of sound runs |",
        "|---|---|---|---|",
    ]
    for name in CRITERIA:
        alarms = sum(bool(entry.get(name)) for entry in sound)
        if name == "local probe":
            probed = [line["probes"] for line in results]
            alarmed = f"{sum(len(p['alarms']) for p in probed)} of {sum(p['layers'] for p in probed)} layers"
        else:
            alarmed = f"{alarms} of {len(sound)}" if name in CRITERIA[:6] else "–"
        text.append(f"| {name} | {share(material, name)} | {share(every, name)} | {alarmed} |")
    text += [
        "",
        "| damage | faults | material | ratio | probe | ratio or probe | digests | ladder | layer named |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(fault["kind"] for fault in every):
        mine = [fault for fault in every if fault["kind"] == kind]
        real = [fault for fault in material if fault["kind"] == kind]
        probed = [fault for fault in real if fault["layer"]]
        named = f"{sum(fault['named'] for fault in probed)} of {len(probed)}" if probed else "–"
        columns = [share(real, name) for name in ("float64 ratio", "local probe", "ratio or probe", "digests", "ladder")]
        text.append(f"| {kind} | {len(mine)} | {len(real)} | {' | '.join(columns)} | {named} |")
    for fault in material:
        if not fault["ratio or probe"]:
            where = f"{fault['net']} {fault['kind']} {fault['layer']}"
            text.append(f"missed by ratio and probe: {where}: moved {fault['moved']:.1e}, ratio {fault['ratio']:.3g}")
    ratios = sorted(entry["ratio"] for entry in sound)
    if ratios:
        middle, high = ratios[len(ratios) // 2], ratios[int(len(ratios) * 0.99)]
        text += ["", f"ratio of sound runs: median {middle:.2f}, p99 {high:.2f}, largest {ratios[-1]:.2f}"]
    for net, entry in known:
        text.append(f"found in onnxruntime's optimisers: {net}, ratio {entry['ratio']:.0f} (not counted as a sound run)")
    for line in results:
        if line["inconclusive"]:
            text.append(f"ill-conditioned: {line['net']}: {line['inconclusive']} of {line['points']} points")
        if line.get("not exported"):
            text.append(f"not exported: {line['net']}: {line['not exported']}")
    text += [f"not run: {line['net']}: {line['error']}" for line in lines if "error" in line]
    return "\n".join(text)


def share(entries: list[dict[str, Any]], name: str) -> str:
    hits = sum(bool(entry.get(name)) for entry in entries)
    return f"{hits} of {len(entries)} ({100 * hits / len(entries):.1f} %)" if entries else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject damage, and count who notices.")
    parser.add_argument("--only", default="", help="nets whose name has this text")
    parser.add_argument("--results", type=Path, default=Path("build/parity_damage.jsonl"))
    parser.add_argument("--report", type=Path, help="print the table of a file of results and run nothing")
    parser.add_argument("--faults", type=int, default=2, help="of each kind and net")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no net after this time")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.report:
        print(report([json.loads(line) for line in chosen.report.read_text().splitlines()]))
        return
    torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    there = {json.loads(line)["net"] for line in chosen.results.read_text().splitlines()} if chosen.results.exists() else set()
    started = time.monotonic()
    for name, size in NETS.items():
        if chosen.only not in name or name in there or time.monotonic() - started > chosen.seconds:
            continue
        try:
            found = examine(name, size, chosen.faults, chosen.seed)
        except Exception as error:
            found = {"net": name, "error": f"{type(error).__name__}: {str(error)[:200]}"}
        with chosen.results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(
            name,
            found.get("error") or f"{found['seconds']} s, {len(found['faults'])} faults, condition {found['condition']:.1e}",
            flush=True,
        )
    print(report([json.loads(line) for line in chosen.results.read_text().splitlines()]))


if __name__ == "__main__":
    main()
