"""Sharded models: judged by safetensors and torch, shard by shard, as the libraries that use them do it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from convert.arrays import torch_tensor
from formats import registry, sharded
from formats.core import index_json
from formats.core.checkpoint import Content, StateDict
from formats.core.composites import DESCRIPTION, expand
from formats.core.errors import AmbiguousCheckpoint, CheckpointError, CorruptCheckpoint, LimitExceeded, Unsupported, UsageError
from formats.core.output import write_layouts
from tests.formats.conformance import ReaderConformance, contents, expected
from tests.torch_reading import assert_same_tensors


def _write(tensors: dict[str, torch.Tensor], path: Path, suffix: str = "safetensors") -> None:
    """The index at ``path`` and three shards beside it."""
    names = [f"model-{n:05d}-of-00003.{suffix}" for n in (1, 2, 3)]
    weight_map = {key: names[at % 3] for at, key in enumerate(tensors)}
    for name in names:
        shard = {key: tensors[key] for key, where in weight_map.items() if where == name}
        if suffix == "bin":
            torch.save(shard, path.parent / name)
        else:
            save_file(shard, path.parent / name, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    path.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2))


class _Index(ReaderConformance):
    """What is said of whole files is said of the index; damage to shards is the business of their own format's tests."""

    format = "sharded"

    @pytest.mark.parametrize("name", ["model.index.json"])
    def test_content_decides_not_the_name(self, sample: Path, tmp_path: Path, name: str) -> None:
        for new in ("model.json", "x"):
            sample = sample.rename(sample.with_name(new))
            assert registry.open(sample).format == self.format

    def test_nothing_is_imported_run_or_opened(self, sample: Path) -> None:
        from tests.formats.conformance import audited

        contents(sample)
        with audited() as seen:
            contents(sample)
        assert {Path(path).parent for event, path in seen if event == "open"} == {sample.parent}
        assert {event for event, _ in seen} == {"open"}

    def test_a_file_that_shrinks_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "m.index.json"
        self.write({"large": torch.zeros(1 << 20)}, path)
        with registry.open(path) as checkpoint:
            shard = max(tmp_path.iterdir(), key=lambda p: p.stat().st_size)
            with shard.open("r+b") as file:
                file.truncate(1 << 20)
            with pytest.raises(CorruptCheckpoint):
                checkpoint.tree["large"].tobytes()


class TestSafetensorsShards(_Index):
    dtypes = (*ReaderConformance.dtypes, torch.bool, torch.bfloat16, torch.complex64, torch.float8_e4m3fn)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        _write(tensors, path)


class TestBinShards(_Index):
    dtypes = (*ReaderConformance.dtypes, torch.bool, torch.bfloat16, torch.complex128)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        _write(tensors, path, "bin")


