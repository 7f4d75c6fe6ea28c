"""A model in shards under an index, as Hugging Face's libraries write it: ``*.index.json`` beside ``.safetensors`` or ``.bin`` files.

Source: ``huggingface_hub.serialization`` (``split_state_dict_into_shards_factory``, ``load_torch_model``; 2.4) and
``transformers.modeling_utils``. The index maps each key to the bare name of a file in the same folder. The writer splits as those
libraries do: in the model's order, a new shard where the next tensor would not fit, a tensor larger than a shard in one of its own;
``metadata.total_size`` counts the tensors' bytes. What one safetensors file would say of itself, the index's metadata says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from formats.core import index_json
from formats.core.beside import beside
from formats.core.checkpoint import Checkpoint, Content, Ordered
from formats.core.composites import DESCRIPTION, rebuild, recorded_ties
from formats.core.errors import AmbiguousCheckpoint, CheckpointError, CorruptCheckpoint, LimitExceeded, Unsupported, UsageError
from formats.core.files import SourceFile, opened
from formats.core.layout import Layout, Literal
from formats.core.probe import Probe
from formats.core.protocol import Match, Open
from formats.core.safetensors_layout import CAPABILITIES, lay_out
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

SUFFIX = ".index.json"
MAX_SHARDS = 10_000
_MAX_ENTRIES = 100_000  # of a folder, looked at for an index


def sniff(probe: Probe) -> Match:
    """JSON with ``"weight_map"`` near its beginning, or a folder with a file ``*.index.json``."""
    if probe.folder:
        return Match.CERTAIN if _indexes(probe.path) else Match.NO
    if not probe.head.lstrip().startswith(b"{"):
        return Match.NO
    if b'"weight_map"' in probe.head:
        return Match.CERTAIN
    return Match.SUFFIX if probe.path.name.endswith(SUFFIX) else Match.NO


def _indexes(folder: Path) -> list[str]:
    if getattr(folder, "open_source", None) is None:
        return _local_indexes(folder)
    return [path.name for path in folder.iterdir() if path.name.endswith(SUFFIX)]


def _local_indexes(folder: Path) -> list[str]:
    names = []
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= _MAX_ENTRIES:
                    break
                if entry.name.endswith(SUFFIX) and entry.is_file():
                    names.append(entry.name)
    except OSError:
        return []
    return sorted(names)


def members(path: Path) -> list[str]:
    """The names that the index at ``path`` gives its shards; none where it is no index that can be read."""
    try:
        file = opened(path)
        try:
            weight_map = index_json.parse(file.read(0, file.size))[1] if file.size <= index_json.MAX_BYTES else None
        finally:
            file.close()
    except CheckpointError:
        return []
    return sorted({name for name in (weight_map or {}).values() if type(name) is str})


def read(source: Path | SourceFile, open_inner: Open) -> Checkpoint:
    """All shards as one state dict, in the index's order; ``source`` is the index or a folder that holds exactly one."""
    if isinstance(source, SourceFile):
        raise Unsupported("is the index of a sharded model, whose shards are not beside it here", path=source.path)
    path = source
    if source.is_dir():
        names = _indexes(source)
        if len(names) != 1:
            raise AmbiguousCheckpoint(
                f"holds {len(names)} indexes: {', '.join(names)!s:.200}", path=source, hint="name one of them"
            )
        path = source / names[0]
    file = opened(path)
    if file.size > index_json.MAX_BYTES:
        raise LimitExceeded(f"index of {file.size} bytes, at most {index_json.MAX_BYTES} are read", path=path)
    metadata, weight_map = index_json.parse(file.read(0, file.size))
    if weight_map is None:
        raise CorruptCheckpoint("is an index without a weight_map", path=path)
    return _read(source, path, metadata, weight_map, open_inner, [file])


