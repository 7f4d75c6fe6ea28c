"""The command line of ``convert inspect --audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert import audit as auditing
from convert.console import complain, emit, err, out
from convert.mentions import Audit
from convert.report import Failure, Report
from convert.severity import CRITICAL, KNOWN, NOTE, SUSPICIOUS
from convert.text import count, shown
from formats.core.errors import CheckpointError

_SAID = {
    CRITICAL: "critical: runs commands or code, or reaches files or the network",
    SUSPICIOUS: "suspicious: finds something by name, or is a function that nobody knows",
    NOTE: "note: classes named, or of which an object would be made",
    KNOWN: "known: what torch, NumPy and the standard library write into checkpoints",
}
PLACES = 3  # shown for one name


def inspected(source: Path, *, values: bool, json: bool, text: Any) -> int:
    """Open ``source`` under watch, look around, and show both; the exit code is the file's, however much its names alarm.

    ``text(inspection)`` shows the inspection itself. A file that is refused is audited all the same, as far as that goes.
    """
    from convert import inspection

    failure: Failure | None = None
    found: inspection.Inspection | None = None
    with auditing.watching(source) as notes:
        try:
            found = inspection.inspect(source, values=values)
        except CheckpointError as error:
            failure = Failure.of(error, source)
        auditing.look_around(notes, source)
    audit = notes.audit()
    if json:
        document = found.document() if found is not None else Report(failure=failure).document()
        emit({**document, "audit": audit.document(), "audit_incomplete": audit.incomplete})
    else:
        if found is not None:
            text(found)
        show(audit)
    if failure is not None:
        complain(failure)
        return failure.exit
    return 0


def show(audit: Audit) -> None:
    """What was named, by severity; one line each."""
    out(f"\nAudit of {count(audit.pickles, 'pickle')}: none of this was imported or called")
    if not audit.mentions:
        out("  no names: nothing would have been run")
    for severity, said in _SAID.items():
        below = [mention for mention in audit.mentions if mention.severity == severity]
        if below:
            out(f"  {said}")
        for mention in below:
            if mention.calls > mention.objects:
                would = f"would have been called {count(mention.calls - mention.objects, 'time')}"
            elif mention.calls:
                would = f"{count(mention.calls, 'object')} would have been made"
            else:
                would = "named, never called"
            places = ", ".join(shown(place, 80) for place in mention.where[:PLACES])
            more = len(mention.where) - PLACES
            out(f"    {shown(mention.name, 120)}: {would}, in {places}" + (f" and {more} more" if more > 0 else ""))
    if audit.results:
        out(f"  {count(audit.results, 'call')} of what another call would have given")
    for place in audit.incomplete:
        err(f"warning: {shown(place, 200)} was refused on the way; what it names after that is not known")
