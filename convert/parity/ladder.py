"""The ladder: digests of every weight, configuration, the run on each device, each layer alone. Everything a verdict rests on.

>>> found = check_modules(source, candidate, [InputSpec((1, 3, 224, 224))])
>>> found = check_onnx(source, Path("model.onnx"), [InputSpec((1, 3, 224, 224))])
>>> found.verdict, found.reason
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.parity import configuration, criterion, digests, probes
from convert.parity.criterion import FAILED, INCONCLUSIVE, PASSED, Score
from convert.parity.inputs import InputSpec, Sample, batched, make, recipe
from convert.parity.outcome import ABSENT, CONFIGURATION, DIGESTS, NOTED, RUN, Parity, Row, Run
from convert.parity.runners import CPU, Device, OnnxRunner, TorchRunner, declared, devices, exactly, first_line, onnx_device
from convert.text import count
from formats.core.errors import CheckpointError, Unsupported


@dataclass(frozen=True, slots=True)
class Settings:
    """How to check. ``batches`` None means 1, 2 and 5; ``samples`` are inputs of the user's own, taken instead of drawn ones."""

    seed: int = 0
    batches: tuple[int, ...] | None = None
    local: bool = True  # probe each layer
    devices: tuple[str, ...] | None = None  # names; None means all
    samples: tuple[Sample, ...] = ()
    disabled: tuple[str, ...] = ()  # optimisers that onnxruntime is to leave out
    threads: int | None = None
    tell: Callable[[str], None] | None = field(default=None, compare=False)  # progress

    def say(self, what: str) -> None:
        if self.tell is not None:
            self.tell(what)


class Reference:
    """The source model with its inputs: outputs in float64 (``wide``) and eager float32 (``eager``), both on the CPU."""

    def __init__(self, module: Any, specs: Sequence[InputSpec], settings: Settings) -> None:
        import torch

        runner = TorchRunner(module, CPU)
        self.module = runner.module
        self.settings = settings
        self.samples = list(settings.samples) or make(specs, settings.seed, recipe(settings.batches))
        self.batched = not specs or batched(specs[0])
        self.unit = criterion.UNITS.get(str(declared(module)).removeprefix("torch."), criterion.UNIT)
        with exactly():
            settings.say("running the source in float32")
            self.eager = [runner(sample.arrays) for sample in self.samples]
            self.wide_module = copy.deepcopy(self.module).double()
            settings.say("running the source in float64")
            wide = TorchRunner(self.wide_module, CPU, torch.float64)
            try:
                self.wide = [wide(sample.arrays) for sample in self.samples]
            except Exception as error:
                raise Unsupported(
                    f"the model does not run in float64, so there is nothing to measure float32 by: {first_line(error)}"
                ) from error

    def judge(self, outputs: Sequence[dict[str, Any]], device: str) -> list[Run]:
        """The scores of a candidate's ``outputs``, one dict for each sample, matched by position."""
        runs = []
        for sample, wide, eager, got in zip(self.samples, self.wide, self.eager, outputs, strict=True):
            scores: list[Score] = []
            if len(got) != len(eager):
                why = f"{count(len(got), 'output')} where the source has {len(eager)}"
                scores.append(Score("outputs", 0, FAILED, float("inf"), float("inf"), 0.0, None, why))
            batch = sample.batch if self.batched else None
            for (name, e), d, t in zip(eager.items(), wide.values(), got.values(), strict=False):
                scores += criterion.scores(name, d, e, t, batch, self.unit)
            runs.append(Run(device, sample.label, scores))
        return runs

    def constant(self) -> list[str]:
        """Outputs that do not depend on the inputs: they prove nothing."""
        found = []
        for name in self.wide[0]:
            each = []
            for sample, outputs in zip(self.samples, self.wide, strict=True):
                value = outputs.get(name)
                if value is None:
                    continue
                split = self.batched and value.ndim > 0 and value.shape[0] == sample.batch
                each += list(value) if split else [value]
            if len(each) > 1 and not criterion.varies(each):
                found.append(name)
        return found


