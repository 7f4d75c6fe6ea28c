"""Pages of migrations and of parity in a real browser: they sort and filter, and run nothing that a file says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from convert.parity import page as parity
from convert.zoo import page as migration
from convert.zoo.document import document
from tests import browser, command, sample_zoo
from tests.parts import needs

HOSTILE = [
    "</script><script>window.__pwned=1;alert(1)</script>", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "'\"><svg/onload=alert(1)>", "javascript:alert(1)", "<a href=javascript:alert(1)>x</a>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'>", "<style>@import 'http://127.0.0.1:9/'</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/>", "<meta http-equiv=refresh content=0>", "<!--<script>", "]]>", "${alert(1)}",
    "{{alert(1)}}", "__proto__", "constructor", "\x1b[31mred\x1b[0m\x07", "gpj.\u202eexe.\u2066x\u2069", "a\x00b\rc\nd\te",
    "\ud800lone\udfff", "\u2028line\u2029", "W" * 1_000_000, "\u0301" * 5000, "&lt;b&gt;&amp;", "\\", "-1", "é" * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    needs("browser")
    with browser.opened() as opened:
        yield opened


def quiet(driver: Any, path: Path) -> None:
    """Nothing was run or refused, nothing was asked for but the page itself."""
    assert driver.execute_script("return window.__pwned") == 0
    assert browser.console(driver) == []
    assert browser.requests(driver) == [path.resolve().as_uri()]
    assert driver.execute_script("return document.querySelectorAll('img,iframe,object,embed,link,a,base').length") == 0


def row(at: int) -> dict[str, Any]:
    status = ("done", "unchanged", "copied", "failed")[at % 4]
    made: dict[str, Any] = {
        "source": f"nets/model-{at}.pth",
        "status": status,
        "format": ("torch-zip", "npz", "safetensors")[at % 3],
        "bytes": at * 977 % 5_000_000,
        "seconds": at * 13 % 7 / 10,
        "model": ("state_dict", "", "generator")[at % 3],
        "outputs": [],
        "verdict": ("bytes", "passed")[at % 2],
    }
    if at % 5 == 0:
        made["architecture"] = f"torchvision resnet{at}"
    if at % 2:
        made["ratio"] = at % 90 / 10
    if status == "failed":
        kind = ("corrupt", "limit")[at // 4 % 2]
        made |= {"error": {"exit": 65, "kind": kind, "what": f"what of {at}", "hint": f"hint of {at}", "target": "onnx"}}
        del made["verdict"]
    else:
        output = {
            "target": "onnx",
            "path": f"nets/model-{at}.onnx",
            "bytes": 9,
            "tensors": 3,
            "verdict": "bytes",
            "sha256": f"{at:064x}",
        }
        made |= {
            "outputs": [output],
            "dropped": [{"path": "optimizer", "tensors": 2, "bytes": 8, "summary": "x"}],
            "notes": [f"note {at}"],
        }
    return made


def saved(folder: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    settings = {"source": "zoo", "destination": "out", "targets": ["onnx"], **more}
    told = document(
        rows, [{"source": "a.txt", "kind": "text", "bytes": 3}], settings, tool="t 0.1", started="2026-01-31", seconds=3.2
    )
    path = folder / "report.html"
    path.write_text(migration.page(told), encoding="utf-8")
    return path


@pytest.fixture
def opened(driver: Any, tmp_path: Path) -> Iterator[Any]:
    """The page of 250 rows."""
    path = saved(tmp_path, [row(at) for at in range(250)])
    browser.visit(driver, path)
    yield driver
    quiet(driver, path)


def column(driver: Any, at: int) -> list[str]:
    """The cells of a column, as they are shown."""
    script = "return [...document.querySelectorAll('#body > tr:not(.more)')].map(row => row.children[arguments[0]].textContent)"
    found: list[str] = driver.execute_script(script, at)
    return found


def sources(driver: Any) -> list[str]:
    return column(driver, 0)


def number(name: str) -> int:
    return int(name.partition("-")[2].partition(".")[0])


def press(driver: Any, selector: str) -> None:
    """Use an element as from a keyboard."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    driver.find_element(By.CSS_SELECTOR, selector).send_keys(Keys.ENTER)


