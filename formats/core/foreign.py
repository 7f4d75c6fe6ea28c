"""What an unreadable input is: files that people mistake for checkpoints, each by its own name and with what to do.

Tables: `_HEADS` by the first bytes, `_TEXTS` by the first line, `_ZIP_MEMBERS` by what a ZIP holds, `_PACKAGES` by the names that a
pickle refers to, `_NAMES` by a file's name where the content says nothing.
"""

from __future__ import annotations

import os

from formats.core.errors import CheckpointError, UnknownFormat
from formats.core.pattern import pattern
from formats.core.probe import Probe
from formats.core.truncation import truncated_zip

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterable
    from pathlib import Path

_AGAIN = "the download or the copy failed: fetch it again"
_UNPACK = "unpack it first"
_TORCH = "load it with the library that wrote it and save the weights with torch.save or safetensors"

# (offset in bytes, bytes, what it is, what to do)
_HEADS: tuple[tuple[int, bytes, str, str | None], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", "is a Git-LFS pointer, not the file itself", "git lfs pull"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "is a RAR archive", _UNPACK),
    (0, b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras, MATLAB or other), which holds no torch checkpoint", _TORCH),
    (
        0,
        b"GGUF",
        "is a GGUF model (llama.cpp), whose weights are quantised in blocks that torch does not have",
        "use the original model",
    ),
    (0, b"lmgg", "is a GGML model (whisper.cpp, old llama.cpp)", "use the original model"),
    (0, b"tjgg", "is a GGJT model (old llama.cpp)", "use the original model"),
    (4, b"ET12", "is an ExecuTorch program (.pte), compiled for a device", "use the model that it was exported from"),
    (4, b"ET11", "is an ExecuTorch program (.pte), compiled for a device", "use the model that it was exported from"),
    (4, b"PTMF", "is a mobile program of torch in a flatbuffer", "use the model that it was exported from"),
    (4, b"TFL3", "is a TensorFlow Lite model", _TORCH),
    (4, b"ORTM", "is an ONNX Runtime model (.ort)", "use the .onnx model that it was made from"),
    (
        0,
        b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1",
        "is a Torch7 file (Lua), which Python's torch has not read since 1.0",
        "torchfile or torch<1.0",
    ),
    (0, b"\x08\x01\x12", "is a TensorFlow SavedModel", _TORCH),
    (0, b"\x12\x01\0\0\0\0\0\0", "is an MXNet parameter file", _TORCH),
    (0, b"ftrt", "is a TensorRT engine, compiled for one GPU", "use the model that it was built from"),
    (0, b"ptrt", "is a TensorRT engine, compiled for one GPU", "use the model that it was built from"),
    (0, b"binf", "is an XGBoost model", None),
    (0, b"MATLAB 5.0 MAT-file", "is a MATLAB file", None),
    (0, b"\x93NUMPY", "is a single NumPy array (.npy), which holds no state dict", "save the arrays with numpy.savez"),
    (0, b"SQLite format 3\0", "is an SQLite database", None),
    (0, b"PAR1", "is a Parquet table", None),
    (0, b"ARROW1", "is an Arrow table", None),
    (0, b"\x1f\x8b", "is gzip-compressed and holds no checkpoint that is read through", _UNPACK),
    (0, b"BZh", "is bzip2-compressed and holds no checkpoint that is read through", _UNPACK),
    (0, b"\xfd7zXZ\0", "is xz-compressed and holds no checkpoint that is read through", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "is zstd-compressed and holds no checkpoint that is read through", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "is LZ4-compressed", _UNPACK),
    (0, b"\x78\x01", "is a zlib stream (joblib with compress, or other)", _TORCH),
    (0, b"\x78\x9c", "is a zlib stream (joblib with compress, or other)", _TORCH),
    (0, b"\x78\xda", "is a zlib stream (joblib with compress, or other)", _TORCH),
    (0, b"!<arch>\n", "is an ar archive (a static library or a Debian package)", None),
    (0, b"%PDF", "is a PDF document", None),
    (0, b"\x89PNG", "is a PNG image", None),
    (0, b"\xff\xd8\xff", "is a JPEG image", None),
    (0, b"\x7fELF", "is a program", None),
    (0, b"MZ", "is a Windows program", None),
)

