"""Pickles: what they call, name and ask for. See `pieces.py`."""

from __future__ import annotations

import pickle
import struct

from tests.hostile.pieces import (
    CALL,
    CANARY,
    GOOD,
    archive,
    case,
    legacy,
    legacy_tensor,
    name,
    number,
    pair,
    state,
    storage,
    tensor,
    text,
)

_CALLS = {
    "call-in-tuple-size": state(text("w"), tensor(sizes=pair(CALL, b"K\3"))),
    "call-as-storage-class": state(text("w"), tensor(kept=pair(text("storage"), CALL, text("0"), text("cpu"), b"K\6") + b"Q")),
    "call-as-storage-key": state(text("w"), tensor(kept=storage(CALL))),
    "call-as-numel": state(text("w"), tensor(kept=storage(count=CALL))),
    "call-as-offset": state(text("w"), tensor(offset=CALL)),
}


@case("rce-opcode", "refuse", *_CALLS)
def _calls_in_a_tensor(which: str) -> bytes:
    return archive(_CALLS[which])


_BESIDE = {
    "call-after-put-and-pop": CALL + b"q\x630",
    "call-dropped-by-pop-mark": b"(" + CALL + b"1",
    "newobj-ex-with-keywords": name("subprocess.Popen") + pair(text("true")) + b"}" + text("shell") + b"\x88s\x92" + b"0",
    "obj-of-a-gadget": b"(" + name("os.system") + text("mkdir -p " + CANARY) + b"o0",
    "inst-in-protocol-0": b"(S'mkdir -p " + CANARY.encode() + b"'\nios\nsystem\n0",
    "build-of-a-slot-state": name("nobody.Thing") + b")\x81N}" + text("__class__") + name("os._wrap_close") + b"s\x86b0",
    "stack-global-from-memo": text("os") + b"q\x50" + text("system") + b"q\x510" + b"0h\x50h\x51\x93" + text("true") + b"\x85R0",
    "call-of-a-call-of-a-call": name("operator.attrgetter")
    + text("system")
    + b"\x85R"
    + name("importlib.import_module")
    + text("os")
    + b"\x85R\x85R"
    + text("mkdir -p " + CANARY)
    + b"\x85R0",
    "reduce-with-itself": name("builtins.getattr") + b"q\x52" + b"h\x52" + text("__call__") + b"\x86R0",
    "partial-in-a-set": b"\x8f(" + name("functools.partial") + name("os.system") + text("true") + b"\x86R\x900",
    "python2-names": name("__builtin__.apply") + name("posix.system") + text("true") + b"\x85\x86R0",
}


@case("rce-opcode", "either", *_BESIDE)
def _calls_beside_a_tensor(which: str) -> bytes:
    return archive(b"\x80\x04" + _BESIDE[which] + state(*GOOD)[2:])


@case("rce-opcode", "inert")
def _gadget_as_a_value() -> bytes:
    return archive(state(*GOOD, text("epoch"), CALL))


@case("rce-opcode", "inert")
def _gadget_as_hooks() -> bytes:
    hooked = name("torch._utils._rebuild_tensor_v2") + pair(storage(), b"K\0", b"K\2K\3\x86", b"K\3K\1\x86", b"\x89", CALL) + b"R"
    return archive(state(text("w"), hooked))


@case("rce-opcode", "inert")
def _setstate_of_an_ordered_dict() -> bytes:
    return archive(
        b"\x80\x02" + name("collections.OrderedDict") + b")R(" + b"".join(GOOD) + b"u}" + text("__reduce__") + CALL + b"sb."
    )


@case("rce-opcode", "refuse", "ext1", "ext2", "buffer")
def _extensions(which: str) -> bytes:
    code = {"ext1": b"\x82\x01", "ext2": b"\x83\x01\x00", "buffer": b"\x97\x98"}[which]
    return archive(b"\x80\x05" + code + b"0" + state(*GOOD)[2:])


