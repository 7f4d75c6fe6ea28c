"""Every write path on a disk that loses its current: at each write, and up to 8 s after the command's end.

    python -m tests.powercuts [--only NAME]... [--most N]      needs root, loop devices, FUSE

Prints a table. Exit code 1 where a cut left a file that is neither the old nor the new one, or where a control was not found out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.paths import PATHS
from tests.powercuts.controls import controls
from tests.powercuts.disk import memory, why_not
from tests.powercuts.trial import Outcome, Writer, ours, try_writer


def table(outcomes: list[Outcome]) -> str:
    """As Markdown."""
    rows = [["writer", "writes, flushes", "cuts before the end", "cuts 0 to 8 s after it", "neither old nor new"], ["---"] * 5]
    for one in outcomes:
        counts = (f"{one.writes}, {one.flushes}", str(one.counts["before the end"]), str(one.counts["after the end"]))
        rows.append([one.name, *counts, str(len(one.wrong))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.powercuts", description=__doc__)
    parser.add_argument("--only", action="append", help="a write path's name, or a part of it")
    parser.add_argument("--most", type=int, help="at most so many cuts of a writer")
    given = parser.parse_args()
    if (why := why_not()) is not None:
        print(f"NOTHING WAS TRIED: {why}", file=sys.stderr)
        return 1
    tried: list[Outcome] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="powercuts-", dir=memory()) as scratch:
        writers: list[tuple[Writer, bool]] = []
        for path in PATHS:
            if "--arch" not in path.arguments and (given.only is None or any(part in path.name for part in given.only)):
                ways = (False, True) if path.force else (False,)
                writers += [(ours(path, Path(scratch) / path.name.replace(" ", "-"), forced=forced), False) for forced in ways]
        if given.only is None or any("control" in part for part in given.only):
            writers += [(control, True) for control in controls(Path(scratch) / "controls")]
        for number, (writer, control) in enumerate(writers):
            both = [try_writer(writer, Path(scratch) / f"{number}{busy}", most=given.most, busy=busy) for busy in (False, True)]
            tried += both
            failed |= any(outcome.wrong for outcome in both) != control
            for outcome in both:
                print(f"{outcome.name}: {outcome.total} cuts, {len(outcome.wrong)} wrong", file=sys.stderr, flush=True)
                for line in outcome.wrong[: 3 if control else 20]:
                    print(f"    {line}", file=sys.stderr)
    print(table(tried))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
