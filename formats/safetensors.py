"""safetensors: eight bytes of header length, a JSON header, then the tensors' bytes without gaps.

Source: https://github.com/huggingface/safetensors (README, section "Format") and ``safetensors/src/tensor.rs`` of 0.8, whose order and
header the writer reproduces byte for byte.
"""

from __future__ import annotations

from formats.core.checkpoint import Checkpoint, Content
from formats.core.composites import DESCRIPTION, rebuild, recorded_ties
from formats.core.dtype import BY_SAFETENSORS
from formats.core.errors import CorruptCheckpoint, LimitExceeded, Unsupported
from formats.core.files import SourceFile, opened
from formats.core.layout import Layout
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.safetensors_layout import CAPABILITIES, MAX_HEADER, lay_out
from formats.core.storage import FileSpan
from formats.core.tensor import MAX_DIMS, TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from formats.core.safetensors_header import Header

_WITHOUT_TORCH = frozenset({"F6_E2M3", "F6_E3M2"})


def sniff(probe: Probe) -> Match:
    """Eight bytes of a length that fits the file, then ``{``."""
    if probe.folder:
        return Match.NO
    length = int.from_bytes(probe.head[:8], "little")
    if probe.head[8:9] == b"{" and 2 <= length <= min(MAX_HEADER, probe.size - 8):
        return Match.CERTAIN
    if probe.path.suffix != ".safetensors" or (len(probe.head) >= 8 and _printable(probe.head[:8])):
        return Match.NO  # eight letters are no length of a header but a Git-LFS pointer or a web page
    return Match.SUFFIX


def _printable(head: bytes) -> bool:
    return head.isascii() and head.decode("ascii").isprintable()


def read(path: Path) -> Checkpoint:
    """The tensors of the file at ``path`` under their names, in the header's order; the text under ``__metadata__`` as metadata.

    Raises `CorruptCheckpoint` where the header breaks the format: duplicate names, gaps, overlaps, sizes that do not fit.
    """
    return read_file(opened(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    if file.size < 8:
        raise CorruptCheckpoint(f"has {file.size} bytes, a safetensors file begins with 8 bytes of header length", path=file.path)
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER:
        raise LimitExceeded(f"safetensors header of {length} bytes, at most {MAX_HEADER} are allowed", path=file.path)
    if length + 8 > file.size:
        raise CorruptCheckpoint(f"safetensors header of {length} bytes in a file of {file.size}", path=file.path)
    from formats.core.safetensors_header import Header

    header = Header(file.read(8, length))
    header.parse()
    start = 8 + length
    _check_ranges(header, file.size - start)
    tensors: dict[str, TensorView] = {}
    for name, (dtype, shape, begin, end) in header.tensors.items():
        tensors[name] = _view(name, dtype, shape, FileSpan(file, start + begin, end - begin))
    metadata: dict[str, Any] = {"container": "safetensors"}
    tree: Any = tensors
    notes: list[str] = []
    if header.metadata is not None:
        metadata["__metadata__"] = header.metadata
        if DESCRIPTION in header.metadata:
            tree = rebuild(tensors, header.metadata[DESCRIPTION])
            if ties := recorded_ties(header.metadata[DESCRIPTION]):
                metadata["tied"] = ties
        elif aliases := _saved_model_aliases(header.metadata, tensors):
            tree = {**tensors, **{key: tensors[kept] for key, kept in aliases.items()}}
            first = next(iter(aliases.items()))
            notes.append(f"{len(aliases)} keys are tied to another, as the metadata says ({first[0]} = {first[1]})")
    return Checkpoint(file.path, "safetensors", tree, metadata=metadata, notes=notes, files=[file])


def _saved_model_aliases(said: Mapping[str, str], tensors: Mapping[str, TensorView]) -> dict[str, str]:
    """{key that is not stored: stored key}, as `safetensors.torch.save_model` writes tied tensors into the metadata."""
    if said.get("format", "pt") != "pt":
        return {}
    return {key: kept for key, kept in said.items() if key not in tensors and kept in tensors and key != "format"}


def _check_ranges(header: Header, held: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    at = 0
    for name, (_, _, begin, end) in sorted(header.tensors.items(), key=lambda item: item[1][2:]):
        if begin != at or end < begin:
            raise CorruptCheckpoint(f"safetensors tensor {name!r:.200} has bytes {begin} to {end}, where byte {at} is next")
        at = end
    if at > held:
        raise CorruptCheckpoint(
            f"is cut off: {at - held} of the {at} bytes of its tensors are missing",
            hint="the download or the copy broke off: fetch it again",
        )
    if at != held:
        raise CorruptCheckpoint(f"safetensors header describes {at} bytes of tensors, the file has {held}")


def _view(name: str, dtype: str, shape: tuple[int, ...], span: FileSpan) -> TensorView:
    found = BY_SAFETENSORS.get(dtype)
    if found is None:
        if dtype in _WITHOUT_TORCH:
            raise Unsupported(f"safetensors tensor {name!r:.200} has dtype {dtype}, which torch does not have")
        raise CorruptCheckpoint(f"safetensors tensor {name!r:.200} has dtype {dtype}, which the format does not define")
    if dtype == "F4":  # the format counts the 4-bit values, torch counts pairs of them
        if not shape or shape[-1] % 2:
            raise Unsupported(f"safetensors tensor {name!r:.200} has dtype F4 and shape {list(shape)}: torch holds pairs only")
        shape = (*shape[:-1], shape[-1] // 2)
    if len(shape) > MAX_DIMS:
        raise LimitExceeded(f"safetensors tensor {name!r:.200} has {len(shape)} dimensions, at most {MAX_DIMS} are read")
    expected = found.itemsize
    for size in shape:
        expected *= size
    if expected != span.nbytes:
        raise CorruptCheckpoint(
            f"safetensors tensor {name!r:.200} of {dtype} {list(shape)!s:.100} takes {expected!s:.40} bytes, "
            f"its data_offsets span {span.nbytes}"
        )
    return TensorView(found, shape, span)


def plan(content: Content, options: Mapping[str, Any]) -> list[Layout]:
    """One file as ``safetensors.torch.save_file`` writes it; metadata in the order of its keys, so that equal input gives equal bytes.

    Raises `Unsupported`, naming the tensor, for what the format has no place for.
    """
    return [lay_out(content.model.tensors, content.metadata)]


__all__ = ["CAPABILITIES", "plan", "read", "read_file", "sniff"]
