"""A checkpoint as a model that runs: `build` finds or makes the module, loads the weights strictly, and knows what to feed it.

    spec = ProgramSpec(arch="torchvision:resnet34", inputs=("1x3x224x224",))       # all fields optional
    with registry.open(path) as checkpoint:
        program = build(spec, checkpoint, choose(checkpoint)[0])
    y = program.module(*program.inputs(seed=0, batch=2))

``build(spec, checkpoint, choice, loader=None)``; ``loader`` gives {key: torch.Tensor} where the weights should come from another
reader than ours. In order: ``--trust-source`` runs a TorchScript or .pt2 source; ``--arch`` is built; a whole model is rebuilt from its
records; else `convert.identify` names the architecture, and only where coverage says so.

`Program`: ``module`` (eval mode, CPU, the weights' own dtypes) · ``source`` (as ``--arch`` takes it, or what it is) · ``kind``
(``arch`` | ``identified`` | ``whole`` | ``torchscript`` | ``exported``) · ``inputs(seed, batch, kind)`` → tuple of tensors · ``specs`` ·
``fit`` (what was loaded) · ``identification``, ``assumption`` (to print and record) · ``notes`` · ``with_weights(state)`` → a second
module of the same program with other weights, for comparing an output with its source · ``document()`` for the report.

Raises `Unsupported` (69) where there is no program, saying what would give one, and `UsageError` (2) for a wrong ``--arch`` or ``--input``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.parity.runners import in_eval_mode
from convert.programs import arch as arches
from convert.programs import inputs as made_inputs
from convert.programs.inputs import InputSpec
from convert.programs.skeleton import outline
from convert.programs.userfile import UserFile
from convert.programs.weights import Fit, load
from formats.core.errors import Unsupported, UsageError

if TYPE_CHECKING:
    import torch

    from convert.identify import IdentifyResult
    from convert.select import Choice
    from formats.core.checkpoint import Checkpoint

Loader = Callable[[], Mapping[str, "torch.Tensor"]]


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """What the user said: ``--arch``, each ``--input``, ``--trust-source``, ``--golden INPUT OUTPUT``."""

    arch: str | None = None
    inputs: tuple[str, ...] = ()
    trust_source: bool = False
    golden: tuple[Path, Path] | None = None


@dataclass(slots=True)
class Program:
    """A module that runs and everything that is known of it; see the module's text."""

    module: torch.nn.Module
    source: str
    kind: str
    specs: tuple[InputSpec, ...] = ()
    fit: Fit | None = None
    identification: IdentifyResult | None = None
    assumption: str | None = None
    notes: list[str] = field(default_factory=list)
    reload: Callable[[], torch.nn.Module] | None = field(default=None, repr=False)

    def inputs(self, seed: int = 0, batch: int | None = None, kind: str = "natural") -> tuple[torch.Tensor, ...]:
        """Arguments for ``module``: the same for the same seed; floating ones in the weights' dtype. ``kind``: natural | normal."""
        if not self.specs:
            raise UsageError(f"{self.source}: its input is not known", hint="--input 1x3x224x224[:dtype], once for each argument")
        dtype = self._dtype()
        made = []
        for at, spec in enumerate(self.specs):
            tensor = made_inputs.make(spec, seed * 1000 + at, batch, kind)
            made.append(
                tensor.to(dtype) if dtype is not None and tensor.is_floating_point() and spec.dtype == "float32" else tensor
            )
        return tuple(made)

    def _dtype(self) -> Any:
        return next((value.dtype for value in self.module.parameters() if value.is_floating_point()), None)

    def with_weights(self, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """Another module of the same program that holds ``state``, loaded as strictly."""
        other = self.reload() if self.reload is not None else copy.deepcopy(self.module)
        prefix = self.fit.prefix if self.fit is not None else ""
        load(other, state, what=self.source, prefix=prefix if all(key.startswith(prefix) for key in state) else "")
        return in_eval_mode(other)

    def document(self) -> dict[str, Any]:
        """What a report records of the program."""
        return {
            "kind": self.kind,
            "source": self.source,
            "inputs": [str(spec) for spec in self.specs],
            "fit": None if self.fit is None else self.fit.document(),
            "identified": None if self.identification is None else self.identification.document(),
            "assumption": self.assumption,
            "notes": self.notes,
        }


def build(
    spec: ProgramSpec,
    checkpoint: Checkpoint,
    choice: Choice | None = None,
    loader: Loader | None = None,
    *,
    weightless: bool = False,
) -> Program:
    """The program for the model ``choice`` of ``checkpoint`` (None: a source that brings its own). ``weightless`` leaves its tensors on
    the meta device and reads none, as `convert.programs.skeleton` tells."""
    given = tuple(made_inputs.parse(text) for text in spec.inputs)
    if spec.trust_source:
        return _trusted(checkpoint, given)
    if choice is None:
        raise Unsupported("no model of the file is chosen")
    weights = loader or _our_weights(choice)
    named = arches.parse(spec.arch) if spec.arch is not None else None
    if named is not None and named.name:
        return _named(named, choice, weights, given)
    if choice.kind == "module":
        return _whole(choice, named, given, weightless)
    if named is not None:
        raise UsageError(
            f"--arch {spec.arch}: names no callable, and the file holds no whole model", hint=f"--arch {spec.arch}:NAME"
        )
    if checkpoint.format in ("torchscript", "exported-program"):
        raise Unsupported(
            "brings its own program, which is code that the file itself carries",
            hint="--trust-source runs it; --arch names another",
        )
    return _identified(checkpoint, choice, weights, given, spec.golden)


def _our_weights(choice: Choice) -> Loader:
    def weights() -> Mapping[str, torch.Tensor]:
        from convert.arrays import torch_tensor

        return {key: torch_tensor(view) for key, view in choice.state_dict.tensors.items()}

    return weights


class _Files:
    """One `UserFile` a path."""

    def __init__(self) -> None:
        self._open: dict[Path, UserFile] = {}

    def __call__(self, path: Path) -> UserFile:
        key = path.resolve()
        if key not in self._open:
            self._open[key] = UserFile(path)
        return self._open[key]


_files = _Files()


def _named(arch: arches.Arch, choice: Choice, weights: Loader, given: tuple[InputSpec, ...]) -> Program:
    module = arches.make(arch, _files)
    fit = load(module, weights(), what=str(arch))
    specs = given or _default_inputs(arch, module)
    return Program(module, str(arch), "arch", _with_statistics(specs, arch, module), fit, notes=list(choice.notes))


def _whole(choice: Choice, arch: arches.Arch | None, given: tuple[InputSpec, ...], weightless: bool) -> Program:
    from convert.programs.classes import Classes
    from convert.programs.whole import Whole

    file = _files(Path(arch.place)) if arch is not None else None
    classes = Classes(file.classes() if file else None, str(file.path) if file else "")
    rebuilding = Whole(classes, _outlined(choice)) if weightless else Whole(classes)
    module = rebuilding.rebuild(choice.node)
    keys, wanted = set(module.state_dict()), set(choice.state_dict.tensors)
    fit = Fit(loaded=len(keys & wanted), missing=sorted(keys - wanted), unexpected=sorted(wanted - keys))
    if not fit.strict:
        raise Unsupported(f"whole model rebuilt with another state dict: {fit.text()}")
    source = rebuilding.name if file is None else f"{rebuilding.name} of {file.path.name}"
    specs = given or _image_inputs(rebuilding.name, module) or _vector_inputs(module)
    return Program(module, source, "whole", specs, fit, notes=[*choice.notes, *rebuilding.notes])


def _outlined(choice: Choice) -> Callable[[Any], Any]:
    """What is in the state dict has no values; other tensors of a whole model are read."""
    from convert.arrays import torch_tensor

    held = {id(view) for view in choice.state_dict.tensors.values()}
    return lambda view: outline(view) if id(view) in held else torch_tensor(view)


def _identified(
    checkpoint: Checkpoint, choice: Choice, weights: Loader, given: tuple[InputSpec, ...], golden: tuple[Path, Path] | None
) -> Program:
    from convert.identify import identify_checkpoint

    result = identify_checkpoint(checkpoint, choice)
    if result.arch is None:
        said = result.lines()[0]
        raise Unsupported(
            f"no architecture is known for these weights ({said})", hint="--arch names one; convert identify says more"
        )
    held = weights()
    if golden is not None:
        from convert.programs.golden import decide

        result.member, errors = decide(result, held, golden)
        result.basis, result.assumption = "golden", None
        notes = [*choice.notes, f"golden output: {result.member.name} is off by {errors[result.member.name]:.1e}"]
    else:
        notes = list(choice.notes)
    arch = arches.parse(result.arch_of(result.member) if result.member is not None else result.arch)
    module = arches.make(arch, _files)
    fit = load(module, held, what=str(arch), prefix=result.prefix)
    specs = _with_statistics(given or _default_inputs(arch, module), arch, module)
    return Program(module, str(arch), "identified", specs, fit, result, result.assumption, notes)


def _trusted(checkpoint: Checkpoint, given: tuple[InputSpec, ...]) -> Program:
    """Run the program that the file itself carries: only on ``--trust-source``."""
    import torch

    path = str(checkpoint.path)
    if checkpoint.format == "torchscript":
        reload: Callable[[], Any] = lambda: torch.jit.load(path, map_location="cpu").eval()  # noqa: E731, TID251
        kind = "torchscript"
    elif checkpoint.format == "exported-program":
        reload = lambda: torch.export.load(path).module()  # noqa: E731
        kind = "exported"
    else:
        raise UsageError(f"--trust-source: a {checkpoint.format} file brings no program", path=path, hint="--arch names one")
    try:
        module = reload()
    except Exception as error:
        raise Unsupported(f"torch {torch.__version__} cannot load its program: {error!s:.300}", path=path) from error
    specs = given or (_example_inputs(torch.export.load(path)) if kind == "exported" else ())
    return Program(
        module, f"the source's own {kind} program", kind, specs, notes=["--trust-source: code of the file was run"], reload=reload
    )


def _example_inputs(exported: Any) -> tuple[InputSpec, ...]:
    arguments, _ = exported.example_inputs or ((), {})
    return tuple(InputSpec(tuple(value.shape), str(value.dtype).removeprefix("torch.")) for value in arguments)


def _default_inputs(arch: arches.Arch, module: Any) -> tuple[InputSpec, ...]:
    """What the library says of its own models; nothing for a user's."""
    if arch.kind == "timm":
        config = getattr(module, "pretrained_cfg", None) or {}
        size = tuple(config.get("input_size") or (3, 224, 224))
        arguments = dict(arch.arguments)
        sides = arguments.get("img_size") or size[1:]
        sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
        return (InputSpec((1, arguments.get("in_chans", size[0]), *sides)),)
    if arch.kind == "torchvision":
        return (InputSpec((1, 3, *_torchvision_size(arch.name))),)
    return ()


def _torchvision_size(name: str) -> tuple[int, int]:
    from torchvision.models import get_model_weights

    for weights in get_model_weights(name):
        crop = getattr(weights.transforms(), "crop_size", None)
        if crop:
            return (crop[0], crop[-1])
    return (299, 299) if "inception" in name else (224, 224)


def _with_statistics(specs: tuple[InputSpec, ...], arch: arches.Arch, module: Any) -> tuple[InputSpec, ...]:
    """Images normalised as the library's weights expect them."""
    config = getattr(module, "pretrained_cfg", None) if arch.kind == "timm" else None
    mean, std = (config.get("mean"), config.get("std")) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if arch.kind not in ("timm", "torchvision") or not mean or not std:
        return specs
    return tuple(
        replace(spec, mean=tuple(mean), std=tuple(std)) if len(spec.shape) == 4 or spec.sample else spec for spec in specs
    )


def _image_inputs(name: str, module: Any) -> tuple[InputSpec, ...]:
    """For a whole model of torchvision or timm: the size its configuration gives, or 224 pixels."""
    if not name.startswith(("torchvision.models.", "timm.models.")):
        return ()
    import torch

    first = next((part for part in module.modules() if isinstance(part, torch.nn.Conv2d)), None)
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    size = tuple(config.get("input_size") or ()) if isinstance(config, dict) else ()
    sides = size[1:] if len(size) == 3 else (299, 299) if name.endswith("Inception3") else (224, 224)
    return (InputSpec((1, first.in_channels if first is not None else 3, *sides)),)


def _vector_inputs(module: Any) -> tuple[InputSpec, ...]:
    """For a `Sequential` whose first layer is linear: what it is given goes to that layer, which takes vectors of one length."""
    import torch

    first = module
    while type(first) is torch.nn.Sequential and len(first):
        first = first[0]
    return (InputSpec((1, first.in_features)),) if first is not module and type(first) is torch.nn.Linear else ()
