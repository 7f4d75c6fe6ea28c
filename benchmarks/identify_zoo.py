"""How well `convert identify` tells architectures apart, over every model of the table.

    python -m benchmarks.identify_zoo [--models 746] [--json benchmarks/results/identify.json]

It needs ``build/signatures/`` as ``python -m benchmarks.build_signatures --stage collect`` leaves it. State dicts are (key, shape) lists
of really built models, disturbed as files in the wild are. A model counts as right when its class comes first (or in the first three).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.build_signatures import collected
from convert.identify import IDENTIFIED, identify
from convert.signatures.match import compare
from convert.signatures.table import Table
from convert.signatures.tokens import Shape, derived

Entries = dict[str, Shape]
Row = dict[str, Any]


def as_is(row: Row, dice: random.Random) -> Entries:
    return dict(row["entries"])


def prefixed(row: Row, dice: random.Random) -> Entries:
    prefix = dice.choice(["module.", "backbone.", "model.", "module.model.", "encoder.", "net."])
    return {prefix + key: shape for key, shape in row["entries"]}


def headless(row: Row, dice: random.Random) -> Entries:
    return {key: shape for key, shape in row["entries"] if key not in row["head"]}


def without_counters(row: Row, dice: random.Random) -> Entries:
    return {key: shape for key, shape in row["entries"] if not derived(key)}


def ten_classes(row: Row, dice: random.Random) -> Entries | None:
    return None if row["ten"] is None else dict(row["ten"])


def moco_dump(row: Row, dice: random.Random) -> Entries:
    """`module.encoder_q.`, its momentum copy, a projection head for both, and the queue."""
    body = headless(row, dice)
    found: Entries = {}
    for encoder in ("module.encoder_q.", "module.encoder_k."):
        found |= {encoder + key: shape for key, shape in body.items()}
        found |= {encoder + "fc.0.weight": (2048, 2048), encoder + "fc.0.bias": (2048,)}
        found |= {encoder + "fc.2.weight": (128, 2048), encoder + "fc.2.bias": (128,)}
    return found | {"module.queue": (128, 65536), "module.queue_ptr": (1,)}


def extra_keys(row: Row, dice: random.Random) -> Entries:
    more = {f"decoder.layers.{at}.weight": (dice.randrange(8, 512), dice.randrange(8, 512)) for at in range(14)}
    return dict(row["entries"]) | more


def fifth_missing(row: Row, dice: random.Random) -> Entries:
    kept = [entry for entry in row["entries"] if dice.random() >= 0.2]
    return dict(kept or row["entries"][:1])


def one_channel(row: Row, dice: random.Random) -> Entries | None:
    """The first convolution over an image, for one channel."""
    entries = dict(row["entries"])
    seeing = [key for key, shape in row["entries"] if len(shape) in (4, 5) and shape[1] == 3 and key not in row["head"]]
    if not seeing:
        return None
    for key in seeing:
        entries[key] = (entries[key][0], 1, *entries[key][2:])
    return entries


def positions_near(row: Row, dice: random.Random) -> Entries | None:
    """Position embeddings as for an input larger by one patch a side."""
    return _positions(row, 1)


def positions_far(row: Row, dice: random.Random) -> Entries | None:
    """Position embeddings as for an input larger by seven patches a side: often near a sibling made for that size."""
    return _positions(row, 7)


def _positions(row: Row, more: int) -> Entries | None:
    entries = dict(row["entries"])
    changed = False
    for key, shape in row["entries"]:
        if "relative_position_bias_table" in key and len(shape) == 2:
            width = (int(shape[0] ** 0.5) + 1) // 2
            if (2 * width - 1) ** 2 == shape[0]:
                entries[key] = ((2 * (width + more) - 1) ** 2, shape[1])
                changed = True
        elif "pos_embed" in key.lower() and len(shape) == 3 and shape[0] == 1 and shape[1] > 16:
            extra = shape[1] - int(shape[1] ** 0.5) ** 2
            side = int(shape[1] ** 0.5) + more
            entries[key] = (1, side * side + (extra if extra < 4 else 0), shape[2])
            changed = True
        elif "pos_embed" in key.lower() and len(shape) == 4 and shape[2] == shape[3]:
            entries[key] = (*shape[:2], shape[2] + more, shape[3] + more)
            changed = True
    return entries if changed else None


def renamed(row: Row, dice: random.Random) -> Entries:
    return {f"param_{at:05d}": shape for at, (_, shape) in enumerate(row["entries"])}


def renamed_shuffled(row: Row, dice: random.Random) -> Entries:
    shapes = [shape for _, shape in row["entries"]]
    dice.shuffle(shapes)
    return {f"param_{at:05d}": shape for at, shape in enumerate(shapes)}


DISTURBANCES: dict[str, Callable[[Row, random.Random], Entries | None]] = {
    "as is": as_is, "prefixed": prefixed, "headless": headless, "10-class build": ten_classes, "MoCo dump": moco_dump,
    "14 extra keys": extra_keys, "20 % missing": fifth_missing, "1 input channel": one_channel,
    "positions, 1 more a side": positions_near, "positions, 7 more a side": positions_far,
    "all keys renamed": renamed, "renamed and shuffled": renamed_shuffled,
}  # fmt: skip


class Without:
    """The table less one class, for what it says of an architecture that it does not know."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.left_out = -1
        self.names, self.shapes = _Less(self, table.names), _Less(self, table.shapes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)


class _Less:
    def __init__(self, owner: Without, postings: Any) -> None:
        self._owner, self._postings = owner, postings

    def count(self, hashes: set[int]) -> Any:
        found = self._postings.count(hashes)
        found.pop(self._owner.left_out, None)
        return found


