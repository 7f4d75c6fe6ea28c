"""Local probes: each layer alone, on its input in the float64 model and on N(0, 1). They see what saturation hides, and name the layer.

A net may swallow a wrong layer (saturated gates, a softmax at its limit): its output is right for these inputs and wrong for others.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from convert.parity import criterion
from convert.parity.criterion import FAILED, INCONCLUSIVE, PASSED, Score
from convert.parity.outcome import NOTED, PROBES, Probe, Row
from convert.parity.runners import CPU, TorchRunner, array, declared, flat
from convert.text import count
from formats.core.errors import Unsupported

# What runs the candidate's layer on the arrays (float32) of one call; None where it has no such layer.
Layer = Callable[["Call", Sequence[Any]], list[Any]]
SCOPES = "pkg.torch.onnx.name_scopes"
WHOLE_LAYERS = ("Conv", "ConvTranspose", "BatchNormalization", "LayerNormalization", "Gemm")


def names(module: Any) -> list[str]:
    """Layers worth a probe: modules without children, and those with parameters or floating buffers of their own."""
    found = []
    for name, child in module.named_modules():
        own = any(p is not None for p in child._parameters.values())
        own = own or any(b is not None and b.is_floating_point() for b in child._buffers.values())
        if name and (own or not child._modules):
            found.append(name)
    return found


def run(
    reference: Any,
    eager: Any,
    find: Callable[[str], Layer | None],
    arrays: Sequence[Any],
    seed: int,
    unit: float = criterion.UNIT,
) -> list[Probe]:
    """Probe every layer while ``reference`` (float64, on the CPU) runs once on ``arrays``; ``eager`` is the same in its own precision.

    ``find(name)`` gives the candidate's layer. Activations are not kept: each layer is probed as soon as its input is there.
    """
    import torch

    if isinstance(reference, torch.jit.ScriptModule):  # its layers take no hooks
        return []
    wanted = names(reference)
    found: list[Probe] = []
    busy = False

    def hook(name: str) -> Any:
        def after(module: Any, given: tuple[Any, ...], keywords: dict[str, Any], _: Any) -> None:
            nonlocal busy
            if busy or name in seen:
                return
            seen.add(name)
            call = Call(given, keywords)
            if not call.tensors or call.nested:
                return
            busy = True
            try:
                layer = find(name)
                if layer is not None:
                    found.append(
                        _probe(name, module, eager.get_submodule(name), layer, call, seed + len(seen), declared(eager), unit)
                    )
            finally:
                busy = False

        return after

    seen: set[str] = set()
    hooks = [reference.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in wanted]
    try:
        with torch.no_grad():
            TorchRunner(reference, CPU, torch.float64)(arrays)
    finally:
        for handle in hooks:
            handle.remove()
    return found


def _items(given: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[tuple[int | str, Any]]:
    yield from enumerate(given)
    yield from keywords.items()


class Call:
    """How a module was called: its distinct tensors, and the call with others in their place."""

    def __init__(self, given: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        import torch

        self.tensors: list[Any] = []
        self.nested = False  # tensors inside lists: not followed
        self._given: list[tuple[int | None, Any]] = []
        self._keywords: dict[str, tuple[int | None, Any]] = {}
        for key, value in _items(given, keywords):
            at = None
            if isinstance(value, torch.Tensor):
                at = next((i for i, known in enumerate(self.tensors) if known is value), None)
                if at is None:
                    at = len(self.tensors)
                    self.tensors.append(value)
            elif isinstance(value, (list, tuple, dict)):
                self.nested = self.nested or any(
                    isinstance(v, torch.Tensor) for v in (value.values() if isinstance(value, dict) else value)
                )
            if isinstance(key, int):
                self._given.append((at, value))
            else:
                self._keywords[key] = (at, value)

    def again(self, module: Any, tensors: Sequence[Any]) -> Any:
        """What ``module`` says to ``tensors``, called in the same way."""
        given = [value if at is None else tensors[at] for at, value in self._given]
        return module(*given, **{key: value if at is None else tensors[at] for key, (at, value) in self._keywords.items()})


def _probe(name: str, reference: Any, eager: Any, layer: Layer, call: Call, seed: int, dtype: Any, unit: float) -> Probe:
    import torch

    generator = torch.Generator().manual_seed(seed)
    given = call.tensors
    own = [g.to(dtype) if g.is_floating_point() else g for g in given]  # what the precision cannot hold is no fault of the layer
    normal = [torch.randn(g.shape, generator=generator).to(dtype) if g.is_floating_point() else g for g in given]
    worst: tuple[Score, str] | None = None
    for inputs, label in ((own, "its own input"), (normal, "N(0, 1)")):
        try:
            d = flat(call.again(reference, [i.double() if i.is_floating_point() else i for i in inputs]))
            e = flat(call.again(eager, [i.clone() for i in inputs]))
            t = layer(call, [array(i) for i in inputs])
        except Exception as error:
            if label == "N(0, 1)":
                continue  # a layer may refuse what is no input of its kind
            return Probe(name, type(reference).__name__, label, INCONCLUSIVE, 0.0, 0.0, f"does not run alone: {error!s:.120}")
        for (output, wide), (_, plain), got in zip(d, e, t, strict=False):
            score = criterion.score(output, 0, array(wide), array(plain), got, unit)
            if worst is None or _rank(score) > _rank(worst[0]):
                worst = score, label
    assert worst is not None
    score, label = worst
    return Probe(name, type(reference).__name__, label, score.status, score.ratio, score.error, score.why)


def _rank(score: Score) -> tuple[int, float]:
    order = (PASSED, INCONCLUSIVE, FAILED)
    return order.index(score.status), score.ratio if score.ratio == score.ratio else 0.0


def of_module(candidate: Any, device: str = CPU) -> Callable[[str], Layer | None]:
    """The layers of a torch module that is on ``device``."""
    import torch

    modules = dict(candidate.named_modules())
    dtype = declared(candidate)

    def find(name: str) -> Layer | None:
        module = modules.get(name)
        if module is None:
            return None

        def layer(call: Call, arrays: Sequence[Any]) -> list[Any]:
            with torch.no_grad():
                return [array(t) for _, t in flat(call.again(module, [_back(a, dtype).to(device) for a in arrays]))]

        return layer

    return find


def _back(values: Any, dtype: Any) -> Any:
    """The tensor that `array` was given, bfloat16 ones included."""
    import torch

    tensor = torch.from_numpy(values)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def of_onnx(model: Any, base: str = "") -> Callable[[str], Layer | None]:
    """The layers of an ``onnx.ModelProto`` whose nodes say which module they come from: each cut out and run on its own."""
    by_layer: dict[str, list[Any]] = {}
    makers: dict[str, Any] = {}
    consumers: dict[str, int] = {}
    for node in model.graph.node:
        for output in node.output:
            makers[output] = node
        for given in node.input:
            consumers[given] = consumers.get(given, 0) + 1
        for scope in dict.fromkeys(scopes_of(node)):
            by_layer.setdefault(scope, []).append(node)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    graph_outputs = {output.name for output in model.graph.output}

    def find(name: str) -> Layer | None:
        nodes = by_layer.get(name)
        if not nodes:
            return None
        try:
            return _cut(model, nodes, makers, weights, consumers, graph_outputs, base)
        except Unsupported:
            return None

    return find


def scopes_of(node: Any) -> list[str]:
    """The modules that an ONNX node comes from, outermost first.

    torch.export writes them beside the node. In files of the older exporter a node that is a whole layer is known by its weight.
    """
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                return []
            return [str(scope) for scope in scopes[:-1]] if isinstance(scopes, list) else []
    if node.op_type in WHOLE_LAYERS and len(node.input) > 1 and node.input[1].endswith(".weight"):
        return [node.input[1].removesuffix(".weight")]
    return []


def _cut(model: Any, nodes: list[Any], makers: Any, weights: Any, consumers: Any, graph_outputs: set[str], base: str) -> Layer:
    """The sub-model of ``nodes``; raises `Unsupported` where it does not hang together as a function of tensors."""
    import onnx

    inside = {output for node in nodes for output in node.output}
    used: dict[str, int] = {}
    for node in nodes:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise Unsupported("a layer with control flow")
        for given in node.input:
            used[given] = used.get(given, 0) + 1
    outer: list[str] = []
    extra: list[Any] = []
    for given in used:
        if not given or given in inside or given in weights:
            continue
        maker = makers.get(given)
        if maker is not None and maker.op_type == "Constant":
            extra.append(maker)
        else:
            outer.append(given)
    outputs = [o for node in nodes for o in node.output if o and (o in graph_outputs or consumers.get(o, 0) > used.get(o, 0))]
    if len(outer) != 1 or len(outputs) != 1:
        raise Unsupported(f"a layer with {len(outer)} inputs and {len(outputs)} outputs")
    graph = onnx.GraphProto(name="layer")
    graph.node.extend([*extra, *nodes])
    for given in used:
        if given in weights:
            graph.initializer.append(_held(weights[given], base))
    graph.input.append(onnx.helper.make_tensor_value_info(outer[0], onnx.TensorProto.FLOAT, None))
    graph.output.append(onnx.ValueInfoProto(name=outputs[0]))
    part = onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    part.functions.extend(model.functions)

    def layer(_: Call, arrays: Sequence[Any]) -> list[Any]:
        from convert.parity.runners import OnnxRunner

        if len(arrays) != 1 or arrays[0].dtype.name != "float32":
            raise Unsupported("a layer of one float input is needed")
        return list(OnnxRunner(part.SerializeToString(), optimise=False, threads=1)(arrays).values())

    return layer


def _held(tensor: Any, base: str) -> Any:
    """``tensor`` with its values inside, wherever they were."""
    import onnx
    from onnx import numpy_helper

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor, base), tensor.name)


def row(probes: Sequence[Probe], device: str, seconds: float) -> Row:
    """The rung: failed where a layer failed."""
    failed = [probe for probe in probes if probe.status == FAILED]
    figures = {"layers": len(probes), "failed": len(failed), "not_decided": sum(p.status == INCONCLUSIVE for p in probes)}
    if failed:
        first = max(failed, key=lambda probe: probe.ratio)
        what = f"{count(len(failed), 'layer')} of {len(probes)} off, most of all {first.layer} ({first.kind}) on {first.inputs}"
        return Row(PROBES, FAILED, what, device, seconds, figures)
    judged = [probe for probe in probes if probe.status == PASSED]
    if not judged:
        return Row(PROBES, NOTED, "no layer could be run alone", device, seconds, figures)
    worst = max(judged, key=lambda probe: probe.ratio)
    what = f"{count(len(judged), 'layer')} alone, worst ratio {worst.ratio:.3g} at {worst.layer}"
    return Row(PROBES, PASSED, what, device, seconds, figures)
