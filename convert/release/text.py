"""A release that was made, in a few lines."""

from __future__ import annotations

from convert.release.publish import Release
from convert.text import count, shown, size


def lines(release: Release) -> list[str]:
    """Printable."""
    said = release.manifest
    tensors = f"{count(len(said['tensors']), 'tensor')}, {size(said['tensor_bytes'])}"
    known = f", {said['architecture']['name']}" if "architecture" in said else ""
    made = [f"{shown(release.folder, 300)}: {said['name']} ({tensors}{known})"]
    for one in said["files"]:
        also = f"; the same as {one['also']}" if "also" in one else ""
        loader = said["verification"]["loaders"][one["format"]]
        made.append(f"  {one['name']}: {size(one['bytes'])}, read back and equal, by {loader} too{also}")
    if said["verification"]["parity"]["verdict"] != "not run":
        made.append(f"  run against its source: {said['verification']['parity']['verdict']}")
    made.append(f"  content sha256 {said['content_sha256']}")
    made.append(
        f"  licence: {shown(said['license'])}" if "license" in said else "  licence: none given, and the card says so (--license)"
    )
    if said["dropped"]:
        made.append("  not published:")
        made += [f"    {shown(left['path'])}: {_amount(left)}" for left in said["dropped"]]
    return made + [f"  note: {shown(note, 300)}" for note in release.notes]


def _amount(left: dict[str, object]) -> str:
    if left["tensors"]:
        return f"{count(int(str(left['tensors'])), 'tensor')}, {size(int(str(left['bytes'])))}"
    return shown(left["summary"])
