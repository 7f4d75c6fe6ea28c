"""What a user asked of the default command, whichever way it was parsed."""

from __future__ import annotations

from formats.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LEVELS = ("none", "bytes", "run")
KEEPS = ("none", "all")
TIES = ("duplicate", "alias", "fail")  # what is done with tied tensors where the target has no ties; the first is the default
DTYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "double": "float64", "float": "float32",
    "half": "float16", "float64": "float64", "float32": "float32", "float16": "float16", "bfloat16": "bfloat16",
}  # fmt: skip


@record(frozen=True)
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


@record(frozen=True)
class RunOptions:
    """How a model is made to run, and what is done with it: the program, its inputs, the export. Empty fields leave it to us."""

    arch: str | None = None
    inputs: tuple[str, ...] = ()
    trust_source: bool = False  # a TorchScript or .pt2 source runs its own code
    golden: tuple[str, str] | None = None  # an input and the output that the right architecture gives for it
    seed: int = 0
    batches: tuple[int, ...] = ()
    local: bool = True  # each layer alone, too
    run: bool = True  # False: weights are compared and no model is run
    exporter: str | None = None
    opset: int | None = None
    dynamic: bool = True  # the batch size stays open
    simplify: bool = True
    external: int | None = None  # bytes of weights above which they go beside an ONNX file
    shared: str | None = None  # a .safetensors beside the output that its weights are pointed into
    timeout: float | None = None  # seconds that an export may take
    memory: int | None = None  # bytes that it may take
    disabled: tuple[str, ...] = ()  # optimisers of onnxruntime that the output is judged without
    html: str | None = None  # a page about the check


@record(frozen=True)
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
    max_shard_size: int | None = None  # bytes of tensors above which a model is split into shards
    legacy: bool = False  # the container of torch before 1.6
    digest: bool = False  # sha256 of every file read and written
    sync: bool = True  # each output is durable before it gets its name; False: the caller sees to many at once, and wants digests

    def writer_options(self) -> dict[str, Any]:
        """What the writer of the target is told; an option may also choose the writer (`formats.registry.target_row`)."""
        asked: dict[str, Any] = {}
        if self.max_shard_size is not None:
            asked["max_shard_size"] = self.max_shard_size
        if self.legacy:
            asked["legacy"] = True
        return asked


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}


def nbytes(text: str) -> int | None:
    """Bytes that ``5GB``, ``500MiB`` or ``1000000`` says; None for what is no size above zero."""
    number, unit = text.strip(), ""
    while number and not number[-1].isdigit():
        number, unit = number[:-1], number[-1] + unit
    factor = _UNITS.get(unit.strip().upper().removesuffix("B"))
    if factor is None or len(number) > 18:
        return None
    whole, dot, part = number.partition(".")
    if not whole.isascii() or not whole.isdigit() or (dot and not (part.isascii() and part.isdigit())):
        return None
    found = int(float(number) * factor) if dot else int(whole) * factor
    return found if found > 0 else None
