"""Which architecture weights belong to. The state dicts are spelled here by hand or built by torchvision and timm themselves."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.identify import IDENTIFIED, IdentifyResult, identify
from convert.signatures.match import compare
from convert.signatures.table import Table, load
from convert.signatures.tokens import roots, shape_hashes, sketch
from tests import command

Shapes = dict[str, tuple[int, ...]]
HERE = Path(__file__).parent.parent.parent


def resnet(blocks: tuple[int, ...] = (3, 4, 6, 3), classes: int = 1000, channels: int = 3) -> Shapes:
    """The state dict of a ResNet of basic blocks, as `torchvision.models.resnet` has spelled it since 2017."""
    found: Shapes = {"conv1.weight": (64, channels, 7, 7)}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{part}"] = (width,)
        found[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    inside = 64
    for stage, count in enumerate(blocks, 1):
        width = 32 << stage
        for block in range(count):
            name = f"layer{stage}.{block}"
            found[f"{name}.conv1.weight"] = (width, inside, 3, 3)
            norm(f"{name}.bn1", width)
            found[f"{name}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{name}.bn2", width)
            if inside != width:
                found[f"{name}.downsample.0.weight"] = (width, inside, 1, 1)
                norm(f"{name}.downsample.1", width)
            inside = width
    return found | {"fc.weight": (classes, 512), "fc.bias": (classes,)}


def asked(shapes: Shapes, hints: dict[str, str] | None = None) -> IdentifyResult:
    return identify({key: (shape, "float32") for key, shape in shapes.items()}, hints)


def names(result: IdentifyResult) -> set[str]:
    return {member.name for member in result.members}


def without_counters(shapes: Shapes) -> Shapes:
    return {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "shapes",
    [
        resnet(),
        without_counters(resnet()),
        {f"module.{key}": shape for key, shape in resnet().items()},
        {f"module.encoder_q.{key}": shape for key, shape in resnet().items()},
        dict(reversed(resnet().items())),
    ],
    ids=["as is", "no counters", "module.", "module.encoder_q.", "reversed"],
)
def test_a_resnet34_is_identified(shapes: Shapes) -> None:
    result = asked(shapes)
    assert result.status == "identified"
    assert result.best is not None
    assert result.best.coverage == 1.0
    assert {"torchvision:resnet34", "timm:resnet34"} <= names(result)
    assert result.arch == "torchvision:resnet34"
    assert result.member is not None
    assert result.member.facts["input size"] == [3, 224, 224]
    assert result.member.facts["mean"] == [0.485, 0.456, 0.406]


def test_the_prefix_is_told() -> None:
    assert asked({f"model.backbone.{key}": shape for key, shape in resnet().items()}).prefix == "model.backbone."


def test_another_head_and_other_channels_become_arguments() -> None:
    result = asked(resnet(classes=7, channels=1), {"args.arch": "timm/resnet34"})
    assert result.status == "identified"
    assert result.arguments == {"num_classes": 7, "in_chans": 1}
    assert result.arch == "timm:resnet34,in_chans=1,num_classes=7"


def test_without_its_head() -> None:
    shapes = {key: shape for key, shape in resnet().items() if not key.startswith("fc.")}
    result = asked(shapes)
    assert result.status == "identified"
    assert any("without the head" in line for line in result.lines())


def test_extra_keys_make_it_a_relative_and_are_listed() -> None:
    extra = {f"decoder.{at}.weight": (5, at + 1) for at in range(14)}
    result = asked(resnet() | extra)
    assert result.status == "nearest"
    assert result.arch is None
    assert "torchvision:resnet34" in names(result)
    assert result.best is not None
    assert set(result.best.unexpected) == set(extra)
    assert "14 keys differ" in result.lines()[0]


def test_missing_keys_make_it_a_relative_and_are_listed() -> None:
    whole = resnet()
    gone = random.Random(1).sample([key for key in without_counters(whole) if not key.startswith("fc.")], 30)
    result = asked({key: shape for key, shape in whole.items() if key not in gone})
    assert result.status == "nearest"
    assert "torchvision:resnet34" in names(result)
    assert result.best is not None
    assert set(result.best.missing) == set(gone)
    assert result.best.coverage < IDENTIFIED


def test_a_network_that_nobody_has_is_not_claimed() -> None:
    result = asked(resnet(blocks=(3, 4, 7, 3)))
    assert result.status == "nearest"
    assert result.arch is None


def test_all_keys_renamed_gives_the_renaming_by_order() -> None:
    whole = without_counters(resnet())
    result = asked({f"p{at:03d}": shape for at, shape in enumerate(whole.values())})
    assert result.status == "renamed"
    assert result.arch is None
    assert result.best is not None
    assert result.best.rename == {f"p{at:03d}": key for at, key in enumerate(whole)}


def test_a_backbone_beside_something_else_is_a_part() -> None:
    shapes = {f"backbone.{key}": shape for key, shape in resnet().items()} | {"neck.weight": (256, 512), "neck.bias": (256,)}
    result = asked(shapes)
    assert result.status == "part"
    assert result.best is not None
    assert result.best.elsewhere == 2
    assert result.arch is None


def test_members_that_compute_something_else_are_never_taken_in_silence() -> None:
    result = asked(resnet(blocks=(2, 2, 2, 2)))
    assert {"torchvision:resnet18", "timm:resnetblur18"} <= names(result)
    assert result.basis == "assumed"
    assert result.assumption is not None
    assert "resnetblur18" in result.assumption
    assert "pooling" in result.apart()
    assert any(result.assumption in line for line in result.lines())
    assert result.document()["assumption"] == result.assumption


@pytest.mark.parametrize(
    ("hints", "member"),
    [
        ({"args.arch": "resnetblur18"}, "timm:resnetblur18"),
        ({"hyper_parameters.model_name": "resnetblur18.bt_in1k"}, "timm:resnetblur18"),
        ({"arch": "ResNetBlur18"}, "timm:resnetblur18"),
        ({"file name": "resnet18.pth", "args.arch": "resnetblur18"}, "timm:resnetblur18"),
    ],
)
def test_what_the_file_says_of_itself_decides(hints: dict[str, str], member: str) -> None:
    result = asked(resnet(blocks=(2, 2, 2, 2)), hints)
    assert result.member is not None
    assert (result.member.name, result.basis, result.assumption) == (member, "metadata", None)


def test_a_files_name_is_followed_but_stays_an_assumption() -> None:
    result = asked(resnet(blocks=(2, 2, 2, 2)), {"file name": "resnetblur18-84f4748f.pth"})
    assert result.member is not None
    assert (result.member.name, result.basis) == ("timm:resnetblur18", "assumed")
    assert result.assumption is not None


def test_hints_that_contradict_one_another_decide_nothing() -> None:
    result = asked(resnet(blocks=(2, 2, 2, 2)), {"args.arch": "resnetblur18", "args.backbone": "torchvision.models.resnet18"})
    assert result.basis == "assumed"


def test_nothing_near_is_unknown() -> None:
    result = asked({"encoder.rnn.weight_ih_l0": (37, 11), "encoder.rnn.bias": (37,)})
    assert result.status == "unknown"
    assert result.lines()[0].startswith("unknown")
    assert asked({}).status == "unknown"


def test_the_table_is_whole() -> None:
    table = Table()
    found: list[str] = []
    for number in range(table.classes):
        signature = table.signature(number)
        body = signature.shapes()
        assert len(body) == table.sizes[number]
        assert signature.head <= set(signature.entries)
        assert {member.library for member in signature.members} <= {"torchvision", "timm"}
        assert compare(signature, signature.entries).coverage == 1.0
        found += [member.name for member in signature.members]
    assert len(found) == len(set(found)) == table.models
    assert table.path.stat().st_size < 1_000_000


def test_torch_numpy_and_the_libraries_stay_away() -> None:
    code = (
        "import sys; from convert.identify import identify;"
        "identify({'features.0.weight': ((64, 3, 11, 11), 'float32'), 'features.0.bias': ((64,), 'float32')});"
        "print(sorted({'torch', 'numpy', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_milliseconds() -> None:
    load()
    shapes = resnet()
    asked(shapes)
    begun = time.process_time()
    asked(shapes)
    assert time.process_time() - begun < 0.1  # 3 ms where nothing else runs


names_ = st.text(max_size=12) | st.sampled_from(
    ["conv1.weight", "bn1.weight", "module.fc.weight", "layer1.0.conv1.weight", "a.b.c", "."]
)
shapes_ = st.lists(st.integers(0, 1 << 40), max_size=5).map(tuple)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(names_, shapes_, max_size=30))
def test_any_state_dict_gets_an_answer(shapes: Shapes) -> None:
    result = asked(shapes)
    json.dumps(result.document())
    assert all(line.isprintable() for line in result.lines())
    assert asked(shapes).document() | {"seconds": 0} == result.document() | {"seconds": 0}


def test_hostile_names_are_answered_and_escaped() -> None:
    odd = {"a" * 1_000_000: (3,), "\x1b[31mred": (3,), "\ud800": (2,), ".".join(["x"] * 5000): (1,), "é" * 400: (9,)}
    result = asked(resnet() | odd)
    assert "torchvision:resnet34" in names(result)
    assert all(line.isprintable() and len(line) < 2000 for line in result.lines())


@given(st.lists(shapes_, max_size=40), st.randoms())
def test_shape_hashes_do_not_depend_on_order(shapes: list[tuple[int, ...]], dice: random.Random) -> None:
    mixed = list(shapes)
    dice.shuffle(mixed)
    assert sketch(shape_hashes(shapes), 8) == sketch(shape_hashes(mixed), 8)


def test_roots_are_bounded() -> None:
    assert len(roots([".".join(["a"] * 50 + [str(at)]) for at in range(100)])) <= 12


def test_encoding_is_deterministic_and_reads_back(tmp_path: Path) -> None:
    from benchmarks.build_signatures import encode

    def row(name: str, width: int) -> dict[str, Any]:
        entries = [("stem.weight", (width, 3, 3, 3)), ("head.weight", (1000, width))]
        modules = [("", "x.models.y.Net", {}), ("act", "torch.nn.modules.activation.ReLU", {})]
        return {"library": "timm", "name": name, "entries": entries, "head": {"head.weight": (1000, width)}, "configuration": modules,
                "preprocessing": {"input_size": [3, 32, 32]}}  # fmt: skip

    rows = [row("one", 8), row("two", 16), row("three", 8)]
    made = encode(rows, {}, {"timm": "0"})
    assert made == encode(rows, {}, {"timm": "0"})
    path = tmp_path / "table.bin"
    path.write_bytes(made)
    table = Table(path)
    result = identify({"stem.weight": ((8, 3, 3, 3), "float32"), "head.weight": ((5, 8), "float32")}, table=table)
    assert names(result) == {"timm:one", "timm:three"}
    assert result.arguments == {"num_classes": 5}
    assert result.member is not None
    assert result.member.facts == {"activation": "ReLU", "input size": [3, 32, 32]}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A training checkpoint of a ResNet-18 that says which architecture it is."""
    torch = pytest.importorskip("torch")
    state = {key: torch.zeros(shape) for key, shape in resnet(blocks=(2, 2, 2, 2), classes=10).items()}
    path = tmp_path / "best.pth.tar"
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return path


