"""Everything that needs a GPU, in one call: prints a table, and writes it with all figures as JSON.

    python -m benchmarks.gpu_checks [--json build/gpu.json] [--nets 20] [--seconds 480]

It needs torch with CUDA and NumPy; safetensors, onnx, onnxruntime-gpu, torchvision and timm are used where they are, and a row says so
where they are not. Without a GPU every row says why it was not run, and the exit code is 3: a check that did not happen is no pass.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.parity_nets import NETS, build
from convert.parity import criterion, inputs, probes
from convert.parity.criterion import FAILED, PASSED
from convert.parity.ladder import Reference, Settings, check_modules
from convert.parity.runners import CPU, OnnxRunner, TorchRunner, exactly, first_line

NO_GPU = 3
LARGE = {"own:ResNet": "1x3x224x224", "torchvision:resnet50": "1x3x224x224", "timm:vit_tiny_patch16_224,img_size=64": "1x3x64x64"}


class Table:
    """Rows as they come: (check, what on, outcome, what was found)."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.started = time.monotonic()

    def add(self, check: str, subject: str, outcome: str, found: str, **figures: Any) -> None:
        self.rows.append({"check": check, "subject": subject, "outcome": outcome, "found": found, **figures})
        print(f"| {check} | {subject} | {outcome} | {found} |", flush=True)

    def attempt(self, check: str, subject: str, work: Callable[[], tuple[bool, str, dict[str, Any]]]) -> None:
        started = time.perf_counter()
        try:
            good, found, figures = work()
        except ImportError as error:
            self.add(check, subject, "not run", f"{error.name or error} is not installed")
        except Exception as error:
            self.add(check, subject, "error", f"{type(error).__name__}: {first_line(error, 200)}")
        else:
            self.add(
                check, subject, "passed" if good else "failed", found, seconds=round(time.perf_counter() - started, 2), **figures
            )


