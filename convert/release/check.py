"""``convert release --check``: everything that a release says, looked at again, without a network and without trusting any of it.

Every file's sha256; the hash in every name; every tensor of every container, read by us and by the container's own library; the content's
digest; the card, the BOM and config.json, which have to be what the manifest makes; files too many or too few; the signature.
"""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.release import names, tensors
from convert.release.bom import bom
from convert.release.card import about_of, card
from convert.release.config import config
from convert.release.manifest import MAX_BYTES, dtypes, load
from convert.text import count, shown
from convert.zoo import digest
from formats.core.errors import CheckpointError, ParityFailed, UsageError

TOLERATED = frozenset(
    {".cache", ".git", ".gitattributes", ".github", ".gitignore"}
)  # what hub clients and git put beside a release
_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(slots=True)
class Finding:
    """What became of one release folder: ``differences`` are (file, what), none where all is as it says."""

    folder: Path
    name: str = ""
    files: int = 0
    tensors: int = 0
    content_sha256: str = ""
    signature: str = "none"  # none | present | verified | wrong
    differences: list[tuple[str, str]] = field(default_factory=list)

    @property
    def exit(self) -> int:
        return ParityFailed.exit_code if self.differences else 0

    def document(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder), "status": "failed" if self.differences else "done", "name": self.name, "files": self.files,
            "tensors": self.tensors, "content_sha256": self.content_sha256, "signature": self.signature,
            "differences": [{"file": file, "what": what} for file, what in self.differences],
        }  # fmt: skip

    def lines(self) -> list[str]:
        if self.differences:
            return [f"{shown(self.folder / file, 300)}: {shown(what, 400)}" for file, what in self.differences]
        said = {
            "none": "not signed", "present": "signed, not checked against a key (--public-key)", "verified": "the signature is good",
        }[self.signature]  # fmt: skip
        return [
            f"{shown(self.folder, 300)}: {count(self.files, 'file')} and {count(self.tensors, 'tensor')} are what they were; {said}",
            f"  {self.name}, content sha256 {self.content_sha256}",
        ]


def check(folder: Path, key: Path | None = None) -> list[Finding]:
    """A finding for ``folder``, or for each release in it and below. Raises `UsageError` where there is none."""
    if not folder.is_dir():
        raise UsageError("is no folder", path=folder)
    found = _below(folder, key)
    if not any(finding.files for finding in found):
        raise UsageError(f"is no release: there is neither {names.MANIFEST} nor {names.SUMS}", path=folder)
    return found


def _below(folder: Path, key: Path | None) -> list[Finding]:
    finding = Finding(folder)
    if any((folder / name).is_file() for name in (names.MANIFEST, names.SUMS, names.SIGNATURE)):
        _check(finding, key)
        return [finding]
    here = sorted(path for path in folder.iterdir() if path.name not in TOLERATED)
    inner = [path for path in here if path.is_dir() and not path.is_symlink()]
    finding.differences = [(path.name, "is not part of a release") for path in here if path not in inner]
    if not here:
        finding.differences.append((".", "is an empty folder"))
    below = [one for path in inner for one in _below(path, key)]
    return [finding, *below] if finding.differences else below


def _check(finding: Finding, key: Path | None) -> None:
    folder, wrong = finding.folder, finding.differences
    present = _listing(finding)
    finding.files = len(present)
    found = _digests(folder, present)
    _sums(finding, found)
    try:
        manifest = load(folder / names.MANIFEST)
    except CheckpointError as error:
        wrong.append((names.MANIFEST, error.what))
    else:
        _manifest(finding, manifest, found)
    if names.SIGNATURE in present:
        finding.signature = "present"
    if key is not None:
        if names.SIGNATURE not in present:
            wrong.append((names.SIGNATURE, "is missing, and a key to check it with was given"))
            return
        from convert.release import signing

        bad = signing.check(folder, key)
        wrong += [(names.SIGNATURE, what) for what in bad]
        finding.signature = "wrong" if bad else "verified"


def _digests(folder: Path, present: set[str]) -> dict[str, str]:
    """{name: sha256}; a file with two names is read once."""
    read: dict[tuple[int, int], str] = {}
    found = {}
    for name in sorted(present):
        state = (folder / name).stat()
        key = (state.st_dev, state.st_ino)
        found[name] = read[key] = read.get(key) or digest.sha256(folder / name)
    return found


def _listing(finding: Finding) -> set[str]:
    """The plain files of the folder; everything else in it is a difference."""
    present = set()
    for path in sorted(finding.folder.iterdir()):
        mode = path.lstat().st_mode
        if path.name in TOLERATED:
            continue
        if stat.S_ISREG(mode):
            present.add(path.name)
        else:
            kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no regular file"
            finding.differences.append((path.name, f"is {kind}: a release holds plain files alone"))
    return present


