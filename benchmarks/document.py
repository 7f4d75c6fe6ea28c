"""Put the committed figures into docs/performance.md, its pictures and the README, so that no figure stands there that was not measured.

    python -m benchmarks.document                write them
    python -m benchmarks.document --check        exit 1 where they are not what would be written (part of ``make lint``)

Only what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` is written; the rest of the two files is prose.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import history, plots
from benchmarks.contenders import CONVERT, CP, NAIVE, SYNCED, UNSYNCED, UNVERIFIED
from benchmarks.figures import MB, Spread, Target
from benchmarks.measuring import ROOT, Series

PAGE, README, PICTURES = ROOT / "docs" / "performance.md", ROOT / "README.md", ROOT / "docs" / "performance"
HEADLINE = "zip-500M-300"


class Result:
    """The committed result, by case."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.cases: dict[str, dict[str, Any]] = document["cases"]
        self.series: dict[str, Series] = {name: history.series(case) for name, case in self.cases.items() if "rounds" in case}

    def spread(self, case: str, contender: str, quantity: str, base: str = "") -> Spread | None:
        """Of a figure, or None where nobody ran."""
        if case not in self.series:
            return None
        values = Target(contender, quantity, 0, base).values(self.series[case])
        return Spread.of(values) if values else None


def written(document: dict[str, Any]) -> dict[Path, str]:
    """{file: text} of everything that is made from ``document``."""
    result = Result(document)
    files = {PICTURES / name: text for name, text in pictures(result)}
    page = _between(PAGE.read_text(encoding="utf-8"), "run", run_text(document))
    page = _between(page, "targets", targets_table(result))
    files[PAGE] = _between(page, "figures", figures_table(result))
    files[README] = _between(README.read_text(encoding="utf-8"), "speed", sentence(result))
    return files


