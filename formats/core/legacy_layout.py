"""Where everything stands in the pickle container of torch before 1.6, when it is written.

Source: ``torch.serialization._legacy_save``: five pickles (magic number, protocol, system, the object, the sorted keys of its
storages), then for each key an int64 count of elements and the little-endian bytes.
"""

from __future__ import annotations

from formats.core.layout import Data, Layout, Literal
from formats.core.pickling import pickle_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def legacy_file(tree: Any, *, locations: bool = False, notes: list[str] | None = None) -> Layout:
    """The file that ``torch.save(tree, _use_new_zipfile_serialization=False)`` makes. What had to be written otherwise goes to ``notes``.

    Raises `Unsupported`, naming the place, for a tensor whose type has no storage class: torch cannot load such a file itself.
    """
    pickled = pickle_tree(tree, locations=locations, legacy=True)
    if notes is not None:
        notes += pickled.notes
    slots = {slot.key: slot for slot in pickled.storages}
    keys = sorted(slots)  # as texts: "10" before "2"
    head = b"".join(pickle_tree(value).data for value in (MAGIC, PROTOCOL, SYSTEM))
    head += pickled.data + pickle_tree(keys).data
    literals, data, at = [Literal(0, head)], [], len(head)
    for key in keys:
        slot = slots[key]
        literals.append(Literal(at, slot.numel.to_bytes(8, "little")))
        data.append(Data(at + 8, slot.record(), f"storage {key}"))
        at += 8 + slot.stop - slot.start
    return Layout(at, literals, data)
