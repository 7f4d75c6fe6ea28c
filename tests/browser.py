"""A real browser that looks at pages of this program: headless, with a profile of its own, and nothing that it could reach but files.

with browser.opened(width=1200, dark=True) as driver:
    browser.visit(driver, path)
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.parts import program

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--no-default-browser-check", "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
    "--disable-extensions", "--metrics-recording-only", "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name leads anywhere
)  # fmt: skip
# Before anything of a page runs: what hostile text would call, and what the page's policy forbids, is noted.
WATCH = """
window.__pwned = 0; window.__violations = [];
document.addEventListener('securitypolicyviolation', e => window.__violations.push(e.violatedDirective + ' ' + e.blockedURI));
for (const name of ['alert', 'confirm', 'prompt', 'open', 'fetch']) window[name] = () => { window.__pwned++; };
"""


@contextmanager
def opened(width: int = 1200, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """A driver of selenium; the browser ends with the block."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}  # selenium downloads no driver and tells nobody
    with tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = program("chromium")
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        options.set_capability("unhandledPromptBehavior", "ignore")
        driver = webdriver.Chrome(options=options, service=Service(program("chromedriver")))
        try:
            driver.set_page_load_timeout(60)
            driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
            looks(driver, width, height, dark)
            yield driver
        finally:
            driver.quit()


def looks(driver: Any, width: int = 1200, height: int = 900, dark: bool = False) -> None:
    """The size of the window in pixels, and which colours the reader prefers."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def visit(driver: Any, path: Path) -> None:
    """Open a file."""
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(path.resolve().as_uri())


def console(driver: Any) -> list[str]:
    """What the page has complained of since it was opened: errors of scripts, and what its policy refused."""
    said = [f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser") if entry["level"] != "DEBUG"]
    return said + driver.execute_script("return window.__violations")


def requests(driver: Any) -> list[str]:
    """What has been asked for since the page was opened, the page first."""
    told = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]


def picture(driver: Any, path: Path, *, height: int | None = None) -> None:
    """The page as a PNG: its upper ``height`` pixels, or what the window shows."""
    options: dict[str, Any] = {"format": "png"}
    if height is not None:
        width = driver.execute_script("return innerWidth")
        options |= {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}}
    path.write_bytes(base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))


def text(driver: Any) -> str:
    """What can be read on the page."""
    from selenium.webdriver.common.by import By

    return str(driver.find_element(By.TAG_NAME, "body").text)