def _between(text: str, name: str, inner: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{begin} … {end} does not stand there once")
    return re.sub(re.escape(begin) + ".*" + re.escape(end), lambda _: f"{begin}\n{inner}\n{end}", text, flags=re.DOTALL)


def run_text(document: dict[str, Any]) -> str:
    machine = document["machine"]
    kept = [case for case in document["cases"].values() if "rounds" in case]
    thrown, repeated, disturbed = (sum(case[key] for case in kept) for key in ("thrown_out", "repeated", "disturbed"))
    noisy = (
        f" **The machine was busy and {disturbed} disturbed runs were kept: these figures are upper bounds.**" if disturbed else ""
    )  # fmt: skip
    return (
        f"Of {document['begun'][:10]}: {machine['cores']} cores ({machine['processor'] or machine['system']}), {machine['system']}, "
        f"Python {machine['python']}, torch {machine['torch']}, safetensors {machine['safetensors']}; "
        f"{repeated} disturbed runs repeated, {thrown} rounds thrown out.{noisy}"
    )


def targets_table(result: Result) -> str:
    rows = [["case", "what", "to reach", "measured", "quartiles", "rounds", ""]]
    for case in result.cases.values():
        if "left_out" in case:
            rows.append([case["title"], "left out", case["left_out"], "", "", "", ""])
        for target in case.get("targets", ()):
            quartiles = f"{target['low']:.3g} – {target['high']:.3g}"
            mark = "reached" if target["reached"] else "**not reached**"
            what = [case["title"], target["contender"], target["target"], target["said"], quartiles, str(target["rounds"]), mark]
            rows.append(what)
    return _table(rows)


def figures_table(result: Result) -> str:
    rows = [["case", "contender", "wall, s", "CPU, s", "peak, MB", "× cp", "× cp + fsync"]]
    for name, series in result.series.items():
        case = result.cases[name]
        for contender in case["contenders"]:
            runs = series.runs(contender)
            wall, cpu = Spread.of([run.wall for run in runs]), Spread.of([run.cpu for run in runs])
            peak = Spread.of([run.peak / MB for run in runs])
            ratios = [result.spread(name, contender, "ratio", base) for base in case["bases"][:2]]
            cells = [f"{ratio.median:.2f}" if ratio is not None else "" for ratio in ratios] + [""] * (2 - len(ratios))
            if case["bases"][0].startswith(("python", "one")):  # nothing is copied there
                cells = ["", ""]
            rows.append([case["title"], contender, f"{wall.median:.3f}", f"{cpu.median:.3f}", f"{peak.median:.1f}", *cells])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def sentence(result: Result) -> str:
    """The README's sentence on speed, whatever it has to say."""
    wall, ratio = result.spread(HEADLINE, CONVERT, "wall"), result.spread(HEADLINE, CONVERT, "ratio", SYNCED)
    faster, peak = result.spread(HEADLINE, CONVERT, "faster", NAIVE), result.spread(HEADLINE, CONVERT, "peak")
    theirs = result.spread(HEADLINE, NAIVE, "peak")
    if wall is None or ratio is None or faster is None or peak is None or theirs is None:
        raise SystemExit(f"the result has no {HEADLINE} with torch")
    return (
        f"500 MB in 300 tensors are converted, verified and on the disk in {wall.median:.2f} s, {ratio.median:.2f} × `cp` and `sync` of "
        f"the same file,\nin {peak.median:.0f} MB of memory; `torch.load` and `save_file` take {faster.median:.1f} times as long, "
        f"{theirs.median:.0f} MB, and neither sync nor verify.\nAll figures: [docs/performance.md](docs/performance.md)."
    )


def pictures(result: Result) -> Iterator[tuple[str, str]]:
    names = [
        name
        for name, case in result.cases.items()
        if name in result.series and CP in case["bases"] and CONVERT in case["contenders"]
    ]
    series = {name: index for index, name in enumerate((CONVERT, UNSYNCED, UNVERIFIED, NAIVE))}
    ratios, peaks = [], []
    for name in names:
        label = result.cases[name]["title"].replace(", .pth → safetensors", "").replace(" → safetensors", "")
        found = {each: result.spread(name, each, "ratio", SYNCED if each == CONVERT else CP) for each in series}
        limits = {
            target["contender"]: target["limit"] for target in result.cases[name]["targets"] if target["quantity"] == "ratio"
        }  # fmt: skip
        ratios.append(plots.Line(label, {each: spread for each, spread in found.items() if spread is not None}, limits))
        memory = {each: result.spread(name, each, "peak") for each in (CONVERT, NAIVE)}
        limits = {
            target["contender"]: target["limit"] for target in result.cases[name]["targets"] if target["quantity"] == "peak"
        }
        peaks.append(plots.Line(label, {each: spread for each, spread in memory.items() if spread is not None}, limits))
    title = "Time, in units of cp of the same file (convert with fsync: of cp + fsync)"
    yield "time.svg", plots.dots(title, "× cp; a tick is what is to be reached", ratios, series)
    yield (
        "memory.svg",
        plots.dots(
            "Peak memory", "MB; a tick is what is to be reached", peaks, {name: series[name] for name in (CONVERT, NAIVE)}
        ),
    )
    panels = []
    for name, case in result.cases.items():
        if "growth" not in case:
            continue
        found_growth, base = case["growth"], case["bases"][0]
        costs = [result.spread(name, str(size), "over", base) for size in found_growth["sizes"]]
        seconds = [Spread(*(max(value, 0.1) / 1000 for value in (c.median, c.low, c.high))) for c in costs if c is not None]
        said = f"exponent {found_growth['exponent']:.2f} ({found_growth['low']:.2f} – {found_growth['high']:.2f})"
        panels.append(plots.Growth(name.removeprefix("growth-"), found_growth["sizes"], seconds, said))
    if panels:
        yield "growth.svg", plots.growth(panels)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    files = written(json.loads(history.COMMITTED.read_text(encoding="utf-8")))
    if arguments:
        stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the result says: python -m benchmarks.document", file=sys.stderr)
        return 1 if stale else 0
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
