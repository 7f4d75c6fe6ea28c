"""What is measured, and what is to be reached. All sizes are bytes of weights; ``M`` is 10^6 and ``G`` 10^9."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.contenders import CONVERT, CP, DIGEST, NAIVE, SYNCED, UNSYNCED, UNVERIFIED
from benchmarks.figures import Target

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
PEAK = Target(CONVERT, "peak", 24)
DURABLE = Target(CONVERT, "ratio", 1.0, SYNCED)
AS_CP = (Target(UNSYNCED, "ratio", 1.0, CP), Target(UNVERIFIED, "ratio", 0.75, CP), DURABLE, PEAK)


@dataclass(frozen=True)
class Case:
    """One input and what is done with it. ``kind`` is how `benchmarks.runs` makes input and contenders; ``sets`` says who asks for it.

    ``every`` n: torch runs in each n-th round only (0: never), where it takes long.
    """

    name: str
    title: str
    kind: str
    nbytes: int = 0
    tensors: int = 0
    files: int = 0
    rounds: int = 7
    every: int = 1
    core: int | None = None
    targets: tuple[Target, ...] = ()
    sets: frozenset[str] = field(default_factory=frozenset)


QUICK, STANDARD, ALL, HUGE = (
    frozenset({"quick", "standard", "all"}),
    frozenset({"standard", "all"}),
    frozenset({"all"}),
    frozenset({"huge"}),
)


def _zip(size: str, tensors: int, targets: tuple[Target, ...], sets: frozenset[str], *, every: int = 1, rounds: int = 7) -> Case:
    nbytes = int(size[:-1]) * UNITS[size[-1]]
    title = f"{size[:-1]} {size[-1]}B in {tensors:,} tensors, .pth → safetensors"
    return Case(f"zip-{size}-{tensors}", title, "zip", nbytes, tensors, every=every, rounds=rounds, targets=targets, sets=sets)


SMALL = (Target(UNSYNCED, "ratio", 1.8, CP, allowance=0.025), Target(UNSYNCED, "faster", 30, NAIVE), PEAK)
MANY = (Target(UNSYNCED, "ratio", 1.05, CP), DURABLE, PEAK)


def _packed(kind: str, title: str, tensors: int) -> Case:
    return Case(
        kind,
        f"200 MB in {title} → safetensors",
        kind,
        200 * 10**6,
        tensors,
        sets=STANDARD,
        targets=(Target(UNSYNCED, "ratio", 3.0, CP),),
    )


CASES = (
    Case(
        "start", "start-up", "start", rounds=21, sets=QUICK,
        targets=(Target("convert --version", "over", 45, "python -c pass"), Target(CONVERT, "over", 25, "python -c pass")),
    ),
    _zip("45M", 20, SMALL, QUICK, rounds=11),
    _zip("45M", 2000, SMALL[:1] + SMALL[2:], STANDARD, rounds=11),
    _zip("500M", 20, AS_CP, ALL, every=3),
    _zip("500M", 300, AS_CP, QUICK),
    _zip("500M", 2000, MANY, QUICK, every=3),
    _zip("2G", 20, AS_CP, ALL, every=0),
    _zip("2G", 300, AS_CP, ALL, every=3),
    _zip("8G", 300, (PEAK,), HUGE, every=0, rounds=3),
    Case(
        "zip-35M-100000", "35 MB in 100,000 tensors, .pth → safetensors", "zip", 35 * 10**6, 100_000, every=3, sets=QUICK,
        targets=(Target(CONVERT, "wall", 0.7), Target(CONVERT, "peak", 150)),
    ),
    Case(
        "digests", "500 MB in 300 tensors, with sha256 of source and output", "digests", 500 * 10**6, 300, every=0, sets=STANDARD,
        targets=(Target(f"{DIGEST}, unsynced", "ratio", 2.4, CP),),
    ),
    Case(
        "legacy", "500 MB in 300 tensors, legacy pickle → safetensors", "legacy", 500 * 10**6, 300, every=3, sets=STANDARD,
        targets=(Target(UNSYNCED, "ratio", 1.3, CP), PEAK),
    ),
    Case(
        "to-pth", "500 MB in 300 tensors, safetensors → .pth with CRCs", "safetensors", 500 * 10**6, 300, every=3, sets=STANDARD,
        targets=(Target(UNSYNCED, "ratio", 0.95, CP), PEAK),
    ),
    _packed("strided", "20 transposed tensors", 20),
    _packed("channels-last", "50 channels-last tensors", 50),
    _packed("rnn", "20 windows of one flat storage", 20),
    Case(
        "one-core", "500 MB in 300 tensors, one core", "zip", 500 * 10**6, 300, every=0, core=0, sets=STANDARD,
        targets=(Target(UNSYNCED, "ratio", 1.6, CP),),
    ),
    Case(
        "migrate-200", "migrate, 200 files of 45 MB, against a loop of cp", "migrate", 45 * 10**6, 20, files=200, sets=ALL,
        targets=(Target("migrate, two workers, unsynced", "ratio", 0.85, "loop of cp"),),
    ),
    Case(
        "migrate-10000", "migrate, 10,000 files of 100 kB", "migrate", 100 * 10**3, 20, files=10_000, sets=ALL,
        targets=(Target("migrate, two workers", "rate", 500, count=10_000),),
    ),
    Case("growth-tensors", "growth with tensors: 200, 2,000, 20,000 in 35 MB", "growth", sets=STANDARD),
    Case("growth-bytes", "growth with bytes: 20 MB, 200 MB, 2 GB in 100 tensors", "growth", sets=ALL),
    Case("growth-files", "growth with files: 20, 200, 2,000 of 100 kB", "growth", sets=STANDARD),
    Case("onnx", "ONNX export: memory over the imports", "onnx", sets=ALL),
)  # fmt: skip


def chosen(names: list[str], group: str, *, huge: bool) -> list[Case]:
    """The cases of a set, or those named."""
    if names:
        unknown = set(names) - {case.name for case in CASES}
        if unknown:
            raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in CASES)}")
        return [case for case in CASES if case.name in names]
    found = [case for case in CASES if group in case.sets or (huge and "huge" in case.sets)]
    return [replace(case, every=0) for case in found] if group == "quick" else found
