"""What a program is fed: ``--input 1x3x224x224[:dtype][:LOW..HIGH]`` or a sample (.npy, .pt, an image), several for several arguments.

Made inputs depend on the seed alone. Images are smooth, as photographs are, and normalised like them: on pure noise some networks are
so ill-conditioned that nothing can be said of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.core.errors import Unsupported, UsageError

if TYPE_CHECKING:
    import torch

_SHAPE = re.compile(r"^(?:(\d+(?:x\d+)*)|scalar)(?::([a-z]+\d*))?(?::(-?[\d.]+)\.\.(-?[\d.]+))?$")
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MAX_ELEMENTS = 1 << 31


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One argument: a shape with the batch first, or a sample file. ``low`` ≤ x < ``high``; ``mean`` and ``std`` normalise images."""

    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None
    sample: Path | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __str__(self) -> str:
        if self.sample is not None:
            return str(self.sample)
        span = "" if self.low is None else f":{self.low:g}..{self.high:g}"
        return f"{'x'.join(map(str, self.shape)) or 'scalar'}:{self.dtype}{span}"


def parse(text: str) -> InputSpec:
    """``text`` as `InputSpec`. Raises `UsageError`."""
    found = _SHAPE.match(text)
    if found is None:
        path = Path(text)
        if path.suffix.lower() in (".npy", ".pt", ".pth", *IMAGES):
            if not path.is_file():
                raise UsageError(f"--input {text}: there is no such file")
            return InputSpec(sample=path)
        raise UsageError(
            f"--input {text}: is neither a shape such as 1x3x224x224, 1x16:int64:0..50000 nor a .npy, .pt or image file"
        )
    sizes, dtype, low, high = found.groups()
    shape = tuple(int(size) for size in sizes.split("x")) if sizes else ()
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--input {text}: dtype {dtype} is none of {', '.join(DTYPES)}")
    elements = 1
    for size in shape:
        elements *= size
    if not elements or elements > MAX_ELEMENTS:
        raise UsageError(f"--input {text}: has {elements} elements, 1 to {MAX_ELEMENTS} are made")
    try:
        span: tuple[float, float] | tuple[None, None] = (None, None) if low is None else (float(low), float(high))
    except ValueError:
        raise UsageError(f"--input {text}: {low}..{high} is no range of numbers") from None
    if span[0] is not None and span[0] >= span[1]:
        raise UsageError(f"--input {text}: the range {low}..{high} is empty")
    return InputSpec(shape, dtype or "float32", *span)


def make(spec: InputSpec, seed: int, batch: int | None = None, kind: str = "natural") -> torch.Tensor:
    """The tensor. ``batch`` replaces the first size (a sample is repeated or cut); ``kind``: ``natural`` images or ``normal`` noise."""
    import torch

    if spec.sample is not None:
        return _batched(_sample(spec), batch)
    shape = (batch, *spec.shape[1:]) if batch is not None and spec.shape else spec.shape
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, spec.dtype)
    if spec.dtype == "bool":
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point:
        low, high = (0, 2 if spec.dtype.endswith("8") else 100) if spec.low is None else (int(spec.low), int(spec.high or 0))
        return torch.randint(low, high, shape, generator=generator, dtype=dtype)
    if spec.low is not None and spec.high is not None:
        return (torch.rand(shape, generator=generator, dtype=torch.float64) * (spec.high - spec.low) + spec.low).to(dtype)
    if kind == "natural" and len(shape) == 4 and min(shape[2:]) >= 8:
        return _normalised(_smooth(shape, generator), spec).to(dtype)
    return torch.randn(shape, generator=generator).to(dtype)


def _smooth(shape: tuple[int, ...], generator: Any) -> torch.Tensor:
    """Values in [0, 1] whose power falls with frequency, as in photographs: noise of several sizes, enlarged and summed."""
    import torch
    from torch.nn.functional import interpolate

    total = torch.zeros(shape)
    side = 2
    while side < max(shape[2:]):
        coarse = torch.randn((*shape[:2], side, side), generator=generator) + 0.7 * torch.randn(
            (shape[0], 1, side, side), generator=generator
        )
        total += interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=False) / side**0.8
        side *= 2
    flat = total.flatten(2)
    total = (total - flat.mean(2)[..., None, None]) / flat.std(2)[..., None, None].clamp_min(1e-6)
    return torch.sigmoid(1.4 * total)


def _normalised(image: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    import torch

    channels = image.shape[1]
    mean = spec.mean if len(spec.mean) == channels else (0.45,) * channels
    std = spec.std if len(spec.std) == channels else (0.225,) * channels
    return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _sample(spec: InputSpec) -> torch.Tensor:
    import torch

    path = spec.sample
    assert path is not None
    try:
        if path.suffix.lower() == ".npy":
            import numpy as np

            return torch.from_numpy(np.load(path, allow_pickle=False))  # noqa: TID251
        if path.suffix.lower() in (".pt", ".pth"):
            value = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
        else:
            return _image(path, spec)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"--input {path}: cannot be read: {error!s:.200}") from error
    if not isinstance(value, torch.Tensor):
        raise UsageError(f"--input {path}: holds a {type(value).__name__}, not one tensor")
    return value


def _image(path: Path, spec: InputSpec) -> torch.Tensor:
    """[1, 3, height, width], in the image's own size unless ``spec`` has another, normalised."""
    import numpy as np
    import torch

    try:
        from PIL import Image
    except ImportError:
        raise Unsupported("an image sample needs Pillow", hint="pip install pillow") from None
    with Image.open(path) as opened:
        image = opened.convert("RGB")
        if len(spec.shape) == 4:
            image = image.resize((spec.shape[3], spec.shape[2]), Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
    return _normalised(values, spec).contiguous()


def _batched(sample: torch.Tensor, batch: int | None) -> torch.Tensor:
    import torch

    if batch is None or not sample.dim() or sample.shape[0] == batch:
        return sample
    return sample[torch.arange(batch) % sample.shape[0]]
