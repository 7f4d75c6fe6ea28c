"""Build ``convert/signatures/architectures.bin`` from every architecture of the installed torchvision and timm.

    python -m benchmarks.build_signatures              # an hour on two cores if no class has been run yet; needs timm and torchvision

Three stages: ``collect`` builds all models on the meta device and keeps what they are under ``build/signatures/``; ``groups`` runs the
members of every class of equal state dicts on equal weights and keeps the outcome under ``benchmarks/results/``; ``encode`` writes the
table. The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import subprocess
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import zoo_facts
from benchmarks.member_groups import GROUPS
from convert.signatures.table import MAGIC, PATH, VERSION
from convert.signatures.tokens import Shape, derived, key_hash, shape_hashes, sketch

SKETCH = 40  # hashes a class; the spread of an estimated coverage is about 1 / (2 √SKETCH)
BLOCK = 24  # classes a block: small enough to inflate in a few milliseconds
Row = dict[str, Any]


def main() -> None:
    """Parse, run the asked stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("all", "collect", "groups", "encode"), default="all")
    parser.add_argument("--work", type=Path, default=Path("build/signatures"))
    parser.add_argument("--out", type=Path, default=PATH)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--part", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.part is not None:
        _collect_part(options.work, options.part, options.jobs)
        return
    if options.stage in ("all", "collect"):
        _in_parts(options.work, options.jobs)
    if options.stage in ("all", "groups"):
        subprocess.run([sys.executable, "-m", "benchmarks.member_groups", "--work", str(options.work)], check=True)
    if options.stage in ("all", "encode"):
        rows = list(collected(options.work))
        groups = json.loads(GROUPS.read_text())
        options.out.write_bytes(encode(rows, groups, _versions()))
        print(f"{options.out}: {len(rows)} models, {options.out.stat().st_size:,} bytes")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name).partition("+")[0] for name in ("timm", "torchvision", "torch")}


def _in_parts(work: Path, jobs: int) -> None:
    command = [sys.executable, "-m", "benchmarks.build_signatures", "--work", str(work), "--jobs", str(jobs), "--part"]
    running = [subprocess.Popen([*command, str(part)]) for part in range(jobs)]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("a collecting process failed")


def _collect_part(work: Path, part: int, parts: int) -> None:
    import warnings

    import torch

    from benchmarks import zoo_models

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    jobs = [(library, name) for library in zoo_models.LIBRARIES for name in zoo_models.names(library)][part::parts]
    with gzip.open(work / f"models{part}.jsonl.gz", "wt", compresslevel=1) as file:
        for library, name in jobs:
            with zoo_models.weightless():
                model = zoo_models.build(library, name)
                small = _small(library, name)
            row = {
                "library": library, "name": name, "entries": zoo_models.entries(model), "small": small,
                "configuration": zoo_models.configuration(model), "preprocessing": zoo_models.preprocessing(library, name, model),
            }  # fmt: skip
            print(json.dumps(row), file=file)


def _small(library: str, name: str) -> list[Any] | None:
    from benchmarks import zoo_models

    try:
        return list(zoo_models.entries(zoo_models.build(library, name, classes=10)))
    except (TypeError, RuntimeError, AssertionError, ValueError) as error:  # an architecture whose head cannot be told to change
        print(f"{library}:{name} has no 10-class build: {type(error).__name__}: {error!s:.120}", file=sys.stderr)
        return None


