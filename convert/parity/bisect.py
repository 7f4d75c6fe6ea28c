"""Where a failure comes from: the runtime's optimisers one after another, then the first block that diverges, then the layer.

Only the input on which the failure is worst is run again, so that a bisection costs seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.parity import criterion
from convert.parity.criterion import FAILED
from convert.parity.outcome import Probe
from convert.parity.probes import SCOPES, scopes_of
from convert.parity.runners import CPU, OnnxRunner, TorchRunner, array, exactly
from formats.core.errors import Unsupported

if TYPE_CHECKING:
    from convert.parity.ladder import Reference

# onnxruntime's graph optimisers by the names that ``disabled_optimizers`` takes (onnxruntime 1.17 – 1.31; unknown names do nothing there).
OPTIMISERS = (
    "Pad_Fusion", "ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "ConvActivationFusion", "ConvAddActivationFusion", "MatmulBNFusion",
    "MatMul_BatchNormalization_Fusion", "MatMulAddFusion", "MatMulScaleFusion", "MatmulTransposeFusion", "MatMulActivationFusion",
    "GemmActivationFusion", "GemmSumFusion", "GemmTransposeFusion", "DivMulFusion", "FuseReluClip", "NotWhereFusion", "ReshapeFusion",
    "LayerNormFusion", "LayerNormFusionL1", "LayerNormFusionL2", "SimplifiedLayerNormFusion", "SkipLayerNormFusion",
    "BiasSkipLayerNormFusion", "EmbedLayerNormFusion", "AttentionFusion", "GroupQueryAttentionFusion", "GeluFusion", "GeluFusionL1",
    "GeluFusionL2", "FastGeluFusion", "QuickGeluFusion", "BiasGeluFusion", "BiasSoftmaxFusion", "BiasDropoutFusion", "GatherToSplitFusion",
    "GatherSliceToSplitFusion", "GatherToSliceFusion", "SliceConcatToSpaceToDepthFusion", "ConcatSliceElimination", "EliminateIdentity",
    "EliminateSlice", "EliminateDropout", "NoopElimination", "CastElimination", "CastChainElimination", "ExpandElimination",
    "UnsqueezeElimination", "PreShapeNodeElimination", "ConstantFolding", "ConstantSharing", "CommonSubexpressionElimination",
    "ShapeOptimizer", "TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider", "NchwcTransformer", "NhwcTransformer",
    "DynamicQuantizeMatMulFusion", "MatMulIntegerToFloatFusion", "LabelEncoderFusion", "LookupTableArrayTransformer",
    "RemoveDuplicateCastTransformer", "InsertCastTransformer", "QDQSelectorActionTransformer", "QDQPropagationTransformer",
    "QDQFinalCleanupTransformer", "DoubleQDQPairsRemover", "ClipQuantRewrite", "ReluQuantRewrite",
)  # fmt: skip


@dataclass(slots=True)
class Diagnosis:
    """``optimiser`` is the runtime's, where it is to blame; ``block`` the first that diverges; ``layer`` the guilty one."""

    lines: list[str] = field(default_factory=list)
    optimiser: str | None = None
    block: str | None = None
    layer: str | None = None


def bisect_onnx(
    path: Path, reference: Reference, probed: Sequence[Probe], *, device: str = CPU, threads: int | None = None
) -> Diagnosis:
    """Find out why the file at ``path`` does not agree with ``reference``; ``probed`` are the local probes of the same check."""
    import onnx

    found = Diagnosis()
    which = _worst_sample(OnnxRunner(path, device, threads=threads), reference)

    def ratio(**options: Any) -> float:
        return _ratio(OnnxRunner(path, device, threads=threads, **options)(reference.samples[which].arrays), reference, which)

    on, off = ratio(), ratio(optimise=False)
    if on <= criterion.FACTOR:
        found.lines.append("the failure does not come back: the outputs agree now")
        return found
    if off <= criterion.FACTOR:
        found.lines.append(
            f"with onnxruntime's optimisers off the ratio is {off:.3g}: the file is right, onnxruntime changes what it computes"
        )
        guilty = _guilty(ratio)
        if guilty:
            found.optimiser = guilty[0] if len(guilty) == 1 else " + ".join(guilty)
            found.lines.append(
                f"optimiser {found.optimiser} is at fault: with everything else on the ratio is {ratio(disabled=guilty):.3g}, "
                f"with it {on:.3g}"
            )
            found.lines.append(f"run the file with disabled_optimizers={list(guilty)!r}, or with another release of onnxruntime")
        else:
            found.lines.append("no optimiser that can be switched off alone is at fault")
        return found
    found.lines.append(f"with onnxruntime's optimisers off the ratio is {off:.3g} too: the graph itself computes something else")
    model = onnx.load(str(path), load_external_data=False)
    _located(found, _onnx_taps(model, path, reference.samples[which].arrays, threads), reference, which, probed)
    return found


def bisect_module(candidate: Any, reference: Reference, probed: Sequence[Probe], *, device: str = CPU) -> Diagnosis:
    """The same for a torch module."""
    found = Diagnosis()
    which = _worst_sample(TorchRunner(candidate, device), reference)
    with exactly():
        taps = _taps(TorchRunner(candidate, device), reference.samples[which].arrays)
    _located(found, taps, reference, which, probed)
    return found


