"""``convert formats``: what can be read and written, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from formats import registry
from formats.core.protocol import Capabilities, Format


@dataclass(slots=True)
class Listed:
    """One format with what its writer can hold, where it has one."""

    row: Format
    plugin: bool
    capabilities: Capabilities | None

    def document(self) -> dict[str, Any]:
        entries: dict[str, Any] = {
            "name": self.row.name,
            "title": self.row.title,
            "reads": self.row.reads,
            "writes": self.row.writes,
            "targets": list(self.row.targets),
            "suffixes": list(self.row.suffixes),
            "plugin": self.plugin,
        }
        if self.capabilities is not None:
            held = {name: getattr(self.capabilities, name) for name in HELD}
            entries["holds"] = {"dtypes": sorted(self.capabilities.dtypes), **held}
        return entries


HELD = ("ties", "strides", "composites", "extras", "metadata", "program")


def rows() -> list[Listed]:
    """Our own formats and those of plugins, as the registry has them."""
    found = [(row, False) for row in registry.ROWS] + [(row, True) for row in registry.plugins()]
    return [Listed(row, plugin, registry.load(row).CAPABILITIES if row.writes else None) for row, plugin in found]


def document(listed: list[Listed]) -> dict[str, Any]:
    return {"status": "done", "exit": 0, "formats": [one.document() for one in listed]}
