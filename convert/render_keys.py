"""Reports about keys as people read them: differences, diagnoses, warm starts. Whole lists are in ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.console import out
from convert.fold import fold, folded
from convert.text import count, shape, shown

if TYPE_CHECKING:
    from convert.diff import Difference, Row
    from convert.doctor import Diagnosis
    from convert.expectation import Outcome
    from convert.warm_start import Transfer

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


def _keys(heading: str, keys: list[str], universe: list[str], indent: int = 2) -> None:
    if not keys:
        return
    out(f"{heading} ({len(keys):,})")
    lines = folded(keys, universe)
    for line in lines[:LINES]:
        out(" " * indent + line)
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
    from convert.deviation import Deviation

    total = Deviation(sum(one.numel for one in found))
    for one in found:
        total.add(one, 0)
    return total.text()


def _more(lines: list[str]) -> None:
    if len(lines) > LINES:
        out(f"  … and {count(len(lines) - LINES, 'line')} more: --json has all")


def diagnosis(found: Diagnosis) -> None:
    """What loading says, then each remedy with its command, how sure it is and why."""
    out(f"{shown(found.source, 300)} into {shown(found.expected.name, 300)}")
    if found.raw is None:
        out(f"load_state_dict would refuse it: the file holds {shown(found.raw_kind, 200)}")
    elif found.raw.loads:
        out(f"load_state_dict(strict=True) takes it as it is: {count(found.raw.matched, 'tensor')} by name and shape")
    else:
        out("load_state_dict(strict=True) would say")
        _said(found.raw, found)
    for note in found.notes:
        out(f"note: {shown(note, 600)}")
    if found.status == "loads":
        return
    if not found.remedies:
        out("no rule was found: not one tensor of the file fits the model by any renaming that was tried")
        return
    if len(found.remedies) > 1:
        out(f"{len(found.remedies)} remedies fit equally well; names and shapes do not tell which one is right")
    for number, remedy in enumerate(found.remedies, 1):
        out(f"\nremedy{f' {number}' if len(found.remedies) > 1 else ''} ({remedy.sure})")
        for reason in remedy.reasons:
            out(f"  {shown(reason, 400)}")
        for rival in remedy.rivals:
            out(f"  would fit as well: {shown(rival, 200)}")
        if remedy.by_order:
            _keys("  matched by order alone", [key for key, _ in remedy.by_order], found.universe, 4)
        if remedy.kept:
            _keys("  the model keeps its own", remedy.kept, list(found.expected.slots), 4)
        if remedy.unused:
            _keys("  not used from the checkpoint", remedy.unused, found.universe, 4)
        if remedy.rules:
            out("  rules, one a line:")
            for line in remedy.rules[:LINES]:
                out(f"    {shown(line, 400)}")
            if len(remedy.rules) > LINES:
                out(f"    … and {count(len(remedy.rules) - LINES, 'line')} more: --write-rules FILE writes them all")
        out(f"  {shown(remedy.command, 4000)}")
        if remedy.complete:
            out(
                f"  after it load_state_dict(strict=True) takes all {count(remedy.after.matched + len(remedy.after.filled), 'tensor')}"
            )
        else:
            out("  after it load_state_dict(strict=True) still says")
            _said(remedy.after, found)


def _said(outcome: Outcome, found: Diagnosis) -> None:
    universe = found.universe
    _keys("  missing", outcome.missing, universe, 4)
    _keys("  unexpected", outcome.unexpected, universe, 4)
    if outcome.mismatched:
        out(f"  size mismatch ({len(outcome.mismatched):,})")
        lines = [f"    {shown(key)}: checkpoint {shape(a)}, model {shape(b)}" for key, (a, b) in outcome.mismatched.items()]
        for line in lines[:LINES]:
            out(line)
        _more(lines)


def transfer(found: Transfer) -> list[str]:
    """The table of a warm start."""
    lines = [f"taken over from the source ({len(found.taken):,})"]
    lines += [f"  {line}" for line in folded(found.taken, found.keys)[:LINES]]
    if found.resized:
        lines.append(f"kept, another shape ({len(found.resized):,})")
        lines += [f"  {shown(key)}: source {shape(a)}, model {shape(b)}" for key, (a, b) in list(found.resized.items())[:LINES]]
    if found.kept:
        lines.append(f"kept, not in the source ({len(found.kept):,})")
        lines += [f"  {line}" for line in folded(found.kept, found.keys)[:LINES]]
    if found.unused:
        lines.append(f"not used from the source ({len(found.unused):,})")
        lines += [f"  {line}" for line in folded(found.unused, found.source_keys)[:LINES]]
    return lines
