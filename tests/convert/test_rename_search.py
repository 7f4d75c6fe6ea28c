"""The search for renames on random models and random renames: what it calls certain or likely is right, and its rules do what it says."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.rename_search import matched, search
from convert.rule_text import rules
from convert.rules import KeyRules

Shapes = dict[str, tuple[int, ...]]


def norm(keys: Shapes, place: str, width: int) -> None:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        keys[f"{place}.{leaf}"] = (width,)
    keys[f"{place}.num_batches_tracked"] = ()


def residual(stages: int, blocks: int) -> Shapes:
    keys: Shapes = {"conv1.weight": (8, 3, 7, 7)}
    norm(keys, "bn1", 8)
    before = 8
    for stage in range(1, stages + 1):
        width = 8 << (stage - 1)
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            keys[f"{place}.conv1.weight"] = (width, before, 3, 3)
            norm(keys, f"{place}.bn1", width)
            keys[f"{place}.conv2.weight"] = (width, width, 3, 3)
            norm(keys, f"{place}.bn2", width)
            if width != before:
                keys[f"{place}.downsample.0.weight"] = (width, before, 1, 1)
                norm(keys, f"{place}.downsample.1", width)
            before = width
    return keys | {"fc.weight": (10, before), "fc.bias": (10,)}


def transformer(blocks: int, width: int) -> Shapes:
    keys: Shapes = {"patch.weight": (width, 3, 4, 4), "pos": (1, 5, width)}
    sizes = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "norm1": (1,), "norm2": (1,), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(blocks):
        for name, size in sizes.items():
            keys[f"blocks.{block}.{name}.weight"] = tuple(width * n for n in size)
            keys[f"blocks.{block}.{name}.bias"] = (width * size[0],)
    return keys | {"head.weight": (10, width), "head.bias": (10,)}


def sequence(widths: list[int]) -> Shapes:
    keys: Shapes = {}
    before = 3
    for at, width in enumerate(widths):
        keys[f"features.{3 * at}.weight"], keys[f"features.{3 * at}.bias"] = (width, before, 3, 3), (width,)
        norm(keys, f"features.{3 * at + 1}", width)
        before = width
    return keys | {"classifier.weight": (10, before), "classifier.bias": (10,)}


def sub(pattern: str, text: str | Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    return lambda key: re.sub(pattern, text, key)


MODELS = st.one_of(
    st.builds(residual, st.integers(2, 4), st.integers(1, 3)),
    st.builds(transformer, st.sampled_from([2, 4, 12]), st.sampled_from([4, 8])),
    st.builds(sequence, st.lists(st.sampled_from([8, 16]), min_size=3, max_size=6)),
    st.builds(
        lambda n: {f"fc{i}.{leaf}": shape for i in range(n) for leaf, shape in (("weight", (8, 8)), ("bias", (8,)))},
        st.integers(2, 4),
    ),
)
RENAMES = [
    sub("^", "module."),
    sub("^", "net.backbone."),
    sub("layer", "stage"),
    sub(r"layer(\d)", lambda match: f"stages.{int(match[1]) - 1}"),
    sub("bn", "norm"),
    sub("blocks", "encoder.layer"),
    sub("downsample", "shortcut"),
    sub(r"mlp\.", "ffn."),
    sub(r"norm(\d)\.weight", r"norm\1.gamma"),
    sub("fc", "lin"),
    sub(r"^features\.(\d+)", lambda match: f"conv{int(match[1]) // 3}.{int(match[1]) % 3}"),
    sub(r"^features\.(\d+)", lambda match: f"features.{int(match[1]) + 1}"),
    sub(r"conv(\d)", lambda match: "c" + "abc"[int(match[1]) % 3]),
    sub(r"norm(\d)", lambda match: "ln_" + "xab"[int(match[1])]),
    sub(r"^fc(\d)", lambda match: f"layers.{2 * int(match[1])}"),
    sub("qkv", "in_proj"),
    sub(r"blocks\.(\d+)", r"block\1"),
]


@settings(max_examples=150, deadline=None)
@given(MODELS, st.lists(st.sampled_from(RENAMES), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_what_is_called_sure_is_right(model: Shapes, renames: list[Callable[[str], str]], shuffled: bool, extra: bool) -> None:
    right: dict[str, str] = {}
    for key in model:
        name = key
        for rename in renames:
            name = rename(name)
        right[name] = key
    assert len(right) == len(model)
    source = {name: model[right[name]] for name in (sorted(right) if shuffled else right)}
    if extra:
        source["unrelated.weight"] = (3, 3)
    found = search(source, model)
    for state in found:
        lines = rules(((at, kind, values) for at, (kind, values) in enumerate(state.lines, 1)), "rules")
        assert KeyRules(lines).names(source) == state.names, "the lines of the rules file do what the search found"
    best = found[0]
    if len(found) == 1 and not best.rivals and best.sure > 0 and matched(best, source, model) == len(model):
        assert {name: best.names[name] for name in right} == right


def test_a_layer_put_before_a_sequence_moves_all_numbers() -> None:
    model = sequence([8, 8, 8, 8])
    source = {RENAMES[11](key): shape for key, shape in model.items()}  # many names fit by chance
    (found,) = search(source, model)
    assert found.names == {RENAMES[11](key): key for key in model}
    assert found.sure == 1


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_rename(count: int) -> None:
    model = dict(list(sequence([8, 8]).items())[: count * 5])
    (found,) = search(model, model)
    assert (found.lines, found.sure) == ([], 2)
