"""Convert PyTorch checkpoints exactly and safely: nothing in a file is ever run.

>>> import convert
>>> with convert.open("in.pth.tar") as checkpoint:           # structure only; no tensor is read
...     weight = checkpoint.state_dict()["conv1.weight"].numpy()
>>> convert.convert("in.pth.tar", to="safetensors")
>>> convert.inspect("in.pth.tar")["candidates"]
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from convert.api import Opened, RunOptions, Tensor, convert, inspect, open, verify
    from formats.core.errors import CheckpointError

__version__ = "0.1.0"

__all__ = ["CheckpointError", "Opened", "RunOptions", "Tensor", "__version__", "convert", "inspect", "open", "verify"]


def __getattr__(name: str) -> Any:  # imported when asked for: the command starts before any of it is needed
    if name == "CheckpointError":
        from formats.core.errors import CheckpointError

        return CheckpointError
    if name in __all__:
        from convert import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
