"""Changes to JSON texts: the header of safetensors, the index of a sharded model, and Python literals of .npy headers."""

from __future__ import annotations

import json
import random
import re
import struct
from typing import Any

from tests.fuzz import pool

_NUMBER = re.compile(rb"-?[0-9]+")
_STRING = re.compile(rb'"[^"\\]*"')


def text_mutated(text: bytes, rng: random.Random) -> bytes:
    """A JSON text after changes to its numbers, strings, punctuation or objects."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.35 and (numbers := list(_NUMBER.finditer(text))):
            found = rng.choice(numbers)
            value = rng.choice(
                (b"%d" % pool.integer(rng), b"1.0", b"1e3", b"-0", b"01", b"+1", b"true", b"null", b'"1"', b"[]", b"")
            )
            text = text[: found.start()] + value + text[found.end() :]
        elif kind < 0.6 and (strings := list(_STRING.finditer(text))):
            found = rng.choice(strings)
            value = (
                rng.choice(strings)[0]
                if rng.random() < 0.5
                else json.dumps(rng.choice(pool.TEXTS)).encode("utf-8", "surrogatepass")
            )
            text = text[: found.start()] + value + text[found.end() :]
        elif kind < 0.75:
            document = _loaded(text)
            if isinstance(document, dict) and document:
                _change(document, rng)
                text = json.dumps(document, separators=rng.choice(((",", ":"), (", ", ": ")))).encode("utf-8", "surrogatepass")
        elif kind < 0.85:
            at = rng.randint(0, len(text))
            text = (
                text[:at]
                + rng.choice((b",", b"{", b"}", b"[", b"]", b":", b'"', b" ", b"\t", b"\0", b"\\", b"\xff", b"\xef\xbb\xbf"))
                + text[at:]
            )
        elif kind < 0.93 and text[:1] == b"{":  # an entry a second time
            inner = text.strip()[1:-1]
            cut = inner.rfind(b',"')
            text = b"{" + inner + b"," + (inner[cut + 1 :] if cut > 0 else inner) + b"}"
        else:
            text = pool.flipped(text, rng, 2)
    return text


def _loaded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _change(document: dict[str, Any], rng: random.Random) -> None:
    key = rng.choice(list(document))
    value = document[key]
    kind = rng.randrange(5)
    if kind == 0:
        del document[key]
    elif kind == 1:
        document[rng.choice(pool.TEXTS)] = value
    elif kind == 2 and isinstance(value, dict) and value:
        _change(value, rng)
    elif kind == 3 and isinstance(value, dict):
        value[rng.choice(("shape", "data_offsets", "dtype", "extra", *pool.TEXTS[:4]))] = rng.choice(
            ([], [0], [2, 3], [pool.integer(rng), pool.integer(rng)], "F32", "F64", None, {}, [1] * 70)
        )
    else:
        document[key] = rng.choice((value, None, 1, "x", [], {}, [value]))


def safetensors_mutated(data: bytes, rng: random.Random) -> bytes:
    """Length, header and data of a safetensors file."""
    if len(data) < 10 or rng.random() < 0.05:
        return pool.flipped(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + min(length, 1 << 20)], data[8 + min(length, 1 << 20) :]
    kind = rng.random()
    if kind < 0.75:
        header = text_mutated(header, rng)
    elif kind < 0.85:
        body = body[: rng.randint(0, len(body))] if rng.random() < 0.5 else body + rng.randbytes(rng.randint(1, 9))
    elif kind < 0.92:
        header += b" " * rng.randint(1, 9)
    else:
        body = pool.flipped(body, rng) if body else body
    length = len(header) if rng.random() < 0.96 else pool.unsigned(rng, 64)
    return struct.pack("<Q", length) + header + body


def npy_mutated(name: str, data: bytes, rng: random.Random) -> bytes:
    """The header or the data of an .npy member."""
    if len(data) < 12 or data[:6] != b"\x93NUMPY" or rng.random() < 0.1:
        return pool.flipped(data, rng) if data else rng.randbytes(8)
    (length,) = struct.unpack("<H", data[8:10])
    header, body = data[10 : 10 + length], data[10 + length :]
    if rng.random() < 0.8:
        if rng.random() < 0.5 and (numbers := list(_NUMBER.finditer(header))):
            found = rng.choice(numbers)
            header = header[: found.start()] + b"%d" % pool.integer(rng) + header[found.end() :]
        else:
            old, new = rng.choice(
                (
                    (b"False", b"True"),
                    (b"<f4", b">f4"),
                    (b"<f4", b"|O"),
                    (b"<f4", b"<f8"),
                    (b"<f4", b"<U1"),
                    (b"<f4", b"|V4"),
                    (b"descr", b"shape"),
                    (b"(", b"(("),
                    (b")", b"]"),
                    (b"}", b"} #"),
                    (b"'", b'"'),
                    (b"shape", b"x"),
                    (b"(", b"(__import__('os').system('x'),"),
                )
            )
            header = header.replace(old, new, 1)
        if rng.random() < 0.8:
            header = header.rstrip(b" \n") + b"\n"
    else:
        body = body[: rng.randint(0, len(body))] if rng.random() < 0.5 else body + bytes(rng.randint(1, 9))
    return (
        data[:6]
        + rng.choice((b"\x01\x00", b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x09\x00"))
        + struct.pack("<H", len(header) & 0xFFFF)
        + header
        + body
    )
