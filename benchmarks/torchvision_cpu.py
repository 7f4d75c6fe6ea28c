"""Make PyPI's torchvision importable beside a CPU build of torch.

PyPI's Linux wheel of torchvision links CUDA libraries. Beside a CPU torch its extension does not load, and the import then fails in
``torchvision/_meta_registrations.py`` (``operator torchvision::nms does not exist``), although no classification model needs those
operators. Their schemas, as torchvision's C++ sources define them, are enough for the import; where the extension loads, nothing is
changed. A user installs the matching CPU wheel of torchvision; this is for tests and benchmarks alone.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

_POOL = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_GRAD = f"{_POOL}, SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_STEPS = (
    "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
    "SymInt groups, SymInt offset_groups, bool use_mask"
)
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, Tensor rois, {_POOL}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, Tensor rois, {_GRAD}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool(Tensor input, Tensor rois, {_POOL}) -> (Tensor, Tensor)",
    f"_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, {_GRAD}) -> Tensor",
    f"ps_roi_align(Tensor input, Tensor rois, {_POOL}, int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, SymInt pooled_height, "
    "SymInt pooled_width, int sampling_ratio, SymInt batch_size, SymInt channels, SymInt height, SymInt width) -> Tensor",
    f"ps_roi_pool(Tensor input, Tensor rois, {_POOL}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, {_GRAD}) -> Tensor",
    f"deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {_STEPS}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {_STEPS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
)
_LIBRARIES: list[Any] = []  # a torch.library.Library takes its definitions with it when it is collected


@cache
def mend() -> bool:
    """Whether the operators' schemas had to be defined. Call before ``import torchvision``; False too where it is not installed."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    folder = spec.submodule_search_locations[0]
    extension = next((f"{folder}/_C{suffix}" for suffix in (".so", ".pyd", ".dylib") if _exists(f"{folder}/_C{suffix}")), None)
    if extension is not None:
        try:
            torch.ops.load_library(extension)
            return False
        except OSError:  # libcudart and its kin are missing
            pass
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _LIBRARIES.append(library)
    return True


def _exists(path: str) -> bool:
    from pathlib import Path

    return Path(path).is_file()
