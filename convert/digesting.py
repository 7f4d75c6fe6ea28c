"""sha256 beside a conversion: of what is read, while it is read, and of what was written."""

from __future__ import annotations

from formats.core.digest import SourceDigests, of_file
from formats.core.files import opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from convert.report import Result
    from formats.core.checkpoint import Checkpoint


class Digesting:
    """A context that fills in ``result``'s sha256, of its outputs only where the writing has not told them."""

    def __init__(self, checkpoint: Checkpoint, result: Result) -> None:
        self.checkpoint = checkpoint
        self.result = result

    def __enter__(self) -> None:
        self.sources = SourceDigests(self.checkpoint.files)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self.sources.stop()

    def _finish(self) -> None:
        for output in self.result.outputs:
            for path, _ in output.files:
                if path not in output.sha256:
                    file = opened(path)
                    try:
                        output.sha256[path] = of_file(file)
                    finally:
                        file.close()
        self.result.sha256 = self.sources.results()
