"""The benchmark's own logic: no time for work that was not done, no figure that its rule throws out. No time is judged here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import cases, document, figures, growth, history, inputs, measuring, outputs, plots, runs
from benchmarks.contenders import CONVERT, CP, NAIVE, SYNCED, UNSYNCED, UNVERIFIED
from benchmarks.figures import Spread, Target
from benchmarks.measuring import Contender, Run, Series, TooNoisy


def run_of(wall: float, *, others: float = 0.0, peak: int = 10**7) -> Run:
    return Run(wall, wall, 0.0, peak, others)


# --- outputs -------------------------------------------------------------------------------------------------------------------------


def test_equal_tensors_in_another_order_are_equal(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    tensors = {"a": torch.arange(6.0), "b": torch.arange(4)}
    save_file(tensors, one)
    save_file({**tensors}, other, metadata={"format": "pt"})
    outputs.assert_equal(one, other)


CHANGED = pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.arange(1.0, 7.0), "b": torch.arange(4)},
        {"a": torch.arange(6.0)},
        {"a": torch.arange(6.0), "b": torch.arange(5)},
    ],
    ids=["value", "key", "shape"],
)


@CHANGED
def test_a_difference_ends_the_measurement(changed: dict[str, torch.Tensor], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_file({"a": torch.arange(6.0), "b": torch.arange(4)}, one)
    save_file(changed, other)
    with pytest.raises(SystemExit, match="differ"):
        outputs.assert_equal(one, other)


def test_a_difference_is_found_by_torch_in_another_container(tmp_path: Path) -> None:
    one, other, third = tmp_path / "one", tmp_path / "other", tmp_path / "third"
    save_file({"a": torch.arange(6.0)}, one)
    torch.save({"a": torch.arange(6.0)}, other)
    torch.save({"a": torch.arange(6.0) + 1}, third, _use_new_zipfile_serialization=False)
    outputs.equal_to_torch(other, one)
    with pytest.raises(SystemExit, match="differ in a"):
        outputs.equal_to_torch(third, one)


def test_the_first_output_is_compared_whole_and_later_ones_by_digest(tmp_path: Path) -> None:
    reference, output = tmp_path / "reference", tmp_path / "output"
    save_file({"a": torch.arange(6.0)}, reference)
    save_file({"a": torch.arange(6.0)}, output, metadata={"by": "us"})
    judge = outputs.Judged(reference)
    judge(output)
    judge(output)
    save_file({"a": torch.arange(6.0)}, output)  # equal tensors, but the same command must write the same bytes
    with pytest.raises(SystemExit, match="wrote before"):
        judge(output)


@pytest.mark.parametrize("kind", inputs.KINDS)
def test_inputs_are_what_their_kind_says(kind: str, tmp_path: Path) -> None:
    path, reference = tmp_path / "in", tmp_path / "reference"
    inputs.make(path, 40_000, 4, kind, reference)
    wanted = load_file(reference)
    assert len(wanted) == 4
    assert 0.9 * 40_000 < sum(tensor.nbytes for tensor in wanted.values()) <= 40_000
    if kind == "safetensors":
        return
    assert (path.read_bytes()[:2] == b"PK") is (kind != "legacy")
    found = torch.load(path, weights_only=True)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert all(tensor.is_contiguous() for tensor in found.values()) is (kind not in ("strided", "channels-last"))
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == (1 if kind == "rnn" else 4)


def test_no_two_files_of_a_tree_are_equal(tmp_path: Path) -> None:
    """A migration converts equal files once, and a loop of cp does not."""
    inputs.make_tree(tmp_path / "tree", 10_000, 3, 4)
    files = sorted((tmp_path / "tree").iterdir())
    assert len({outputs.sha256(path) for path in files}) == len(files) == 4
    outputs.equal_to_torch(files[0], tmp_path / "tree.first")
    outputs.equal_to_torch(files[-1], tmp_path / "tree.last")


# --- runs ----------------------------------------------------------------------------------------------------------------------------


def test_a_failing_command_ends_the_measurement(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="exit 3"):
        measuring.measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")


def test_memory_is_the_command_s_own(tmp_path: Path) -> None:
    """This process holds torch; what it measures must not."""
    small = measuring.measure([sys.executable, "-S", "-c", "pass"], tmp_path / "log")
    large = measuring.measure([sys.executable, "-S", "-c", "x = b'1' * (100 << 20)"], tmp_path / "log")
    assert small.peak < 30 << 20
    assert large.peak > 100 << 20


def test_unsynced_takes_fsync_away_and_nothing_else(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import os; assert os.fsync(99) is None and os.fdatasync(99) is None"]
    measuring.measure(argv, tmp_path / "log", synced=False)
    with pytest.raises(SystemExit, match="Bad file descriptor"):
        measuring.measure(argv, tmp_path / "log")


@pytest.mark.skipif(not hasattr(measuring.os, "sched_setaffinity"), reason="the system has no affinities")
def test_a_contender_can_have_one_core(tmp_path: Path) -> None:
    core = min(measuring.os.sched_getaffinity(0))
    measuring.measure(
        [sys.executable, "-c", f"import os; assert os.sched_getaffinity(0) == {{{core}}}"], tmp_path / "log", core=core
    )


# --- the rule for disturbed runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wall", "others", "disturbed"), [(1.0, 0.119, False), (1.0, 0.121, True), (0.04, 0.02, False), (0.04, 0.03, True)]
)
def test_a_run_is_disturbed_by_a_tenth_of_a_core(wall: float, others: float, disturbed: bool) -> None:
    assert run_of(wall, others=others).disturbed is disturbed


def played(script: dict[str, Iterator[float]]) -> tuple[list[Contender], list[str], Callable[[Contender, Path], Run]]:
    """Contenders whose runs are disturbed as a script says: each number is the CPU time of others in a run of one second."""
    order: list[str] = []

    def once(contender: Contender, log: Path) -> Run:
        order.append(contender.name)
        return run_of(1.0, others=next(script[contender.name]))

    return [Contender(name, []) for name in script], order, once


def test_rounds_turn_and_pair(tmp_path: Path) -> None:
    contenders, order, once = played({name: iter([0.0] * 9) for name in "abc"})
    series = measuring.alternate(contenders, 3, tmp_path, once=once)
    assert "".join(order) == "abcbcacab"
    assert [sorted(kept) for kept in series.rounds] == [["a", "b", "c"]] * 3


def test_a_disturbed_run_is_repeated(tmp_path: Path) -> None:
    contenders, order, once = played({"a": iter([0.0] * 9), "b": iter([1.0, 0.0, 0.0, 0.0])})
    series = measuring.alternate(contenders, 3, tmp_path, once=once)
    assert "".join(order) == "abbbaab"
    assert (series.repeated, series.thrown_out, len(series.rounds)) == (1, 0, 3)
    assert not any(run.disturbed for kept in series.rounds for run in kept.values())


def test_a_round_that_stays_disturbed_is_thrown_out(tmp_path: Path) -> None:
    contenders, _, once = played({"a": iter([0.0] * 9), "b": iter([1.0] * measuring.TRIES + [0.0] * 9)})
    series = measuring.alternate(contenders, 3, tmp_path, once=once)
    assert (series.thrown_out, len(series.rounds)) == (1, 3)


def test_a_noisy_machine_gives_no_figure(tmp_path: Path) -> None:
    contenders, order, once = played({"a": iter([1.0] * 999)})
    with pytest.raises(TooNoisy, match="0 of 7"):
        measuring.alternate(contenders, 7, tmp_path, once=once)
    assert len(order) == 7 * measuring.PATIENCE * measuring.TRIES


def test_disturbed_runs_are_kept_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    contenders, order, once = played({"a": iter([1.0] * 999)})
    series = measuring.alternate(contenders, 7, tmp_path, once=once, keep_disturbed=True)
    assert len(order) == len(series.rounds) == series.disturbed == 7


def test_what_takes_long_runs_in_some_rounds(tmp_path: Path) -> None:
    numbers = count(1)
    contenders = [Contender("a", []), Contender("slow", [], every=3)]
    series = measuring.alternate(contenders, 7, tmp_path, once=lambda contender, log: run_of(float(next(numbers))))
    assert ["slow" in kept for kept in series.rounds] == [True, False, False, True, False, False, True]
    assert len(Target("a", "faster", 1, "slow").values(series)) == 3


# --- figures -------------------------------------------------------------------------------------------------------------------------


def of_walls(**walls: list[float]) -> Series:
    return Series([dict(zip(walls, map(run_of, row), strict=True)) for row in zip(*walls.values(), strict=True)])


def test_ratios_are_those_of_each_round() -> None:
    """The machine became three times slower meanwhile: a ratio of medians would not see that both were equal throughout."""
    series = of_walls(ours=[1.0, 2.0, 9.0], cp=[1.0, 2.0, 3.0])
    assert Target("ours", "ratio", 1.0, "cp").values(series) == [1.0, 1.0, 3.0]
    assert Spread.of([1.0, 1.0, 3.0]).median == 1.0


@pytest.mark.parametrize(
    ("target", "value", "reached", "text"),
    [
        (Target("ours", "ratio", 2.0, "cp"), 2.25, False, "≤ 2 × cp"),
        (Target("ours", "ratio", 2.0, "cp", allowance=0.125), 2.0, True, "≤ 2 × cp + 125 ms"),
        (Target("ours", "over", 700, "cp"), 625.0, True, "≤ 700 ms over cp"),
        (Target("ours", "wall", 1.0), 1.125, False, "≤ 1 s"),
        (Target("ours", "peak", 10), 10.0, True, "≤ 10 MB peak"),
        (Target("cp", "faster", 2, "ours"), 2.25, True, "≥ 2 × faster than ours"),
        (Target("ours", "rate", 9, count=9), 8.0, False, "≥ 9 files/s"),
    ],
)
def test_a_target_is_what_it_says(target: Target, value: float, reached: bool, text: str) -> None:
    series = of_walls(ours=[1.125] * 3, cp=[0.5] * 3)
    assert target.values(series) == [pytest.approx(value)] * 3
    assert target.reached(value) is reached
    assert target.text == text
    assert [entry["reached"] for entry in figures.documents([target], series)] == [reached]


def test_a_figure_without_runs_is_no_figure() -> None:
    assert list(figures.documents([Target("torch", "wall", 1.0)], of_walls(ours=[1.0]))) == []


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_its_power(power: float) -> None:
    assert figures.exponent([10, 100, 1000], [3 * size**power for size in (10, 100, 1000)]) == pytest.approx(power)


def test_growth_takes_off_what_is_paid_once() -> None:
    case = cases.Case("growth-files", "", "growth")
    rounds = [{growth.BASE: run_of(0.5), **{str(size): run_of(0.5 + size / 100) for size in growth.FILES}}] * 3
    assert growth.document(case, Series(rounds)) == {
        "sizes": list(growth.FILES), "exponent": 1.0, "low": 1.0, "high": 1.0, "steps": [1.0, 1.0],
    }  # fmt: skip


# --- against an earlier result -------------------------------------------------------------------------------------------------------


def result(ours: list[float], cp: list[float], *, peak: int = 10**7, processor: str = "one") -> dict[str, object]:
    return {
        "begun": "2026-01-01",
        "machine": {"python": "3.11", "processor": processor},
        "cases": {
            "case": {
                "bases": ["cp"], "contenders": ["convert", "cp"],
                "rounds": [[run_of(one, peak=peak), run_of(other)] for one, other in zip(ours, cp, strict=True)],
            }
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("now", "slower"),
    [
        ([1.3, 1.31, 1.32], True),
        ([1.05, 1.06, 1.07], False),  # within the margin
        ([0.9, 1.2, 1.3], False),  # the quartiles overlap
        ([0.5, 0.5, 0.5], False),
    ],
)
def test_slower_is_beyond_the_noise(now: list[float], slower: bool) -> None:
    before = result([0.9, 1.0, 1.1], [1.0] * 3, processor="another")
    found = {change.quantity: change for change in history.changes(before, result(now, [1.0] * 3))}
    assert found.keys() == {"ratio", "peak"}  # seconds of another machine say nothing
    assert found["ratio"].slower is slower
    assert found["ratio"].faster is (now[0] == 0.5)


def test_a_slower_machine_is_no_slowdown() -> None:
    found = list(history.changes(result([1.0] * 3, [1.0] * 3), result([2.0] * 3, [2.0] * 3, processor="another")))
    assert not any(change.slower for change in found)


def test_more_memory_is_seen() -> None:
    found = list(history.changes(result([1.0] * 3, [1.0] * 3), result([1.0] * 3, [1.0] * 3, peak=2 * 10**7)))
    assert [change.quantity for change in found if change.slower] == ["peak"]


def test_the_report_names_what_is_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "before.json"
    path.write_text(history.dumped(result([1.0] * 3, [1.0] * 3)))
    before = history.read(path)
    assert history.report(result([1.0] * 3, [1.0] * 3), before, "before.json") == []
    assert (
        len(history.report(result([2.0] * 3, [1.0] * 3), before, "before.json")) == 2
    )  # the ratio, and the seconds of the same machine
    assert "worse: case, convert: 1 → 2 × cp" in capsys.readouterr().out


# --- all of it, on tiny inputs -------------------------------------------------------------------------------------------------------


def bench(tmp_path: Path) -> runs.Bench:
    return runs.Bench(tmp_path, rounds=1, keep_disturbed=True)


@pytest.mark.parametrize("kind", ["strided", "safetensors"])
def test_a_small_input_is_measured_and_removed(kind: str, tmp_path: Path) -> None:
    case = cases.Case("small", "small", kind, 100_000, 5)
    series, bases = runs.run(case, bench(tmp_path))
    assert bases == [CP, SYNCED]
    assert [set(kept) for kept in series.rounds] == [{CP, SYNCED, CONVERT, UNSYNCED, UNVERIFIED, NAIVE}]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["log"]
    assert "cp + fsync" in "\n".join(figures.rows(series, bases))


def test_a_small_tree_is_measured_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SMALL", 1000)
    series, bases = runs.run(cases.Case("tree", "tree", "migrate", 10_000, 3, files=6), bench(tmp_path))
    assert bases == ["loop of cp", "loop of cp + fsync"]
    assert len(series.rounds[0]) == 4
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["log"]


def test_trees_of_many_small_files_are_removed_at_the_end_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed from one run to the next, and nothing is left."""
    removed: list[str] = []
    remove = measuring.shutil.rmtree
    monkeypatch.setattr(measuring.shutil, "rmtree", lambda path: removed.append(path.name) or remove(path))
    case = cases.Case("tree", "tree", "migrate", 10_000, 3, files=6)
    series, bases = runs.run(case, runs.Bench(tmp_path, rounds=2, keep_disturbed=True))
    assert bases == ["cp -r"]
    assert len(series.rounds) == 2
    assert removed == ["out", "tree-10000-3-6"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["log"]


def test_every_target_is_of_a_contender_that_its_case_has() -> None:
    known = {CP, SYNCED, CONVERT, UNSYNCED, UNVERIFIED, NAIVE}
    for case in cases.CASES:
        if case.kind in inputs.KINDS:
            assert all({target.contender, target.base or CP} <= known for target in case.targets), case.name
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)


