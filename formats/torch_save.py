"""The ``.pth`` of a state dict, as ``torch.save(model.state_dict(), path)`` writes it (ZIP container, torch 1.6 to today).

Source: ``torch.serialization._save``. Unlike torch's own, the same content gives the same bytes whatever the file is called.
"""

from __future__ import annotations

from formats.core.checkpoint import Content, Ordered, StateDict
from formats.core.dtype import BY_NAME
from formats.core.layout import Layout
from formats.core.protocol import Capabilities
from formats.core.zip_layout import torch_archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CAPABILITIES = Capabilities(dtypes=frozenset(BY_NAME), ties=True, strides=True, composites=True)


def plan(content: Content, options: Mapping[str, Any]) -> list[Layout]:
    """One file. Options: ``locations`` (bool) keeps the devices that the source names, else storages say ``cpu``; ``notes`` (a list) is
    given one line for each kind of thing that could only be written otherwise.
    """
    return [torch_archive(state_dict(content.model), locations=bool(options.get("locations")), notes=options.get("notes"))]


def state_dict(model: StateDict) -> Ordered:
    """The ``OrderedDict`` that ``state_dict()`` returns, ``_metadata`` included."""
    tree = Ordered(model.tensors)
    if model.versions is not None:
        tree.attributes = {"_metadata": model.versions}
    return tree
