"""The pictures of the documentation, from a real migration of the sample zoo: its terminal while it runs, and its report in a browser.

    python docs/pictures.py          writes docs/pictures/*.svg and *.png

Needs what the browser tests need (`python -m tests.parts`) and the package pyte, a terminal in memory. The figures in the pictures
are those of the machine that made them.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests import browser, command, sample_zoo  # noqa: E402

COLUMNS, LINES = 116, 24
COMMAND = "convert migrate zoo out --to safetensors"
FOLDER = ROOT / "docs" / "pictures"


def watched(folder: Path) -> list[Any]:
    """Run the command on a terminal of its own; the screens that a person sees, one after each stroke of the pen."""
    import pyte

    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    stream.feed(f"\x1b[1m$\x1b[0m {COMMAND}\r\n".encode())
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONUTF8": "1"}
    ours, theirs = pty.openpty()
    argv = [*command.argv(), *COMMAND.split()[1:]]
    with subprocess.Popen(argv, cwd=folder, env={**kept, **size}, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        screens = []
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the command has ended
                break
            stream.feed(data)
            screens.append([dict(screen.buffer[line]) for line in range(LINES)])
    os.close(ours)
    assert process.returncode == 65, "the zoo's bad files are refused"
    return screens


def drawn(screen: list[dict[int, Any]]) -> Any:
    """A screen as rich's text."""
    from rich.text import Text

    text = Text()
    for line in screen:
        row = Text()
        for at in range(COLUMNS):
            cell = line.get(at)
            row.append(" " if cell is None else cell.data, "" if cell is None else _style(cell))
        row.rstrip()
        text.append_text(row).append("\n")
    text.rstrip()
    return text


def _style(cell: Any) -> str:
    colour = (
        ""
        if cell.fg == "default"
        else f"#{cell.fg}"
        if re.fullmatch("[0-9a-f]{6}", cell.fg)
        else cell.fg.replace("bright", "bright_")
    )
    return ("bold " if cell.bold else "") + colour.replace("brown", "yellow")


def said(screen: list[dict[int, Any]]) -> str:
    return "\n".join("".join(cell.data for _, cell in sorted(line.items())) for line in screen)


def terminal(folder: Path) -> None:
    """The terminal at a moment when failures and the bar are both to be seen."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console

    running = [screen for screen in watched(folder) if "migrating" in said(screen) and "left" in said(screen)]
    fullest = max(enumerate(running), key=lambda one: (sum(map(bool, map(str.strip, said(one[1]).split("\n")))), one[0]))[1]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(drawn(fullest), soft_wrap=True)
    # rich's own frame names a font on a server: a page asks nobody.
    frame = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    picture = console.export_svg(title=COMMAND, code_format=frame, unique_id="migrate")
    (FOLDER / "migrate.svg").write_text(picture, encoding="utf-8")


def report(folder: Path) -> None:
    """The report, light and dark, with the details of two checkpoints open."""
    shown = "[...document.querySelectorAll('.open')].filter(b => /backup|cut off/.test(b.textContent)).forEach(b => b.click())"
    with browser.opened() as driver:
        for name, dark in (("report", False), ("report-dark", True)):
            browser.looks(driver, width=1100, dark=dark)
            browser.visit(driver, folder / "out" / "report.html")
            driver.execute_script(shown)
            browser.picture(driver, FOLDER / f"{name}.png", height=1340)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample_zoo.make(folder / "zoo", with_bad=True)
        terminal(folder)
        report(folder)
    for path in sorted(FOLDER.iterdir()):
        sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