def fill(driver: Any, field: str, text: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    found = driver.find_element(By.ID, field)
    if found.tag_name == "select":
        Select(found).select_by_visible_text(text)
    else:
        found.clear()
        found.send_keys(text)


KEYS: dict[int, Callable[[dict[str, Any]], Any]] = {
    1: lambda row: row["status"],
    2: lambda row: row["format"],
    5: lambda row: row["bytes"],
    6: lambda row: row["seconds"],
}


def test_names_come_in_the_order_of_their_numbers(opened: Any) -> None:
    assert [number(name) for name in sources(opened)] == list(range(100))
    assert opened.execute_script("return document.querySelector('th[aria-sort]').textContent") == "source"


@pytest.mark.parametrize("at", KEYS)
def test_a_header_sorts_by_keyboard_and_says_so(opened: Any, at: int) -> None:
    seen = []
    for _ in range(2):
        press(opened, f"th[data-column='{at}'] button")
        heads = opened.execute_script(
            "return [...document.querySelectorAll('th[aria-sort]')].map(head => [head.dataset.column, head.getAttribute('aria-sort')])"
        )
        assert [column for column, _ in heads] == [str(at)]
        seen.append(heads[0][1])
        ordered = sorted((row(number) for number in range(250)), key=KEYS[at], reverse=seen[-1] == "descending")
        assert [number(name) for name in sources(opened)] == [number(one["source"]) for one in ordered[:100]]
    assert sorted(seen) == ["ascending", "descending"]


def test_rows_without_a_value_come_last(opened: Any) -> None:
    for _ in range(2):
        press(opened, "th[data-column='4'] button")
        assert all(column(opened, 4)[:50])
        assert not any(column(opened, 4)[50:])
    press(opened, "th[data-column='7'] button")
    assert column(opened, 7)[0].startswith("bytes")
    press(opened, "th[data-column='7'] button")
    assert column(opened, 7)[0] == "passed, bytes 8.9", "the largest error first"


@pytest.mark.parametrize(
    ("field", "text", "wanted"),
    [
        ("f-source", "model-24", lambda row: "model-24" in row["source"]),
        ("f-status", "failed", lambda row: row["status"] == "failed"),
        ("f-format", "npz", lambda row: row["format"] == "npz"),
        ("f-model", "GENER", lambda row: row["model"] == "generator"),
        ("f-architecture", "resnet2", lambda row: "resnet2" in row.get("architecture", "")),
        ("f-size", "100 kB", None),
        ("f-time", "0.1 s", lambda row: row["seconds"] >= 0.1),
        ("f-verdict", "passed", lambda row: row.get("verdict") == "passed"),
        ("f-verdict", "–", lambda row: "verdict" not in row),
        ("f-reason", "limit", lambda row: row.get("error", {}).get("kind") == "limit"),
    ],
)
def test_a_field_filters(opened: Any, field: str, text: str, wanted: Callable[[dict[str, Any]], bool] | None) -> None:
    if wanted is None:
        text, wanted = "1 kB", lambda row: row["bytes"] >= 1000
    fill(opened, field, text)
    expected = [one for at in range(250) if wanted(one := row(at))]
    assert 0 < len(expected) < 250
    assert sources(opened) == [one["source"] for one in expected[:100]]
    assert f"{len(expected)} found among 250 checkpoints" in opened.execute_script(
        "return document.getElementById('count').textContent"
    )
    press(opened, "#filters button[type=reset]")
    opened.execute_async_script("setTimeout(arguments[0], 20)")
    assert len(sources(opened)) == 100


def test_filters_work_together_and_may_find_nothing(opened: Any) -> None:
    fill(opened, "f-status", "failed")
    fill(opened, "f-format", "npz")
    assert {number(name) % 12 for name in sources(opened)} == {7}
    fill(opened, "f-source", "no such name")
    assert sources(opened) == []
    assert "0 found" in opened.execute_script("return document.getElementById('count').textContent")


def test_details_open_and_close_by_keyboard(opened: Any) -> None:
    press(opened, "#body tr:nth-child(4) .open")  # the fourth is a failure
    said = opened.execute_script("return document.querySelector('.more').innerText")
    assert "what of 3 (to onnx)" in said
    assert "hint of 3" in said
    assert opened.execute_script("return document.querySelectorAll('[aria-expanded=true]').length") == 1
    press(opened, "#body tr:nth-child(4) .open")
    assert opened.execute_script("return document.querySelectorAll('.more, [aria-expanded=true]').length") == 0
    press(opened, "#body tr:nth-child(2) .open")
    said = opened.execute_script("return document.querySelector('.more').innerText")
    assert "nets/model-1.onnx" in said
    assert f"sha256:{1:064x}" in said
    assert "optimizer: 2 tensors, 8 bytes" in said
    assert "note 1" in said


def test_ten_thousand_rows_are_usable(driver: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, [row(at) for at in range(10_000)])
    browser.visit(driver, path)
    assert driver.execute_script("return document.querySelectorAll('*').length") < 6000
    assert driver.execute_script("return document.getElementById('page').textContent") == "page 1 of 100"
    press(driver, "#last")
    assert [number(name) for name in sources(driver)] == list(range(9900, 10_000))
    press(driver, "#previous")
    assert [number(name) for name in sources(driver)] == list(range(9800, 9900))
    fill(driver, "f-source", "model-777")
    assert [number(name) for name in sources(driver)] == [777, *range(7770, 7780)]
    driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert len(sources(driver)) == 11
    press(driver, "#filters button[type=reset]")
    driver.execute_async_script("setTimeout(arguments[0], 20)")
    driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert len(sources(driver)) == 2000, "so many rows are printed"
    driver.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert len(sources(driver)) == 100
    quiet(driver, path)


def hostile_row(text: str) -> dict[str, Any]:
    output = {"target": text, "model": text, "path": text, "bytes": 1, "tensors": 2, "verdict": text, "sha256": text}
    return {
        "source": text, "status": text, "format": text, "title": text, "bytes": 5, "seconds": 0.1, "model": text, "architecture": text,
        "outputs": [output], "verdict": text, "ratio": "inf", "dropped": [{"path": text, "tensors": 0, "bytes": 0, "summary": text}],
        "notes": [text], "copy_of": text, "digest": text, "error": {"exit": 65, "kind": text, "what": text, "hint": text, "target": text},
    }  # fmt: skip


def test_hostile_text_is_only_shown(driver: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, [hostile_row(text) for text in HOSTILE], source=HOSTILE[0], include=HOSTILE, note=HOSTILE[3])
    assert path.stat().st_size < 1_000_000
    browser.visit(driver, path)
    assert len(sources(driver)) == len(HOSTILE)
    driver.execute_script(
        "document.querySelectorAll('.open').forEach(b => b.click()); document.querySelectorAll('details').forEach(d => d.open = true);"
        "document.querySelectorAll('thead button').forEach(b => b.click()); document.querySelectorAll('.open').forEach(b => b.click());"
    )
    for text in HOSTILE[:4]:
        driver.execute_script(
            "const f = document.getElementById('f-source'); f.value = arguments[0]; f.dispatchEvent(new Event('input', {bubbles: true}))",
            text,
        )
        assert sources(driver) == [text]
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert driver.execute_script("return document.scripts.length") == 2
    assert driver.execute_script("return Object.keys(Object.prototype).length") == 0
    quiet(driver, path)


def test_hostile_text_in_a_parity_page_is_only_shown(driver: Any, tmp_path: Path) -> None:
    rows, runs, probes = [], [], []
    for text in HOSTILE:
        figures = {"sha256": text, "differing": {text: text}, "errors": {text: 1.0}}
        rows.append({"rung": "digests", "device": text, "status": text, "what": text, "seconds": 0.1, "figures": figures})
        runs.append(
            {
                "device": text,
                "inputs": text,
                "scores": [{"output": text, "sample": text, "status": text, "ratio": text, "why": text}],
            }
        )
        probes.append({"layer": text, "kind": text, "inputs": text, "status": text, "ratio": text})
    told = {
        "verdict": HOSTILE[1], "reason": HOSTILE[2], "rows": rows, "runs": runs, "probes": probes, "diagnosis": HOSTILE,
        "recipe": dict.fromkeys(HOSTILE, HOSTILE[0]), "configuration": {text: {text: text} for text in HOSTILE},
        "worst": {"output": HOSTILE[0], "ratio": HOSTILE[1], "worst": {"index": HOSTILE, "expected": HOSTILE[2], "got": HOSTILE[3]}},
    }  # fmt: skip
    path = tmp_path / "parity.html"
    path.write_text(parity.page(told, HOSTILE[0]), encoding="utf-8")
    browser.visit(driver, path)
    driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert "window.__pwned=1" in driver.execute_script("return document.body.innerText")
    assert driver.execute_script("return document.scripts.length") == 0
    quiet(driver, path)


def test_the_watch_sees_what_runs_and_what_a_policy_refuses(driver: Any, tmp_path: Path) -> None:
    """These tests can fail: unescaped, the same text runs."""
    bare = tmp_path / "bare.html"
    bare.write_text(f"<!doctype html><p>{HOSTILE[2]}", encoding="utf-8")
    browser.visit(driver, bare)
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert driver.execute_script("return window.__pwned") == 1
    assert len(browser.requests(driver)) == 2
    policed = tmp_path / "policed.html"
    policed.write_text(saved(tmp_path, [row(1)]).read_text().replace("<h1>", f"{HOSTILE[1]}{HOSTILE[2]}<h1>"), encoding="utf-8")
    browser.visit(driver, policed)
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert driver.execute_script("return window.__pwned") == 0, "the policy alone is enough"
    assert any("script-src" in said for said in browser.console(driver))


CONTRAST = """
const part = x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
const light = c => {
  const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => part(x / 255)); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
const behind = e => { for (; e; e = e.parentElement) {
  const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255,255,255)'; };
return [...document.querySelectorAll('td,th,p,dt,dd,small,label,button:not(:disabled),li,summary,figcaption,.verdict,code')]
  .filter(e => e.innerText && e.checkVisibility())
  .map(e => { const a = light(getComputedStyle(e).color), b = light(behind(e));
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName + '.' + e.className + ': ' + e.innerText.slice(0, 30)]; })
  .filter(([contrast]) => contrast < 4.5);
"""  # what is written with less contrast than WCAG 2 asks for


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_can_be_read(driver: Any, tmp_path: Path, width: int, dark: bool) -> None:
    """Text stands out from what is behind it, and nothing reaches beyond the window, whatever names are like."""
    path = saved(tmp_path, [*(row(at) for at in range(40)), hostile_row("W" * 1000), hostile_row("some/long/path/" * 40)])
    browser.looks(driver, width=width, dark=dark)
    try:
        browser.visit(driver, path)
        driver.execute_script("document.querySelectorAll('.open').forEach(b => b.click())")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.execute_script(CONTRAST) == []
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 200) == dark
        fields = "[...document.querySelectorAll('input,select,button,th')].filter(e => !e.textContent && !e.labels?.length)"
        assert driver.execute_script(f"return {fields}.map(e => e.outerHTML)") == [], "every field has a label"
    finally:
        browser.looks(driver)