# Matched at the beginning of the text, white space skipped, in lower case.
_TEXTS: tuple[tuple[re.Pattern[bytes], str, str | None], ...] = (
    (pattern(rb"<\?xml[^>]*>\s*<net\b"), "is an OpenVINO network description (.xml); its weights are beside it", _TORCH),
    (pattern(rb"<\?xml"), "is an XML document, not the file (many stores answer so when they refuse)", _AGAIN),
    (pattern(rb"<(?:!doctype|html|head|body|!--)"), "is a web page, not the file", _AGAIN),
    (pattern(rb"model_checkpoint_path:"), "is TensorFlow's note of which checkpoint is the latest", _TORCH),
    (pattern(rb'\{\s*"(?:error|message|code|detail)"'), "is an error message of a web service, not the file", _AGAIN),
    (pattern(rb'\{\s*"(?:learner|version)"\s*:\s*[\[{]'), "is an XGBoost model in JSON", None),
    (pattern(rb"[\[{]\s*[\"\]}\[{]"), "is a JSON document", None),
    (pattern(rb"tree\s*\nversion=v"), "is a LightGBM model", None),
    (pattern(rb"7767517\s"), "is an NCNN network description (.param); its weights are beside it", None),
    (pattern(rb"(?:#!|import |from \w+ import |\"\"\")"), "is a program text, not the file", None),
)

# (pattern of member names, what the archive is, what to do): the first that any member matches
_ZIP_MEMBERS: tuple[tuple[re.Pattern[str], str, str | None], ...] = (
    (pattern(r"(?:^|/)model\.weights\.h5$"), "is a Keras model (.keras)", _TORCH),
    (pattern(r"(?:^|/)saved_model\.pb$"), "is an archive of a TensorFlow SavedModel", _TORCH),
    (pattern(r"\.mlmodel$|(?:^|/)weights/weight\.bin$"), "is an archive of a CoreML model", _TORCH),
    (pattern(r"^word/|^xl/|^ppt/"), "is an Office document", None),
    (pattern(r"^META-INF/MANIFEST\.MF$"), "is a Java archive", None),
    (pattern(r"\.dist-info/METADATA$"), "is a Python wheel", "install it, or name the checkpoint inside"),
    (pattern(r"\.npy$"), "is a ZIP archive with NumPy arrays among other things", None),
)

# (package, what a pickle is that refers to it), most telling first
_PACKAGES: tuple[tuple[str, str], ...] = (
    ("sklearn", "a scikit-learn model"),
    ("xgboost", "an XGBoost model"),
    ("lightgbm", "a LightGBM model"),
    ("catboost", "a CatBoost model"),
    ("paddle", "a Paddle object"),
    ("tensorflow", "a TensorFlow object"),
    ("keras", "a Keras object"),
    ("jax", "a JAX object"),
    ("jaxlib", "a JAX object"),
    ("flax", "a Flax object"),
    ("mxnet", "an MXNet object"),
    ("gensim", "a gensim model"),
    ("spacy", "a spaCy object"),
    ("nltk", "an NLTK object"),
    ("joblib", "a joblib dump"),
    ("pandas", "a pandas object"),
    ("scipy", "a SciPy object"),
    ("torch", "an object of torch's"),
    ("numpy", "NumPy values"),
)

_NAMES: tuple[tuple[re.Pattern[str], str, str | None], ...] = (
    (pattern(r"\.data-\d{5}-of-\d{5}$"), "is a part of a TensorFlow checkpoint", _TORCH),
    (pattern(r"\.pb$"), "is a TensorFlow graph", _TORCH),
    (pattern(r"\.mlmodel$"), "is a CoreML model", _TORCH),
    (pattern(r"\.caffemodel$"), "is a Caffe model", _TORCH),
    (pattern(r"\.msgpack$"), "is a Flax checkpoint", _TORCH),
    (pattern(r"\.pdiparams$|\.pdmodel$"), "is a Paddle inference model", _TORCH),
    (pattern(r"\.weights$"), "is a Darknet weights file", None),
)

# The first node of a TensorFlow graph: field 1, its name (field 1), its operation (field 2).
_GRAPH = pattern(rb"(?s)\n[\x00-\xff]{1,3}\n.[\w/:.\-]{1,80}\x12.(?:Placeholder|Const|Variable|VarHandleOp|NoOp)")
_TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # leveldb's table magic, which TensorFlow's .index files end with
_FOLDERS: tuple[tuple[str, str], ...] = (
    ("saved_model.pb", "is a TensorFlow SavedModel"),
    ("model.weights.h5", "is a Keras model"),
    ("Manifest.json", "is a CoreML package"),
    ("metadata.json", "is a folder without a checkpoint that is read (metadata.json may be Keras's)"),
)
_FOLDER_HINT = "name the file in it that holds the weights"


def recognise(probe: Probe) -> CheckpointError:
    """The error that says best what the input is."""
    error = _recognise(probe)
    return error.with_path(probe.path)


