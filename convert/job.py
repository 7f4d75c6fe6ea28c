"""What a user asked of the default command, whichever way it was parsed."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("none", "bytes", "run")
KEEPS = ("none", "all")
TIES = ("duplicate", "alias", "fail")  # what is done with tied tensors where the target has no ties; the first is the default
DTYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "double": "float64", "float": "float32",
    "half": "float16", "float64": "float64", "float32": "float32", "float16": "float16", "bfloat16": "bfloat16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """Which keys are written and how they are named; applied in the order of these fields, ``reverse`` and ``like`` aside."""

    only: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()  # files
    reverse: bool = False  # undo what the rules files say
    strip_prefix: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()  # REGEX=TEXT
    add_prefix: tuple[str, ...] = ()
    fill_missing: tuple[str, ...] = ()
    like: str | None = None  # the checkpoint that fill_missing takes values from
    into: str | None = None  # the checkpoint that is warm-started


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a model is made to run, and what is done with it: the program, its inputs, the export. Empty fields leave it to us."""

    arch: str | None = None
    inputs: tuple[str, ...] = ()
    trust_source: bool = False  # a TorchScript or .pt2 source runs its own code
    golden: tuple[str, str] | None = None  # an input and the output that the right architecture gives for it
    seed: int = 0
    batches: tuple[int, ...] = ()
    local: bool = True  # each layer alone, too
    exporter: str | None = None
    opset: int | None = None
    dynamic: bool = True  # the batch size stays open
    simplify: bool = True
    external: int | None = None  # bytes of weights above which they go beside an ONNX file
    timeout: float | None = None  # seconds that an export may take
    memory: int | None = None  # bytes that it may take
    disabled: tuple[str, ...] = ()  # optimisers of onnxruntime that the output is judged without
    html: str | None = None  # a page about the check


@dataclass(frozen=True, slots=True)
class Job:
    """One call of ``convert SOURCE… --to TARGET``. ``keep`` None means whatever the target can hold."""

    sources: tuple[str, ...]
    to: str
    output: str | None = None
    out_dir: str | None = None
    select: str | None = None
    ema: bool = False
    strip: bool = True
    keep: str | None = None
    verify: str = "bytes"
    force: bool = False
    dry_run: bool = False
    json: bool = False
    debug: bool = False
    keys: KeyOptions | None = None
    run: RunOptions | None = None
    tied: str = TIES[0]
    dtype: str | None = None  # a key of DTYPES
    dequantize: bool = False