@case("rce-gadget", "either", "loads-in-loads", "joblib-like", "pip-main", "torch-hub", "numpy-f2py", "ctypes-cdll", "pty-spawn")
def _gadgets(which: str) -> bytes:
    inner = pickle.dumps({"x": 1}, 2)
    calls = {
        "loads-in-loads": name("pickle.loads") + b"B" + struct.pack("<I", len(inner)) + inner + b"\x85R",
        "joblib-like": name("joblib.load") + text(CANARY) + b"\x85R",
        "pip-main": name("pip._internal.cli.main.main") + b"](" + text("download") + b"e\x85R",
        "torch-hub": name("torch.hub.load") + text("a/b") + text("c") + b"\x86R",
        "numpy-f2py": name("numpy.f2py.crackfortran.getlincoef") + text("1") + b"}\x86R",
        "ctypes-cdll": name("ctypes.CDLL") + text("libc.so.6") + b"\x85R",
        "pty-spawn": name("pty.spawn") + text("/bin/true") + b"\x85R",
    }
    return legacy(state(text("w"), legacy_tensor()[len(b"\x80\x02}(") + len(text("w")) : -2], text("x"), calls[which]))


_KEYS = {
    "key-dot-slash": "./0",
    "key-double-slash": "/0",
    "key-parent": "../data/0",
    "key-space": "0 ",
    "key-fullwidth": "０",
    "key-version": "../version",
    "key-backslash": "..\\data\\0",
    "key-newline": "0\n",
    "key-empty": "",
}


@case("geometry", "refuse", *_KEYS)
def _keys(which: str) -> bytes:
    return archive(state(text("w"), tensor(kept=storage(_KEYS[which]))))


_PIDS = {
    "pid-of-four": pair(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu")) + b"Q",
    "pid-of-seven": pair(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), b"K\6", b"N", b"N") + b"Q",
    "pid-a-list": b"](" + text("storage") + name("torch.FloatStorage") + text("0") + text("cpu") + b"K\6eQ",
    "pid-module": pair(text("module"), name("os.system"), text("f.py"), text("import os")) + b"Q",
    "pid-class-of-nobody": storage(cls="nobody.FloatStorage"),
    "pid-class-tensor": storage(cls="torch.FloatTensor"),
    "pid-huge-numel": storage(count=number(1 << 700)),
    "pid-negative-numel": storage(count=number(-6)),
    "pid-nested": pair(text("storage"), name("torch.FloatStorage"), storage(), text("cpu"), b"K\6") + b"Q",
}


@case("geometry", "refuse", *_PIDS)
def _pids(which: str) -> bytes:
    return archive(state(text("w"), tensor(kept=_PIDS[which])))


_SHAPES = {
    "size-wraps-product": (pair(number(1 << 33), number(1 << 33)), pair(b"K\0", b"K\0"), b"K\0"),
    "stride-wraps-to-inside": (b"K\2K\3\x86", pair(number((1 << 62) + 3), b"K\1"), b"K\0"),
    "stride-negative": (b"K\6\x85", number(-1) + b"\x85", b"K\5"),
    "offset-wraps": (b"K\6\x85", b"K\1\x85", number((1 << 64) - 2)),
    "last-element-one-past": (b"K\2K\3\x86", b"K\3K\1\x86", b"K\1"),
    "more-sizes-than-strides": (b"K\2K\3\x86", b"K\3\x85", b"K\0"),
    "size-bool": (b"\x88K\6\x86", b"K\6K\1\x86", b"K\0"),
    "size-float": (pair(b"G@\x00\x00\x00\x00\x00\x00\x00", b"K\3"), b"K\3K\1\x86", b"K\0"),
    "expanded-to-a-petabyte": (pair(number(1 << 50)), pair(b"K\0"), b"K\0"),
    "thousand-dimensions-of-one": (b"(" + b"K\1" * 1000 + b"t", b"(" + b"K\1" * 1000 + b"t", b"K\0"),
}


@case("geometry", "refuse", *_SHAPES)
def _shapes(which: str) -> bytes:
    sizes, strides, offset = _SHAPES[which]
    return archive(state(text("w"), tensor(sizes, strides, offset)))


@case("geometry", "refuse", "lazy-bit-false", "lazy-bit-none", "lazy-bits-a-list")
def _bits(which: str) -> bytes:
    rest = {
        "lazy-bit-false": b"}" + text("neg") + b"\x89s",
        "lazy-bit-none": b"}" + text("conj") + b"Ns",
        "lazy-bits-a-list": b"](K\1e",
    }[which]
    return archive(state(text("w"), tensor(rest=rest)))