def ratios(reference: Reference, outputs: list[dict[str, Any]]) -> tuple[float, float]:
    """(largest ratio, median) over all samples."""
    scores = sorted(score.ratio for run in reference.judge(outputs, "cuda") for score in run.scores)
    return scores[-1], scores[len(scores) // 2]


def prepared(name: str, size: str) -> tuple[nn.Module, Reference, list[inputs.InputSpec]]:
    net = build(name, size)
    specs = [inputs.parse(size)]
    return net, Reference(net, specs, Settings()), specs


def verdict(net: nn.Module, specs: list[inputs.InputSpec], device: str) -> tuple[bool, str, dict[str, Any]]:
    """The whole ladder of a faithful copy, on CPU and GPU."""
    found = check_modules(net, copy.deepcopy(net), specs, Settings(devices=(CPU, device)))
    worst = max((score.ratio for run in found.runs if run.device == device for score in run.scores), default=0.0)
    layers = [probe for probe in found.probes if probe.status == PASSED]
    notes = [row.what for row in found.rows if row.device == device and row.status == "noted"]
    alone = max((probe.ratio for probe in layers), default=0.0)
    said = f"{found.verdict}; worst ratio {worst:.2f}, of {len(layers)} layers alone {alone:.2f}; {'; '.join(notes)}"
    if found.verdict != "proved":
        said += f"; {found.reason}"
    return found.verdict == "proved", said, {"ratio": worst, "document": found.document() | {"configuration": {}}}


def precisions(net: nn.Module, reference: Reference, device: str) -> tuple[bool, str, dict[str, Any]]:
    """The fingerprints: TF32, and half precision by autocast, as ratios; float32 beside them."""
    figures: dict[str, Any] = {}

    def run(label: str, *, tf32: bool = False, cast: Any = None) -> None:
        with exactly(tf32=tf32):
            runner = TorchRunner(copy.deepcopy(net), device)
            if cast is None:
                outputs = [runner(sample.arrays) for sample in reference.samples]
            else:
                with torch.autocast("cuda", dtype=cast):
                    outputs = [runner(sample.arrays) for sample in reference.samples]
        figures[label] = ratios(reference, outputs)[0]

    run("float32")
    run("TF32", tf32=True)
    run("float16 autocast", cast=torch.float16)
    run("bfloat16 autocast", cast=torch.bfloat16)
    good = figures["float32"] <= criterion.FACTOR < min(figures["float16 autocast"], figures["bfloat16 autocast"])
    return good, ", ".join(f"{label} {value:.3g}" for label, value in figures.items()), {"ratios": figures}


def damage(net: nn.Module, reference: Reference, device: str) -> tuple[bool, str, dict[str, Any]]:
    """One layer after another rounded to bfloat16, seen on the GPU; and how many with TF32 on, as a yardstick would be."""
    names = [
        n for n, m in net.named_modules() if n and isinstance(getattr(m, "weight", None), nn.Parameter) and m.weight.ndim >= 2
    ][:8]
    seen = blurred = named = 0
    for name in names:
        broken = copy.deepcopy(net)
        layer: Any = broken.get_submodule(name)
        with torch.no_grad():
            layer.weight.copy_(layer.weight.bfloat16())
        with exactly():
            runner = TorchRunner(broken, device)
            ratio = ratios(reference, [runner(sample.arrays) for sample in reference.samples])[0]
            find = probes.of_module(runner.module, device)
            probed = probes.run(reference.wide_module, net, find, reference.samples[0].arrays, 0)
        wrong = [probe.layer for probe in probed if probe.status == FAILED]
        seen += ratio > criterion.FACTOR or bool(wrong)
        named += name in wrong
        with exactly(tf32=True):
            theirs = TorchRunner(copy.deepcopy(net), device)
            yard = ratios(reference, [theirs(sample.arrays) for sample in reference.samples])[0]
        blurred += ratio > yard
    found = (
        f"{seen} of {len(names)} layers rounded to bfloat16 seen, {named} named; {blurred} would stand out above TF32's own error"
    )
    return seen == len(names) == named, found, {"seen": seen, "named": named, "of": len(names), "above_tf32": blurred}


def speed(net: nn.Module, specs: list[inputs.InputSpec], device: str) -> tuple[bool, str, dict[str, Any]]:
    """What the deterministic float32 settings of the check cost on the GPU."""
    sample = inputs.make(specs, 0, [(inputs.NATURAL, 16)])[0]
    runner = TorchRunner(copy.deepcopy(net), device)

    def timed() -> float:
        best = float("inf")
        for _ in range(5):
            torch.cuda.synchronize()
            started = time.perf_counter()
            runner(sample.arrays)
            torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        return best * 1000

    with exactly():
        strict = timed()
    with torch.no_grad():
        usual = timed()
    return (
        True,
        f"batch of 16: {strict:.2f} ms as checked, {usual:.2f} ms by torch's defaults",
        {"strict_ms": strict, "default_ms": usual},
    )


def exported(
    net: nn.Module, reference: Reference, specs: list[inputs.InputSpec], device: str
) -> tuple[bool, str, dict[str, Any]]:
    """ONNX in onnxruntime's CUDA provider, TF32 off, and the same twice."""
    import onnx
    import onnxruntime

    from convert import onnx_graph

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ImportError(f"onnxruntime {onnxruntime.__version__} with CUDA", name="onnxruntime-gpu")
    made = onnx_graph.export(net, specs)
    model = onnx.load_model_from_string(made.program)
    state = net.state_dict()
    for name in made.weights:
        model.graph.initializer.append(onnx.numpy_helper.from_array(state[name].detach().cpu().numpy(), name))
    runner = OnnxRunner(model.SerializeToString(), device)
    outputs = [runner(sample.arrays) for sample in reference.samples]
    again = runner(reference.samples[0].arrays)
    same = all(outputs[0][name].tobytes() == again[name].tobytes() for name in again)
    worst, middle = ratios(reference, outputs)
    good = worst <= criterion.FACTOR
    return (
        good,
        f"{made.exporter}: worst ratio {worst:.2f}, median {middle:.2f}; run twice: {'equal' if same else 'not equal'}",
        {"ratio": worst},
    )


def checkpoint(target: str, device: str) -> tuple[bool, str, dict[str, Any]]:
    """A checkpoint whose tensors lie on the GPU, converted, and loaded back onto it by the format's own library."""
    import convert

    net = build("own:UNet", NETS["own:UNet"]).to(device)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.pth.tar"
        torch.save(
            {"state_dict": net.state_dict(), "optimizer": torch.optim.Adam(net.parameters()).state_dict(), "epoch": 1}, source
        )
        convert.convert(source, to=target)
        path = source.with_name(f"in.{target}")
        if target == "safetensors":
            from safetensors.torch import load_file

            loaded = load_file(path, device=device)
        else:
            loaded = torch.load(path, map_location=device, weights_only=True)
        good = all(
            torch.equal(value, loaded[key]) and loaded[key].device.type == "cuda" for key, value in net.state_dict().items()
        )
        other = build("own:UNet", NETS["own:UNet"], seed=1).to(device)
        other.load_state_dict(loaded)
        x = torch.randn(2, 3, 32, 32, device=device)
        with exactly():
            good = good and torch.equal(net(x), other(x))
    return good, "every tensor and the outputs bit-equal on the GPU" if good else "differs", {}


def main() -> int:
    parser = argparse.ArgumentParser(description="All checks that need a GPU.")
    parser.add_argument("--json", type=Path, default=Path("build/gpu.json"))
    parser.add_argument("--nets", type=int, default=20, help="at most so many nets")
    parser.add_argument("--seconds", type=float, default=480, help="begin no net after this time")
    chosen = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when CUDA is first used
    table = Table()
    about = environment()
    print(
        "\n".join(f"{key}: {value}" for key, value in about.items()),
        "\n\n| check | on | outcome | found |\n|---|---|---|---|",
        sep="\n",
    )
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if not devices:
        why = f"torch {torch.__version__} sees no CUDA device"
        for check in ("verdict", "precision", "damage", "speed", "onnxruntime", "checkpoint"):
            table.add(check, "cuda", "not run", why)
    for device in devices:
        for target in ("safetensors", "pth"):
            table.attempt("checkpoint", f"{device} → {target}", lambda t=target, d=device: checkpoint(t, d))
        own = [name for name in NETS if name.startswith("own:")]
        for name in (own + [name for name in NETS if name not in own])[: chosen.nets]:
            if time.monotonic() - table.started > chosen.seconds:
                table.add("verdict", name, "not run", f"{chosen.seconds:g} s were over")
                continue
            try:
                net, reference, specs = prepared(name, LARGE.get(name, NETS[name]))
            except ImportError as error:
                table.add("verdict", name, "not run", f"{error.name or error} is not installed")
                continue
            except Exception as error:
                table.add("verdict", name, "error", first_line(error, 200))
                continue
            subject = f"{name} on {device}"
            table.attempt("verdict", subject, lambda n=net, s=specs, d=device: verdict(n, s, d))
            net.to(CPU)
            table.attempt("precision", subject, lambda n=net, r=reference, d=device: precisions(n, r, d))
            if name.startswith("own:") or name == "torchvision:resnet18":
                table.attempt("damage", subject, lambda n=net, r=reference, d=device: damage(n, r, d))
                table.attempt("speed", subject, lambda n=net, s=specs, d=device: speed(n, s, d))
                table.attempt("onnxruntime", subject, lambda n=net, r=reference, s=specs, d=device: exported(n, r, s, d))
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps({"environment": about, "rows": table.rows}, indent=1, default=str))
    outcomes = [row["outcome"] for row in table.rows]
    print("\n" + ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)))
    if not devices:
        return NO_GPU
    return 1 if "failed" in outcomes or "error" in outcomes else 0


def environment() -> dict[str, Any]:
    """Hardware and versions, for the table's caption."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "CUDA of torch": torch.version.cuda}
    if torch.cuda.is_available():
        found["cuDNN"] = torch.backends.cudnn.version()
        found["GPU"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    for name in ("numpy", "safetensors", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "torchvision", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    sys.exit(main())
