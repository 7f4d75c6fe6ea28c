"""What an unreadable input is: files that people mistake for checkpoints, each by its own name and with what to do."""

from __future__ import annotations

from formats.core.errors import CheckpointError, UnknownFormat
from formats.core.probe import Probe

_HEADS: tuple[tuple[bytes, str, str | None], ...] = (
    (b"version https://git-lfs.github.com/spec/", "is a Git-LFS pointer, not the file itself", "git lfs pull"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", "is a RAR archive", "unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras or other), which holds no torch checkpoint", None),
    (b"GGUF", "is a GGUF model (llama.cpp), which is no torch checkpoint", None),
    (b"\x93NUMPY", "is a single NumPy array (.npy), which holds no state dict", None),
    (b"\x1f\x8b", "is gzip-compressed and holds no checkpoint that is read through", "unpack it first"),
    (b"%PDF", "is a PDF document", None),
    (b"\x7fELF", "is a program", None),
)


def recognise(probe: Probe) -> CheckpointError:
    """The error that says best what the input is."""
    if probe.folder:
        return UnknownFormat("is a folder without a checkpoint that is read", path=probe.path)
    if not probe.size:
        return UnknownFormat("is empty", path=probe.path, hint="the download or the copy failed: fetch it again")
    for head, what, hint in _HEADS:
        if probe.head.startswith(head):
            return UnknownFormat(what, path=probe.path, hint=hint)
    text = probe.head.lstrip()[:256].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return UnknownFormat("is a web page, not the file", path=probe.path, hint="the download failed: fetch it again")
    if probe.head.startswith(b"PK"):
        if probe.zip is None and probe.zip_error is not None:
            return probe.zip_error
        return UnknownFormat("is a ZIP archive without a checkpoint", path=probe.path)
    return UnknownFormat(f"is no checkpoint that is known; it begins with {probe.head[:16].hex(' ')}", path=probe.path)
