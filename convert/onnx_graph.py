"""A torch module as an ONNX graph: exported unoptimised, every weight proved by digest, then simplified without touching one.

Exporters that optimise fold weights into each other (BatchNorm into convolutions), after which nothing can be compared. Here the
graph keeps every weight under its key, and onnxruntime folds when it loads the file, which costs nothing in the file's use. The
weights' values are not in the result: they go from the checkpoint to the file.
"""

from __future__ import annotations

import contextlib
import copy
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from convert.onnx_exporters import by_dynamo, by_torchscript, explained, quiet
from convert.parity import digests
from convert.parity.inputs import NATURAL, InputSpec, batched, make
from convert.parity.probes import SCOPES
from convert.parity.runners import TorchRunner, flat, in_eval_mode
from convert.programs.skeleton import Skeleton, dtype_name, is_fake
from formats.core.errors import ParityFailed, Unsupported

DYNAMO, TORCHSCRIPT = "dynamo", "torchscript"
EXPORTERS = (DYNAMO, TORCHSCRIPT)
OPSET = 18
SIMPLIFICATIONS = ("fold constants", "remove unused nodes", "share equal subexpressions", "remove identities")
EXAMPLE_BATCH = 2  # sizes of 0 and 1 are special to torch.export


@dataclass(slots=True)
class Exported:
    """``program`` is a ModelProto without the weights; ``weights`` maps each initializer that is missing in it to its proved digest."""

    program: bytes
    weights: dict[str, str]
    tied: dict[str, str]  # key → the key that stands for it
    unused: list[str]  # keys that the program does not read
    constants: int
    exporter: str
    opset: int
    dynamic: bool
    inputs: list[str]
    outputs: list[str]
    simplified: list[str]
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    weightless: bool = False  # the exporter saw shapes alone; digests are of what the checkpoint holds
    program_of: dict[str, Any] = field(default_factory=dict)  # what was exported, where the exporting process found that out
    memory: dict[str, float] = field(default_factory=dict)  # MB resident in the exporting process

    def document(self) -> dict[str, Any]:
        """Everything but the program."""
        return {name: value for name, value in asdict(self).items() if name != "program"}


