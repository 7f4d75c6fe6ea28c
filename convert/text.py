"""Text from files, made fit to print: nothing that a file says may move the cursor, recolour or reorder what a person reads."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

LIMIT = 120  # characters; a longer text loses its middle
MARKS = 4  # combining characters on one letter; more of them grow over the lines above and below


def shown(value: Any, limit: int = LIMIT) -> str:
    """``value`` as printable text of at most ``limit`` characters.

    Control, format (bidi, zero width), private, unassigned and surrogate code points are escaped as in a Python literal, and so are
    combining characters in heaps, and the backslash of a text in which anything is escaped.
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > 4 * limit:  # a text of megabytes is cut before it is escaped
        text = text[: 2 * limit] + "…" + text[-2 * limit :]
    if not text.isascii() and any(_heaped(text)):
        text = "".join(_numbered(ord(c)) if heaped else _escaped(c) for c, heaped in zip(text, _heaped(text), strict=True))
    elif not text.isprintable():
        text = "".join(_escaped(character) for character in text)
    if len(text) > limit:
        head = (limit - 1) * 2 // 3
        text = text[:head] + "…" + text[len(text) - (limit - 1 - head) :]
    return text


def html(value: Any, limit: int = LIMIT) -> str:
    """`shown`, fit for the text of an element and for a quoted attribute of a page; None is empty."""
    text = shown("" if value is None else value, limit)
    for mark, entity in _ENTITIES:  # "&" first
        text = text.replace(mark, entity)
    return text


def markdown(value: Any, limit: int = LIMIT) -> str:
    """`shown`, fit for the running text or a table's cell of a Markdown file (CommonMark, GitHub's): no mark-up, HTML or link.

    A bare e-mail address is left to the reader's program, some of which make a link of it.
    """
    text = shown(value, limit)
    return "".join(_MARKED.get(character, character) for character in text)


def markdown_code(value: Any, limit: int = LIMIT) -> str:
    """`shown` as code in a Markdown file, also within a table: a name of a file or a key, as it is."""
    text = shown(value, limit)
    if text and not set(text) & set("`|") and text == text.strip():
        return f"`{text}`"
    return f"<code>{''.join(c if c.isalnum() or c == ' ' or ord(c) > 127 else f'&#{ord(c)};' for c in text)}</code>"


_ENTITIES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#x27;"))
# A full stop and a colon make links of bare addresses (www.…, https:…) and numbered lists.
_MARKED = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {mark: "\\" + mark for mark in "\\`*_{}[]()#+-!|~$^=.:"}


def _heaped(text: str) -> Iterator[bool]:
    """For each character, whether it is a combining one that too many stand before."""
    from unicodedata import category

    run = 0
    for character in text:
        run = run + 1 if category(character)[0] == "M" else 0
        yield run > MARKS


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character) or _numbered(ord(character))


def _numbered(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def dotted(path: tuple[Any, ...]) -> str:
    """A path of keys as one text, ``state_dict.conv1.weight``."""
    return ".".join(key if isinstance(key, str) else _key(key) for key in path)


def _key(key: Any) -> str:
    # Never str() of a container: a key may be a tuple of megabytes.
    return str(key) if isinstance(key, (int, float)) and not _long(key) else f"<{type(key).__name__}>"


def _long(key: Any) -> bool:
    return isinstance(key, int) and key.bit_length() > 512


def size(nbytes: int) -> str:
    """``nbytes`` in decimal units, as file managers and ``ls --si`` give them."""
    if nbytes < 1000:
        return "1 byte" if nbytes == 1 else f"{nbytes} bytes"
    amount = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB", "PB", "EB"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
    return f"{amount:.3g} EB"


def count(number: int, noun: str) -> str:
    """``1 tensor``, ``390 tensors``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shape(sizes: tuple[int, ...]) -> str:
    """``[64, 3, 7, 7]``; ``[]`` for a scalar."""
    return "[" + ", ".join(str(n) if n.bit_length() < 64 else "…" for n in sizes) + "]"