def _recognise(probe: Probe) -> CheckpointError:
    if probe.folder:
        return _folder(probe.path)
    if not probe.size:
        return UnknownFormat("is empty", hint=_AGAIN)
    head = probe.head
    if head.startswith(b"PK"):
        return _zip(probe)
    if head[257:262] == b"ustar":
        if probe.tar is None and probe.tar_error is not None:
            return probe.tar_error
        return UnknownFormat("is a TAR archive without a checkpoint")
    for at, magic, what, hint in _HEADS:
        if head[at : at + len(magic)] == magic:
            return UnknownFormat(what, hint=hint)
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        whose = named_in(probe.file.read(0, min(probe.size, 1 << 16)))
        if whose is not None:
            return UnknownFormat(f"is a pickle of {whose}, with data that no pickle has (joblib writes so)", hint=_TORCH)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:512].lower()
    for form, what, hint in _TEXTS:
        if form.match(text):
            return UnknownFormat(what, hint=hint)
    if _GRAPH.match(head):
        return UnknownFormat("is a frozen TensorFlow graph", hint=_TORCH)
    if probe.size >= 8 and probe.file.read(probe.size - 8, 8) == _TABLE_END:
        return UnknownFormat("is the index of a TensorFlow checkpoint", hint=_TORCH)
    for name, what, hint in _NAMES:
        if name.search(probe.path.name):
            return UnknownFormat(what, hint=hint)
    if not any(head):
        return UnknownFormat(f"is nothing but zeros, at least its first {len(head)} bytes", hint=_AGAIN)
    if _is_text(head):
        return UnknownFormat(f"is a text that begins with {head[:40].decode('utf-8', 'replace')!r}")
    return UnknownFormat(f"is no checkpoint that is known; it begins with {head[:16].hex(' ')}")


def _is_text(head: bytes) -> bool:
    try:
        text = head[:1024].decode("utf-8") if len(head) <= 1024 else head[:1024].decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return False
    return len(text) > len(head[:1024]) // 4 and all(char.isprintable() or char.isspace() for char in text)


def _zip(probe: Probe) -> CheckpointError:
    archive = probe.zip
    if archive is None:
        return truncated_zip(probe.file) or probe.zip_error or UnknownFormat("is a ZIP archive that cannot be read")
    if not archive.members:
        return UnknownFormat("is a ZIP archive without members", hint=_AGAIN)
    if any(archive.member(name).flags & 1 for name in archive.members):
        return UnknownFormat("is a ZIP archive with a password", hint="unpack it with its password first")
    for form, what, hint in _ZIP_MEMBERS:
        if any(form.search(name) for name in archive.members):
            return UnknownFormat(what, hint=hint)
    count = sum(name == "data.pkl" or name.endswith("/data.pkl") for name in archive.members)
    if count > 1:
        return UnknownFormat(f"is a ZIP archive with {count} members data.pkl, where a checkpoint has one")
    some = ", ".join(repr(name[:60]) for name in list(archive.members)[:3])
    return UnknownFormat(f"is a ZIP archive without a checkpoint: {len(archive.members)} members ({some}…)")


def _folder(path: Path) -> CheckpointError:
    names: set[str] = set()
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                names.add(entry.name)
                if len(names) >= 1000:
                    break
    except OSError as error:
        return UnknownFormat(f"is a folder that cannot be listed: {error.strerror}")
    if not names:
        return UnknownFormat("is an empty folder")
    for name, what in _FOLDERS:
        if name in names:
            return UnknownFormat(what, hint=_TORCH)
    if any(name.endswith(".index") for name in names) and any(".data-0" in name for name in names):
        return UnknownFormat("is a folder with a TensorFlow checkpoint", hint=_TORCH)
    return UnknownFormat("is a folder without a checkpoint that is read", hint=_FOLDER_HINT)


def plain_pickle(names: Iterable[str], root: str) -> CheckpointError:
    """The error for a pickle that holds no tensor: ``names`` are those that it refers to, ``root`` says what its value is."""
    packages = {name.split(".", 1)[0] for name in names}
    for package, what in _PACKAGES:
        if package in packages:
            return UnknownFormat(
                f"is a pickle of {what} ({root}) and holds no tensor", hint=_TORCH if package != "torch" else None
            )
    return UnknownFormat(f"is a pickle of {root} and holds no tensor: there are no weights in it")


def named_in(head: bytes) -> str | None:
    """Whose pickle it is, from names in its first bytes, for what cannot be evaluated to its end (joblib puts arrays inside)."""
    import re

    for package, what in _PACKAGES:
        if re.search(rb"(?:^|[^a-zA-Z_.])%b(?:\.[\w.]+|\n\w+\n)" % package.encode(), head):
            return what
    return None
