"""The OpenSSF model signature of a release folder, made and checked without a network by a local P-256 key (package ``model-signing``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from convert.release.names import SIGNATURE
from formats.core.errors import Unsupported, UsageError

_HASHES = re.compile(r"Hash mismatch for '(.*?)': Expected")
_EXTRA = re.compile(r"Extra files found in model '.*?': (.*?)[\"'\]]")
_MISSING = re.compile(r"Missing files in model '.*?': (.*?)[\"'\]]")


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise Unsupported(
            "signatures need the package model-signing", hint="python -m pip install 'ckpt-convert[sign]'"
        ) from error
    return model_signing


def _hashing() -> Any:
    ignored = [SIGNATURE, ".cache"]  # relative to the folder
    return _library().hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=True)


def sign(folder: Path, key: Path) -> None:
    """Write ``model.sig`` over every other file of ``folder``. Raises `UsageError` where ``key`` is no such key."""
    library = _library()
    try:
        signer = library.signing.Config().use_elliptic_key_signer(private_key=key)
    except OSError as error:
        raise UsageError(f"the key cannot be read: {error.strerror or error}", path=key) from error
    except Exception as error:
        raise UsageError(
            f"is no private key that signs: {error!s:.200}",
            path=key,
            hint="openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
        ) from error
    signer.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)


def check(folder: Path, key: Path) -> list[str]:
    """What is wrong with the signature of ``folder``, a sentence each; none if it is whole and by the private part of ``key``."""
    library = _library()
    try:
        verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=key)
    except OSError as error:
        raise UsageError(f"the key cannot be read: {error.strerror or error}", path=key) from error
    except Exception as error:
        raise UsageError(f"is no public key: {error!s:.200}", path=key) from error
    try:
        verifier.set_hashing_config(_hashing()).verify(folder, folder / SIGNATURE)
    except Exception as error:  # the library has no class of its own for "does not verify"
        return _told(" ".join(str(error).split()) or type(error).__name__)
    return []


def _told(text: str) -> list[str]:
    """The library's one sentence as one for each file."""
    text = text.replace("\\'", "'")  # it prints a list of texts, each quoted as its own quotes demand
    said = [f"{name} is not what was signed" for name in _HASHES.findall(text)]
    for pattern, what in ((_EXTRA, "was not signed"), (_MISSING, "was signed and is missing")):
        said += [f"{name} {what}" for names in pattern.findall(text) for name in names.split(", ")]
    return said or [f"does not verify: {text}"]