def test_without_scripts_the_page_still_tells(driver: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, [row(at) for at in range(8)])
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.visit(driver, path)
        said = browser.text(driver)
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "what of 3" in said
    assert "hint: hint of 7" in said
    assert "needs scripts" in said
    assert "size at least" not in said


def test_it_prints(driver: Any, tmp_path: Path) -> None:
    import base64

    browser.visit(driver, saved(tmp_path, [row(at) for at in range(250)]))
    printed = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") >= 4, "all rows, not the first hundred alone"
    assert len(sources(driver)) == 100


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of tensors that it means to give up
def test_the_page_of_a_real_run(driver: Any, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo <b>"
    for sample in sample_zoo.samples():
        if sample.name.startswith(("vision/", "generative/")):
            (zoo / sample.name).parent.mkdir(parents=True, exist_ok=True)
            sample.write(zoo / sample.name)
    sample_zoo.bad(zoo)
    done = command.run("migrate", zoo, tmp_path / "out", "--to", "safetensors", "--to", "npz", "--json")
    path = tmp_path / "out" / "report.html"
    told = json.loads(done.stdout)
    browser.visit(driver, path)
    assert sorted(sources(driver)) == sorted(one["source"] for one in told["rows"])
    for number, status in enumerate(column(driver, 1)):
        assert status == next(one["status"] for one in told["rows"] if one["source"] == sources(driver)[number])
    assert "zoo <b>" in driver.execute_script("return document.querySelector('header').innerText")
    quiet(driver, path)
