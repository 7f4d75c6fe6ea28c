"""Files that are named by a URL: ``s3://bucket/key``, ``gs://``, ``hf://``, ``https://`` and whatever else fsspec knows.

A `RemotePath` stands wherever a path stands: its parts, its parent and its name are those of the URL, its files are opened by
`formats.core.remote_file` and made by `formats.core.upload`. fsspec is imported when the first question is asked of a remote place.

Of a URL with a password or a signed query only the harmless part is ever shown.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, Self

from formats.core.errors import CheckpointError, OutputError, SystemIOError, Unsupported, UsageError

if TYPE_CHECKING:
    from formats.core.files import SourceFile

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
HINT = "pip install 'ckpt-convert[remote]'"
QUERIES = frozenset({"http", "https"})  # only here does "?" begin something that is no name
UPLOADS = frozenset({"s3", "s3a", "gs", "gcs", "memory"})  # where an upload appears whole or not at all
LONGEST = 1024  # bytes of a key, S3's limit


def remote(text: str) -> RemotePath:
    """The place that the URL ``text`` names. Raises `UsageError` where it names none, or one that could be read in two ways."""
    found = URL.fullmatch(text)
    if found is None:
        raise UsageError("is no URL", path=text)
    scheme, rest = found[1].lower(), found[2]
    query = userinfo = ""
    if scheme in QUERIES:
        rest, mark, query = rest.partition("#")[0].partition("?")
        query = mark + query
    host, slash, key = rest.partition("/")
    if "@" in host and scheme != "hf":
        userinfo, _, host = host.rpartition("@")
        userinfo += "@"
    rest = (host + slash + key).rstrip("/")
    path = RemotePath(f"{scheme}://{rest}")
    if scheme in ("file", "local"):
        raise UsageError("is a file of this machine", path=path, hint="name it without file://")
    if not rest or "::" in text or any(part in ("", ".", "..") for part in rest.split("/")):
        raise UsageError("has a part that is empty, . or .., or names no place", path=path)
    path.query, path.userinfo = query, userinfo
    return path


class RemotePath(PosixPath):
    """A URL as a path. ``str`` is the URL without password and query; `url` is all of it.

    What is asked of the place (`stat`, `is_file`, `exists` …) is asked once and remembered by this one object, until this process
    writes something.
    """

    query = ""
    userinfo = ""
    writes = 0  # how often this process has changed anything at a remote place: what was asked before is forgotten
    _told: dict[str, Any] | None
    _asked: int

    def __str__(self) -> str:
        text = super().__str__()
        scheme, colon, rest = text.partition(":")
        return f"{scheme}://{rest.lstrip('/')}" if colon and "/" not in scheme else text  # a relative one has no scheme

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    @property
    def scheme(self) -> str:
        return self.parts[0].rstrip(":")

    @property
    def url(self) -> str:
        """All of it, with what must not be shown."""
        scheme, _, rest = str(self).partition("://")
        return f"{scheme}://{self.userinfo}{rest}{self.query}"

    def place(self) -> tuple[Any, str]:
        """(fsspec's filesystem, the name in it)."""
        try:
            from fsspec import get_filesystem_class

            kind = get_filesystem_class(self.scheme)
            # Not url_to_fs, which would follow one URL inside another.
            return kind(**self._options(), **kind._get_kwargs_from_urls(self.url)), str(kind._strip_protocol(self.url))
        except ImportError as error:
            raise Unsupported(
                f"{self.scheme}:// needs a library that is not here: {_first(error)}", path=self, hint=HINT
            ) from error
        except ValueError as error:
            raise UsageError(f"{self.scheme}:// is no kind of place that fsspec knows", path=self) from error

    def _options(self) -> dict[str, Any]:
        """s3fs tries everything five times, and botocore below it five times again: a dead server would be noticed after minutes."""
        from fsspec.config import conf

        if self.scheme not in ("s3", "s3a") or "config_kwargs" in conf.get(self.scheme, {}):
            return {}
        return {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 2}}}

    def info(self) -> dict[str, Any] | None:
        """What the place says of itself (``size``, ``type``, ``ETag`` …); None where there is nothing."""
        if getattr(self, "_asked", -1) != RemotePath.writes:
            self._told, self._asked = self.fresh(), RemotePath.writes
        return self._told

    def fresh(self) -> dict[str, Any] | None:
        """The same, asked anew."""
        fs, name = self.place()
        try:
            fs.invalidate_cache(name)
            return dict(fs.info(name))
        except FileNotFoundError as error:
            cause = error.__cause__
            if self.scheme in QUERIES and cause is not None and getattr(cause, "status", None) not in (404, 410):
                raise told(cause, self, "cannot be reached") from None  # fsspec calls every trouble with a web server so
            return None
        except Exception as error:
            raise told(error, self, "cannot be reached") from self._cause(error)

    def missing(self) -> str:
        """What is not there: the file, or its whole bucket."""
        fs, name = self.place()
        try:
            there = self.scheme in QUERIES or len(self.parts) < 3 or fs.exists(name.split("/", 1)[0])
        except Exception:  # a bucket that may not be asked for is there
            there = True
        return "there is no such file" if there else "there is no such bucket"

    def _cause(self, error: BaseException) -> BaseException | None:
        return None if self.query or self.userinfo else error

    # -- what pathlib's paths answer -------------------------------------------------------------------------------------------------
    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        info = self.info()
        if info is None:
            raise FileNotFoundError(2, "there is no such file", str(self))
        mode = stat.S_IFDIR | 0o755 if info.get("type") == "directory" else stat.S_IFREG | 0o644
        number = int(hashlib.sha256(self.url.encode()).hexdigest()[:12], 16)
        at = stamp(info)
        seconds = at // 10**9
        return os.stat_result(
            (mode, number, -1, 1, 0, 0, int(info.get("size") or 0), seconds, seconds, seconds), {"st_mtime_ns": at}
        )

    def lstat(self) -> os.stat_result:
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.info() is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        info = self.info()
        return info is not None and info.get("type") != "directory"

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        info = self.info()
        return info is not None and info.get("type") == "directory"

    def is_symlink(self) -> bool:
        return False

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> Self:
        return self

    def resolve(self, strict: bool = False) -> Self:
        return self

    def iterdir(self) -> Generator[Self, None, None]:
        """What stands directly below, in the order of the names. Raises `SystemIOError`."""
        fs, name = self.place()
        try:
            entries = fs.ls(name, detail=True)
        except Exception as error:
            raise told(error, self, "cannot be listed") from self._cause(error)
        for entry in sorted(entries, key=lambda entry: str(entry["name"])):
            last = str(entry["name"]).rstrip("/").rpartition("/")[2]
            if last and str(entry["name"]).rstrip("/") != name.rstrip("/"):
                child = self / last
                if entry.get("type") == "directory":  # of a file the listing may lack what the server knows
                    child._told, child._asked = dict(entry), RemotePath.writes
                yield child

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: object stores have no folders, a name makes those before it."""

    def unlink(self, missing_ok: bool = False) -> None:
        fs, name = self.place()
        RemotePath.writes += 1
        try:
            fs.rm_file(name)
        except FileNotFoundError:
            if not missing_ok:
                raise
        except Exception as error:
            raise told(error, self, "cannot be removed") from self._cause(error)

    # -- reading and writing ---------------------------------------------------------------------------------------------------------
    def open_source(self) -> SourceFile:
        from formats.core.remote_file import RemoteFile

        return RemoteFile(self)

    def check_upload(self) -> None:
        """Raise `OutputError` where nothing can be written that appears whole or not at all."""
        if self.scheme not in UPLOADS:
            raise OutputError(
                f"{self.scheme}:// takes no uploads that appear whole or not at all",
                path=self,
                hint="-o FILE writes here; s3:// and gs:// take uploads",
            )
        if len(self.parts) < 3:
            raise OutputError("names a bucket, not a file in it", path=self)
        if len(str(self).encode()) > LONGEST:
            raise OutputError(f"name of {len(str(self).encode())} bytes, at most {LONGEST} can be written", path=self)

    def write_layouts(self, layouts: Any, **options: Any) -> Any:
        from formats.core.upload import write_layouts

        return write_layouts(list(layouts), self, **options)


def stamp(info: dict[str, Any]) -> int:
    """A time of modification in ns that differs where time or content do: the second is the place's, the fraction stands for the ETag."""
    when = next((info[name] for name in ("LastModified", "updated", "mtime", "created", "Last-Modified") if info.get(name)), 0)
    if isinstance(when, str):
        when = _time(when)
    seconds = int(when.timestamp() if isinstance(when, datetime) else when)
    mark = str(info.get("ETag") or info.get("etag") or info.get("size")).strip('"')
    return seconds * 10**9 + int(hashlib.sha256(mark.encode()).hexdigest()[:12], 16) % 10**9


