"""JSON of plain values without the standard library's encoder, whose import takes `re` with it: a tenth of a start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_FEW = 2000  # values: more are quicker by the encoder, its import included


class _NotPlain(Exception):
    pass


def dumps(value: Any) -> str:
    """What ``json.dumps(value, separators=(",", ":"))`` gives."""
    try:
        return _text(value, [_FEW])
    except _NotPlain:
        import json

        return json.dumps(value, separators=(",", ":"))


def quoted(texts: Sequence[str]) -> Iterator[str]:
    """Each text as JSON has it where everything but quotes, backslashes and controls stands for itself."""
    together = "".join(texts)
    if together.isascii() and together.isprintable():
        if '"' not in together and "\\" not in together:
            return map('"{}"'.format, texts)
        return map(_string, texts)
    from json.encoder import encode_basestring

    return map(encode_basestring, texts)


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
