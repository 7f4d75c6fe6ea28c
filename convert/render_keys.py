"""Reports about keys as people read them: differences, diagnoses, warm starts. Whole lists are in ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.console import out
from convert.fold import fold, folded
from convert.text import count, shown

if TYPE_CHECKING:
    from convert.diff import Difference, Row

LINES = 40  # folds of one kind that are shown


def difference(found: Difference) -> None:
    """Keys folded, one kind after the other, then the verdict."""
    out(f"A: {shown(found.a, 300)}\nB: {shown(found.b, 300)}")
    for note in found.notes:
        out(f"note: {shown(note, 200)}")
    universe = [row.key for row in found.rows]
    for status, heading in (("missing", "only in A"), ("unexpected", "only in B")):
        _keys(heading, [row.key for row in found.of(status)], universe)
    for status in ("shape", "dtype", "layout", "values", "bytes"):
        _rows(_HEADINGS[status], found.of(status))
    if found.order:
        out("the keys stand in another order, which load_state_dict does not mind")
    out(found.verdict())


_HEADINGS = {
    "shape": "another shape", "dtype": "another dtype", "layout": "another layout", "values": "other values",
    "bytes": "equal values, other bytes",
}  # fmt: skip


def _keys(heading: str, keys: list[str], universe: list[str]) -> None:
    if not keys:
        return
    out(f"{heading} ({len(keys):,})")
    lines = folded(keys, universe)
    for line in lines[:LINES]:
        out(f"  {line}")
    _more(lines)


def _rows(heading: str, rows: list[Row]) -> None:
    """Rows that say the same of both sides share a line; values are summed up as the largest difference."""
    if not rows:
        return
    out(f"{heading} ({len(rows):,})")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.a, row.b), []).append(row)
    lines = []
    for (a, b), members in groups.items():
        by_key = {row.key: row for row in members}
        for one in fold(by_key, by_key):
            held = [by_key[key] for key in one.keys(by_key)]
            what = a if a == b else f"{a} against {b}"
            values = _values(held)
            number = f" ({one.count:,})" if one.count > 1 else ""
            lines.append(f"  {one.text}{number}: {what}{'; ' + values if values else ''}")
    for line in lines[:LINES]:
        out(line)
    _more(lines)


def _values(rows: list[Row]) -> str:
    found = [row.deviation for row in rows if row.deviation is not None and not row.deviation.equal]
    if not found:
        return ""
    if len(found) == 1:
        return found[0].text()
    total = found[0]
    from convert.deviation import Deviation

    total = Deviation(sum(one.numel for one in found))
    for one in found:
        total.add(one, 0)
    return total.text()


def _more(lines: list[str]) -> None:
    if len(lines) > LINES:
        out(f"  … and {count(len(lines) - LINES, 'line')} more: --json has all")
