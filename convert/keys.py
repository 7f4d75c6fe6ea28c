"""Keys of a state dict: the prefixes that wrappers leave behind, and how to take them off."""

from __future__ import annotations

from formats.core.checkpoint import Ordered, StateDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# DataParallel and DistributedDataParallel; torch.compile.
WRAPPERS = ("module.", "_orig_mod.")


def strip_wrappers(state_dict: StateDict) -> tuple[StateDict, str | None]:
    """(state dict without the wrappers' prefixes, what was taken off or None).

    A prefix goes where every key has it. Inside, ``features.module.0.weight`` loses its ``module.`` where that part alone is wrapped: a
    single first component, all its keys go through ``module``, and numbered layers follow (a `Sequential` in DataParallel, as the
    AlexNet and VGG recipes made them).
    """
    prefix = ""
    keys = list(state_dict.tensors)
    while keys:
        found = next((w for w in WRAPPERS if all(k.startswith(prefix + w) and len(k) > len(prefix + w) for k in keys)), None)
        if found is None:
            break
        prefix += found
    if prefix:
        return _renamed(state_dict, prefix, ""), prefix
    inner = _inner(keys)
    if inner is not None:
        return _renamed(state_dict, f"{inner}.module.", f"{inner}."), f"{inner}.module."
    return state_dict, None


def _inner(keys: list[str]) -> str | None:
    if not any(".module." in key for key in keys):
        return None
    wrapped: set[str] = set()
    plain: set[str] = set()
    for key in keys:
        head, _, rest = key.partition(".")
        number = rest.removeprefix("module.").partition(".")[0]
        (wrapped if rest.startswith("module.") and number.isdecimal() else plain).add(head)
    only = wrapped - plain
    return only.pop() if len(wrapped) == 1 and len(only) == 1 and plain else None


def _renamed(state_dict: StateDict, prefix: str, text: str) -> StateDict:
    def cut(key: str) -> str:
        return text + key[len(prefix) :] if key.startswith(prefix) else key

    tensors = {cut(key): tensor for key, tensor in state_dict.tensors.items()}
    versions: Any = state_dict.versions
    if isinstance(versions, dict):
        # Modules have no trailing dot: the wrapper's own entries go, and `module` itself becomes "".
        bare, inner = prefix.rstrip("."), text.rstrip(".")
        parents = {bare[:i] for i, c in enumerate(bare) if c == "."} | {""} if not text else set()
        kept = Ordered()
        for key, value in versions.items():
            if not isinstance(key, str):
                continue
            if key == bare:
                kept[inner] = value
            elif key not in parents:
                kept[cut(key)] = value
        versions = kept
    return StateDict(tensors, versions)
