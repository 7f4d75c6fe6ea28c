"""A DeepSpeed ZeRO checkpoint: the fp32 weights that lie in pieces in the optimizer's files, put together when they are read.

Source: ``deepspeed/utils/zero_to_fp32.py`` and the writers that it undoes (``runtime/engine.py``, ``runtime/zero/stage_1_and_2.py``,
``runtime/zero/stage3.py``, ``runtime/bf16_optimizer.py``), DeepSpeed 0.19.8. A folder, or the folder ``TAG`` in it that the file ``latest``
names, holds for each rank N

- ``[bf16_]zero_pp_rank_N_mp_rank_00_optim_states.pt``: its part of the weights, flat, in fp32;
- ``mp_rank_00_model_states.pt`` (stages 1 and 2) or ``zero_pp_rank_N_mp_rank_00_model_states.pt`` (stage 3): names and shapes of
  the parameters in the order in which they were flattened, buffers, frozen parameters, which parameters are shared.

Stages 1 and 2: the ranks' parts of a parameter group, one after the other, are all its parameters, one after the other. Stage 3: every
parameter is cut into as many equal parts as there are ranks, the last one filled up. Half-precision buffers become float32, as in
DeepSpeed's own script. What runs over several model-parallel ranks or holds experts is refused: it takes the model to join.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from formats.core.beside import bare
from formats.core.checkpoint import Checkpoint, Ordered, Record
from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded, Unsupported
from formats.core.files import SourceFile
from formats.core.probe import Probe
from formats.core.protocol import Match, Open
from formats.core.rebuild import sizes
from formats.core.stitched import Joined
from formats.core.storage import Storage, Window
from formats.core.tensor import TensorView
from formats.core.widen import widened

_MODEL, _OPTIM = "_model_states.pt", "_optim_states.pt"
_NAME = re.compile(
    r"(?:(?:bf16_|fp16_)?zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{1,6})(?:_(\d{1,6}))?(_model_states|_optim_states)\.pt"
)
_MAX_ENTRIES = 100_000
_NOT_MODEL = ("module", "buffer_names", "param_shapes", "frozen_param_shapes", "frozen_param_fragments", "shared_params")


def sniff(probe: Probe) -> Match:
    """A folder with files ``*_model_states.pt``, in itself or in the folder that its file ``latest`` names."""
    if not probe.folder:
        return Match.NO
    folder = _tagged(probe.path)
    return Match.CERTAIN if folder is not None and any(name.endswith(_MODEL) for name in _names(folder)) else Match.NO


def _tagged(path: Path) -> Path | None:
    """The folder with the files: ``path``, or the one that ``path/latest`` names; None where that is no text."""
    latest = path / "latest"
    if not os.path.lexists(latest):
        return path
    try:
        file = SourceFile(latest, follow=False)
        tag = file.read(0, min(file.size, 300)).decode("utf-8").strip()
        file.close()
        found = path / bare(tag, "latest")
    except (CheckpointError, UnicodeDecodeError):
        return None
    return found if found.is_dir() and not found.is_symlink() else path


def _names(folder: Path) -> list[str]:
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(names) >= _MAX_ENTRIES:
                    break
                if entry.name.endswith((_MODEL, _OPTIM)):
                    names.append(entry.name)
    except OSError:
        return []
    return names


def read(source: Path | SourceFile, open_inner: Open) -> Checkpoint:
    """The consolidated state dict under ``module``, beside what else the first rank's file holds and the optimizer's state."""
    folder = None if isinstance(source, SourceFile) else _tagged(source)
    if isinstance(source, SourceFile) or folder is None:
        raise Unsupported(
            "is no folder with a DeepSpeed checkpoint", path=source.path if isinstance(source, SourceFile) else source
        )
    return _Folder(source, folder, open_inner).read()


class _Folder:
    def __init__(self, path: Path, folder: Path, open_inner: Open) -> None:
        self.path = path
        self.folder = folder
        self.open_inner = open_inner
        self.files: list[SourceFile] = []
        self.globals: dict[str, int] = {}
        self.notes: list[str] = []

    def read(self) -> Checkpoint:
        model_names, optim_names = self._sorted()
        models = [self._open(name) for name in model_names]
        metadata: dict[str, Any] = {"container": "deepspeed", "tag": self.folder.name}
        if isinstance(models[0].get("ds_version"), str):
            metadata["ds_version"] = models[0]["ds_version"]
        tree: dict[Any, Any] = {"module": None}
        if not optim_names:
            tree["module"] = self._without_optimizer(models)
        else:
            states = [self._optimizer(name) for name in optim_names]
            stage = _stage(states[0].get("zero_stage"))
            metadata |= {"zero_stage": stage, "ranks": len(states)}
            tree["module"] = self._consolidated(stage, models, states)
            tree["optimizer"] = [_rest(state) for state in states]
        tree |= {key: value for key, value in models[0].items() if key not in _NOT_MODEL and key not in tree}
        return Checkpoint(self.path, "deepspeed", tree, self.globals, metadata, self.notes, self.files)

    def _sorted(self) -> tuple[list[str], list[str]]:
        """The files of the model and of the optimizer in the order of their ranks."""
        ranks: dict[str, dict[int, str]] = {"_model_states": {}, "_optim_states": {}}
        for name in _names(self.folder):
            found = _NAME.fullmatch(name)
            if found is None:
                what = "experts" if "expert" in name else "a layer" if name.startswith("layer_") else "something"
                raise Unsupported(
                    f"holds {what} in a file of its own, {name!r:.100}, which is not put together", path=self.path,
                    hint="convert it with DeepSpeed's ds_to_universal.py first",
                )  # fmt: skip
            rank, model_parallel, shard, kind = found.groups()
            if int(model_parallel) or (shard and int(shard)):
                raise Unsupported(
                    f"is split over model-parallel ranks ({name!r:.100}); only the model's own code can join those", path=self.path,
                    hint="convert it with DeepSpeed's ds_to_universal.py first",
                )  # fmt: skip
            number = int(rank or 0)
            if number in ranks[kind]:
                raise CorruptCheckpoint(
                    f"holds two files of rank {number}: {ranks[kind][number]!r:.80}, {name!r:.80}", path=self.path
                )
            ranks[kind][number] = name
        for kind, by_rank in ranks.items():
            if sorted(by_rank) != list(range(len(by_rank))):
                missing = next(number for number in range(len(by_rank)) if number not in by_rank)
                raise CorruptCheckpoint(
                    f"has {len(by_rank)} files *{kind}.pt, the last of rank {max(by_rank)}, and none of rank {missing}",
                    path=self.path,
                )
        if not ranks["_model_states"]:
            raise CorruptCheckpoint(f"has no file *{_MODEL}", path=self.path)
        return [[name for _, name in sorted(ranks[kind].items())] for kind in ranks]  # type: ignore[return-value]

    def _open(self, name: str) -> dict[Any, Any]:
        path = self.folder / name
        if path.is_symlink():
            raise self._corrupt(f"has a link {name!r:.100} where a file of a rank belongs, and links are not followed")
        checkpoint = self.open_inner(path)
        self.files += checkpoint.files
        for called, times in checkpoint.globals.items():
            self.globals[called] = self.globals.get(called, 0) + times
        if not isinstance(checkpoint.tree, dict):
            raise self._corrupt(f"{name!r:.80} holds a {type(checkpoint.tree).__name__}, not a dict")
        return checkpoint.tree

    def _optimizer(self, name: str) -> dict[Any, Any]:
        state = self._open(name).get("optimizer_state_dict")
        if not isinstance(state, dict) or "zero_stage" not in state:
            raise self._corrupt(f"{name!r:.80} is no part of a ZeRO optimizer")
        return state

    def _without_optimizer(self, models: list[dict[Any, Any]]) -> Any:
        """The model's own copy of the weights, which is whole unless stage 3 left empty tensors in it."""
        module = models[0].get("module")
        shapes = _shapes(models[0].get("param_shapes") or [], "param_shapes")
        whole = isinstance(module, dict) and all(
            isinstance(module.get(name), TensorView) and module[name].shape == shape
            for group in shapes
            for name, shape in group.items()
        )
        if not whole or len(models) > 1:
            raise self._corrupt(f"has no file *{_OPTIM}, and the model's own files do not hold all weights")
        self.notes.append("there are no optimizer files: the weights are the model's own copy, in its training precision")
        return module

    # -- putting together ----------------------------------------------------------------------------------------------------------
    def _consolidated(self, stage: int, models: list[dict[Any, Any]], states: list[dict[Any, Any]]) -> Ordered:
        count = states[0].get("partition_count")
        if isinstance(count, (list, tuple)) and count and all(type(n) is int for n in count):
            count = max(count)
        if count != len(states):
            raise self._corrupt(f"was written by {count!r:.40} ranks, optimizer files of {len(states)} are there")
        first = models[0]
        module = first.get("module")
        tensors: dict[Any, TensorView] = {}
        names = first.get("buffer_names")
        if not isinstance(names, (list, tuple, set, frozenset)) or not isinstance(module, dict):
            raise self._corrupt("has no module or no buffer_names")
        for name, value in module.items():
            if name in names and isinstance(value, TensorView):
                tensors[name] = widened(value)
        shapes = _shapes(first.get("param_shapes"), "param_shapes")
        if stage <= 2:
            tensors |= self._frozen_whole(first)
            tensors |= self._merged(shapes, states)
        else:
            if len(models) != len(states):
                raise self._corrupt(f"has files of the model of {len(models)} ranks and of the optimizer of {len(states)}")
            tensors |= self._frozen_parts(models)
            tensors |= self._gathered(shapes, states)
        shared = first.get("shared_params")
        for name, kept in shared.items() if isinstance(shared, dict) else ():
            if kept in tensors:
                tensors[name] = tensors[kept]
        # The order of the module's own state dict, where it names the same tensors.
        order = list(module) if module.keys() == tensors.keys() else list(tensors)
        result = Ordered((name, tensors[name]) for name in order)
        if type(module) is Ordered:
            result.attributes = module.attributes
        return result

    def _frozen_whole(self, model: dict[Any, Any]) -> dict[Any, TensorView]:
        fragments = model.get("frozen_param_fragments")
        found: dict[Any, TensorView] = {}
        for name, shape in _shape_map(model.get("frozen_param_shapes"), "frozen_param_shapes").items():
            tensor = fragments.get(name) if isinstance(fragments, dict) else None
            if type(tensor) is not TensorView or tensor.shape != shape:
                raise self._corrupt(f"frozen parameter {name!r:.120} is {tensor!s:.80}, expected shape {list(shape)}")
            found[name] = tensor
        return found

    def _frozen_parts(self, models: list[dict[Any, Any]]) -> dict[Any, TensorView]:
        found: dict[Any, TensorView] = {}
        for name, shape in _shape_map(models[0].get("frozen_param_shapes"), "frozen_param_shapes").items():
            parts: list[TensorView] = []
            for model in models:
                fragments = model.get("frozen_param_fragments")
                part = fragments.get(name) if isinstance(fragments, dict) else None
                if type(part) is not TensorView or (parts and part.dtype is not parts[0].dtype):
                    raise self._corrupt(f"frozen parameter {name!r:.120} lacks a fragment, or its fragments are of several types")
                parts.append(part)
            whole = Joined([part.row_major() for part in parts])
            found[name] = _view(name, parts[0], shape, Window(whole, 0, _numel(shape) * parts[0].dtype.itemsize))
        return found

    def _merged(self, shapes: list[dict[str, tuple[int, ...]]], states: list[dict[Any, Any]]) -> dict[Any, TensorView]:
        """Stages 1 and 2: ``torch.cat`` of the ranks' partitions of a group holds its parameters one after the other."""
        groups = [_flat(state, "single_partition_of_fp32_groups") for state in states]
        if any(len(group) != len(shapes) for group in groups):
            raise self._corrupt(f"has {len(shapes)} groups of parameters and {len(groups[0])} of partitions")
        paddings = states[0].get("param_alignment_paddings")
        found: dict[Any, TensorView] = {}
        for index, group in enumerate(shapes):
            partitions = [rank[index] for rank in groups]
            whole = Joined([partition.row_major() for partition in partitions])
            like = partitions[0]
            padding = [0] * len(group) if paddings is None else paddings[index]
            if len(padding) != len(group) or any(type(n) is not int or n < 0 for n in padding):
                raise self._corrupt(f"gives {padding!r:.80} as the paddings of {len(group)} parameters")
            at = 0
            for (name, shape), gap in zip(group.items(), padding, strict=True):
                numel = _numel(shape)
                width = like.dtype.itemsize
                found[name] = _view(name, like, shape, _window(whole, at * width, numel * width, name))
                at += numel + gap
            # What is left over fills the partitions up to equal, aligned sizes (2 × ranks); more would be something that has no name.
            align, held = 2 * len(states), whole.nbytes // like.dtype.itemsize
            if -(-at // align) != -(-held // align):
                raise self._corrupt(f"group {index} holds {held} values, its {len(group)} parameters take {at}")
        return found

    def _gathered(self, shapes: list[dict[str, tuple[int, ...]]], states: list[dict[Any, Any]]) -> dict[Any, TensorView]:
        """Stage 3: each rank's flat groups, one after the other, hold its equal part of every parameter."""
        ranks, like = [], None
        for state in states:
            flat = _flat(state, "fp32_flat_groups")
            like = like or flat[0]
            ranks.append(Joined([tensor.row_major() for tensor in flat]))
        if like is None or any(rank.nbytes != ranks[0].nbytes for rank in ranks):
            raise self._corrupt("has ranks that hold different amounts of weights")
        found: dict[Any, TensorView] = {}
        at, width = 0, like.dtype.itemsize
        for name, shape in ((name, shape) for group in shapes for name, shape in group.items()):
            numel = _numel(shape)
            part = -(-numel // len(ranks))
            if (at + part) * width > ranks[0].nbytes:
                raise self._corrupt(f"parameter {name!r:.120} ends beyond the {ranks[0].nbytes // width} values of a rank")
            found[name] = _view(name, like, shape, Gathered(ranks, at * width, part * width, numel * width))
            at += part
        if at * width != ranks[0].nbytes:
            raise self._corrupt(f"holds {ranks[0].nbytes // width} values a rank, its parameters take {at}")
        return found

    def _corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(what, path=self.path)


class Gathered:
    """``nbytes`` bytes of which every rank holds ``part``, from byte ``start`` of what it holds; the last part is filled up."""

    __slots__ = ("location", "nbytes", "part", "ranks", "start")

    def __init__(self, ranks: list[Joined], start: int, part: int, nbytes: int) -> None:
        self.ranks = ranks
        self.start = start
        self.part = part
        self.nbytes = nbytes
        self.location = ranks[0].location

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        while start < stop:
            rank, inside = divmod(start, self.part)
            end = min(self.part, inside + stop - start)
            yield from self.ranks[rank].chunks(self.start + inside, self.start + end)
            start += end - inside


def _window(whole: Joined, start: int, nbytes: int, name: str) -> Storage:
    if start + nbytes > whole.nbytes:
        raise CorruptCheckpoint(f"parameter {name!r:.120} ends at byte {start + nbytes} of the {whole.nbytes} of its group")
    return Window(whole, start, nbytes)


def _view(name: str, like: TensorView, shape: tuple[int, ...], storage: Storage) -> TensorView:
    try:
        return TensorView(like.dtype, shape, storage)
    except CheckpointError as error:
        error.what = f"parameter {name!r:.120}: {error.what}"
        raise


def _flat(state: dict[Any, Any], key: str) -> list[TensorView]:
    """The flat partitions of a rank, of one type."""
    groups = state.get(key)
    if isinstance(groups, TensorView):  # old versions joined them
        groups = [groups]
    if not isinstance(groups, (list, tuple)) or not groups:
        raise CorruptCheckpoint(f"optimizer's file has no {key}")
    for tensor in groups:
        if type(tensor) is not TensorView or len(tensor.shape) != 1 or tensor.dtype is not groups[0].dtype:
            raise CorruptCheckpoint(f"optimizer's file has {tensor!s:.80} in {key}, where a flat tensor belongs")
    return list(groups)


def _shapes(groups: Any, what: str) -> list[dict[str, tuple[int, ...]]]:
    if isinstance(groups, dict):  # stage 3 of old versions: one group
        groups = [groups]
    if not isinstance(groups, (list, tuple)):
        raise CorruptCheckpoint(f"{what} is a {type(groups).__name__}, not a list")
    return [_shape_map(group, what) for group in groups]


def _shape_map(group: Any, what: str) -> dict[str, tuple[int, ...]]:
    if group is None:
        return {}
    if not isinstance(group, dict) or any(type(name) is not str for name in group):
        raise CorruptCheckpoint(f"{what} is a {type(group).__name__} where names and shapes belong")
    shapes = {name: sizes(shape, f"size of {name!r:.80}") for name, shape in group.items()}
    for name, shape in shapes.items():
        if len(shape) > 64:
            raise LimitExceeded(f"parameter {name!r:.120} has {len(shape)} dimensions, at most 64 are read")
        if any(n < 0 for n in shape):
            raise CorruptCheckpoint(f"{what} gives {name!r:.120} the shape {shape!r:.80}")
    return shapes


def _numel(shape: tuple[int, ...]) -> int:
    numel = 1
    for size in shape:
        numel *= size
    return numel


def _stage(value: Any) -> int:
    """1, 2 or 3; an enum in newer versions."""
    if type(value) is Record and value.name.endswith(".ZeroStageEnum") and len(value.args) == 1:
        value = value.args[0]
    if value not in (1, 2, 3):
        raise Unsupported(f"is of ZeRO stage {value!r:.40}; 1, 2 and 3 are put together")
    return int(value)


def _rest(state: dict[Any, Any]) -> dict[Any, Any]:
    """A rank's optimizer state without the weights, which are in the model."""
    return {key: value for key, value in state.items() if key not in ("single_partition_of_fp32_groups", "fp32_flat_groups")}
