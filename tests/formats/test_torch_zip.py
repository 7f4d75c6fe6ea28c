"""The ZIP container of `torch.save`."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.formats.conformance import ReaderConformance


class TestConformance(ReaderConformance):
    format = "torch-zip"
    dtypes = (
        *ReaderConformance.dtypes,
        torch.bool,
        torch.bfloat16,
        torch.complex64,
        torch.complex128,
        torch.uint16,
        torch.float8_e5m2,
    )

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        torch.save(tensors, path)
