"""The ``.pth`` of torch before 1.6, for consumers that read nothing newer; every later torch reads it too.

Source: ``torch.serialization._legacy_save`` (``torch.save(…, _use_new_zipfile_serialization=False)``). The same content gives the same
bytes: keys of storages are numbers in the order of first use, where torch writes addresses. Types without a storage class (uint16,
float8, …) are refused by name, as torch itself cannot load such a file. Nothing in the container is checksummed.
"""

from __future__ import annotations

from formats.core.checkpoint import Content, Ordered
from formats.core.dtype import BY_STORAGE
from formats.core.layout import Layout
from formats.core.legacy_layout import legacy_file
from formats.core.protocol import Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CAPABILITIES = Capabilities(
    dtypes=frozenset(dtype.name for dtype in BY_STORAGE.values()), ties=True, strides=True, composites=True
)


def plan(content: Content, options: Mapping[str, Any]) -> list[Layout]:
    """One file with the state dict. Options as for a ``.pth``: ``locations`` and ``notes``."""
    tree = Ordered(content.model.tensors)
    if content.model.versions is not None:
        tree.attributes = {"_metadata": content.model.versions}
    return [legacy_file(tree, locations=bool(options.get("locations")), notes=options.get("notes"))]
