"""The customary training checkpoint, ``.pth.tar``: a dict with the state dict under ``state_dict`` and whatever else travels.

By custom only: PyTorch's ImageNet example saves ``{'epoch': …, 'arch': …, 'state_dict': …, 'optimizer': …}`` under this name, with
`torch.save`; it has not been a tar since torch 0.1.9.
"""

from __future__ import annotations

from formats.core.checkpoint import Content, Ordered
from formats.core.dtype import BY_NAME
from formats.core.errors import Unsupported
from formats.core.layout import Layout
from formats.core.protocol import Capabilities
from formats.core.zip_layout import torch_archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MODEL_KEY = "state_dict"
CAPABILITIES = Capabilities(dtypes=frozenset(BY_NAME), ties=True, strides=True, composites=True, extras=True)


def plan(content: Content, options: Mapping[str, Any]) -> list[Layout]:
    """One file: the whole tree as it was where the content has one, else the customary dict.

    Options as for a ``.pth``: ``locations`` and ``notes``; ``order`` (a list of keys) places ``state_dict`` among the others, which
    else comes first.

    Raises `Unsupported` where something else is called ``state_dict``.
    """
    if content.tree is not None:
        return [torch_archive(content.tree, locations=bool(options.get("locations")), notes=options.get("notes"))]
    if MODEL_KEY in content.extras:
        raise Unsupported(
            f"something beside the model is called {MODEL_KEY!r}, where the model itself belongs", hint="drop or rename it"
        )
    model = Ordered(content.model.tensors)
    if content.model.versions is not None:
        model.attributes = {"_metadata": content.model.versions}
    everything: dict[Any, Any] = {MODEL_KEY: model, **content.extras}
    order = [key for key in options.get("order") or () if key in everything]
    tree = {key: everything[key] for key in dict.fromkeys([*order, *everything])}
    return [torch_archive(tree, locations=bool(options.get("locations")), notes=options.get("notes"))]
