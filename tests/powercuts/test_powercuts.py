"""The short part: one set of files, and a writer that does not flush, which has to be found out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.paths import by_name
from tests.parts import needs
from tests.powercuts.controls import controls
from tests.powercuts.disk import memory, why_not
from tests.powercuts.trial import ours, try_writer


@pytest.fixture(scope="module", autouse=True)
def disks() -> None:
    needs("powercuts")
    if (why := why_not()) is not None:
        pytest.skip(f"no power cut was tried: {why}")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="powercuts-", dir=memory() or tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize(("name", "forced", "busy"), [("sharded safetensors", True, True), ("npz", False, False)])
def test_old_or_new(name: str, forced: bool, busy: bool, scratch: Path) -> None:
    found = try_writer(ours(by_name(name), scratch / "ours", forced=forced), scratch / "disk", after=0.2, most=18, busy=busy)
    assert not found.wrong, "\n".join(found.wrong)
    assert found.total >= 12


def test_who_does_not_flush_is_found_out(scratch: Path) -> None:
    found = try_writer(controls(scratch / "controls")[0], scratch / "disk", after=0.2, most=6)
    assert any("exit 0, and the files are {'out.safetensors': 'none'}" in line for line in found.wrong)