# --- documents and profiles ----------------------------------------------------------------------------------------------------------


def test_the_documents_are_what_the_committed_result_says() -> None:
    assert document.main(["--check"]) == 0


def test_a_figure_that_was_not_measured_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "performance.md"
    text = document.PAGE.read_text(encoding="utf-8")
    page.write_text(re.sub(r"\d ×", "0 ×", text), encoding="utf-8")
    monkeypatch.setattr(document, "PAGE", page)
    monkeypatch.setattr(document, "ROOT", tmp_path)
    assert document.main(["--check"]) == 1
    assert "performance.md is not what the result says" in capsys.readouterr().err


def test_every_case_has_its_place_in_the_documents() -> None:
    """Figures of any case can be written down, whichever contenders it has."""
    bases = {"start": ["python -c pass"], "migrate": ["loop of cp"], "growth": [growth.BASE]}
    found = {}
    for case in cases.CASES:
        if case.kind == "onnx":
            found[case.name] = {"title": case.title, "left_out": "no time"}
            continue
        own = bases.get(case.kind, [CP, SYNCED])
        names = dict.fromkeys([*own, *(name for target in case.targets for name in (target.contender, target.base) if name)])
        if case.name == document.HEADLINE:
            names |= dict.fromkeys([NAIVE, CONVERT])
        if case.kind == "growth":
            names |= dict.fromkeys(map(str, growth.sizes(case)))
        series = Series([{name: run_of(1.0 + number) for number, name in enumerate(names)}] * 3)
        found[case.name] = {
            "title": case.title, "bases": own, "contenders": list(names), "thrown_out": 0, "repeated": 0, "disturbed": 0,
            "rounds": [list(kept.values()) for kept in series.rounds], "targets": list(figures.documents(case.targets, series)),
        }  # fmt: skip
        if case.kind == "growth":
            found[case.name]["growth"] = growth.document(case, series)
    machine = {"cores": 2, "processor": "one", "system": "Linux", "python": "3.11", "torch": "2", "safetensors": "0"}
    files = document.written({"begun": "2026-01-01", "machine": machine, "cases": found})
    assert all(case.title in files[document.PAGE] for case in cases.CASES)
    assert "The machine was busy" not in files[document.PAGE]
    assert {path.name for path in files} == {"performance.md", "README.md", "time.svg", "memory.svg", "growth.svg"}
    for path, text in files.items():
        if path.suffix == ".svg":
            ElementTree.fromstring(text)


