"""The Python text of classes, which torch before 1.6 put beside whole models: shown and saved as text, never compiled."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from convert.naming import make_folder
from convert.text import shown
from formats.core.errors import CheckpointError
from formats.core.files import SourceFile
from formats.core.layout import Layout, Literal
from formats.core.output import write_layouts
from formats.core.temporary import hidden, remove_left

SUFFIX = ".py.txt"  # no suffix that anything imports or runs
MAX_LINES = 20_000  # of one text that are printed
_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")
_RESERVED = re.compile(r"^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)


def line_count(text: str) -> int:
    return len(text.splitlines())


def printable(text: str) -> list[str]:
    """The text's lines, each escaped; tabs as spaces, so that the indentation stays readable."""
    lines = text.splitlines()
    out = [shown(line.expandtabs(), 2000) for line in lines[:MAX_LINES]]
    if len(lines) > MAX_LINES:
        out.append(f"… and {len(lines) - MAX_LINES:,} more lines")
    return out


def file_name(name: str) -> str:
    """A name for the text of class ``name`` that is one plain file in any folder of any system."""
    safe = _UNSAFE.sub("_", name).strip(".")[:120] or "class"
    return (f"_{safe}" if _RESERVED.match(safe) else safe) + SUFFIX


def save(sources: Mapping[str, str], folder: Path) -> list[Path]:
    """Write each text to a new file in ``folder``, which is made if it is not there; the files, in order.

    An existing file is never replaced: one that holds the text already is the file, else a number is added to the name; a link is an
    existing file. Raises `OutputError` where the folder cannot be made or is none.
    """
    make_folder(folder)
    layouts = []
    taken: list[str] = []
    for name, text in sources.items():
        data = text.encode("utf-8", "surrogateescape" if _bytes(text) else "backslashreplace")
        free, number = file_name(name), 1
        while free in taken or (os.path.lexists(folder / free) and not _holds(folder / free, data)):
            number += 1
            free = file_name(name).replace(SUFFIX, f"~{number}{SUFFIX}")
        taken.append(free)
        if os.path.lexists(folder / free):  # of a run before, which may have been killed: with its temporary beside it
            remove_left(hidden(folder / free), folder / free)
        else:
            layouts.append(Layout(len(data), [Literal(0, data)], name=free))
    write_layouts(layouts, folder / "class")
    return [folder / name for name in taken]


def _holds(path: Path, data: bytes) -> bool:
    """Whether ``path`` is a plain file of just these bytes."""
    try:
        file = SourceFile(path, follow=False)
    except CheckpointError:
        return False
    try:
        return file.size == len(data) and file.read(0, file.size) == data
    finally:
        file.close()


def _bytes(text: str) -> bool:
    """Whether lone surrogates of ``text`` all stand for bytes that were no UTF-8."""
    return all("\udc80" <= character <= "\udcff" for character in text if "\ud800" <= character <= "\udfff")