def test_the_command(weights: Path) -> None:
    text = command.run("identify", weights, check=True).stdout
    assert text.startswith("torchvision:resnet18 (100 of 100 entries")
    assert "num_classes=10" in text
    assert "the file says, arch: resnet18" in text
    document = command.run_json("identify", weights)
    [model] = document["models"]
    assert (model["status"], model["arch"]) == ("identified", "torchvision:resnet18,num_classes=10")
    assert {"timm:resnet18", "torchvision:resnet18", "timm:resnetblur18"} <= {member["name"] for member in model["members"]}


def test_the_command_on_what_nobody_knows(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"lstm.weight_ih_l0": torch.zeros(3, 7)}, tmp_path / "odd.pth")
    assert command.run_json("identify", tmp_path / "odd.pth", exit_code=69)["status"] == "unknown"


REAL = [
    "torchvision:alexnet", "torchvision:densenet121", "torchvision:mobilenet_v3_small", "torchvision:vit_b_32",
    "torchvision:regnet_y_400mf",
    "torchvision:swin_t", "timm:convnext_atto", "timm:efficientnet_b0", "timm:vit_tiny_patch16_224", "timm:resnet26t", "timm:levit_128s",
    "timm:swin_tiny_patch4_window7_224", "timm:mixer_s32_224", "timm:regnetx_002", "timm:ghostnet_100", "timm:edgenext_xx_small",
]  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_really_built_models(name: str) -> None:
    """Against the libraries themselves, with another head and, where the constructor takes it, one input channel."""
    library, _, model = name.partition(":")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    from benchmarks import zoo_models

    with zoo_models.weightless():
        built = zoo_models.entries(zoo_models.build(library, model, classes=12))
        grey = zoo_models.entries(zoo_models.build(library, model, in_chans=1)) if library == "timm" else None
    result = asked(dict(built))
    assert result.status == "identified"
    assert name in names(result)
    assert result.arguments == {"num_classes": 12}
    if grey is not None:
        result = asked(dict(grey))
        assert name in names(result)
        assert (result.status, result.arguments.get("in_chans")) == ("identified", 1)
