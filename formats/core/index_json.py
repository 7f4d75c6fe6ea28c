"""The index of a sharded model, ``{"metadata": {…}, "weight_map": {KEY: FILE…}}``, taken apart without a general JSON parser.

No such parser sees the whole untrusted text: it would make a hundred bytes of objects of two bytes of text. The two members that
count are flat; anything else that stands beside them is small.
"""

from __future__ import annotations

import json
import re
from typing import Any

from formats.core.errors import CorruptCheckpoint, LimitExceeded

MAX_BYTES = 64 << 20  # of an index
MAX_KEYS = 300_000  # in the weight map; models of a trillion parameters have half as many
_OTHER = 1 << 20  # characters of any other member

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*+"')
_SCALAR = re.compile(r"-?[0-9][0-9.eE+-]{0,400}|true|false|null")


def parse(data: bytes) -> tuple[dict[str, Any], dict[str, str] | None]:
    """(metadata, weight map or None where there is none). Raises `CorruptCheckpoint` at the character that breaks the grammar."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptCheckpoint(f"index is no UTF-8: {error.reason} at byte {error.start}") from error
    found: dict[str, Any] = {}
    at = _skip(text, _expect(text, _skip(text, 0), "{"))
    while text[at : at + 1] != "}" or found:
        key, at = _string(text, at)
        if key in found:
            raise CorruptCheckpoint(f"index has {key!r:.80} twice")
        at = _skip(text, _expect(text, _skip(text, at), ":"))
        if key in ("weight_map", "metadata") and text[at : at + 1] == "{":
            found[key], at = _flat(text, at, key)
        else:
            found[key], at = _other(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ",":
            break
        at = _skip(text, at + 1)
    at = _skip(text, _expect(text, at, "}"))
    if at != len(text):
        raise CorruptCheckpoint(f"index has {text[at : at + 20]!r} after its end, at character {at}")
    metadata, weight_map = found.get("metadata", {}), found.get("weight_map")
    if weight_map is not None and not isinstance(weight_map, dict):
        raise CorruptCheckpoint(f"index has a weight_map that is a {type(weight_map).__name__}, not an object")
    return metadata if isinstance(metadata, dict) else {}, weight_map


def _flat(text: str, at: int, what: str) -> tuple[dict[str, Any], int]:
    """An object of texts; other values are taken too, and for the weight map refused later, by name."""
    found: dict[str, Any] = {}
    names: dict[str, str] = {}  # a shard's name is one object, however many keys point to it
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}" or found:
        key, at = _string(text, at)
        if key in found:
            raise CorruptCheckpoint(f"index has {key!r:.120} twice in its {what}")
        if len(found) >= MAX_KEYS:
            raise LimitExceeded(f"index has more than {MAX_KEYS} entries in its {what}")
        at = _skip(text, _expect(text, _skip(text, at), ":"))
        if text[at : at + 1] == '"':
            value, at = _string(text, at)
            found[key] = names.setdefault(value, value)
        else:
            found[key], at = _other(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ",":
            break
        at = _skip(text, at + 1)
    return found, _expect(text, at, "}")


def _other(text: str, at: int) -> tuple[Any, int]:
    """Any value of less than `_OTHER` characters."""
    scalar = _SCALAR.match(text, at)
    if scalar is not None:
        end = scalar.end()
        try:
            return json.loads(scalar[0]), end
        except ValueError as error:
            raise CorruptCheckpoint(f"index has {scalar[0]!r:.40} at character {at}") from error
    try:
        value, length = json.JSONDecoder().raw_decode(text[at : at + _OTHER])
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"index is no JSON at character {at}: {error!s:.80}") from error
    return value, at + length


def _string(text: str, at: int) -> tuple[str, int]:
    found = _STRING.match(text, at)
    if found is None:
        raise CorruptCheckpoint(f"index has {text[at : at + 20]!r} at character {at}, where a text belongs")
    raw = found[0]
    try:
        value = raw[1:-1] if "\\" not in raw else json.loads(raw)
    except ValueError as error:
        raise CorruptCheckpoint(f"index has {raw!r:.40} at character {at}, which is no text") from error
    return value, found.end()


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, what: str) -> int:
    if text[at : at + 1] != what:
        raise CorruptCheckpoint(f"index has {text[at : at + 20]!r} at character {at}, where {what!r} belongs")
    return at + 1
