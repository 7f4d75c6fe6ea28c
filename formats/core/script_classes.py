"""The classes of a TorchScript archive, from their source as text; it is never compiled.

Source: ``torch/csrc/jit/serialization/python_print.cpp`` (``PythonPrintImpl::printNamedType``), torch 1.1 to 2.13::

    class Linear(Module):
      __parameters__ = ["weight", "bias", ]
      __buffers__ = []
      weight : Tensor
      __annotations__["0"] = __torch__.torch.nn.modules.linear.Linear     (names that are no identifiers)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from formats.core.errors import LimitExceeded
from formats.core.torch_storages import Records

MAX_SOURCE = 64 << 20  # bytes of all class sources together

_CLASS = re.compile(r"^class ([^\s(:]+)(?:\(([^)]*)\))?:", re.MULTILINE)
_LIST = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]", re.MULTILINE)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FIELD = re.compile(r"^  (?:([^\W\d]\w*) : |__annotations__\[\"((?:[^\"\\]|\\.)*)\"\] = )(.*?)(?: = .*)?$", re.MULTILINE)
_BODY = re.compile(r"^  (?:def |@)", re.MULTILINE)


@dataclass
class ScriptClass:
    """One class: ``module`` says that it is a ``Module``; ``types`` are the declared types of its attributes as text.

    ``buffers`` is None where the class does not list them, as before torch 1.6: there every other Tensor is one.
    """

    module: bool = False
    parameters: set[str] = field(default_factory=set)
    buffers: set[str] | None = None
    types: dict[str, str] = field(default_factory=dict)


class ScriptClasses:
    """Classes by their qualified name, ``__torch__.package.Name``; each source file is read once, when first asked for."""

    def __init__(self, records: Records, folder: str) -> None:
        self.records = records
        self.folder = folder
        self._files: set[str] = set()
        self._classes: dict[str, ScriptClass] = {}
        self._read = 0

    def find(self, name: str) -> ScriptClass | None:
        """The class that a pickle names; None where the archive has no source of it."""
        module = name.rpartition(".")[0]
        while module and module not in self._files:
            record = f"{self.folder}{module.replace('.', '/')}.py"
            self._files.add(module)
            if record in self.records.members:
                source = self.records.read(record, MAX_SOURCE)
                self._read += len(source)
                if self._read > MAX_SOURCE:
                    raise LimitExceeded(f"class sources of more than {MAX_SOURCE} bytes")
                for short, found in parse(source.decode("utf-8", "replace")).items():
                    self._classes.setdefault(f"{module}.{short}", found)
                break
            module = module.rpartition(".")[0]
        return self._classes.get(name)


def parse(source: str) -> dict[str, ScriptClass]:
    """The classes that one source file defines, by their short names."""
    found: dict[str, ScriptClass] = {}
    starts = list(_CLASS.finditer(source))
    for index, start in enumerate(starts):
        body = source[start.end() : starts[index + 1].start() if index + 1 < len(starts) else len(source)]
        end = _BODY.search(body)
        head = body[: end.start()] if end else body
        made = found[start[1]] = ScriptClass(module=(start[2] or "").strip() == "Module")
        for names in _LIST.finditer(head):
            listed = {_plain(text) for text in _QUOTED.findall(names[2])}
            if names[1] == "parameters":
                made.parameters |= listed
            else:
                made.buffers = (made.buffers or set()) | listed
        for line in _FIELD.finditer(head):
            made.types[line[1] or _plain(line[2])] = line[3].strip()
    return found


def _plain(text: str) -> str:
    r"""The text inside quotes: ``\"`` and ``\\`` are what the printer writes for a name."""
    return re.sub(r"\\(.)", r"\1", text)