def _sums(finding: Finding, found: dict[str, str]) -> None:
    wrong = finding.differences
    if names.SUMS not in found:
        wrong.append((names.SUMS, "is missing"))
        return
    path = finding.folder / names.SUMS
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.stat().st_size <= MAX_BYTES else ""
    said: dict[str, str] = {}
    *listed, rest = text.split("\n")
    if rest or not listed:
        wrong.append((names.SUMS, "does not end with a whole line"))
    for number, line in enumerate(listed, 1):
        match = _SUM.fullmatch(line)
        if match is None or match[2] in said:
            wrong.append((names.SUMS, f"line {number} is no sum of a file, or a second one of it"))
        else:
            said[match[2]] = match[1]
    for name in sorted(said.keys() - found.keys()):
        wrong.append((name, f"is missing: {names.SUMS} lists it"))
    for name in sorted(found.keys() - said.keys() - {names.SUMS, names.SIGNATURE}):
        wrong.append((name, f"is not part of the release: {names.SUMS} does not list it"))
    for name in sorted(said.keys() & found.keys()):
        if said[name] != found[name]:
            wrong.append((name, f"has sha256 {found[name][:12]}…, {names.SUMS} says {said[name][:12]}…"))


def _manifest(finding: Finding, manifest: dict[str, Any], found: dict[str, str]) -> None:
    wrong = finding.differences
    rows = manifest["tensors"]
    finding.name, finding.tensors, finding.content_sha256 = manifest["name"], len(rows), manifest["content_sha256"]
    expected = {names.MANIFEST, names.CARD, names.BOM, names.SUMS}
    for one in manifest["files"]:
        expected |= {one["name"], one.get("also", one["name"])}
        _weights(finding, one, found, rows)
    if not manifest["files"]:
        wrong.append((names.MANIFEST, "lists no weights"))
    if tensors.content_sha256(rows) != manifest["content_sha256"]:
        wrong.append((names.MANIFEST, "its content_sha256 is not that of its tensors"))
    counted = dtypes(rows)
    if counted != manifest["dtypes"] or manifest["tensor_bytes"] != sum(row["bytes"] for row in rows):
        wrong.append((names.MANIFEST, "its dtypes and tensor_bytes are not those of its tensors"))
    elif manifest["parameters"] != sum(one["elements"] for one in counted.values()):
        wrong.append((names.MANIFEST, "its number of parameters is not that of its tensors"))
    if _drawn(finding, manifest):
        expected.add(names.CONFIG)
    for name in sorted(expected - found.keys()):
        wrong.append((name, "is missing: the manifest calls for it"))
    for name in sorted(found.keys() - expected - {names.SIGNATURE}):
        wrong.append((name, "is not part of the release: the manifest does not call for it"))


def _weights(finding: Finding, one: dict[str, Any], found: dict[str, str], rows: list[dict[str, Any]]) -> None:
    """One container: its own digest, its name's, its second name's, and every tensor in it."""
    wrong, name = finding.differences, one["name"]
    for place in (name, one.get("also", name)):
        if place in found and found[place] != one["sha256"]:
            wrong.append((place, f"has sha256 {found[place][:12]}…, the manifest says {one['sha256'][:12]}…"))
    if name not in found:
        return
    if names.hub_prefix(name) != found[name][: names.DIGITS]:
        wrong.append(
            (name, f"its name says {names.hub_prefix(name) or 'no hash'}, its sha256 begins {found[name][: names.DIGITS]}")
        )
    if (finding.folder / name).stat().st_size != one["bytes"]:
        wrong.append((name, f"has {(finding.folder / name).stat().st_size} bytes, the manifest says {one['bytes']}"))
    try:
        there, _ = tensors.read(finding.folder / name, one["format"])
    except CheckpointError as error:
        wrong.append((name, error.what))
        return
    wrong += [(name, what) for what in tensors.difference(rows, there)]


def _drawn(finding: Finding, manifest: dict[str, Any]) -> bool:
    """Whether there is to be a config.json. Card, BOM and configuration are drawn again and compared."""
    folder, wrong = finding.folder, finding.differences
    try:
        text = (folder / names.CARD).read_bytes().decode() if (folder / names.CARD).is_file() else None
        about = about_of(text) if text is not None and "about" in manifest else None
        drawn = {names.CARD: card(manifest, about), names.BOM: bom(manifest), names.CONFIG: config(manifest)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wrong.append((names.MANIFEST, f"card and BOM cannot be drawn from it: {type(error).__name__}: {error!s:.80}"))
        return False
    if "about" in manifest:
        if about is None or hashlib.sha256(about.strip().encode()).hexdigest() != manifest["about"]:
            wrong.append((names.CARD, "the publisher's own text is not the one that the manifest says"))
    for name, content in drawn.items():
        path = folder / name
        if content is not None and path.is_file() and not path.is_symlink() and path.read_bytes() != content:
            wrong.append((name, "is not what the manifest makes of it"))
    return drawn[names.CONFIG] is not None
