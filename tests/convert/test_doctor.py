"""Every story of a checkpoint that does not load: what torch says, and that torch loads it after the printed command.

The judge is `torch.nn.Module.load_state_dict(strict=True)`; the right mapping is known, so the values are compared too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.__main__ import main
from convert.doctor import Diagnosis, diagnose, write_rules
from convert.expectation import expected, like
from convert.rename_search import search
from formats.core.errors import AmbiguousCheckpoint

torch = pytest.importorskip("torch")
nn = torch.nn
load_file = pytest.importorskip("safetensors.torch").load_file
torch.set_num_threads(1)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Former(nn.Module):
    def __init__(self, blocks: int = 3, classes: int = 10, extra: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList(Block(8) for _ in range(blocks))
        if extra:
            self.attention = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
        self.head = nn.Linear(8, classes)


def seeded(**arguments: Any) -> Any:
    torch.manual_seed(7)
    net = Former(**arguments)
    for tensor in net.state_dict().values():  # no two tensors alike, so that a wrong assignment shows
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape))
    return net


def said_by_torch(net: Any, given: Any) -> tuple[list[str], list[str], list[str]]:
    """(missing, unexpected, size mismatch), from torch's own report."""
    try:
        found = net.load_state_dict(given, strict=False)
        return list(found.missing_keys), list(found.unexpected_keys), []
    except RuntimeError as error:
        mismatched = re.findall(r"size mismatch for (.+?): copying", str(error))
        kept = {key: value for key, value in given.items() if key not in mismatched}
        missing, unexpected, _ = said_by_torch(net, kept)
        return [key for key in missing if key not in mismatched], unexpected, mismatched


def doctored(tmp_path: Path, saved: Any, model: Any) -> Diagnosis:
    torch.save(saved, tmp_path / "in.pth")
    torch.save(model.state_dict(), tmp_path / "model.pth")
    found = diagnose(tmp_path / "in.pth", like(tmp_path / "model.pth"))
    if isinstance(saved, dict) and found.raw is not None:
        assert (found.raw.missing, found.raw.unexpected, list(found.raw.mismatched)) == said_by_torch(model, saved)
    return found


def mended(found: Diagnosis, model: Any, number: int = 0) -> dict[str, Any]:
    """The state dict that the printed command writes; torch has loaded it strictly."""
    remedy = found.remedies[number]
    words = shlex.split(remedy.command)
    if "--rules" in words:
        place = words.index("--rules") + 1
        words[place] = str(found.source.with_name(words[place]))
        write_rules(found, Path(words[place]))
    outcomes = []
    for target in ("safetensors", "pth"):
        out = found.source.with_name(f"out{number}.{target}")
        assert main([*words[1 : words.index("--to")], "--to", target, "-o", str(out)]) == 0
        given = load_file(out) if target == "safetensors" else torch.load(out, weights_only=True)
        model.load_state_dict(given, strict=True)
        outcomes.append({key: value.clone() for key, value in model.state_dict().items()})
    first, second = outcomes
    assert all(torch.equal(first[key], second[key]) for key in first)
    return first