def _read(
    source: Path, index: Path, metadata: dict[str, Any], weight_map: dict[str, str], open_inner: Open, files: list[SourceFile]
) -> Checkpoint:
    shards: dict[str, Checkpoint] = {}
    names: dict[str, int] = {}
    for name in weight_map.values():
        if type(name) is str and name in shards:
            continue
        real = beside(index, name, "shard")
        if name.endswith(SUFFIX):
            raise CorruptCheckpoint(f"shard {name!r:.120} is an index", path=index)
        if len(shards) >= MAX_SHARDS:
            raise LimitExceeded(f"has more than {MAX_SHARDS} shards", path=index)
        shard = shards[name] = open_inner(real)
        if not isinstance(shard.tree, dict):
            raise CorruptCheckpoint(f"shard {name!r:.120} holds a {type(shard.tree).__name__}, not a state dict", path=index)
        for called, times in shard.globals.items():
            names[called] = names.get(called, 0) + times
        files += shard.files
    tree: Any = Ordered()
    for key, name in weight_map.items():
        tensor = shards[name].tree.get(key)
        if not isinstance(tensor, (TensorView, CompositeTensor)):
            raise CorruptCheckpoint(f"index places {key!r:.120} in {name!r:.120}, which holds no such tensor", path=index)
        tree[key] = tensor
    unlisted = sum(1 for shard in shards.values() for key in shard.tree if key not in weight_map)
    notes = [f"{unlisted} entries of the shards are not in the index and are left out"] if unlisted else []
    text = {key: value for key, value in metadata.items() if type(value) is str}
    ties: dict[str, str] = {}
    if DESCRIPTION in text:
        ties = recorded_ties(text[DESCRIPTION])
        plain = {key: value for key, value in tree.items() if type(value) is TensorView}
        tree = rebuild(plain, text[DESCRIPTION])
    said: dict[str, Any] = {
        "container": "sharded",
        "shards": len(shards),
        "shard_formats": sorted({s.format for s in shards.values()}),
    }
    if text:
        said["__metadata__"] = text
    if ties:
        said["tied"] = ties
    total = metadata.get("total_size")
    held = sum(tensor.nbytes for tensor in tree.values())
    if type(total) is int and total != held:  # some writers count tied tensors twice: a note, no error
        notes.append(f"the index says {total} bytes of tensors, they are {held}")
    return Checkpoint(source, "sharded", tree, names, said, notes, files)


def plan(content: Content, options: Mapping[str, Any]) -> list[Layout]:
    """Shards of at most ``options["max_shard_size"]`` bytes of tensors, then the index, under the customary names.

    ``options["name"]`` is the file name that a single file would have, ``model.safetensors``: the shards are
    ``model-00001-of-00003.safetensors`` …, the index ``model.safetensors.index.json``. A model that fits one shard is a single file
    and has no index. Raises `Unsupported`, naming the tensor, for what safetensors cannot hold.
    """
    limit, name = options.get("max_shard_size"), options.get("name", "model.safetensors")
    if type(limit) is not int or limit < 1:
        raise UsageError(f"the largest shard is {limit!r:.40} bytes: a positive number is needed")
    shards = split(content.model.tensors, limit)
    if len(shards) == 1:
        return [lay_out(shards[0], content.metadata)]
    if len(shards) > 99_999:
        raise UsageError(f"{len(shards)} shards of {limit} bytes: at most 99999 can be numbered", hint="choose larger shards")
    stem, suffix = os.path.splitext(name)
    own = {"format": content.metadata.get("format", "pt")}
    layouts, weight_map, total = [], {}, 0
    for number, tensors in enumerate(shards, 1):
        layout = lay_out(tensors, own)
        layout.name = f"{stem}-{number:05d}-of-{len(shards):05d}{suffix}"
        layouts.append(layout)
        for key, tensor in tensors.items():
            weight_map[key] = layout.name
            total += tensor.nbytes
    text: dict[str, Any] = {"total_size": total}
    text |= {key: content.metadata[key] for key in sorted(content.metadata) if key not in ("format", "total_size")}
    ordered = {key: weight_map[key] for key in sorted(weight_map)}
    index = (json.dumps({"metadata": text, "weight_map": ordered}, indent=2) + "\n").encode()
    layouts.append(Layout(len(index), [Literal(0, index)], name=f"{name}{SUFFIX}"))
    return layouts


def split(tensors: Mapping[str, AnyTensor], limit: int) -> list[dict[str, AnyTensor]]:
    """The tensors in shards, as ``huggingface_hub`` splits them."""
    shards: list[dict[str, AnyTensor]] = []
    current: dict[str, AnyTensor] = {}
    size = 0
    for key, tensor in tensors.items():
        if tensor.nbytes > limit:
            shards.append({key: tensor})
            continue
        if size + tensor.nbytes > limit:
            shards.append(current)
            current, size = {}, 0
        current[key] = tensor
        size += tensor.nbytes
    if current or not shards:
        shards.append(current)
    return shards


__all__ = ["CAPABILITIES", "members", "plan", "read", "sniff", "split"]