def export(
    module: Any,
    specs: Sequence[InputSpec],
    *,
    exporter: str | None = None,
    opset: int = OPSET,
    dynamic: bool = True,
    simplify: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Export ``module``. ``exporter`` None tries dynamo, then the older one. Raises `Unsupported`, naming the operator, where none can;
    `ParityFailed` where an exporter changed a weight."""
    in_eval_mode(module)
    refusals: list[str] = []
    hints: list[str] = []
    for name in EXPORTERS if exporter is None else (exporter,):
        for batch in (True, False) if dynamic else (False,):
            say(f"exporting with {_title(name)}{'' if batch else ', batch size fixed'}")
            try:
                made = _export(module, specs, name, opset, batch, simplify, say)
            except (ParityFailed, Unsupported) as error:
                refusals.append(f"{_title(name)}: {error.what}")
                continue
            except Exception as error:
                what, hint = explained(error)
                refusals.append(f"{_title(name)}: {what}")
                hints += [hint] if hint and hint not in hints else []
                continue
            made.notes += [f"not taken: {refusal}" for refusal in dict.fromkeys(refusals)]
            if dynamic and not batch:
                made.notes.append(f"the batch size is fixed at {EXAMPLE_BATCH}: the program depends on it")
            return made
    raise Unsupported(
        "; ".join(dict.fromkeys(refusals)), hint=hints[0] if hints else "--exporter names another exporter, --opset another opset"
    )


def export_weightless(
    hollow: Skeleton, specs: Sequence[InputSpec], *, opset: int = OPSET, dynamic: bool = True, simplify: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:  # fmt: skip
    """The same without weights, by dynamo alone: the graph is that of `export`, byte for byte. Raises whatever the exporter raises,
    `Unsupported` where a tensor has no values and the checkpoint does not hold it."""
    in_eval_mode(hollow.module)
    say(f"exporting with {_title(DYNAMO)}, without weights")
    return _export(hollow.module, specs, DYNAMO, opset, dynamic, simplify, say, hollow)


def _title(name: str) -> str:
    return "torch.export" if name == DYNAMO else "the older exporter"


def _export(
    module: Any, specs: Sequence[InputSpec], exporter: str, opset: int, dynamic: bool, simplify: bool, say: Callable[[str], None],
    hollow: Skeleton | None = None,
) -> Exported:  # fmt: skip
    import torch

    seconds: dict[str, float] = {}
    with _timed(seconds, "eager run"), torch.no_grad():
        sample = make(specs, 0, [(NATURAL, EXAMPLE_BATCH if batched(specs[0]) else 1)])[0]
        arguments = tuple(TorchRunner(module).tensors(sample.arrays)) if hollow is None else hollow.arguments(sample.arrays)
        # On a twin with the same tensors: some models keep what they compute (timm's attention biases), and would export it as constants.
        twin = copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
        with contextlib.nullcontext() if hollow is None else hollow.mode:
            outputs = [_identifier(name) for name, _ in flat(twin(*arguments))]
        del twin
    inputs = _input_names(module, len(specs))
    with _timed(seconds, "export"), quiet(), torch.no_grad():
        call = by_dynamo if exporter == DYNAMO else by_torchscript
        model = call(module, arguments, specs, inputs, outputs, opset, dynamic)
    state = module.state_dict(keep_vars=hollow is not None)
    say("comparing every weight's digest" if hollow is None else "one pass over the weights for their digests")
    with _timed(seconds, "digests"):
        aliases = _aliases(state, hollow is not None)
        _share(model, aliases)
        expected = digests.of_state(state) if hollow is None else hollow.digest()
        weights, tied, unused = (_proved if hollow is None else _placed)(model, state, aliases, expected)
    simplified: list[str] = []
    if simplify:
        say("simplifying the graph")
        with _timed(seconds, "simplify"):
            _simplify(model, frozenset(weights))
            simplified = list(SIMPLIFICATIONS)
    with _timed(seconds, "serialise"):
        _strip(model)
        left = [name for name in weights if name in model.graph.initializers]
        program = _without(model, left)
    unused += sorted(set(weights) - set(left))  # what only dead nodes read
    weights = {name: weights[name] for name in left}
    version = model.opset_imports.get("", opset)
    return Exported(
        program, weights, {key: kept for key, kept in tied.items() if kept in weights}, unused, len(model.graph.initializers) - len(left),
        exporter, version, dynamic, inputs, outputs, simplified, [], seconds, weightless=hollow is not None,
    )  # fmt: skip


def _aliases(state: Any, by_identity: bool = False) -> dict[str, str]:
    """Keys that are another key's very elements → that first key. Tensors without elements are the same where they are one object."""
    first: dict[Any, str] = {}
    found = {}
    for key, tensor in state.items():
        if not tensor.numel():
            continue
        place = id(tensor) if by_identity else (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        kept = first.setdefault(place, key)
        if kept != key:
            found[key] = kept
    return found


def _share(model: Any, aliases: dict[str, str]) -> None:
    """Tied weights become one initializer."""
    initializers = model.graph.initializers
    for key, kept in aliases.items():
        if key not in initializers:
            continue
        if kept not in initializers:
            value = initializers.pop(key)
            value.name = kept
            initializers[kept] = value
            continue
        initializers[key].replace_all_uses_with(initializers[kept])
        del initializers[key]


_Weights = tuple[dict[str, str], dict[str, str], list[str]]


def _proved(model: Any, state: Any, aliases: dict[str, str], expected: dict[str, str]) -> _Weights:
    """(digest by initializer, tied keys, unused keys). Raises `ParityFailed` where an initializer is not the weight of its name."""
    found: dict[str, str] = {}
    wrong = []
    for name, value in model.graph.initializers.items():
        if name not in expected:
            continue
        tensor = value.const_value
        digest = digests.of_bytes(digests.onnx_dtype(int(tensor.dtype)), list(tensor.shape), tensor.tobytes())
        if digest != expected[name]:
            wrong.append(name)
        found[name] = digest
    if wrong:
        raise ParityFailed(f"the exporter changed {len(wrong)} of {len(found)} weights, {wrong[0]!r} among them")
    tied = {key: kept for key, kept in aliases.items() if kept in found}
    unused = [key for key in expected if key not in found and key not in tied]
    return found, tied, unused


def _placed(model: Any, state: Any, aliases: dict[str, str], expected: dict[str, str]) -> _Weights:
    """The same where the exporter has seen no value and so can have changed none: an initializer is the weight of its name by its type
    and shape, and gets that weight's bytes when the file is written."""
    found = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if name in expected:
            ours = (dtype_name(state[name]), list(state[name].shape))
            theirs = (digests.onnx_dtype(int(tensor.dtype)), list(tensor.shape))
            if ours != theirs:
                raise ParityFailed(f"the exporter made weight {name!r} {theirs[0]} {theirs[1]}, it is {ours[0]} {ours[1]}")
            found[name] = expected[name]
            value.const_value = None  # known to be there, and to nobody what it is
        elif is_fake(getattr(tensor, "raw", None)):
            raise Unsupported(f"constant {name!r} depends on the weights' values")
    tied = {key: kept for key, kept in aliases.items() if kept in found}
    for key, kept in tied.items():
        if expected[key] != expected[kept]:
            raise Unsupported(f"{key!r} and {kept!r} are one weight to the program and have different values in the file")
    return found, tied, [key for key in state if key not in model.graph.initializers and key not in tied]


def _simplify(model: Any, weights: frozenset[str]) -> None:
    """Rewrite what does not depend on a weight; constants of the graph are folded, weights are not."""
    import onnx_ir.passes.common as passes
    from onnx_ir.passes import PassManager, Sequential
    from onnxscript.optimizer import _constant_folding as folding

    def untouched(node: Any) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    fold = folding.FoldConstantsPass(
        shape_inference=True, input_size_limit=1024, output_size_limit=1 << 16, should_fold=untouched
    )
    Sequential(
        passes.InlinePass(),
        PassManager([fold, passes.RemoveUnusedNodesPass(), passes.RemoveUnusedFunctionsPass()], steps=3, early_stop=True),
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
    )(model)


def _strip(model: Any) -> None:
    """No paths, stack traces or addresses: the same model gives the same bytes. Nodes keep the module that they come from."""
    import onnx_ir

    model.doc_string = model.graph.doc_string = None
    model.metadata_props.clear()
    graphs = [model.graph, *model.functions.values()]
    model.graph.metadata_props.clear()
    for graph in graphs:
        for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
            node.doc_string = None
            scopes = node.metadata_props.get(SCOPES)
            node.metadata_props.clear()
            if scopes:
                node.metadata_props[SCOPES] = scopes
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def _without(model: Any, weights: Sequence[str]) -> bytes:
    """The serialised model with the values of ``weights`` left out."""
    import numpy
    import onnx_ir

    for name in weights:
        model.graph.initializers[name].const_value = onnx_ir.tensor(numpy.zeros(0, numpy.float32), name=name)
    proto = onnx_ir.serde.serialize_model(model)
    gone = frozenset(weights)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in gone]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    shapes = [info for info in proto.graph.value_info if info.name not in gone]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(shapes)
    return bytes(proto.SerializeToString(deterministic=True))


def _input_names(module: Any, number: int) -> list[str]:
    """The parameters of ``forward``, where they have names."""
    import inspect

    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:number]
    return named if len(named) == number else [f"input_{i}" for i in range(number)]


def _identifier(name: str) -> str:
    return re.sub(r"\W+", "_", name) or "output"


@contextlib.contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[what] = round(time.perf_counter() - started, 3)
