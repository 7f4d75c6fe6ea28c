"""The two parsers of the default command read every argument list alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert import cli, console, plain
from convert.__main__ import main
from convert.job import DTYPES, KEEPS, LEVELS, TIES, Job

NAMES = st.sampled_from(
    ["in.pth", "a b.pth.tar", "./inspect", "é.pt", "x=y", "-", "model.ckpt", "source", "verify", "--", "-o", "--to"]
)
VALUES = st.sampled_from(["safetensors", "pth", "", "a=b", "--force", "-x", "--", "none", "all", "bytes", "run", "out dir/f"])


def both(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> tuple[Job | None, Job | None]:
    """(what the plain parser reads, what typer reads); None where it is not the default command or no valid call."""
    seen: list[Job] = []

    def take(job: Job) -> int:
        seen.append(job)
        return 0

    monkeypatch.setattr(console, "default", take)
    monkeypatch.setattr(console, "usage", lambda *_, **__: 2)
    code = cli.main(arguments)
    assert code in (0, 2)
    return plain.parse(arguments), seen[0] if seen else None


@st.composite
def option(draw: Any, values: st.SearchStrategy[str]) -> list[str]:
    name = draw(st.sampled_from([*plain.VALUES, *plain.FLAGS]))
    if name in plain.FLAGS:
        return [name]
    allowed = plain.CHOICES.get(plain.VALUES[name])
    value = draw(values if allowed is None else st.one_of(st.sampled_from(allowed), values))
    if name.startswith("--"):
        return draw(st.sampled_from([[name, value], [f"{name}={value}"]]))
    return draw(st.sampled_from([[name, value], [f"{name}{value}"] if value else [name, value]]))


VALID_VALUES = st.sampled_from(["safetensors", "a=b", "--force", "-x", "out dir/f", "é"])


@st.composite
def valid(draw: Any) -> list[str]:
    """A call that every grammar accepts."""
    parts = [["--to", draw(VALID_VALUES)]]
    for name in draw(st.lists(st.sampled_from(["--select", "--out-dir", "-o", "--output"]), max_size=3)):
        parts.append([name, draw(VALID_VALUES)])
    for name, allowed in (("--verify", LEVELS), ("--keep", KEEPS), ("--tied", TIES), ("--dtype", tuple(DTYPES))):
        if draw(st.booleans()):
            parts.append([f"{name}={draw(st.sampled_from(allowed))}"])
    parts += [[flag] for flag in draw(st.lists(st.sampled_from(sorted(plain.FLAGS)), max_size=4))]
    parts += [
        [name]
        for name in draw(st.lists(st.sampled_from(["in.pth", "./inspect", "-", "a=b", "é.pt", "source"]), min_size=1, max_size=3))
    ]
    parts = draw(st.permutations(parts))
    ending = draw(st.sampled_from([[], ["--"], ["--", "--to", "-o"]]))
    return [word for part in parts for word in part] + ending


@settings(max_examples=100, deadline=None)
@given(valid())
def test_valid_calls_are_read_alike_and_without_typer(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fast, slow = both(monkeypatch, arguments)
    assert fast is not None
    assert fast == slow


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(option(VALUES), NAMES.map(lambda name: [name])), max_size=6).map(
        lambda parts: [w for p in parts for w in p]
    )
)
def test_whatever_the_plain_parser_accepts_typer_reads_the_same(arguments: list[str]) -> None:
    if set(arguments) & {"--help", "-h", "-V"} or (arguments and arguments[0] in plain.COMMANDS):
        return
    if not arguments:
        return
    with pytest.MonkeyPatch.context() as monkeypatch:
        fast, slow = both(monkeypatch, arguments)
    if fast is not None:
        assert fast == slow
    else:
        assert slow is None, "a valid call that the plain parser left to typer"


def test_commands_of_both_parsers_are_the_same() -> None:
    assert {command.name or command.callback.__name__ for command in cli.app.registered_commands} == plain.COMMANDS | {
        cli.DEFAULT
    }


@pytest.mark.parametrize("arguments", [["a.png", "b.jpg"], ["in.jpg", "-resize", "50%", "out.jpg"], ["-size", "10x10", "xc:red"]])
def test_imagemagick_calls_are_told_which_program_this_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "ImageMagick" in said.err
    assert not said.out
