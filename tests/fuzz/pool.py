"""Values at the borders: what sizes, strides, offsets, counts, names and texts are set to."""

from __future__ import annotations

import random

BORDERS = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 23, 24, 25, 63, 64, 65, 127, 128, 255, 256, 511, 512, 1000, 1023, 1024, 4095, 4096, 65535, 65536,
    (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 33, 1 << 40, 1 << 53, 1 << 61, (1 << 61) - 1,
    (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**15, 10**30,
)  # fmt: skip
NEGATIVE = (-1, -2, -3, -8, -24, -(1 << 31), -(1 << 31) - 1, -(1 << 63), -(1 << 63) - 1, -(10**30))
# Names that would do harm, names that a reader knows, and names that nobody has.
NAMES = (
    "os.system", "posix.system", "nt.system", "builtins.eval", "builtins.exec", "builtins.__import__", "builtins.getattr", "builtins.open",
    "__builtin__.eval", "subprocess.Popen", "subprocess.check_output", "socket.socket", "pty.spawn", "shutil.rmtree", "runpy.run_path",
    "functools.partial", "operator.attrgetter", "operator.methodcaller", "importlib.import_module", "torch.load", "torch.hub.load",
    "torch.jit.load", "numpy.load", "pickle.loads", "ctypes.CDLL", "code.InteractiveInterpreter", "torch.storage._load_from_bytes",
    "collections.OrderedDict", "collections.defaultdict", "collections.deque", "collections.Counter", "builtins.set", "builtins.frozenset",
    "builtins.bytes", "builtins.bytearray", "builtins.list", "builtins.dict", "builtins.tuple", "builtins.complex", "builtins.slice",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state", "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_nested_tensor", "torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_wrapper_subclass",
    "torch._utils._rebuild_device_tensor_from_numpy", "torch._tensor._rebuild_from_type_v2", "torch.FloatStorage", "torch.LongStorage",
    "torch.HalfStorage", "torch.BoolStorage", "torch.ComplexFloatStorage", "torch.QInt8Storage", "torch.storage.UntypedStorage",
    "torch.cuda.FloatStorage", "torch.FloatTensor", "torch.nn.parameter.Parameter", "torch.Size", "torch.device", "torch.float32",
    "torch.int64", "torch.bfloat16", "torch.per_tensor_affine", "torch.sparse_coo", "torch.serialization._get_layout", "torch.Tensor",
    "copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "builtins.object", "_codecs.encode", "argparse.Namespace",
    "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy.ndarray", "numpy.dtype", "nobody.has.This",
    "__torch__.Net", "torch._dynamo.Anything", "typing.OrderedDict", "datetime.datetime", "pathlib.PosixPath", "uuid.UUID",
)  # fmt: skip
TEXTS = (
    "",
    "0",
    "1",
    "2",
    "00",
    "01",
    "+0",
    "0 ",
    " 0",
    "-1",
    "./0",
    "../data.pkl",
    "../../etc/passwd",
    "/etc/passwd",
    "data.pkl",
    "data/0",
    "A",
    "a",
    "storage",
    "Storage",
    "module",
    "cpu",
    "cuda:0",
    "meta",
    "weight",
    "model.weight",
    "state_dict",
    "_metadata",
    "__metadata__",
    "little",
    "big",
    "a\0b",
    "\x1b[31m",
    "\u202eevil",
    "{0.__class__}",
    "\ud800",
    "é",
    "latin1",
    "utf-16",
    "x" * 300,
    "F32",
    "F8_E4M3",
)


def integer(rng: random.Random) -> int:
    """A border, one beside it, or something small."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(BORDERS)
    if kind < 0.65:
        return rng.choice(NEGATIVE)
    if kind < 0.8:
        return rng.choice(BORDERS) + rng.randint(-2, 2)
    return rng.randint(0, 40)


def unsigned(rng: random.Random, bits: int) -> int:
    """The same within a field of ``bits``."""
    return integer(rng) & ((1 << bits) - 1)


def flipped(data: bytes, rng: random.Random, most: int = 4) -> bytes:
    """``data`` after a few changes that know nothing: bits, bytes, runs removed, doubled, moved."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        kind, size = rng.randrange(6), len(changed)
        if kind == 0 or not size:
            changed[rng.randint(0, size) : 0] = rng.randbytes(rng.randint(1, 8))
            continue
        at = rng.randrange(size)
        if kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 3:
            del changed[at : at + rng.randint(1, 16)]
        elif kind == 4:
            changed[at:at] = changed[at : at + rng.randint(1, 32)]
        else:
            width = rng.choice((2, 4, 8))
            changed[at : at + width] = unsigned(rng, 8 * width).to_bytes(width, rng.choice(("little", "little", "big")))
    return bytes(changed)