@case("geometry", "inert")
def _tied_views_of_one_storage() -> bytes:
    return archive(
        state(text("a"), tensor(), text("b"), tensor(b"K\6\x85", b"K\1\x85"), text("c"), tensor(b"K\3K\2\x86", b"K\1K\3\x86"))
    )


_WORK = {
    "dup-doubling": b"\x80\x02" + b"]" + b"2\x86" * 40 + b"0" + state(*GOOD)[2:],
    "deep-tuples": b"\x80\x02" + b")" + b"\x85" * 200_000 + b"0" + state(*GOOD)[2:],
    "deep-sets-of-frozensets": b"\x80\x04" + b"(" * 5000 + b"\x91" * 5000 + b"0" + state(*GOOD)[2:],
    "list-in-itself": b"\x80\x02]q\x60h\x60a0" + state(*GOOD)[2:],
    "integer-of-a-million-digits": b"\x80\x02L" + b"9" * 1_000_000 + b"L\n0" + state(*GOOD)[2:],
    "float-of-a-million-digits": b"\x80\x02F" + b"9" * 1_000_000 + b"\n0" + state(*GOOD)[2:],
    "put-to-the-moon": b"\x80\x02Np999999999999999\n0" + state(*GOOD)[2:],
    "frames-in-frames": b"\x80\x04" + (b"\x95" + struct.pack("<Q", 1)) * 50_000 + state(*GOOD)[2:],
    "string-of-2-63": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + state(*GOOD)[2:],
    "binstring-negative": b"\x80\x02T\xff\xff\xff\xff" + state(*GOOD)[2:],
    "long4-negative": b"\x80\x02\x8b\xff\xff\xff\xff" + state(*GOOD)[2:],
    "hash-collisions": b"\x80\x02}(" + b"".join(number(i * ((1 << 61) - 1)) + b"N" for i in range(40_000)) + b"u0" + state(*GOOD)[2:],
    "equal-tuples-as-keys": b"\x80\x02}(" + b"".join(b"K\1" + b"\x85" * 200 + b"N" for _ in range(3000)) + b"u0" + state(*GOOD)[2:],
    "rebuild-of-a-million-calls": b"\x80\x02" + (name("collections.OrderedDict") + b")R0") * 100_000 + state(*GOOD)[2:],
    "setitems-odd": b"\x80\x02}(" + text("a") + b"u" + state(*GOOD)[2:],
    "key-a-dict": b"\x80\x02}(}Nu0" + state(*GOOD)[2:],
    "stop-in-the-middle": b"\x80\x02." + state(*GOOD)[2:],
    "no-stop": state(*GOOD)[:-1],
    "protocol-9": b"\x80\x09" + state(*GOOD)[2:],
    "memo-before-it-is-set": b"\x80\x02h\x610" + state(*GOOD)[2:],
}  # fmt: skip


@case("pickle-dos", "either", *_WORK)
def _work(which: str) -> bytes:
    return archive(_WORK[which])


@case("names", "refuse", "number-and-text", "dotted-and-nested", "true-and-one-as-text")
def _collisions(which: str) -> bytes:
    return archive({
        "number-and-text": state(b"K\1", tensor(), text("1"), tensor()),
        "dotted-and-nested": state(text("a.b"), tensor(), text("a"), b"}" + text("b") + tensor() + b"s"),
        "true-and-one-as-text": state(b"\x88", tensor(), text("True"), tensor()),
    }[which])  # fmt: skip


_NAMES = {
    "name-ansi": "\x1b]0;x\x07w",
    "name-bidi": "\u202etw",
    "name-format": "{0.__class__}",
    "name-percent": "%s%n",
    "name-path": "../../w",
    "name-nul": "a\0b",
    "name-html": "<script>alert(1)</script>",
    "name-newline": "a\nb",
    "name-empty": "",
}


@case("names", "either", *_NAMES)
def _names(which: str) -> bytes:
    return archive(state(text(_NAMES[which]), tensor()))
