"""Warm starts and fills, through the command, judged by torch's strict loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.__main__ import main

torch = pytest.importorskip("torch")
nn = torch.nn
load_file = pytest.importorskip("safetensors.torch").load_file
torch.set_num_threads(1)


def net(classes: int = 3, attention: bool = False) -> Any:
    layers: dict[str, Any] = {"conv": nn.Conv2d(1, 4, 3), "bn": nn.BatchNorm2d(4)}
    if attention:
        layers["attention"] = nn.Linear(4, 4)
    layers["fc"] = nn.Linear(4, classes)
    return nn.ModuleDict(layers)


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("target", ["safetensors", "pth", "pth.tar"])
def test_what_fits_is_taken_over_and_the_rest_stays(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrained, model = net(10), net(3, attention=True)
    optimizer = torch.optim.SGD(pretrained.parameters(), lr=0.1)
    wrapped = {f"module.{key}": value for key, value in pretrained.state_dict().items()} | {"module.aux.weight": torch.zeros(1)}
    source = save(tmp_path / "pretrained.pth", {"state_dict": wrapped, "optimizer": optimizer.state_dict(), "epoch": 90})
    into = save(tmp_path / "model.pth", model.state_dict())
    out = tmp_path / f"out.{target}"
    assert main([str(source), "--into", str(into), "--to", target, "-o", str(out), "--json"]) == 0
    (output,) = json.loads(capsys.readouterr().out)["results"][0]["outputs"]
    told = output["keys"]["warm_start"]
    assert told["taken"] == [key for key in model.state_dict() if key.split(".")[0] in ("conv", "bn")]
    assert list(told["kept_other_shape"]) == ["fc.weight", "fc.bias"]
    assert told["kept_not_in_source"] == ["attention.weight", "attention.bias"]
    assert told["unused_from_source"] == ["aux.weight"]
    loaded = load_file(out) if target == "safetensors" else torch.load(out, weights_only=True)
    if target == "pth.tar":
        assert "optimizer" not in loaded, "the optimizer of the pretrained model is not the new model's"
        loaded = loaded["state_dict"]
    fresh = net(3, attention=True)
    fresh.load_state_dict(loaded, strict=True)
    for key, value in fresh.state_dict().items():
        origin = pretrained if key in told["taken"] else model
        assert torch.equal(value, origin.state_dict()[key])


def test_the_table_and_another_dtype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(
        tmp_path / "pretrained.pth",
        {key: value.half() if value.is_floating_point() else value for key, value in net(10).state_dict().items()},
    )
    into = save(tmp_path / "model.pth", net(3).state_dict())
    assert main([str(source), "--into", str(into), "--to", "safetensors", "-o", str(tmp_path / "out.safetensors")]) == 0
    said = capsys.readouterr().err
    assert "taken over from the source (7)" in said
    assert "fc.weight: source [10, 4], model [3, 4]" in said
    assert "6 tensors taken over in another dtype than the model's, which loading casts" in said
    net(3).load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--into", "other.pth"], 2, "not one tensor of the source"),
        (["--into", "gan.pth"], 65, "holds 2 models"),
        (["--into", "missing.pth"], 74, "cannot be opened"),
        (["--into", "model.pth", "--keep", "all"], 2, "--keep all"),
        (["--into", "model.pth", "-o", "model.pth", "--force"], 73, "model.pth"),
        (["--like", "model.pth"], 2, "--fill-missing"),
        (["--fill-missing", "fc.*"], 2, "where from?"),
        (["--reverse"], 2, "--rules FILE"),
    ],
)
def test_refusals(
    arguments: list[str],
    exit_code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("in.pth"), net().state_dict())
    save(Path("model.pth"), net().state_dict())
    save(Path("other.pth"), {"x.weight": torch.zeros(2)})
    save(Path("gan.pth"), {"netG": net().state_dict(), "netD": {"0.weight": torch.zeros(2, 2)}})
    assert (
        main(["in.pth", "--to", "pth" if "model.pth" in arguments and "-o" in arguments else "safetensors", *arguments])
        == exit_code
    )
    assert message in capsys.readouterr().err


def test_missing_keys_take_the_values_of_another_checkpoint(tmp_path: Path) -> None:
    given, model = net(), net()
    partial = {key: value for key, value in given.state_dict().items() if not key.startswith("fc.") and "tracked" not in key}
    source = save(tmp_path / "in.pth", partial)
    like = save(tmp_path / "model.pth", model.state_dict())
    out = tmp_path / "out.safetensors"
    assert (
        main(
            [
                str(source),
                "--fill-missing",
                "fc.*",
                "--fill-missing",
                "num_batches_tracked",
                "--like",
                str(like),
                "--to",
                "safetensors",
                "-o",
                str(out),
            ]
        )
        == 0
    )
    loaded = load_file(out)
    net().load_state_dict(loaded, strict=True)
    assert torch.equal(loaded["fc.weight"], model.state_dict()["fc.weight"])
    assert torch.equal(loaded["conv.weight"], given.state_dict()["conv.weight"])
    assert int(loaded["bn.num_batches_tracked"]) == 0


def test_renames_are_told_in_the_output_and_can_be_undone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import safe_open

    source = save(tmp_path / "in.pth", net().state_dict())
    rules = tmp_path / "rules"
    rules.write_text("# the other project's names\nrename ^conv\\. = stem.\nkey fc.weight = head.w\nrename ^nothing = x\n")
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert main([str(source), "--rules", str(rules), "--to", "safetensors", "-o", str(there)]) == 0
    assert f"{rules}, line 4: the rule meets no key" in capsys.readouterr().err
    with safe_open(there, "pt") as file:
        account = json.loads(file.metadata()["ckpt_convert"])
    assert account["keys"]["rules"] == ["rename ^conv\\. = stem.", "key fc.weight = head.w", "rename ^nothing = x"]
    assert main(["verify", str(source), str(there)]) == 69, "rules from a file are not run again"
    assert "its keys changed" in capsys.readouterr().err
    assert main([str(there), "--rules", str(rules), "--reverse", "--to", "safetensors", "-o", str(back)]) == 0
    assert main(["diff", str(source), str(back)]) == 0
    net().load_state_dict(load_file(back), strict=True)
