"""JSON as the standard library has it, without what its import takes along, `re` above all: a third of a start.

Few plain values are spelled here; for everything else CPython's own scanner and encoder are called, which are written in C and need none of
that.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_SPACE = " \t\n\r"
_FEW = 500  # values: more are quicker by CPython's encoder, its import included


class _NotPlain(Exception):
    pass


def dumps(value: Any) -> str:
    """What ``json.dumps(value, separators=(",", ":"))`` gives."""
    try:
        return _text(value, [_FEW])
    except _NotPlain:
        pass
    try:
        from _json import encode_basestring_ascii, make_encoder
    except ImportError:  # not CPython
        import json

        return json.dumps(value, separators=(",", ":"))
    encode: Any = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, True)
    return "".join(encode(value, 0))


def loads(text: str) -> Any:
    """What ``json.loads(text)`` gives, or raises."""
    try:
        from _json import make_scanner

        value, end = make_scanner(_GRAMMAR)(text, len(text) - len(text.lstrip(_SPACE)))
        if not text[end:].strip(_SPACE):
            return value
    except (ImportError, StopIteration):
        pass
    import json

    return json.loads(text)


def of_bytes(data: bytes) -> Any:
    """The value that UTF-8 text spells. Raises `ValueError`, or `RecursionError` where it nests too deeply.

    ``json.loads`` of bytes guesses their encoding, and loads a codec of the input's choice.
    """
    return loads(str(data, "utf-8"))


def document(data: bytes, name: str) -> Any:
    """The JSON document that member ``name`` of an archive is. Raises `CorruptCheckpoint`, or `LimitExceeded` where it nests too deeply."""
    from formats.core.errors import CorruptCheckpoint, LimitExceeded

    try:
        return of_bytes(data)
    except RecursionError as error:
        raise LimitExceeded(f"{name!r:.100} is nested too deeply") from error
    except ValueError as error:
        raise CorruptCheckpoint(f"{name!r:.100} is no JSON text ({error!s:.100})") from error


def quoted(texts: Sequence[str]) -> Iterator[str]:
    """Each text as JSON has it where everything but quotes, backslashes and controls stands for itself."""
    together = "".join(texts)
    if together.isascii() and together.isprintable():
        if '"' not in together and "\\" not in together:
            return map('"{}"'.format, texts)
        return map(_string, texts)
    try:
        from _json import encode_basestring
    except ImportError:  # not CPython
        from json.encoder import encode_basestring

    return map(encode_basestring, texts)


class _Grammar:
    """What the standard library's scanner asks of its decoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_int = int
    parse_float = parse_constant = float


_GRAMMAR: Any = _Grammar()


def _refuse(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _string(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _text(value: Any, left: list[int]) -> str:
    kind = type(value)
    if kind is str:
        if value.isascii() and value.isprintable():
            return _string(value)
    elif kind is int:
        return str(value)
    elif kind is bool or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    elif kind is list and set(map(type, value)) == {int}:
        return f"[{','.join(map(str, value))}]"
    elif kind is dict or kind is list or kind is tuple:
        left[0] -= len(value)
        if left[0] >= 0:
            if kind is not dict:
                return f"[{','.join([_text(one, left) for one in value])}]"
            if all(type(key) is str for key in value):
                return f"{{{','.join([f'{_text(key, left)}:{_text(one, left)}' for key, one in value.items()])}}}"
    raise _NotPlain
