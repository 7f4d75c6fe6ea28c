"""The criterion, the inputs and the ladder: what must pass passes, what is damaged is found and named."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convert.parity import criterion, inputs
from convert.parity.criterion import FAILED, INCONCLUSIVE, PASSED
from convert.parity.ladder import Settings, check_modules
from convert.parity.runners import exactly
from tests.convert.parity_models import SHAPES, build

torch.set_num_threads(1)


def specs(name: str) -> list[inputs.InputSpec]:
    return [inputs.parse(SHAPES[name])]


def scored(d, e, t) -> criterion.Score:
    return criterion.score("y", 0, np.asarray(d, np.float64), np.asarray(e, np.float32), np.asarray(t, np.float32))


@given(scale=st.floats(1e-30, 1e30), seed=st.integers(0, 1000))
def test_the_criterion_is_free_of_scale(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    d = rng.standard_normal(50) * scale
    assert scored(d, d, d).status == PASSED
    # A part in 10⁵ is 40 times the floor, wherever it lies.
    assert scored(d, d, d * (1 + 1e-5)).status == FAILED


def test_a_candidate_may_be_ten_times_as_wrong_as_float32() -> None:
    d = np.ones(100)
    e = d + 1e-6
    assert scored(d, e, d + 5e-6).status == PASSED
    assert scored(d, e, d + 2e-5).status == FAILED
    assert scored(d, e, d + 2e-5).ratio == pytest.approx(20, rel=0.05)


def test_ill_conditioned_inputs_decide_nothing() -> None:
    found = scored(np.ones(10), np.ones(10) * 1.001, np.ones(10))
    assert found.status == INCONCLUSIVE
    assert "ill-conditioned" in found.why


@pytest.mark.parametrize(
    ("d", "t", "status"),
    [
        ([1, math.nan], [1, math.nan], PASSED),
        ([1, math.nan], [math.nan, 1], FAILED),
        ([1, 2], [1, math.nan], FAILED),
        ([1, math.nan], [1, 2], FAILED),
        ([1, math.inf], [1, math.inf], PASSED),
        ([1, math.inf], [1, -math.inf], FAILED),
        ([1, 2], [1, math.inf], FAILED),
        ([0, 0], [0, 0], PASSED),
        ([0, 0], [0, 1e-30], FAILED),
    ],
)
def test_nan_and_infinity_have_to_be_in_the_same_place(d, t, status) -> None:
    assert scored(d, d, t).status == status


def test_the_worst_element_is_shown() -> None:
    d = np.zeros((3, 4)) + 2
    t = d.copy()
    t[1, 2] = 5
    found = scored(d, d, t)
    assert found.worst == criterion.Worst((1, 2), 2.0, 5.0)


def test_another_shape_and_other_integers_fail() -> None:
    assert criterion.scores("y", np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4)), 2)[0].status == FAILED
    same = criterion.scores("y", np.arange(3), np.arange(3), np.arange(3), 3)
    assert {score.status for score in same} == {PASSED}
    assert criterion.score("y", 0, np.arange(3), np.arange(3), np.array([0, 1, 1])).status == FAILED


def test_a_wrong_sample_is_not_hidden_by_large_ones() -> None:
    d = np.ones((4, 8)) * np.array([[1e6], [1], [1e6], [1e6]])
    t = d.copy()
    t[1] *= 1.01
    statuses = [score.status for score in criterion.scores("y", d, d.astype(np.float32), t.astype(np.float32), 4)]
    assert statuses == [PASSED, FAILED, PASSED, PASSED]


def test_inputs_are_seeded_in_range_and_differ() -> None:
    wanted = [inputs.parse("1x3x16x16"), inputs.parse("1x9:int64:3..9")]
    first, again, other = (inputs.make(wanted, seed, inputs.recipe()) for seed in (0, 0, 1))
    assert [s.batch for s in first] == [1, 2, 5, 1]
    for a, b, c in zip(first, again, other, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.arrays, b.arrays, strict=True))
        assert not np.array_equal(a.arrays[0], c.arrays[0])
        assert a.arrays[1].min() >= 3
        assert a.arrays[1].max() < 9
    photo = first[0].arrays[0][0, 0]
    assert np.corrcoef(photo[:, 1:].ravel(), photo[:, :-1].ravel())[0, 1] > 0.6  # neighbours are alike, as in photographs


@pytest.mark.parametrize("name", ["Mixed", "PaddedPool", "Indices"])
def test_a_faithful_copy_is_proved(name: str) -> None:
    net = build(name)
    found = check_modules(net, copy.deepcopy(net), specs(name), Settings(devices=("cpu",)))
    assert found.verdict == "proved", found.lines()
    assert found.exit == 0
    assert json.loads(json.dumps(found.document()))["verdict"] == "proved"


def test_outputs_that_never_change_prove_nothing() -> None:
    net = build("ZeroHead")
    found = check_modules(net, copy.deepcopy(net), specs("ZeroHead"), Settings(devices=("cpu",)))
    assert found.verdict == "inconclusive"
    assert "the same for all inputs" in found.reason


def test_an_ill_conditioned_model_is_inconclusive() -> None:
    net = build("Cancelling")
    found = check_modules(net, copy.deepcopy(net), specs("Cancelling"), Settings(devices=("cpu",)))
    assert found.verdict == "inconclusive"


def test_a_device_that_is_not_there_is_no_pass() -> None:
    net = build("Indices")
    found = check_modules(net, copy.deepcopy(net), specs("Indices"), Settings(devices=("cuda:77",)))
    assert [row.status for row in found.rows if row.device == "cuda:77"] == ["absent"]
    assert found.verdict == "bytes only"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", ["Mixed", "PaddedPool", "Indices"])
def test_a_faithful_copy_is_proved_on_every_gpu(name: str) -> None:
    net = build(name)
    found = check_modules(net, copy.deepcopy(net), specs(name), Settings())
    assert found.verdict == "proved", found.lines()
    assert {row.device for row in found.rows if row.rung == "run" and row.status == PASSED} > {"cpu"}
    assert any("with TF32" in row.what for row in found.rows)


def _exponent(net) -> None:
    net.conv.weight.data.view(torch.int32)[0, 0, 0, 0] ^= 1 << 23


def _statistics(net) -> None:
    net.bn.running_mean[[0, 1]] = net.bn.running_mean[[1, 0]]


def _transposed(net) -> None:
    net.fc.weight.data = net.fc.weight.data.T.contiguous()


def _bias(net) -> None:
    net.attn.out_proj.bias.data.fill_(0.125)


def _eps(net) -> None:
    net.bn.eps = 1e-5


def _rounded(net) -> None:
    net.conv.weight.data = net.conv.weight.data.bfloat16().float()


def _tie(net) -> None:
    net.fc2.weight = torch.nn.Parameter(torch.randn(8, 8))


@pytest.mark.parametrize(
    ("damage", "layer"),
    [
        (_exponent, "conv"),
        (_statistics, "bn"),
        (_transposed, "fc"),
        (_bias, "attn"),
        (_eps, "bn"),
        (_rounded, "conv"),
        (_tie, "fc2"),
    ],
)
def test_damage_is_found_and_the_layer_named(damage, layer: str) -> None:
    net = build("Mixed")
    broken = copy.deepcopy(net)
    damage(broken)
    found = check_modules(net, broken, specs("Mixed"), Settings(devices=("cpu",)))
    assert found.verdict == "failed"
    assert found.exit == 70
    guilty = [probe.layer for probe in found.probes if probe.status == FAILED]
    assert guilty
    assert all(name.startswith(layer) for name in guilty) or layer == "fc"  # fc and fc2 share their weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_is_judged_by_its_own_precision(dtype: torch.dtype) -> None:
    net = build("Mixed").to(dtype)
    found = check_modules(net, copy.deepcopy(net), specs("Mixed"), Settings(devices=("cpu",)))
    assert found.verdict == "proved", found.lines()
    broken = copy.deepcopy(net)
    broken.conv.weight.data[0] *= -2
    assert check_modules(net, broken, specs("Mixed"), Settings(devices=("cpu",))).verdict == "failed"


def test_settings_of_torch_are_put_back() -> None:
    torch.backends.cudnn.allow_tf32 = True
    with exactly():
        assert not torch.backends.cudnn.allow_tf32
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_grad_enabled()
    assert torch.backends.cudnn.allow_tf32
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()
