"""Folded key lists stand for exactly the keys that were folded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.fold import fold, folded

COMPONENT = st.sampled_from(
    ["layer1", "layer2", "layer3", "layer10", "0", "1", "2", "01", "bn1", "weight", "bias", "a", "", "{x}", "*", "é"]
)
KEY = st.lists(COMPONENT, min_size=1, max_size=4).map(".".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(KEY, unique=True, max_size=40), st.data())
def test_folds_expand_to_precisely_the_keys(universe: list[str], data: st.DataObject) -> None:
    keys = [key for key in universe if data.draw(st.booleans())]
    folds = fold(keys, universe)
    expanded = [key for one in folds for key in one.keys(universe)]
    assert sorted(expanded) == sorted(keys)
    assert [one.count for one in folds] == [len(list(one.keys(universe))) for one in folds]


def resnet50() -> list[str]:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = ["conv1.weight", *(f"bn1.{leaf}" for leaf in norm)]
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            for at in (1, 2, 3):
                keys += [f"layer{layer}.{block}.conv{at}.weight", *(f"layer{layer}.{block}.bn{at}.{leaf}" for leaf in norm)]
            if block == 0:
                keys += [f"layer{layer}.0.downsample.0.weight", *(f"layer{layer}.0.downsample.1.{leaf}" for leaf in norm)]
    return [*keys, "fc.weight", "fc.bias"]


def test_a_real_model_folds_into_a_few_lines() -> None:
    keys = resnet50()
    assert folded(keys, keys) == ["conv1.weight", "bn1.* (5)", "layer{1…4}.* (312)", "fc.* (2)"]
    assert folded([key for key in keys if "num_batches" in key], keys) == [
        "bn1.num_batches_tracked",
        "layer{1…4}.{0…2}.bn{1…3}.num_batches_tracked (36)",
        "layer{1…4}.0.downsample.1.num_batches_tracked (4)",
        "layer{2,3}.3.bn{1…3}.num_batches_tracked (6)",
        "layer3.{4,5}.bn{1…3}.num_batches_tracked (6)",
    ]
    first = [key for key in keys if ".bn1." in key and key.split(".")[1] in "012"]
    assert folded(first, keys) == ["layer{1…4}.{0…2}.bn1.* (60)"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["a"], ["a"]),
        (["a.b.c"], ["a.b.c"]),
        (["w1", "w2", "w4"], ["w{1,2,4} (3)"]),
        (["x.01", "x.1"], ["x.01", "x.1"]),
        (["x\x1b[2J.w"], ["x\\x1b[2J.w"]),
    ],
)
def test_texts(keys: list[str], text: list[str]) -> None:
    assert folded(keys, [*keys, "x.other", "w.other"]) == text


def test_a_key_of_a_hundred_thousand_components_costs_little() -> None:
    deep = ".".join(["a"] * 100_000)
    (one,) = fold([deep], [deep, "b"])
    assert list(one.keys([deep, "b"])) == [deep]
