"""sha256 beside a conversion: of what is read, while it is read, and of what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convert.report import Result
from formats.core.checkpoint import Checkpoint
from formats.core.digest import SourceDigests, of_file
from formats.core.files import opened


@contextmanager
def digesting(checkpoint: Checkpoint, result: Result) -> Iterator[None]:
    """Fill in ``result``'s sha256, of its outputs only where the writing has not told them."""
    sources = SourceDigests(checkpoint.files)
    try:
        yield
        for output in result.outputs:
            for path, _ in output.files:
                if path not in output.sha256:
                    file = opened(path)
                    try:
                        output.sha256[path] = of_file(file)
                    finally:
                        file.close()
        result.sha256 = sources.results()
    finally:
        sources.stop()
