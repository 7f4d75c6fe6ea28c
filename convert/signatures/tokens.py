"""What a state dict is reduced to before it is compared: (key, shape) tokens and their hashes.

The builder of the table and the matcher share this module, so that both sides always hash alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from zlib import crc32

Shape = tuple[int, ...]

# Values that follow from the configuration, kept in some releases and left out of others: they tell nothing apart.
_DERIVED = frozenset({
    "num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask", "position_ids", "attention_bias_idxs",
})  # fmt: skip
_MASK = 0xFFFFFFFF


def derived(key: str) -> bool:
    """Whether ``key`` names a value that counts neither as present nor as missing."""
    return key.rpartition(".")[2] in _DERIVED


def _mixed(text: str) -> int:
    # crc32 alone is linear: near texts would be sampled together.
    value = crc32(text.encode("utf-8", "surrogatepass"))
    value = ((value ^ (value >> 16)) * 0x45D9F3B) & _MASK
    return value ^ (value >> 16)


def key_hash(key: str, shape: Shape) -> int:
    """32 bits of a key and its shape."""
    return _mixed(f"{key} {shape}")


def shape_hash(shape: Shape, occurrence: int) -> int:
    """32 bits of the ``occurrence``-th tensor of a shape: equal multisets of shapes have equal sets of these."""
    return _mixed(f"{shape}#{occurrence}")


def shape_hashes(shapes: Iterable[Shape]) -> list[int]:
    """One hash a tensor, independent of keys and of order."""
    seen: Counter[Shape] = Counter()
    hashes = []
    for shape in shapes:
        hashes.append(shape_hash(shape, seen[shape]))
        seen[shape] += 1
    return hashes


def sketch(hashes: Iterable[int], size: int) -> list[int]:
    """The ``size`` smallest hashes: a sample that is the same whatever else a state dict holds (bottom-k sampling)."""
    return sorted(set(hashes))[:size]


def roots(keys: Sequence[str], share: float = 0.2, most: int = 12) -> list[str]:
    """Dotted prefixes (``""``, ``"module."``, ``"encoder_q."`` …) under which at least ``share`` of the keys stand, shortest first."""
    counts: Counter[str] = Counter()
    for key in keys:
        at = key.find(".")
        depth = 0
        while at >= 0 and depth < 8:
            counts[key[: at + 1]] += 1
            at = key.find(".", at + 1)
            depth += 1
    needed = max(2.0, share * len(keys))
    found = sorted((root for root, count in counts.items() if count >= needed), key=lambda root: (-counts[root], len(root)))
    return ["", *found[: most - 1]]