def _worst_sample(run: Callable[[Sequence[Any]], dict[str, Any]], reference: Reference) -> int:
    with exactly():
        ratios = [_ratio(run(sample.arrays), reference, i) for i, sample in enumerate(reference.samples)]
    return max(range(len(ratios)), key=lambda i: (ratios[i], -reference.samples[i].batch))


def _ratio(outputs: dict[str, Any], reference: Reference, which: int) -> float:
    sample = reference.samples[which]
    scores = [
        score
        for (name, d), e, t in zip(reference.wide[which].items(), reference.eager[which].values(), outputs.values(), strict=False)
        for score in criterion.scores(name, d, e, t, sample.batch, reference.unit)
    ]
    return max((score.ratio for score in scores if score.ratio == score.ratio), default=0.0)


def _guilty(ratio: Callable[..., float]) -> tuple[str, ...]:
    """The smallest set of optimisers found without which the outputs agree: halves first, then one after another."""
    names: tuple[str, ...] = OPTIMISERS
    if ratio(disabled=names) > criterion.FACTOR:
        return ()
    while len(names) > 1:
        half = len(names) // 2
        for part in (names[:half], names[half:]):
            if ratio(disabled=part) <= criterion.FACTOR:
                names = part
                break
        else:  # several together: leave out what is not needed
            for name in names:
                rest = tuple(other for other in names if other != name)
                if ratio(disabled=rest) <= criterion.FACTOR:
                    names = rest
            return names
    return names


def _located(
    found: Diagnosis,
    taps: Iterator[tuple[str, Any]] | list[tuple[str, Any]],
    reference: Reference,
    which: int,
    probed: Sequence[Probe],
) -> None:
    """The first module, in the order in which they finish, whose output is off; the innermost of those that begin there."""
    import torch

    arrays = reference.samples[which].arrays
    got = dict(taps)
    with exactly():
        wide = _taps(TorchRunner(reference.wide_module, CPU, torch.float64), arrays)
        eager = dict(_taps(TorchRunner(reference.module, CPU), arrays))
    for name, d in wide:  # modules finish from the inside out, so the first one off is the innermost
        if name not in got or name not in eager or got[name].shape != d.shape:
            continue
        score = criterion.score(name, 0, d, eager[name], got[name], reference.unit)
        if score.status == FAILED:
            found.block = name
            found.lines.append(
                f"first diverging block: {name} ({type(reference.module.get_submodule(name)).__name__}), ratio {score.ratio:.3g}"
            )
            break
    guilty = [probe for probe in probed if probe.status == FAILED]
    if guilty:
        below = [
            probe for probe in guilty if found.block and (probe.layer == found.block or probe.layer.startswith(f"{found.block}."))
        ]
        worst = max(below or guilty, key=lambda probe: probe.ratio)
        found.layer = worst.layer
        found.lines.append(f"guilty layer: {worst.layer} ({worst.kind}), ratio {worst.ratio:.3g} alone on {worst.inputs}")
    elif found.block:
        found.lines.append("no layer is off when it runs alone: what lies between layers (a reshape, an activation, an order) is")
    else:
        found.lines.append("no block is off by itself")


def _taps(runner: TorchRunner, arrays: Sequence[Any]) -> list[tuple[str, Any]]:
    """(module, its output) in the order in which modules finish, for modules that give one tensor; the first call of each."""
    import torch

    taken: dict[str, Any] = {}

    def after(name: str) -> Any:
        def hook(_module: Any, _given: Any, output: Any) -> None:
            if name not in taken and isinstance(output, torch.Tensor):
                taken[name] = array(output).copy()

        return hook

    hooks = [child.register_forward_hook(after(name)) for name, child in runner.module.named_modules() if name]
    try:
        runner(arrays)
    finally:
        for handle in hooks:
            handle.remove()
    return list(taken.items())


def _onnx_taps(model: Any, path: Path, arrays: Sequence[Any], threads: int | None) -> list[tuple[str, Any]]:
    """The same from an ONNX graph whose nodes name their modules: the last value that leaves each module's nodes."""
    import tempfile

    import onnx

    readers: dict[str, list[int]] = {}
    for at, node in enumerate(model.graph.node):
        for given in node.input:
            readers.setdefault(given, []).append(at)
    modules: dict[str, list[int]] = {}
    for at, node in enumerate(model.graph.node):
        for scope in dict.fromkeys(scopes_of(node)):
            modules.setdefault(scope, []).append(at)
    places: dict[str, str] = {}
    for name, nodes in modules.items():
        inside = set(nodes)
        leaving = [
            output
            for at in nodes
            for output in model.graph.node[at].output
            if any(reader not in inside for reader in readers.get(output, []))
            and model.graph.node[at].op_type not in ("Shape", "Constant")
        ]
        if name and leaving:
            places[name] = leaving[-1]
    present = {output.name for output in model.graph.output}
    for value in dict.fromkeys(places.values()):
        if value not in present:
            model.graph.output.append(onnx.ValueInfoProto(name=value))
    # Beside the original, because external data is found by a bare name.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".onnx") as file:
        file.write(model.SerializeToString())
        file.flush()
        try:
            outputs = OnnxRunner(Path(file.name), optimise=False, threads=threads)(arrays)
        except Unsupported:
            return []
    return [(name, outputs[value]) for name, value in places.items()]


__all__ = ["OPTIMISERS", "SCOPES", "Diagnosis", "bisect_module", "bisect_onnx"]
