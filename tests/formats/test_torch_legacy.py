"""The pickle container of `torch.save` before torch 1.6."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.formats.conformance import ReaderConformance


class TestConformance(ReaderConformance):
    format = "torch-legacy"
    dtypes = (*ReaderConformance.dtypes, torch.bool, torch.bfloat16, torch.complex64, torch.complex128)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