def test_pictures_are_drawn_to_scale() -> None:
    line = plots.Line("a < b", {"ours": Spread(1.0, 0.5, 2.0), "theirs": Spread(100.0, 100.0, 100.0)}, {"ours": 10.0})
    drawn = ElementTree.fromstring(plots.dots("title", "× cp", [line], {"ours": 0, "theirs": 1}))
    names = {"svg": "http://www.w3.org/2000/svg"}
    assert "a < b" in [text.text for text in drawn.iterfind("svg:text", names)]
    ours, theirs = drawn.findall("svg:circle", names)[-1], drawn.findall("svg:path", names)[-1]
    limit = next(
        rule
        for rule in drawn.iterfind("svg:line", names)
        if rule.get("stroke") == plots.COLOURS[0] and rule.get("x1") == rule.get("x2")
    )
    x = float(ours.attrib["cx"])
    middle = float(limit.attrib["x1"])
    assert float(theirs.attrib["d"][1:].split()[0]) - middle == pytest.approx(middle - x, abs=0.3)  # 1, 10, 100


def test_a_profile_shows_imports_and_calls(tmp_path: Path) -> None:
    source = tmp_path / "in.pth"
    torch.save({"weight": torch.arange(4.0)}, source)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.profile", str(source), "--to", "safetensors"],
        capture_output=True, text=True, check=False, cwd=measuring.ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"ms  convert \(\d+ modules\)", done.stdout)
    assert re.search(r"100\.0% .* convert/__main__\.py:\d+ main", done.stdout)
    assert re.search(r"pipeline\.py:\d+ run", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
