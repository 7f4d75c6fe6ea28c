"""Rules for keys: what they do, in which order, what they refuse, and that a file of them can be undone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.job import KeyOptions
from convert.rule_text import parsed, read, rules, rules_of, undone_rename, written
from convert.rules import KeyRules
from formats.core.checkpoint import Ordered, StateDict
from formats.core.dtype import BY_NAME
from formats.core.errors import CheckpointError, UsageError
from formats.core.storage import BytesStorage
from formats.core.tensor import TensorView


def model(*keys: str, versions: dict[str, dict[str, int]] | None = None) -> StateDict:
    return StateDict(
        {key: TensorView(BY_NAME["uint8"], (1,), BytesStorage(b"x")) for key in keys}, Ordered(versions) if versions else None
    )


def applied(keys: list[str], **options: object) -> list[str]:
    rules = rules_of(KeyOptions(**options))  # type: ignore[arg-type]
    made = rules.apply(model(*keys))
    rules.check_used()
    return list(made.tensors)


def test_each_option() -> None:
    keys = ["net.a.weight", "net.b.weight", "net.b.bias"]
    assert applied(keys, strip_prefix=("net.",)) == ["a.weight", "b.weight", "b.bias"]
    assert applied(keys, add_prefix=("x.",)) == ["x.net.a.weight", "x.net.b.weight", "x.net.b.bias"]
    assert applied(keys, rename=(r"^net\.(\w)=\1\1",)) == ["aa.weight", "bb.weight", "bb.bias"]
    assert applied(keys, only=("*.b.*",)) == ["net.b.weight", "net.b.bias"]
    assert applied(keys, only=("*.bias", "net.a.*")) == ["net.a.weight", "net.b.bias"]
    assert applied(keys, drop=("*.bias", "net.a.*")) == ["net.b.weight"]


def test_the_order_is_only_drop_rules_strip_rename_add(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("rename ^enc = net\n")
    keys = ["enc.a", "enc.b", "other.c"]
    assert applied(
        keys, add_prefix=("top.",), rename=("^a=z",), strip_prefix=("net.",), rules=(str(file),), drop=("enc.b",), only=("enc.*",)
    ) == ["top.z"]


def test_two_keys_with_one_name_are_refused_naming_both() -> None:
    with pytest.raises(UsageError, match=r"'a\.weight' and 'b\.weight' would both be named 'x\.weight'"):
        applied(["a.weight", "b.weight"], rename=("^[ab]=x",))


def test_keys_may_pass_through_each_other(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("key a = b\nkey b = a\n")
    assert applied(["a", "b"], rules=(str(file),)) == ["b", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strip_prefix": ("module",)}, "would be named '.a'"),
        ({"rename": ("^module.a$=",)}, "would be named ''"),
        ({"strip_prefix": ("nothing.",)}, "--strip-prefix nothing. meets none"),
        ({"rename": ("nothing=x",)}, "--rename nothing=x meets none"),
        ({"drop": ("nothing",)}, "--drop nothing meets none"),
        ({"only": ("nothing",)}, "no key is left"),
        ({"drop": ("*",)}, "no key is left"),
        ({"rename": ("(=x",)}, "no regular expression"),
        ({"rename": (r"a=\1",)}, "no regular expression"),
        ({"rename": ("abc",)}, "is not REGEX=TEXT"),
        ({"rules": ("/nonexistent",), "reverse": True}, "cannot be read"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        applied(["module.a"], **options)
    assert message in str(raised.value)


def test_a_rule_of_a_file_that_meets_nothing_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("# comment\n\nrename x = y\nrename a = b\n")
    rules = KeyRules(read(file))
    assert list(rules.apply(model("a")).tensors) == ["b"]
    assert rules.check_used() == [f"{file}, line 3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("move a = b", "line 1: 'move' is none of"),
        ("\nkey a", "line 2: needs two sides"),
        ("drop", "line 1: drop of nothing"),
        ('key "a = b', "line 1:"),
        ('key "a" b = c', "follows a quoted name"),
        ("key a = b\nkey a = c", "line 2: key 'a' has a name already"),
    ],
)
def test_a_rules_file_that_is_none_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "rules"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        read(file)
    assert message in raised.value.what
    assert raised.value.path == file


NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(NAME, NAME)
def test_any_name_survives_the_file(old: str, new: str) -> None:
    ((_, kind, values),) = parsed("# header\n" + written("key", old, new) + "\n")
    assert (kind, values) == ("key", (old, new))
    ((_, kind, single),) = parsed(written("strip-prefix", old))
    assert (kind, single) == ("strip-prefix", (old,))


@pytest.mark.parametrize(
    ("lines", "keys"),
    [
        (["strip-prefix net."], ["net.a", "net.b.c"]),
        (["add-prefix net."], ["a", "b.c"]),
        ([r"rename ^layer(\d+)\. = stages.\1.block."], ["layer1.w", "layer12.x", "head"]),
        ([r"rename (^|\.)attn(?=\.|$) = \1attention"], ["attn.w", "x.attn", "x.attn.b", "attn2"]),
        ([r"rename ^([^.]+)\.([0-9]+)\. = \2.\1."], ["a.0.w", "b.10.w", "c"]),
        ([r"rename ^a\(b\\ = x"], ["a(b\\c"]),
        (["key a = b", "key b = a"], ["a", "b", "c"]),
        ([r"rename \.gamma$ = .weight", "strip-prefix m.", "key x = y"], ["m.ln.gamma", "m.x"]),
    ],
)
def test_a_file_undoes_itself(tmp_path: Path, lines: list[str], keys: list[str]) -> None:
    file = tmp_path / "rules"
    file.write_text("\n".join(lines))
    there = applied(keys, rules=(str(file),))
    assert there != keys
    assert applied(there, rules=(str(file),), reverse=True) == keys


@pytest.mark.parametrize(
    "line", ["drop x", "only x", "rename a.b = c", r"rename a(b)? = c\1", r"rename (a)(b) = \1", r"rename (a) = \1\1"]
)
def test_what_cannot_be_undone_says_so(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rules"
    file.write_text(line)
    with pytest.raises(UsageError, match="cannot be undone"):
        read(file, reverse=True)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", r"\.", r"(\d+)", r"([^.]+)", "(x|y)"]), min_size=1, max_size=5), st.data())
def test_an_undone_rename_gives_the_key_back(pieces: list[str], data: st.DataObject) -> None:
    groups = data.draw(st.permutations([f"\\{at + 1}" for at in range(sum(piece.startswith("(") for piece in pieces))]))
    # Separators that are in no key: otherwise the result may be read in several ways, and the undone rule takes the first.
    text = "<" + "><".join([data.draw(st.text("abz.", max_size=4)), *groups]) + ">"
    pattern = "^" + "".join(pieces)
    key = data.draw(st.from_regex(re.compile(pattern, re.ASCII), alphabet="abxy.019", fullmatch=True)) + data.draw(
        st.text("ab.", max_size=3)
    )
    undone = undone_rename(pattern, text)
    assert undone is not None
    there = next(iter(rules([(1, "rename", (pattern, text))], "f")))
    back = next(iter(rules([(1, "rename", undone)], "f")))
    name = there.renamed(key)
    assert there.met
    assert name is not None
    assert back.renamed(name) == key


def test_versions_of_modules_move_with_their_tensors() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Module()
    net.backbone = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
    net.head = torch.nn.Linear(2, 2)
    said = net.state_dict()
    before = model(*said, versions=said._metadata)

    def after(**options: object) -> dict[str, object]:
        return dict(rules_of(KeyOptions(**options)).apply(before).versions or {})  # type: ignore[arg-type]

    assert after(rename=(r"^backbone\.=encoder.",)) == {
        "": {"version": 1}, "encoder": {"version": 1}, "encoder.0": {"version": 1}, "encoder.1": {"version": 2},
        "encoder.2": {"version": 1}, "head": {"version": 1},
    }  # fmt: skip
    stripped = after(only=("backbone.*",), strip_prefix=("backbone.",))
    assert stripped["1"] == {"version": 2}
    assert "head" not in stripped
    net.backbone.load_state_dict(
        {k.removeprefix("backbone."): v for k, v in said.items() if k.startswith("backbone.")}, strict=True
    )
    wrapped = after(add_prefix=("m.",))
    assert wrapped["m.backbone.1"] == {"version": 2}
