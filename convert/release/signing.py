"""The OpenSSF model signature of a release folder, made and checked without a network by a local P-256 key (package ``model-signing``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert.release.names import SIGNATURE
from formats.core.errors import Unsupported, UsageError

UNSIGNED = (".cache", ".git", ".gitattributes", ".github", ".gitignore")  # what hub clients and git put beside a release


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise Unsupported(
            "signatures need the package model-signing", hint="python -m pip install 'ckpt-convert[sign]'"
        ) from error
    return model_signing


def _hashing(folder: Path) -> Any:
    ignored = [folder / SIGNATURE, folder / ".cache"]
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
    signer.set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)


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
        verifier.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # the library has no class of its own for "does not verify"
        text = " ".join(str(error).split()) or type(error).__name__
        return [f"does not verify: {text}"]
    return []