def _asked(entries: Entries) -> dict[str, tuple[Shape, str]]:
    return {key: (shape, "float32") for key, shape in entries.items()}


def measure(rows: list[Row], seed: int) -> dict[str, Any]:
    """Right first and in three, and how long it took, for every disturbance; and the open set."""
    table = Table()
    number_of = {member.name: number for number in range(table.classes) for member in table.signature(number).members}
    outcome: dict[str, Any] = {}
    for name, disturb in DISTURBANCES.items():
        dice = random.Random(seed)
        first = three = kin = asked = surely = wrongly = 0
        seconds, wrong = [], []
        for row in rows:
            entries = disturb(row, dice)
            if entries is None:
                continue
            asked += 1
            begun = time.process_time()
            result = identify(_asked(entries), table=table)
            seconds.append(time.process_time() - begun)
            true = number_of[f"{row['library']}:{row['name']}"]
            ranked = [found.signature.number for found in (result.best, *result.others) if found is not None]
            right = ranked[:1] == [true]
            first += right
            three += true in ranked[:3]
            kin += right or _resized(table, row, ranked[:1])
            surely += right and result.status in ("identified", "renamed")
            wrongly += not right and result.status == "identified"
            if not right:
                wrong.append(f"{row['library']}:{row['name']}")
        outcome[name] = {
            "models": asked, "first": first / asked, "in three": three / asked, "first or resized": kin / asked,
            "said surely": surely / asked, "wrong and sure": wrongly / asked,
            "median ms": 1e3 * statistics.median(seconds), "max ms": 1e3 * max(seconds),
            "wrong": wrong[:40],
        }  # fmt: skip
        print(_line(name, outcome[name]), flush=True)
    return {"disturbances": outcome, "open set": _open_set(rows, table, number_of)}


def _resized(table: Table, row: Row, ranked: list[int]) -> bool:
    """Whether the class found is the right one but for the size of its position embeddings."""
    own = {key: shape for key, shape in row["entries"] if not derived(key)}
    return any(compare(table.signature(number), own).resized_coverage >= IDENTIFIED for number in ranked)


def _line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name:<26}{row['models']:>7}{row['first']:>9.1%}{row['in three']:>10.1%}{row['first or resized']:>18.1%}"
        f"{row['said surely']:>13.1%}{row['wrong and sure']:>16.2%}{row['median ms']:>11.1f}{row['max ms']:>9.1f}"
    )


def _open_set(rows: list[Row], table: Table, number_of: dict[str, int]) -> dict[str, Any]:
    """What is said of each model when its class is not in the table."""
    less = Without(table)
    coverages, said = [], []
    for row in rows:
        less.left_out = number_of[f"{row['library']}:{row['name']}"]
        result = identify(_asked(dict(row["entries"])), table=less)  # type: ignore[arg-type]
        coverages.append(0.0 if result.best is None or result.best.rename is not None else result.best.coverage)
        if result.status == "identified":
            said.append(f"{row['library']}:{row['name']} as {result.member.name if result.member else ''}")
    found = {
        "models": len(rows),
        "coverage >= 0.97": sum(value >= 0.97 for value in coverages) / len(rows),
        f"coverage >= {IDENTIFIED}": sum(value >= IDENTIFIED for value in coverages) / len(rows),
        "said to be another": said,
    }
    print(f"\nopen set, {len(rows)} models: best wrong coverage ≥ 0.97 for {found['coverage >= 0.97']:.1%}, "
          f"≥ {IDENTIFIED} for {found[f'coverage >= {IDENTIFIED}']:.2%}")  # fmt: skip
    for line in said:
        print(f"  {line}")
    return found


def cold(rows: list[Row], work: Path) -> dict[str, float]:
    """Milliseconds in a fresh process: importing, and the first question, files of the table included (CPU time)."""
    code = (
        "import time, sys, json; a = time.process_time(); from convert.identify import identify; b = time.process_time();"
        "d = {k: (tuple(s), 'float32') for k, s in json.load(open(sys.argv[1]))};"
        "c = time.process_time(); identify(d); e = time.process_time();"
        "print(json.dumps([b - a, e - c])); assert not {'torch', 'numpy', 'timm'} & set(sys.modules)"
    )
    imports, firsts = [], []
    path = work / "question.json"
    for row in rows:
        path.write_text(json.dumps(row["entries"]))
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        one, other = json.loads(done.stdout)
        imports.append(1e3 * one)
        firsts.append(1e3 * other)
    path.unlink()
    return {"import ms": statistics.median(imports), "first ms, median": statistics.median(firsts), "first ms, max": max(firsts)}


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/signatures"))
    parser.add_argument("--models", type=int, default=None, help="a random sample of so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    rows = list(collected(options.work))
    if options.models is not None:
        rows = random.Random(options.seed).sample(rows, options.models)
    heads = f"{'first':>9}{'in three':>10}{'first or resized':>18}{'said surely':>13}{'wrong and sure':>16}{'median ms':>11}{'max ms':>9}"
    print(f"{'':<26}{'models':>7}{heads}")
    outcome = measure(rows, options.seed)
    outcome["cold"] = cold(random.Random(options.seed).sample(rows, min(25, len(rows))), options.work)
    print("fresh process: " + ", ".join(f"{name} {value:.1f}" for name, value in outcome["cold"].items()))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"seed": options.seed, "table": Table().libraries, **outcome}, indent=2) + "\n")


if __name__ == "__main__":
    main()