TENSORS = {"b.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(5, dtype=torch.bfloat16), "c": torch.tensor(3)}


def test_folder_with_one_index(tmp_path: Path) -> None:
    _write(TENSORS, tmp_path / "model.safetensors.index.json")
    assert contents(tmp_path) == expected(TENSORS)
    _write(TENSORS, tmp_path / "pytorch_model.bin.index.json", "bin")
    with pytest.raises(AmbiguousCheckpoint, match="2 indexes.*pytorch_model"):
        registry.open(tmp_path)


def test_links_of_a_download_cache_are_followed(tmp_path: Path) -> None:
    """``snapshots/REVISION/NAME`` → ``../../blobs/HASH``, as `huggingface_hub` keeps its downloads."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    _write(TENSORS, blobs / "model.safetensors.index.json")
    for number, file in enumerate(sorted(blobs.iterdir())):
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.rename(blobs / f"{number:040x}").name)
    assert contents(snapshot / "model.safetensors.index.json") == expected(TENSORS)
    assert contents(snapshot) == expected(TENSORS)
    shard = snapshot / "model-00001-of-00003.safetensors"
    real = shard.resolve().rename(tmp_path / "elsewhere")
    shard.unlink()
    shard.symlink_to(real)
    with pytest.raises(CorruptCheckpoint, match="outside the folder"):
        registry.open(snapshot)


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\x", "https://example.org/x", "", ".", "..",
                                  5, None, ["x"], {"a": 1}, True, "c:x", "x" * 300, "n\0ul"])  # fmt: skip
def test_names_that_lead_elsewhere(tmp_path: Path, name: Any) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CorruptCheckpoint, match="shard is"):
        registry.open(path)


def test_index_and_shards_disagree(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    _write(TENSORS, path)
    index = json.loads(path.read_text())
    index["weight_map"]["missing"] = index["weight_map"]["c"]
    path.write_text(json.dumps(index))
    with pytest.raises(CorruptCheckpoint, match="'missing'.*holds no such tensor"):
        registry.open(path)
    del index["weight_map"]["missing"], index["weight_map"]["a.bias"]
    path.write_text(json.dumps(index))
    with registry.open(path) as checkpoint:
        assert any("says" in note for note in checkpoint.notes)
    index["weight_map"] = {"c": path.name}
    path.write_text(json.dumps(index))
    with pytest.raises(CorruptCheckpoint, match="is an index"):
        registry.open(path)
    index["weight_map"] = {"c": "gone.safetensors"}
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="cannot be found"):
        registry.open(path)


# -- the index's grammar ------------------------------------------------------------------------------------------------------------
def test_index_is_parsed_as_json_does() -> None:
    metadata: dict[str, Any] = {"total_size": 12, "f": -1.5e3, "t": 'ü\n"\\', "n": None, "b": [True, {"x": []}]}
    index = {"metadata": metadata, "extra": [1], "weight_map": {'ä\\"': "s", "b": "s"}}
    for options in ({}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}):
        metadata, weight_map = index_json.parse(json.dumps(index, **options).encode())  # type: ignore[arg-type]
        assert (metadata, weight_map) == (index["metadata"], index["weight_map"])
    assert index_json.parse(b"{}") == ({}, None)
    assert index_json.parse(b' { "weight_map" : { } } ') == ({}, {})


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"weight_map":{"a":"b"}', '{"weight_map":{"a":"b",}}', '{"weight_map":{"a":"b"},}', '{"a":1}x',
        '{"weight_map":{"a":"b","a":"c"}}', '{"a":1,"a":2}', '{"weight_map":[]}', '{"weight_map":{a:"b"}}',
        '{"weight_map":{"a":"\\x"}}', '{"weight_map":{"a" "b"}}', '{"a":' + "[" * 100_000, '{"a":01}', '{"a":nul}',
    ],
)  # fmt: skip
def test_index_that_is_no_json(text: str) -> None:
    with pytest.raises(CorruptCheckpoint):
        index_json.parse(text.encode())


def test_index_limits(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="300000 entries"):
        index_json.parse(b'{"weight_map":{' + b",".join(b'"%d":""' % n for n in range(300_001)) + b"}}")
    path = tmp_path / "x.index.json"
    with path.open("wb") as file:
        file.write(b'{"weight_map":')
        file.truncate(index_json.MAX_BYTES + 1)
    with pytest.raises(LimitExceeded, match="index of"):
        registry.open(path)


def test_index_fuzzed_like_json() -> None:
    """Whatever is taken apart here, json takes apart to the same."""
    whole, rng = json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a": "b", "c\\n": "d"}}), random.Random(1)
    for _ in range(3000):
        text = list(whole)
        for _ in range(rng.choice((1, 1, 2))):
            text[rng.randrange(len(text))] = rng.choice('{}[]",:\\ 01ab')
        try:
            _, weight_map = index_json.parse("".join(text).encode())
        except CheckpointError:
            continue
        assert json.loads("".join(text)).get("weight_map") == weight_map


# -- writing ------------------------------------------------------------------------------------------------------------------------
def _shards_of(target: Path, tensors: dict[str, torch.Tensor], tmp_path: Path, limit: int, **metadata: str) -> list[Path]:
    torch.save(tensors, tmp_path / "source.pt")
    with registry.open(tmp_path / "source.pt") as checkpoint:
        expanded = expand(StateDict(checkpoint.tree), sharded.CAPABILITIES.dtypes)
        if expanded.description:
            metadata[DESCRIPTION] = expanded.description
        content = Content(StateDict(dict(expanded.tensors)), metadata=metadata)
        layouts = sharded.plan(content, {"max_shard_size": limit, "name": target.name})
        return [written.path for written in write_layouts(layouts, target)]


def _model() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"layer.{n}.weight": torch.randn(n % 5 + 1, 10, generator=generator) for n in range(12)} | {
        "large": torch.randn(100, generator=generator)
    }


def test_written_shards_load_as_libraries_load_them(tmp_path: Path) -> None:
    tensors = _model()
    paths = _shards_of(tmp_path / "model.safetensors", tensors, tmp_path, 300, format="pt", note="x")
    assert paths[-1].name == "model.safetensors.index.json"
    count = len(paths) - 1
    assert [path.name for path in paths[:-1]] == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    index = json.loads(paths[-1].read_text())
    assert index["metadata"].pop(DESCRIPTION)
    assert index["metadata"] == {"total_size": sum(t.nbytes for t in tensors.values()), "note": "x"}
    loaded: dict[str, torch.Tensor] = {}
    for name in sorted(set(index["weight_map"].values())):  # transformers: every shard that the map names, each key from its own
        shard = load_file(tmp_path / name)
        assert sorted(shard) == sorted(key for key, where in index["weight_map"].items() if where == name)
        with safe_open(tmp_path / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        assert sum(t.nbytes for t in shard.values()) <= 300 or len(shard) == 1
        loaded |= shard
    assert_same_tensors({key: loaded[key] for key in tensors}, tensors)
    assert len(loaded) == len(tensors)
    assert contents(paths[-1]) == expected({key: tensors[key] for key in contents(paths[-1])})


def test_split_is_that_of_the_hub_library(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    tensors = _model()
    for limit in (1, 200, 300, 555, 10_000):
        wanted = hub.split_torch_state_dict_into_shards(tensors, max_shard_size=limit)
        with_ours = sharded.split({key: _View(tensor.nbytes) for key, tensor in tensors.items()}, limit)  # type: ignore[misc]
        assert [list(shard) for shard in with_ours] == list(wanted.filename_to_tensors.values())


class _View:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_same_input_same_bytes_and_back_with_order_ties_and_odd_types(tmp_path: Path) -> None:
    shared = torch.randn(6)
    tensors = {"z": shared, "a": shared, "c128": torch.randn(4, dtype=torch.complex128), "m": torch.randn(9)}
    files = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths = _shards_of(tmp_path / folder / "m.safetensors", tensors, tmp_path, 40)
        files.append({path.name: path.read_bytes() for path in paths})
    assert files[0] == files[1]
    with registry.open(tmp_path / "one") as checkpoint:
        assert list(checkpoint.tree) == list(tensors)
        assert checkpoint.tree["z"] is checkpoint.tree["a"]
        assert_same_tensors({key: torch_tensor(view) for key, view in checkpoint.tree.items()}, tensors)


def test_a_model_that_fits_is_one_file(tmp_path: Path) -> None:
    (path,) = _shards_of(tmp_path / "m.safetensors", _model(), tmp_path, 10**9)
    loaded = load_file(path)
    assert_same_tensors({key: loaded[key] for key in _model()}, _model())


@pytest.mark.parametrize("limit", [0, -1, None, "5GB", True])
def test_shard_sizes_that_are_none(limit: Any) -> None:
    with pytest.raises(UsageError):
        sharded.plan(Content(StateDict({})), {"max_shard_size": limit})


def test_index_inside_an_archive_is_refused(tmp_path: Path) -> None:
    from formats.core.subfile import bytes_file

    with pytest.raises(Unsupported, match="not beside it"):
        sharded.read(bytes_file(b'{"weight_map":{}}', "x.zip/model.index.json"), registry.open)