def renamed(state: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    return {rename(key): value for key, value in state.items()}


def sub(*pairs: tuple[str, str]) -> Callable[[str], str]:
    def rename(key: str) -> str:
        for pattern, text in pairs:
            key = re.sub(pattern, text, key)
        return key

    return rename


def shift(key: str) -> str:
    return re.sub(r"^blocks\.(\d+)", lambda match: f"encoder.layer_{int(match[1]) + 1}", key)


STORIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "in state_dict": (lambda s: {"epoch": 3, "state_dict": s}, "certain"),
    "module.": (lambda s: renamed(s, lambda k: f"module.{k}"), "certain"),
    "module. in state_dict": (lambda s: {"state_dict": renamed(s, lambda k: f"module.{k}"), "lr": 0.1}, "certain"),
    "_orig_mod.module.": (lambda s: renamed(s, lambda k: f"_orig_mod.module.{k}"), "certain"),
    "prefix": (lambda s: renamed(s, lambda k: f"net.backbone.{k}"), "certain"),
    "lightning": (lambda s: {"state_dict": renamed(s, lambda k: f"model.{k}"), "pytorch-lightning_version": "1.9"}, "certain"),
    "module. inside": (lambda s: renamed(s, sub((r"^blocks\.", "blocks.module."))), "certain"),
    "part renamed": (lambda s: renamed(s, sub((r"\bmlp\b", "feed_forward"))), "likely"),
    "several parts": (lambda s: renamed(s, sub((r"^blocks", "encoder.layers"), (r"\bnorm", "ln_"), ("^", "model."))), "likely"),
    "numbers glued": (lambda s: renamed(s, sub((r"^blocks\.(\d+)", r"block_\1"))), "likely"),
    "numbers from one": (lambda s: renamed(s, shift), "likely"),
    "names alike": (lambda s: renamed(s, sub((r"\.q\.", ".query."), (r"\.k\.", ".key."), (r"\.v\.", ".value."))), "likely"),
    "module and numbers": (lambda s: renamed(s, lambda k: f"module.{shift(k)}"), "likely"),
    "gamma and beta": (lambda s: renamed(s, sub((r"(norm\d)\.weight", r"\1.gamma"), (r"(norm\d)\.bias", r"\1.beta"))), "likely"),
    "another order": (lambda s: {"state_dict": dict(reversed(list(s.items())))}, "certain"),
    "order alone": (lambda s: renamed(s, sub((r"\.q\.", ".x1."), (r"\.k\.", ".x2."), (r"\.v\.", ".x3."))), "possible"),
}


