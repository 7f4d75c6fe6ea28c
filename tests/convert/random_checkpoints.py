"""Random checkpoints: random trees of random tensors, each the same for the same seed, made by torch itself."""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from typing import Any

import torch

PLAIN = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.complex128, torch.complex32, torch.bool,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip
STORED = {*PLAIN[:9], torch.complex64, torch.complex128, torch.bool}  # … those with storage classes of their own
WORDS = ("weight", "bias", "a", "état", "x y", "", "$", "layer.0", "0", "running_mean", "__metadata__", "\u2028", 'q"\\')


class Maker:
    """One checkpoint from one seed; ``legacy`` leaves out the types that torch cannot read in its older container."""

    def __init__(self, seed: int, *, legacy: bool = False) -> None:
        self.dtypes = [dtype for dtype in PLAIN if dtype in STORED or not legacy]
        self.random = random.Random(seed)
        self.made: list[torch.Tensor] = []
        self.nodes: list[Any] = []

    def checkpoint(self) -> dict[Any, Any]:
        r = self.random
        weights = OrderedDict((f"m.{at}.{r.choice(('weight', 'bias', 'w'))}", self.tensor()) for at in range(r.randint(1, 4)))
        if r.random() < 0.5:
            weights._metadata = OrderedDict({"": {"version": 1}, "m": {"version": r.randint(1, 3)}})  # type: ignore[attr-defined]
        entries: list[tuple[Any, Any]] = [("state_dict", weights)]
        entries += [(f"rest{at}", self.tree(r.randint(0, 3))) for at in range(r.randint(0, 3))]
        r.shuffle(entries)
        return dict(entries)

    def tree(self, depth: int) -> Any:
        r = self.random
        if depth == 0 or r.random() < 0.2:
            return self.leaf()
        if self.nodes and r.random() < 0.1:
            return r.choice(self.nodes)  # shared
        children = [self.tree(depth - 1) for _ in range(r.randint(0, 3))]
        kind = r.randrange(4)
        if kind == 0:
            return tuple(children)
        made: Any = children if kind == 1 else {} if kind == 2 else OrderedDict()
        if kind > 1:
            made.update((self.key(), child) for child in children)
        self.nodes.append(made)
        return made

    def key(self) -> Any:
        r = self.random
        return r.choice((r.choice(WORDS), r.randint(-2, 70_000), r.choice(WORDS), (r.randint(0, 2), "t"), True, None, 1.5))

    def leaf(self) -> Any:
        r = self.random
        if r.random() < 0.5:
            return self.tensor()
        return r.choice((
            None, True, False, r.randint(-3, 300), r.randint(-(1 << 70), 1 << 70), r.uniform(-1e9, 1e9), float("nan"), -0.0,
            float("inf"), r.choice(WORDS), r.randbytes(r.randint(1, 5)), (), 5e-324,
        ))  # fmt: skip

    def tensor(self) -> torch.Tensor:
        r = self.random
        if self.made and r.random() < 0.2:  # tied, or another window on a storage that is there
            old = r.choice(self.made)
            if r.random() < 0.5 or old.layout is not torch.strided or old.is_quantized or old.requires_grad or not old.dim():
                return old
            return self.kept(old[r.randint(0, old.shape[0]) :] if r.random() < 0.5 else old.movedim(0, -1))
        kind = r.randrange(12)
        if kind == 0:
            return self.kept(torch.eye(r.randint(1, 3)).to_sparse() if r.random() < 0.5 else torch.eye(2).to_sparse_csr())
        if kind == 1:
            values = torch.arange(6.0).view(2, 3)
            return self.kept(torch.quantize_per_tensor(values, r.uniform(0.01, 2), r.randint(-5, 5), torch.qint8))
        made = self.plain([r.choice((0, 1, 1, 2, 3, 5)) for _ in range(r.randint(0, 4))])
        if kind == 2:
            made = made.permute(r.sample(range(made.dim()), made.dim()))
        elif kind == 3 and made.dim():
            made = made[tuple(slice(r.randint(0, 1), None, r.randint(1, 2)) for _ in made.shape)]
        elif kind == 4 and made.dim():
            made = made[:1].expand(r.randint(1, 4), *made.shape[1:]) if made.shape[0] else made
        elif kind == 5 and made.dtype in (torch.complex64, torch.complex128):
            made = made.conj() if r.random() < 0.5 else made.conj().imag
        elif kind in (6, 7) and made.dtype in PLAIN[:4]:  # torch writes gradients of others in a way that it cannot read
            made = torch.nn.Parameter(made, requires_grad=r.random() < 0.5) if kind == 6 else made.requires_grad_()
        return self.kept(made)

    def plain(self, shape: list[int]) -> torch.Tensor:
        """Any bits: NaN with payloads, subnormals, negative zeros."""
        dtype = self.random.choice(self.dtypes)
        numel = math.prod(shape)
        raw = self.random.randbytes(numel * dtype.itemsize)
        if dtype is torch.bool:
            raw = bytes(byte & 1 for byte in raw)
        if not numel:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8).clone().view(dtype).view(shape)

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        self.made.append(tensor)
        return tensor
