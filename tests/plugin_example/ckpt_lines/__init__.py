"""A format plugin: one row, which the entry point names, and one module behind it."""

from __future__ import annotations

from formats.core.protocol import Format

ROW = Format(
    "lines",
    "weights as lines of text",
    "ckpt_lines.lines",
    suffixes=(".lines",),
    writes=True,
    heads=(b"#lines\n",),
    targets=("lines",),
)