def row_of(runs: Sequence[Run], device: str, seconds: float, constant: Sequence[str]) -> Row:
    """The rung of a run."""
    scores = [score for run in runs for score in run.scores]
    failed = [score for score in scores if score.status == FAILED]
    undecided = [score for score in scores if score.status == INCONCLUSIVE]
    ratios = sorted(score.ratio for score in scores if score.status == PASSED)
    figures: dict[str, Any] = {"samples": len(scores), "failed": len(failed), "inconclusive": len(undecided)}
    if ratios:
        figures |= {"ratio_median": ratios[len(ratios) // 2], "ratio_max": ratios[-1]}
    if failed:
        first = max(failed, key=lambda score: score.ratio)
        where = next(run.sample for run in runs if any(score is first for score in run.scores))
        return Row(RUN, FAILED, f"output {first.output}, sample {first.sample} of {where}: {first.why}", device, seconds, figures)
    varying = [score for score in scores if score.output not in constant]
    if not varying:
        what = f"every output is the same for all inputs ({', '.join(constant)}): agreement proves nothing"
        return Row(RUN, INCONCLUSIVE, what, device, seconds, figures)
    if not any(score.status == PASSED for score in varying):
        return Row(
            RUN, INCONCLUSIVE, f"{undecided[0].why}; other inputs (--input, a real sample) would decide", device, seconds, figures
        )
    what = f"{count(len(ratios), 'sample')} of {len(runs)} runs agree, worst ratio {ratios[-1]:.3g}"
    if undecided:
        what += f"; {len(undecided)} ill-conditioned and not counted"
    if constant:
        what += f"; {', '.join(constant)} the same for all inputs"
    return Row(RUN, PASSED, what, device, seconds, figures)


def wanted(settings: Settings) -> list[Device]:
    """The devices to run on, absent ones with their reason."""
    found = devices()
    if settings.devices is None:
        return found
    named = {device.name: device for device in found}
    return [named.get(name, Device(name, absent="not on this machine")) for name in settings.devices]


def check_modules(source: Any, candidate: Any, specs: Sequence[InputSpec], settings: Settings | None = None) -> Parity:
    """Prove that torch module ``candidate`` is ``source``: bit-equal on the same device, and right on every device."""
    settings = settings or Settings()
    found = Parity(configuration=configuration.of(source), environment=environment(settings))
    started = time.perf_counter()
    ours, theirs = source.state_dict(), candidate.state_dict()
    compared = digests.compare(digests.of_state(ours), digests.of_state(theirs))
    for key in list(compared.differing)[:1000]:
        if ours[key].shape == theirs[key].shape and not ours[key].is_complex():
            error = digests.relative_error(ours[key], theirs[key])
            compared.errors[key] = error if error < float("inf") else 1e300
    found.rows.append(compared.row(_since(started)))
    found.rows.append(_configured(configuration.differences(found.configuration, configuration.of(candidate))))
    reference = _referenced(source, specs, settings, found)
    if reference is None:
        return found
    found.unit = reference.unit
    constant = reference.constant()
    for device in wanted(settings):
        if device.absent:
            found.rows.append(Row(RUN, ABSENT, device.absent, device.name))
            continue
        settings.say(f"running both on {device.name}")
        started = time.perf_counter()
        with exactly():
            runner = TorchRunner(candidate, device.name)
            outputs = [runner(sample.arrays) for sample in reference.samples]
            again = runner(reference.samples[0].arrays)
            if device.name == CPU:
                expected = reference.eager
            else:
                eager = TorchRunner(source, device.name)
                expected = [eager(sample.arrays) for sample in reference.samples]
        runs = reference.judge(outputs, device.name)
        found.runs += runs
        found.rows.append(row_of(runs, device.name, _since(started), constant))
        spread = _spread(outputs[0], again)
        found.rows.append(_bit_equal(expected, outputs, device.name, spread))
        found.rows.append(
            Row(RUN, NOTED, f"run twice: outputs differ by {spread:.3g} of their norm", device.name, figures={"spread": spread})
        )
        if device.name != CPU:
            found.rows.append(_tf32(reference, source, device.name))
        if settings.local:
            started = time.perf_counter()
            with exactly():
                find = probes.of_module(TorchRunner(candidate, device.name).module, device.name)
                probed = probes.run(
                    reference.wide_module, TorchRunner(source, CPU).module, find, reference.samples[0].arrays, settings.seed
                )
            found.probes += probed
            found.rows.append(probes.row(probed, device.name, _since(started)))
    source.to(CPU)
    candidate.to(CPU)
    return found


def check_onnx(
    source: Any,
    path: Path,
    specs: Sequence[InputSpec],
    settings: Settings | None = None,
    *,
    reference: Reference | None = None,
    strict: bool = True,
) -> Parity:
    """Prove that the ONNX file at ``path`` is torch module ``source``.

    Weights that the file does not hold have to be read by nobody: with NaN in their place the source must say the same. With ``strict``
    False (a file of another exporter, which may fold weights into each other) weights with other bytes leave the digests undecided.
    """
    import onnx

    settings = settings or Settings()
    found = Parity(configuration=configuration.of(source), environment=environment(settings))
    started = time.perf_counter()
    model = onnx.load(str(path), load_external_data=False)
    compared = digests.compare(digests.of_state(source.state_dict()), digests.of_onnx(model, str(path.parent)))
    compared.unused, compared.missing = compared.missing, []
    found.rows.append(compared.row(_since(started)))
    found.rows.append(_configured(configuration.of_onnx(model.graph, source)))
    if reference is None:
        reference = _referenced(source, specs, settings, found)
    if reference is None:
        return found
    found.unit = reference.unit
    if compared.unused:
        found.rows.append(_never_read(reference, compared.unused))
    if not strict:
        for row in found.rows:
            if row.rung == DIGESTS and row.status == FAILED:
                row.status, row.what = INCONCLUSIVE, f"folded by the exporter, or wrong: {row.what}"
    constant = reference.constant()
    for device in wanted(settings):
        why = onnx_device(device)
        if why:
            found.rows.append(Row(RUN, ABSENT, why, device.name))
            continue
        settings.say(f"running the ONNX file on {device.name}")
        started = time.perf_counter()
        try:
            runner = OnnxRunner(path, device.name, disabled=settings.disabled, threads=settings.threads)
            outputs = [runner(sample.arrays) for sample in reference.samples]
            again = runner(reference.samples[0].arrays)
        except Unsupported as error:
            found.rows.append(Row(RUN, FAILED, error.what, device.name, _since(started)))
            continue
        runs = reference.judge(outputs, device.name)
        found.runs += runs
        found.rows.append(row_of(runs, device.name, _since(started), constant))
        spread = _spread(outputs[0], again)
        found.rows.append(
            Row(RUN, NOTED, f"run twice: outputs differ by {spread:.3g} of their norm", device.name, figures={"spread": spread})
        )
    if settings.local:
        settings.say("running each layer alone")
        started = time.perf_counter()
        with exactly():
            find = probes.of_onnx(model, str(path.parent))
            probed = probes.run(reference.wide_module, source, find, reference.samples[0].arrays, settings.seed, reference.unit)
        found.probes = probed
        found.rows.append(probes.row(probed, CPU, _since(started)))
    return found


def diagnose(found: Parity, reference: Reference, path: Path, settings: Settings) -> None:
    """Bisect the failure of a check of an ONNX file into ``found.diagnosis``."""
    from convert.parity.bisect import bisect_onnx

    for device in dict.fromkeys(row.device for row in found.rows if row.rung == RUN and row.status == FAILED):
        settings.say(f"bisecting on {device}")
        found.diagnosis += bisect_onnx(path, reference, found.probes, device=device, threads=settings.threads).lines


def diagnose_module(found: Parity, reference: Reference, candidate: Any, settings: Settings) -> None:
    """The same for a torch module."""
    from convert.parity.bisect import bisect_module

    if any(row.rung == RUN and row.status == FAILED for row in found.rows):
        settings.say("bisecting")
        found.diagnosis += bisect_module(candidate, reference, found.probes).lines


def environment(settings: Settings) -> dict[str, Any]:
    """Versions, devices and seed: with what and where it was found."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in (
        "torch",
        "numpy",
        "safetensors",
        "onnx",
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxscript",
        "torchvision",
        "timm",
        "ckpt-convert",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    listed = [{"name": d.name, "title": d.title} | ({"absent": d.absent} if d.absent else {}) for d in devices()]
    return {
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": listed,
        "seed": settings.seed,
    }


def _referenced(source: Any, specs: Sequence[InputSpec], settings: Settings, found: Parity) -> Reference | None:
    try:
        return Reference(source, specs, settings)
    except CheckpointError as error:
        found.rows.append(Row(RUN, INCONCLUSIVE, error.what, CPU))
    except Exception as error:
        found.rows.append(Row(RUN, INCONCLUSIVE, f"the source does not run: {type(error).__name__}: {first_line(error)}", CPU))
    return None


def _configured(lines: list[str]) -> Row:
    if lines:
        return Row(
            CONFIGURATION,
            FAILED,
            f"{count(len(lines), 'setting')} not as in the source: {'; '.join(lines[:3])}",
            figures={"lines": lines[:100]},
        )
    return Row(CONFIGURATION, PASSED, "recorded; eps, strides and the like are the same on both sides")


def _bit_equal(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], device: str, spread: float) -> Row:
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in mine.items():
            got = other.get(name)
            if got is None or got.shape != value.shape or got.tobytes() != value.tobytes():
                if spread > 0:
                    return Row(RUN, NOTED, f"{name} not bit-equal, but neither are two runs of the same model here", device)
                return Row(RUN, FAILED, f"output {name} is not bit-equal to the source's on the same device", device)
    return Row(RUN, PASSED, "every output bit-equal to the source's", device)


def _spread(first: dict[str, Any], second: dict[str, Any]) -> float:
    """‖a − b‖ / ‖a‖ of two runs of one model, the largest over outputs."""
    import numpy

    most = 0.0
    for name, a in first.items():
        if not numpy.issubdtype(a.dtype, numpy.floating):
            continue
        difference = numpy.nan_to_num(a.astype("float64") - second[name].astype("float64"))
        norm = float(numpy.linalg.norm(numpy.nan_to_num(a.astype("float64"))))
        most = max(most, float(numpy.linalg.norm(difference)) / norm if norm else 0.0)
    return most


def _tf32(reference: Reference, source: Any, device: str) -> Row:
    """What TF32 would cost on ``device``: a second line, not part of the verdict."""
    with exactly(tf32=True):
        runner = TorchRunner(source, device)
        runs = reference.judge([runner(sample.arrays) for sample in reference.samples], device)
    ratios = [score.ratio for run in runs for score in run.scores]
    errors = [score.error for run in runs for score in run.scores]
    worst, error = max(ratios, default=0.0), max(errors, default=0.0)
    return Row(
        RUN,
        NOTED,
        f"with TF32 the ratio would be {worst:.3g} (relative error {error:.2g})",
        device,
        figures={"tf32_ratio": worst},
    )


def _never_read(reference: Reference, keys: Sequence[str]) -> Row:
    """Weights that the output leaves out: with NaN (or another integer) in their place the source says the same."""
    import torch

    module = copy.deepcopy(reference.module)
    state = module.state_dict()
    with torch.no_grad():
        for key in keys:
            tensor = state[key]
            tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor.copy_(
                ~tensor if tensor.dtype == torch.bool else tensor + 1
            )
    with exactly():
        outputs = TorchRunner(module, CPU)(reference.samples[0].arrays)
    for name, value in reference.eager[0].items():
        if outputs[name].tobytes() != value.tobytes():
            some = ", ".join(list(keys)[:3])
            return Row(DIGESTS, FAILED, f"{count(len(keys), 'weight')} not in the file, and {name} depends on them: {some}")
    return Row(DIGESTS, PASSED, f"{count(len(keys), 'weight')} left out: outputs are the same with NaN in their place")


def _since(started: float) -> float:
    return time.perf_counter() - started


__all__ = ["PASSED", "Reference", "Settings", "check_modules", "check_onnx", "environment", "row_of", "wanted"]
