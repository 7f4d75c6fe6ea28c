"""State dict to state dict, lazily: what changes keys or values between choosing the model and planning the output.

Choosing already strips the prefixes that wrappers leave (`convert.select`). A transform is a function; the ones that a job asks for
run in the order of `transforms_of`, and none of them reads a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from formats.core.checkpoint import StateDict

Transform = Callable[[StateDict], StateDict]


def apply(model: StateDict, transforms: Iterable[Transform]) -> StateDict:
    """``model`` after every transform in turn."""
    for transform in transforms:
        model = transform(model)
    return model
