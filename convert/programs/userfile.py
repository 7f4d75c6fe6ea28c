"""Python files that the user names, each in a scope of its own.

Two files may both be called ``model.py``, and both may import a neighbour of the same name: each file is a module under a unique name,
and what it imports from its own folder is put aside when the scope is left and brought back when it is entered again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from formats.core.errors import UsageError


class UserFile:
    """``path`` run once, as ``__name__ == 'convert_user_…'``. Raises `UsageError` where it is missing or raises itself."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not self.path.is_file():
            raise UsageError(f"--arch {path}: there is no such file")
        self._own: dict[str, ModuleType] = {}
        digest = hashlib.sha256(str(self.path).encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.name = f"convert_user_{digest}"
        self.module = self._run()

    def _run(self) -> ModuleType:
        import importlib.util

        spec = importlib.util.spec_from_file_location(self.name, self.path)
        if spec is None or spec.loader is None:
            raise UsageError(f"--arch {self.path}: is no Python file")
        module = importlib.util.module_from_spec(spec)
        # Kept there for good: dataclasses, exporters and inspect look a class's module up by its name.
        sys.modules[self.name] = module
        try:
            with self.scope():
                spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[self.name]
            raise UsageError(f"--arch {self.path}: raises {type(error).__name__}: {error!s:.300}") from error
        return module

    @contextmanager
    def scope(self) -> Iterator[None]:
        """The file's folder first on ``sys.path``, and its neighbours importable under their plain names."""
        folder = str(self.path.parent)
        hidden = {name: module for name, module in sys.modules.items() if _in_other_scope(name, module, self._own, folder)}
        before = set(sys.modules) - set(hidden)
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(self._own)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)
            for name in [name for name, module in sys.modules.items() if name not in before and _inside(module, folder)]:
                if name != self.name:
                    self._own[name] = sys.modules.pop(name)
            sys.modules.update(hidden)

    def named(self, name: str) -> Any:
        """The callable ``name`` (dotted for a nested one)."""
        if not name:
            raise UsageError(
                f"--arch {self.path}: names no callable", hint=f"--arch {self.path.name}:NAME; it has {self._offered()}"
            )
        found: Any = self.module
        for part in name.split("."):
            found = getattr(found, part, None)
        if not callable(found):
            raise UsageError(f"--arch {self.path}: has no callable {name!r:.80}", hint=f"it has {self._offered()}")
        return found

    def classes(self) -> dict[str, type]:
        """Classes that are defined in the file or imported into it, by their plain names."""
        return {name: value for name, value in vars(self.module).items() if isinstance(value, type)}

    def _offered(self) -> str:
        own = [name for name, value in vars(self.module).items() if getattr(value, "__module__", None) == self.name]
        return ", ".join(sorted(own)[:8]) or "none"


def _inside(module: Any, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).is_relative_to(folder)


def _in_other_scope(name: str, module: Any, own: dict[str, ModuleType], folder: str) -> bool:
    """Whether a loaded top-level module would be taken for a neighbour of the file: the folder has a module of that name."""
    if name in own or "." in name or _inside(module, folder):
        return False
    neighbour = Path(folder) / name
    return neighbour.with_suffix(".py").is_file() or (neighbour / "__init__.py").is_file()