def collected(work: Path) -> Iterator[Row]:
    """What `collect` kept, shapes as tuples, the heads found: ``head`` maps a key to its shape, ``ten`` is the 10-class build."""
    rows = []
    for path in sorted(work.glob("models*.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            rows += [json.loads(line) for line in file]
    for row in sorted(rows, key=lambda row: (row["library"] != "torchvision", row["name"])):
        row["entries"] = [(key, tuple(shape)) for key, shape in row["entries"] if not derived(key)]
        small = row.pop("small")
        row["ten"] = None if small is None else [(key, tuple(shape)) for key, shape in small]
        row["head"] = head_keys(dict(row["entries"]), small)
        yield row


def head_keys(own: dict[str, Shape], small: list[Any] | None) -> dict[str, Shape]:
    """Keys whose shape follows the number of classes; where the library's default has no head, those that a 10-class build adds."""
    if small is None:
        return {}
    other = {key: tuple(shape) for key, shape in small if not derived(key)}
    changed = {key: shape for key, shape in own.items() if key in other and other[key] != shape}
    gone = {key: shape for key, shape in own.items() if key not in other}
    added = {key: shape for key, shape in other.items() if key not in own}
    return {**changed, **gone, **added} if changed or not gone else {**gone, **added}


def classes_of(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows whose state dicts have the same keys and, the head aside, the same shapes, in the order of their first members."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        head = row["head"]
        body = tuple(sorted((key, shape) for key, shape in row["entries"] if key not in head))
        found.setdefault((body, tuple(sorted(head))), []).append(row)
    return sorted(found.values(), key=lambda members: _family(members[0]))


def _family(row: Row) -> tuple[str, str]:
    # Neighbours share tokens, and a block holds neighbours.
    own = next((cls for name, cls, _ in row["configuration"] if name == ""), "")
    return own.rpartition(".")[0].rpartition(".")[2].removeprefix("_"), row["name"]


def encode(rows: list[Row], groups: dict[str, list[Any]], versions: dict[str, str]) -> bytes:
    """The table's bytes. ``groups``: per class, by its first member's name, [group, difference] of each member."""
    classes = classes_of(rows)
    blocks, body = [], bytearray()
    sizes, samples, shape_samples = [], [], []
    for first in range(0, len(classes), BLOCK):
        part = classes[first : first + BLOCK]
        packed = lzma.compress(_block(part, groups), check=lzma.CHECK_CRC32, preset=9 | lzma.PRESET_EXTREME)
        blocks.append([len(body), len(packed), first])
        body += packed
    for members in classes:
        own = [(key, shape) for key, shape in _entries(members[0]) if key not in members[0]["head"]]
        sizes.append(len(own))
        samples.append(sketch((key_hash(key, shape) for key, shape in own), SKETCH))
        shape_samples.append(sketch(shape_hashes(shape for _, shape in own), SKETCH))
    index = zlib.compress(_index(sizes, samples, shape_samples), 9)
    header = {
        "libraries": versions, "models": len(rows), "classes": len(classes), "index": [len(body), len(index)], "blocks": blocks,
    }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    return MAGIC + VERSION.to_bytes(4, "little") + len(text).to_bytes(4, "little") + text + bytes(body) + index


def _entries(row: Row) -> list[tuple[str, Shape]]:
    present = {key for key, _ in row["entries"]}
    return [*row["entries"], *((key, shape) for key, shape in row["head"].items() if key not in present)]


def _block(part: list[list[Row]], groups: dict[str, list[Any]]) -> bytes:
    tokens: dict[tuple[str, Shape], int] = {}
    facts: dict[str, int] = {}
    rows = []
    for members in part:
        flat = _entries(members[0])
        numbers = [tokens.setdefault(token, len(tokens)) for token in flat]
        runs: list[int] = []
        for number in numbers:
            if runs and runs[-2] + runs[-1] == number:
                runs[-1] += 1
            else:
                runs += [number, 1]
        head = members[0]["head"]
        unknown = [[0, 0.0]] if len(members) == 1 else [[-1, None] for _ in members]
        known = groups.get(f"{members[0]['library']}:{members[0]['name']}", unknown)
        apart: list[dict[str, str]] = [{} for _ in members]
        if any(group != 0 for group, _ in known):
            apart = zoo_facts.differences([member["configuration"] for member in members])
        said = []
        for member, (group, difference), other in zip(members, known, apart, strict=True):
            own = zoo_facts.facts(member["configuration"], member["preprocessing"])
            text = json.dumps({**own, **({"other": other} if other else {})})
            said.append([f"{member['library']}:{member['name']}", group, difference, facts.setdefault(text, len(facts))])
        rows.append({"members": said, "runs": runs, "head": [at for at, (key, _) in enumerate(flat) if key in head]})
    block = {"tokens": [[key, *shape] for key, shape in tokens], "facts": [json.loads(text) for text in facts], "classes": rows}
    return json.dumps(block, separators=(",", ":"), ensure_ascii=False).encode()


def _index(sizes: list[int], samples: list[list[int]], shape_samples: list[list[int]]) -> bytes:
    counts, parts = [len(sizes)], []
    for sampled in (samples, shape_samples):
        postings: dict[int, list[int]] = {}
        for number, hashes in enumerate(sampled):
            for value in hashes:
                postings.setdefault(value, []).append(number)
        ordered = sorted(postings)
        ends, flat = [], []
        for value in ordered:
            flat += postings[value]
            ends.append(len(flat))
        counts += [len(ordered), len(flat)]
        parts += [_packed("I", ordered), _packed("I", ends), _packed("H", flat)]
    lengths = [_packed("B", [len(hashes) for hashes in sampled]) for sampled in (samples, shape_samples)]
    return b"".join([_packed("I", counts), _packed("H", sizes), *lengths, *parts])


def _packed(code: str, values: list[int]) -> bytes:
    packed = array(code, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


if __name__ == "__main__":
    main()
