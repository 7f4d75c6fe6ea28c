"""``--dtype`` and ``--dequantize``: floating tensors in another type, quantised ones as floats, and what that cost."""

from __future__ import annotations

from typing import Any

from convert.job import DTYPES, Job
from convert.text import count, shown
from formats.core.cast import SOURCES, Cast, Tally
from formats.core.checkpoint import StateDict
from formats.core.dequantize import dequantized
from formats.core.dtype import BY_NAME, DType
from formats.core.errors import CheckpointError
from formats.core.record import made, record
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

WORST = 5  # tensors that are named
# Component of each kind that holds the values, where a cast of the whole is a cast of those.
_VALUES = {
    "sparse_coo": "values", "sparse_csr": "values", "sparse_csc": "values", "sparse_bsr": "values", "sparse_bsc": "values",
    "nested": "values",
}  # fmt: skip


@record
class Casting:
    """What was asked for, applied to one model; the counts are there once its bytes have been written."""

    dtype: DType | None
    dequantize: bool
    cast: dict[str, Tally] = made(factory=dict)
    sources: dict[str, int] = made(factory=dict)  # dtype that was → how many tensors
    numel: int = 0
    dequantized: list[str] = made(factory=list)
    left: dict[str, str] = made(factory=dict)  # key → why a floating tensor was not cast
    _made: dict[Any, AnyTensor] = made(factory=dict)
    _kept: list[Any] = made(factory=list)  # ids are keys: nothing may be freed while they are

    @classmethod
    def of(cls, job: Job) -> Casting | None:
        """None where nothing is to be cast."""
        if job.dtype is None and not job.dequantize:
            return None
        return cls(None if job.dtype is None else BY_NAME[DTYPES[job.dtype]], job.dequantize)

    def apply(self, model: StateDict) -> StateDict:
        """``model`` with its tensors cast; what was tied still is, and every other tensor gets a storage of its own."""
        tensors: dict[str, AnyTensor] = {}
        for key, tensor in model.tensors.items():
            try:
                tensors[key] = self._one(key, tensor)
            except CheckpointError as error:
                error.what = f"tensor {key!r:.120}: {error.what}"
                raise
        return StateDict(tensors, model.versions)

    def _one(self, key: str, tensor: AnyTensor) -> AnyTensor:
        if isinstance(tensor, TensorView):
            identity: Any = (*tensor.window(), tensor.conj, tensor.neg, tensor.parameter, tensor.requires_grad)
        else:
            identity = id(tensor)
        self._kept.append(tensor)
        if identity not in self._made:
            made = tensor
            if self.dequantize and isinstance(made, CompositeTensor) and made.kind == "quantized":
                made = dequantized(made)
                self.dequantized.append(key)
            if self.dtype is not None and made.dtype is not self.dtype and made.dtype.kind == "float":
                made = self._cast(key, made, self.dtype)
            self._made[identity] = made
        return self._made[identity]

    def _cast(self, key: str, tensor: AnyTensor, target: DType) -> AnyTensor:
        if tensor.dtype.name not in SOURCES:
            self.left[key] = f"{tensor.dtype.name} has no casts"
            return tensor
        if isinstance(tensor, TensorView):
            return self._plain(key, tensor, target)
        if tensor.kind == "meta":
            components = {}
        elif tensor.kind in _VALUES:
            name = _VALUES[tensor.kind]
            components = {**tensor.components, name: self._plain(key, tensor.components[name], target)}
        else:
            self.left[key] = f"{tensor.kind} tensors mean what their class says"
            return tensor
        return CompositeTensor(
            tensor.kind, target, tensor.shape, components, tensor.attributes,
            requires_grad=tensor.requires_grad, parameter=tensor.parameter,
        )  # fmt: skip

    def _plain(self, key: str, view: TensorView, target: DType) -> TensorView:
        tally = self.cast[key] = Tally()
        self.sources[view.dtype.name] = self.sources.get(view.dtype.name, 0) + 1
        self.numel += view.numel
        storage = Cast(view.row_major(), view.dtype, target, tally)
        return TensorView(target, view.shape, storage, requires_grad=view.requires_grad, parameter=view.parameter)

    @property
    def worst(self) -> list[tuple[str, Tally]]:
        """Tensors whose values left the range of the type, the most of them first."""
        lost = [(key, tally) for key, tally in self.cast.items() if tally.lost]
        return sorted(lost, key=lambda entry: -entry[1].lost)[:WORST]

    def document(self, *, written: bool) -> dict[str, Any]:
        """Counts only where the values have been seen."""
        said: dict[str, Any] = {}
        if self.dtype is not None:
            said = {"dtype": self.dtype.name, "tensors": len(self.cast), "values": self.numel, "from": dict(self.sources)}
            if written:
                said |= _counts(list(self.cast.values()))
                said["worst"] = [{"key": key, **_counts([tally])} for key, tally in self.worst]
            if self.left:
                said["left"] = dict(self.left)
        if self.dequantize:
            said["dequantized"] = list(self.dequantized)
        return said

    def lines(self, *, written: bool) -> list[str]:
        lines = []
        if self.dequantize:
            lines.append(f"dequantised to float32: {count(len(self.dequantized), 'tensor')}")
        if self.dtype is not None:
            were = ", ".join(f"{number:,} of {name}" for name, number in self.sources.items())
            lines.append(f"cast to {self.dtype.name}: {count(len(self.cast), 'tensor')}" + (f" ({were})" if were else ""))
            if written:
                total = _counts(list(self.cast.values()))
                lines.append(
                    f"of {self.numel:,} values {total['overflowed']:,} overflowed to inf, {total['zeroed']:,} became 0, "
                    f"{total['subnormal']:,} lost digits as subnormals, {total['rounded']:,} changed in all"
                )
                for key, tally in self.worst:
                    lines.append(
                        f"  {shown(key)}: {tally.overflowed:,} overflowed, {tally.zeroed:,} became 0, {tally.subnormal:,} subnormal"
                    )
            lines += [f"not cast: {shown(key)}: {why}" for key, why in list(self.left.items())[:WORST]]
        return lines


def _counts(tallies: list[Tally]) -> dict[str, int]:
    return {name: sum(getattr(t, name) for t in tallies) for name in ("overflowed", "zeroed", "subnormal", "rounded")}