def _time(text: str) -> datetime | int:
    from email.utils import parsedate_to_datetime

    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return read(text)
        except ValueError:
            continue
    return 0


@contextmanager
def here(path: Path) -> Iterator[Path]:
    """``path`` itself where it is a local file; a local copy, removed at the end, of a remote one: other people's loaders want files."""
    if not isinstance(path, RemotePath):
        yield path
        return
    folder = Path(tempfile.mkdtemp(prefix="ckpt-convert."))
    try:
        file = path.open_source()
        try:
            copy = folder / path.name
            with copy.open("wb") as out:
                for piece in file.pieces(0, file.size):
                    out.write(piece)
            if file.changed():
                raise SystemIOError("changed while it was read", path=path)
        finally:
            file.close()
        yield copy
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def told(error: BaseException, path: Path, what: str) -> CheckpointError:
    """One line about what a library of fsspec's raised, without anything secret."""
    if isinstance(error, CheckpointError):
        return error.with_path(path)
    name = type(error).__name__
    hint = None
    if isinstance(error, FileNotFoundError):
        said = "there is no such bucket" if "bucket" in str(error).lower() else "there is no such file"
    elif isinstance(error, PermissionError) or "Credential" in name or "credential" in str(error).lower():
        said = f"access is denied ({_first(error) if isinstance(error, PermissionError) else name})"
        hint = "credentials come from the environment, as the library of the place reads them"
    elif isinstance(error, (TimeoutError, ConnectionError)) or "Timeout" in name or "Connect" in name:
        said = f"the server does not answer ({name})"
    else:
        status = getattr(error, "status", None)
        said = f"the server says {status}" if isinstance(status, int) else f"{name}: {_first(error)}"
        if status in (401, 403):
            said = f"access is denied (the server says {status})"
    return SystemIOError(f"{what}: {said}", path=path, hint=hint)


_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "FSSPEC_S3_SECRET", "FSSPEC_S3_KEY")


def _first(error: BaseException) -> str:
    """The first line of an error's text; keys of the environment and whatever follows a name in a URL are taken out."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = next(iter(str(said).strip().splitlines()), type(error).__name__)
    for name in _SECRETS:
        if len(os.environ.get(name, "")) > 3:
            text = text.replace(os.environ[name], "…")
    text = re.sub(r"(\w+://)[^/\s@]*@", r"\1", text)
    return re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\")]*", r"\1", text)[:200]