@pytest.mark.parametrize("story", STORIES)
def test_torch_loads_after_the_printed_command(story: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, sure = STORIES[story]
    model = seeded()
    right = {key: value.clone() for key, value in model.state_dict().items()}
    found = doctored(tmp_path, spoil(right), Former())
    assert not found.raw or not found.raw.loads
    assert [remedy.sure for remedy in found.remedies] == [sure], found.document()
    loaded = mended(found, Former())
    assert all(torch.equal(loaded[key], right[key]) for key in right)
    assert found.status == ("possible" if sure == "possible" else "mended")
    assert found.exit == (70 if sure == "possible" else 0)


def test_a_whole_module(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    found = doctored(tmp_path, net, nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    assert found.raw is None
    assert "whole model" in found.raw_kind
    assert torch.equal(mended(found, nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))["0.weight"], net[0].weight)


def test_counters_that_the_version_demands(tmp_path: Path) -> None:
    state = seeded().state_dict()
    for key in [key for key in state if key.endswith("num_batches_tracked")]:
        del state[key]  # _metadata still says version 2
    found = doctored(tmp_path, state, Former())
    assert found.raw is not None
    assert found.raw.missing == ["bn.num_batches_tracked"]
    assert "--fill-missing num_batches_tracked" in found.remedies[0].command
    assert int(mended(found, Former())["bn.num_batches_tracked"]) == 0


def test_counters_that_torch_fills_are_no_fault(tmp_path: Path) -> None:
    state = {key: value for key, value in seeded().state_dict().items() if not key.endswith("num_batches_tracked")}
    found = doctored(tmp_path, state, Former())
    assert found.status == "loads"
    assert found.exit == 0
    assert found.raw is not None
    assert found.raw.filled == ["bn.num_batches_tracked"]
    Former().load_state_dict(state, strict=True)


def test_a_head_of_another_size_keeps_the_models_own(tmp_path: Path) -> None:
    pretrained, model = seeded(classes=1000), Former(classes=10)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    found = doctored(tmp_path, renamed(pretrained.state_dict(), lambda k: f"module.{k}"), model)
    assert found.status == "mended"
    assert found.remedies[0].kept == ["head.weight", "head.bias"]
    loaded = mended(found, Former(classes=10))
    for key, value in loaded.items():
        assert torch.equal(value, own[key] if key.startswith("head.") else pretrained.state_dict()[key])


def test_a_new_block_in_a_pretrained_backbone(tmp_path: Path) -> None:
    pretrained, model = seeded(), Former(extra=True)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    found = doctored(tmp_path, {"state_dict": renamed(pretrained.state_dict(), lambda k: f"backbone.{k}")}, model)
    loaded = mended(found, Former(extra=True))
    for key, value in loaded.items():
        assert torch.equal(value, own[key] if key.startswith("attention.") else pretrained.state_dict()[key])


def test_what_has_no_place_is_dropped_by_name(tmp_path: Path) -> None:
    state = dict(seeded().state_dict())
    state |= {"aux.weight": torch.zeros(2), "aux.bias": torch.zeros(2), "queue[0]": torch.zeros(3)}
    found = doctored(tmp_path, state, Former())
    assert found.remedies[0].unused == ["aux.weight", "aux.bias", "queue[0]"]
    mended(found, Former())


def test_momentum_copies_are_both_shown_and_neither_is_chosen(tmp_path: Path) -> None:
    query, key = seeded().state_dict(), Former().state_dict()
    state = renamed(query, lambda k: f"encoder_q.{k}") | renamed(key, lambda k: f"encoder_k.{k}") | {"queue": torch.zeros(4, 4)}
    found = doctored(tmp_path, state, Former())
    assert found.status == "ambiguous"
    assert found.exit == 70
    assert len(found.remedies) == 2
    assert {remedy.sure for remedy in found.remedies} == {"possible"}
    for number, right in ((0, query), (1, key)):
        loaded = mended(found, Former(), number)
        assert all(torch.equal(loaded[name], value) for name, value in right.items())
    with pytest.raises(AmbiguousCheckpoint):
        write_rules(found, tmp_path / "rules")


def test_a_gan_gives_the_model_that_fits(tmp_path: Path) -> None:
    generator = seeded()
    saved = {"discriminator": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).state_dict(), "generator": generator.state_dict()}
    found = doctored(tmp_path, saved, Former())
    assert "--select generator" in found.remedies[0].command
    loaded = mended(found, Former())
    assert all(torch.equal(loaded[key], value) for key, value in generator.state_dict().items())


def test_two_models_that_fit_are_both_shown(tmp_path: Path) -> None:
    found = doctored(tmp_path, {"best": seeded().state_dict(), "last": Former().state_dict()}, Former())
    assert found.status == "ambiguous"
    assert [re.findall("--select (\\w+)", remedy.command) for remedy in found.remedies] == [["best"], ["last"]]


def test_another_model_altogether(tmp_path: Path) -> None:
    found = doctored(tmp_path, {"a": torch.zeros(3, 3), "b": torch.zeros(5)}, nn.Sequential(nn.Linear(7, 2)))
    assert (found.status, found.exit, found.remedies) == ("unmended", 70, [])


def test_what_stays_unmatched_is_said(tmp_path: Path) -> None:
    torch.save(renamed(seeded().state_dict(), lambda k: f"net.{k}"), tmp_path / "in.pth")
    model = like(_saved(tmp_path / "model.pth", Former(extra=True).state_dict()))
    model.path = None  # as with --arch: there is no checkpoint to take values from
    found = diagnose(tmp_path / "in.pth", model)
    assert found.status == "unmended"
    assert found.remedies[0].after.missing == [key for key in model.slots if key.startswith("attention.")]


def _saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def test_two_thousand_keys_are_searched_through() -> None:
    shapes = {key: tuple(value.shape) for key, value in Former(blocks=140).state_dict().items()}
    assert len(shapes) > 1900
    stories = (
        sub((r"^blocks", "encoder.layers"), (r"\bnorm", "ln_"), ("^", "model.")), shift,
        sub((r"\.q\.", ".x1."), (r"\.k\.", ".x2."), (r"\.v\.", ".x3.")), lambda key: f"{hash(key)}.{key.rsplit('.', 1)[-1]}",
    )  # fmt: skip
    found = [search({rename(key): shape for key, shape in shapes.items()}, shapes) for rename in stories]
    assert all(found[:3])


def test_arch_names_the_model(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef net(out=3):\n    return torch.nn.Sequential(torch.nn.Linear(2, out), torch.nn.BatchNorm1d(out))\n"
    )
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    torch.save({"model": renamed(net.state_dict(), lambda k: f"net.{k}")}, tmp_path / "in.pth")
    found = diagnose(tmp_path / "in.pth", expected(None, f"{tmp_path / 'net.py'}:net,out=4"))
    assert found.status == "mended"
    assert torch.equal(mended(found, net)["0.weight"], net[0].weight)
