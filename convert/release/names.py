"""What the files of a release are called: ``NAME-<first 8 hex of sha256>.ext``, as `torch.hub` and torchvision name weights.

`torch.hub.load_state_dict_from_url(check_hash=True)` takes the first match of ``-([a-f0-9]*)\\.`` in the file's name for the beginning
of its sha256 (``torch/hub.py``, ``HASH_REGEX``): ``resnet-50.a1-0123abcd.pth`` would be checked against "50". Such names are not given.
"""

from __future__ import annotations

import re
from typing import Any

from formats.core.errors import UsageError

DIGITS = 8
LONGEST = 100  # characters of a NAME; what follows it stays within every file system's limit
HUB_HASH = re.compile(r"-([a-f0-9]*)\.")
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HUB_WEIGHTS = "model.safetensors"  # what hub loaders look for: the same file under a second name
MANIFEST, CARD, CONFIG, BOM, SUMS, SIGNATURE = (
    "manifest.json",
    "README.md",
    "config.json",
    "bom.cdx.json",
    "SHA256SUMS",
    "model.sig",
)
OWN = frozenset({HUB_WEIGHTS, MANIFEST, CARD, CONFIG, BOM, SUMS, SIGNATURE})


def file_name(name: str, sha256: str, target: str) -> str:
    """``resnet50-0676ba61.pth``."""
    return f"{name}-{sha256[:DIGITS]}.{target}"


def hub_prefix(file: str) -> str | None:
    """The digits that torch.hub would compare; None where it would refuse the name."""
    found = HUB_HASH.search(file)
    return found[1] if found else None


def misread(name: str) -> bool:
    """Whether torch.hub would look for the hash within NAME itself."""
    return hub_prefix(f"{name}-{'0' * DIGITS}.pth") != "0" * DIGITS


def harmless(text: str) -> str:
    """A NAME made of any text: other characters become ``_``, and so does a full stop that ends what torch.hub takes for a hash."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in text).strip("._-")[:LONGEST].rstrip("._-")
    return HUB_HASH.sub(lambda match: f"-{match[1]}_", name) or "model"


def check(name: str) -> str:
    """``name`` where it may be given; else `UsageError` with one that may."""
    if len(name) > LONGEST or not PLAIN.fullmatch(name):
        raise UsageError(
            f"name {name!r:.120} is not up to {LONGEST} of a-z A-Z 0-9 . _ -, a letter or digit first",
            hint=f"--name {harmless(name)}",
        )
    if misread(name):
        raise UsageError(
            f"name {name}: torch.hub takes {hub_prefix(name + '-00000000.pth')!r} in it for the hash (the first -HEX. of a file's name)",
            hint=f"--name {harmless(name)}",
        )
    return name


def is_name(value: Any) -> bool:
    """Whether ``value``, from a file, is the bare name of a file of a release."""
    return isinstance(value, str) and len(value) <= 255 and PLAIN.fullmatch(value) is not None
