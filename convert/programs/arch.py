"""``--arch``: what it may name, and the module that comes of it.

==============================  ====================================================================================
``torchvision:resnet34``        `torchvision.models.get_model`, without weights
``timm:NAME[,arg=value…]``      `timm.create_model`, without weights; values as Python literals, other text as it is
``transformers:FOLDER``         the class that ``FOLDER/config.json`` names first, from transformers itself, no remote code
``FILE.py:callable``            a class or function of the user's file; FILE.py alone lends its classes to a whole model
``package.module:callable``     the same from an installed package
==============================  ====================================================================================

Arguments may follow every callable. User code runs because the user named it here, and for no other reason.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.programs.userfile import UserFile
from formats.core.errors import CheckpointError, Unsupported, UsageError

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torchvision", "timm", "transformers")


@dataclass(frozen=True, slots=True)
class Arch:
    """A parsed ``--arch``: ``kind`` is a library, ``file`` or ``module``; ``name`` is what is called, "" for FILE.py alone."""

    kind: str
    place: str
    name: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        told = "".join(f",{key}={value}" for key, value in self.arguments)
        return f"{self.place}:{self.name}{told}" if self.name else self.place


def parse(text: str) -> Arch:
    """``text`` as `Arch`. Raises `UsageError`, saying what is understood."""
    place, colon, rest = text.partition(":")
    if len(place) == 1 and (rest.startswith(("\\", "/")) and place.isalpha()):  # C:\models\net.py:Net
        drive, (place, colon, rest) = place, rest.partition(":")
        place = f"{drive}:{place}"
    if place == "transformers" and rest:
        return Arch("transformers", place, rest)
    name, *options = rest.split(",") if rest else [""]
    arguments = tuple(_argument(option, text) for option in _rejoined(options))
    if place in LIBRARIES and name:
        return Arch(place, place, name, arguments)
    if place.endswith(".py"):
        return Arch("file", place, name, arguments)
    if colon and name and all(part.isidentifier() for part in place.split(".")) and place not in LIBRARIES:
        return Arch("module", place, name, arguments)
    raise UsageError(
        f"--arch {text}: is none of torchvision:NAME, timm:NAME[,arg=value…], transformers:FOLDER, FILE.py:callable, "
        "package.module:callable"
    )


def _rejoined(options: list[str]) -> list[str]:
    """Commas inside brackets and quotes do not end a value: ``img_size=(224,224)``."""
    found: list[str] = []
    for option in options:
        if found and (found[-1].count("(") + found[-1].count("[") > found[-1].count(")") + found[-1].count("]")):
            found[-1] += "," + option
        else:
            found.append(option)
    return found


def _argument(option: str, text: str) -> tuple[str, Any]:
    key, equals, value = option.partition("=")
    if not equals or not key.strip().isidentifier():
        raise UsageError(f"--arch {text}: {option!r} is not arg=value")
    try:
        return key.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key.strip(), value


def make(arch: Arch, files: Callable[[Path], UserFile]) -> torch.nn.Module:
    """The module, freshly initialised (always to the same values). ``files`` gives the scope of a user's file.

    Raises `UsageError` for what does not exist, `Unsupported` where the library is missing or the call fails.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            made = _make(arch, files)
        except CheckpointError:
            raise
        except Exception as error:  # whatever a constructor raises
            raise Unsupported(f"--arch {arch}: cannot be built: {type(error).__name__}: {error!s:.300}") from error
    if not isinstance(made, torch.nn.Module):
        raise UsageError(f"--arch {arch}: gave a {type(made).__name__}, not a torch.nn.Module")
    return made.eval()


def _make(arch: Arch, files: Callable[[Path], UserFile]) -> Any:
    arguments = dict(arch.arguments)
    if arch.kind == "torchvision":
        return _torchvision(arch.name, arguments)
    if arch.kind == "timm":
        timm = imported("timm")
        if not timm.is_model(arch.name.partition(".")[0]):
            raise UsageError(
                f"--arch {arch}: timm {timm.__version__} has no such model", hint=_close(arch.name, timm.list_models())
            )
        return timm.create_model(arch.name, pretrained=False, **arguments)
    if arch.kind == "transformers":
        return _transformers(Path(arch.name))
    if arch.kind == "file":
        file = files(Path(arch.place))
        with file.scope():
            return file.named(arch.name)(**arguments)
    return _attribute(arch)(**arguments)


def _torchvision(name: str, arguments: dict[str, Any]) -> Any:
    import inspect

    models = imported("torchvision").models
    if name not in models.list_models():
        raise UsageError(f"--arch torchvision:{name}: there is no such model", hint=_close(name, models.list_models()))
    builder = inspect.signature(models.get_model_builder(name)).parameters
    if "weights_backbone" in builder:
        arguments.setdefault("weights_backbone", None)
    if name.removeprefix("quantized_") in ("googlenet", "inception_v3"):
        arguments.setdefault("init_weights", False)  # a minute of truncated normals that are overwritten
    return models.get_model(name, weights=None, **arguments)


def _transformers(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise UsageError(f"--arch transformers:{folder}: the folder has no config.json")
    transformers = imported("transformers")
    config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    names = getattr(config, "architectures", None) or []
    cls = getattr(transformers, names[0], None) if names else None
    if not isinstance(cls, type) or not issubclass(cls, transformers.PreTrainedModel):
        raise Unsupported(
            f"--arch transformers:{folder}: config.json names {names or 'no architecture'}, which transformers does not have"
        )
    return cls(config)


def _attribute(arch: Arch) -> Any:
    import importlib

    try:
        found: Any = importlib.import_module(arch.place)  # noqa: TID251  the user named it
    except ImportError as error:
        raise UsageError(f"--arch {arch}: {arch.place} cannot be imported: {error!s:.200}") from error
    for part in arch.name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"--arch {arch}: {arch.place} has no callable {arch.name}")
    return found


def imported(library: str) -> Any:
    """torchvision, timm or transformers. Raises `Unsupported` where it is not installed or does not fit the torch that is."""
    import importlib

    if library not in LIBRARIES:
        raise UsageError(f"{library} is none of {', '.join(LIBRARIES)}")
    try:
        return importlib.import_module(library)  # noqa: TID251  a name of the tuple above
    except ModuleNotFoundError as error:
        if error.name in (library, None):
            raise Unsupported(f"{library} is not installed", hint=f"pip install {library}") from error
        raise Unsupported(
            f"{library} cannot be imported: {error.name} is not installed", hint=f"pip install {error.name}"
        ) from error
    except Exception as error:
        import torch

        raise Unsupported(
            f"{library} cannot be imported beside torch {torch.__version__}: {error!s:.160}",
            hint=f"install the build of {library} that belongs to this torch: the same release, CPU with CPU, CUDA with CUDA",
        ) from error


def _close(name: str, names: list[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(name, names, 3)
    return f"near: {', '.join(near)}" if near else None
