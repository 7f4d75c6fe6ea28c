"""Reports as people read them: tables and trees on a terminal, plain lines elsewhere. Everything from a file is escaped first."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from convert.console import err, out
from convert.text import count, shape, shown, size
from convert.values import warned

if TYPE_CHECKING:
    from convert.catalogue import Listed
    from convert.inspection import Inspection, Node
    from convert.verification import Verification

ROWS = 2000  # of a table on a terminal; pipes and --json get all


def _drawn() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def _table(headings: list[str], rows: list[list[str]], right: tuple[int, ...] = ()) -> None:
    """Columns: drawn by rich on a terminal, padded with spaces elsewhere."""
    if _drawn():
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for at, heading in enumerate(headings):
            table.add_column(heading, justify="right" if at in right else "left", overflow="fold")
        for row in rows[:ROWS]:
            table.add_row(*(Text(cell) for cell in row))
        _console().print(table)
        if len(rows) > ROWS:
            out(f"… and {len(rows) - ROWS:,} more")
        return
    widths = [max(len(row[at]) for row in [headings, *rows]) for at in range(len(headings))]
    for row in [headings, *rows]:
        cells = (
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        out("  ".join(cells).rstrip())


def inspection(found: Inspection, *, values: bool, source: bool = False) -> None:
    """Container, tree, tensors, names, candidates, notes."""
    amount = "" if found.nbytes is None else f", {size(found.nbytes)}"
    out(f"{shown(found.path, 300)}: {found.title}{amount}")
    for key, value in found.metadata.items():
        out(f"  {shown(key)}: {shown(value, 200)}")
    out("\nTree")
    _tree(found.tree)
    out(f"\nTensors: {len(found.tensors):,}, {size(sum(row.nbytes for row in found.tensors if row.tied is None))}")
    if found.tensors:
        headings = ["name", "dtype", "shape", "size", "location", "remarks"]
        rows = []
        for row in found.tensors:
            remarks = [row.kind or "", "" if row.contiguous else "strided", "grad" if row.requires_grad else ""]
            remarks.append(f"tied to {shown(row.tied)}" if row.tied else "")
            remarks.append(row.finding.text() if row.finding is not None and row.finding.odd else "")
            told = ", ".join(remark for remark in remarks if remark)
            rows.append([shown(row.path), row.dtype, shape(row.shape), size(row.nbytes), shown(row.location, 20), told])
        _table(headings, rows, right=(3,))
    if found.globals:
        out("\nNames in the file (none was imported or called)")
        for name, times in found.globals.items():
            out(f"  {shown(name)}" + (f": would have been called {count(times, 'time')}" if times else ""))
    if found.sources:
        _sources(found, in_full=source)
    out("\nCandidates for the model")
    for candidate in found.candidates:
        place = shown(candidate["path"]) or "the root"
        mark = "*" if candidate["path"] in found.chosen else " "
        out(
            f"{mark} {place}: {count(candidate['tensors'], 'tensor')}, {size(candidate['bytes'])}: {shown(candidate['why'], 200)}"
        )
    if found.doubt:
        out(f"  none is taken: {shown(found.doubt, 600)}")
    elif not found.candidates:
        out("  none")
    for names in found.optimizers:
        out(f"{shown(names.path) or 'the root'}: {shown(names.text(), 300)}")
    for note in found.notes:
        out(f"note: {shown(note, 300)}")
    if values:
        for warning in found.warnings:
            err(f"warning: {warning}")
        out("\nValues: " + warned(len(found.warnings)))


def _sources(found: Inspection, *, in_full: bool) -> None:
    from convert.class_sources import line_count, printable

    told = ", ".join(f"{shown(name)} ({count(line_count(text), 'line')})" for name, text in found.sources.items())
    out(f"\nClass sources carried as text, none of it run: {told}")
    if in_full:
        for name, text in found.sources.items():
            out(f"\nSource of {shown(name)}")
            for line in printable(text):
                out(f"  | {line}")
    elif not found.saved:
        out("  --source prints it, --save-source DIR writes it to files")
    for path in found.saved:
        out(f"  written to {shown(path, 300)}")


def _tree(node: Node) -> None:
    if _drawn():
        from rich.tree import Tree

        root = Tree(_label(node))
        stack = [(root, node)]
        while stack:
            branch, entry = stack.pop()
            below = [(branch.add(_label(child)), child) for child in entry.below]
            if entry.more:
                branch.add(f"… {entry.more:,} more")
            stack.extend(below)
        _console().print(root)
        return
    lines = [(0, node)]
    while lines:
        depth, entry = lines.pop()
        out("  " * (depth + 1) + _label(entry) + (f" (… {entry.more:,} more)" if entry.more and not entry.below else ""))
        if entry.more and entry.below:
            from convert.inspection import Node

            lines.append((depth + 1, Node("…", f"{entry.more:,} more")))
        lines.extend((depth + 1, child) for child in reversed(entry.below))


def _label(node: Node) -> str:
    return f"{shown(node.label, 80)}: {node.summary}" if node.label else node.summary


def formats(listed: list[Listed]) -> None:
    """One line a format."""
    rows = []
    for one in listed:
        does = "reads and writes" if one.row.reads and one.row.writes else "reads" if one.row.reads else "writes"
        rows.append([one.row.name, does, ", ".join(one.row.targets), one.row.title + (" (plugin)" if one.plugin else "")])
    _table(["format", "does", "--to", "what it is"], rows)


def verification(found: Verification) -> None:
    """One line a tensor that differs, and what was compared."""
    odd = [row for row in found.rows if row.status != "equal"]
    if odd:
        _table(
            ["tensor", "outcome", "source", "output"], [[shown(r.key), r.status, shown(r.source), shown(r.output)] for r in odd]
        )
    for line in found.lines():
        out(line)
