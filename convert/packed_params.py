"""Packed parameters of quantised modules: what `torch.jit.ScriptObject` records hold, under names.

A dynamically quantised layer keeps its weights in an object of a TorchScript class, which pickles as the class's name and the plain
tensors that it was packed from. Their keys here are the object's key and the name of the part:

==============================================  ==================================================================================
``quantized.LinearPackedParamsBase``            ``weight``, ``bias``
``quantized.Conv{2,3}dPackedParamsBase``        ``weight``, ``bias`` (and what else it holds, by position)
``rnn.CellParamsBase`` (LSTM, GRU, RNN cells)   ``b_ih``, ``b_hh``, ``w_ih.weight``, ``w_ih.bias``, ``w_hh.weight``, ``w_hh.bias``
any other                                       the positions of the tensors in its state: ``0``, ``1.0`` …
==============================================  ==================================================================================

Sources: ``aten/src/ATen/native/quantized/cpu/fbgemm_utils.cpp`` (``register_linear_params``) and
``aten/src/ATen/native/RNN.cpp`` (``register_cell_params``; the state is
``(type, tensors, doubles, longs, packed objects)``), torch 1.6 to 2.13.
"""

from __future__ import annotations

from formats.core.checkpoint import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SCRIPT_OBJECTS = frozenset({"torch._C.ScriptObject", "torch.ScriptObject"})  # before torch 1.13, and since


def packed(key: Any, value: Any) -> bool:
    """Whether the entry of a state dict is no tensor and holds a quantised module's weights."""
    if type(value) is Record:
        return value.name in SCRIPT_OBJECTS
    return isinstance(value, tuple) and isinstance(key, str) and key.endswith("_packed_params")


def parts(record: Record) -> Iterator[tuple[str, Any]]:
    """(name, part) of a packed object; nothing where its state is none that torch writes."""
    state = record.state
    if not (isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], str)):
        return
    held, name = state[0], state[1].rsplit(".", 1)[-1]
    if name == "LinearPackedParamsBase" and isinstance(held, tuple) and len(held) == 2:
        yield from zip(("weight", "bias"), held, strict=True)
    elif name == "CellParamsBase" and isinstance(held, tuple) and len(held) == 5 and _pairs(held):
        yield from zip(("b_ih", "b_hh"), held[1], strict=True)
        yield from zip(("w_ih", "w_hh"), held[4], strict=True)
    elif isinstance(held, (tuple, list)):
        yield from ((str(at), part) for at, part in enumerate(held))
    else:
        yield "0", held


def _pairs(held: tuple[Any, ...]) -> bool:
    """Whether the cell's state has two tensors and two packed objects: what dynamic quantisation makes."""
    return all(isinstance(pair, list) and len(pair) == 2 for pair in (held[1], held[4]))
