"""What a pickle's names, calls and states become when nothing is imported, called or set: globals, records, plain containers.

The opcodes that carry no objects of their own are in `unpickle.py`; here is what each of the others does to values.
"""

from __future__ import annotations

from formats.core.checkpoint import Global, Ordered, Record
from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol, TypeAlias
else:
    Any = Protocol = object

PersistentLoad: TypeAlias = "Callable[[Any], Any]"
TENSOR = "torch._utils._rebuild_tensor_v2"  # what torch calls to make a tensor


class SharedPart(Exception):
    """A memo slot that `tensor_runs` has left unfilled is asked for."""


class _Lazy:
    __slots__ = ()


LAZY = _Lazy()  # what stands in such a slot


class Rebuilder(Protocol):
    """A reader's own descriptions of what certain names would make (see `rebuild.Rebuilt`)."""

    constructors: Mapping[str, Callable[[tuple[Any, ...]], Any]]

    def build(self, target: Any, state: Any) -> bool:
        """Give ``state`` to a value that a constructor made; False where it takes none."""

    def finish(self) -> None:
        """Raise where something was begun and not completed."""


@record(frozen=True)
class Limits:
    """What one pickle may ask for. Each is checked before anything is allocated."""

    pickle_bytes: int = 64 << 20
    objects: int = 3_000_000  # containers, texts, long integers and records made
    integer_bytes: int = 1024
    # Keys that an attacker can make collide (integers of over 60 bits, tuples); those of one hash cost a dict their square.
    colliding_keys: int = 20_000
    keys_of_one_hash: int = 1_000
    key_items: int = 256  # values in one key, nested tuples counted through


LIMITS = Limits()

Place = tuple[Any, str, int]  # the path of the file, archive or folder; which of its pickles; the byte at which that begins
# Whoever wants to know what pickles name, be they refused: called after each evaluation, which may come again with more bytes.
WATCHERS: list[Callable[[Place, Inert], None]] = []


class Inert:
    """The state of one evaluation: the bytes, the position for error texts, and the names seen so far."""

    def __init__(
        self,
        data: bytes,
        rebuilder: Callable[[], Rebuilder] | None,
        persistent_load: PersistentLoad | None,
        limits: Limits,
    ) -> None:
        self.data = data
        self.rebuilder = rebuilder() if rebuilder else None
        self.constructors = self.rebuilder.constructors if self.rebuilder else {}
        self.persistent_load = persistent_load
        self.limits = limits
        self.names: dict[str, Global] = {}
        self.called: dict[str, int] = {}
        self.made: dict[str, int] = {}  # of those calls, the ones that only make an object of a class (NEWOBJ)
        self.results: dict[str, int] = {}  # calls of what another call would have given, by that one's name
        self.colliding: dict[int, int] = {}  # {hash: keys that an attacker can choose to have it}
        self.colliding_keys = 0
        self.pos = 0
        self.ended = False  # at STOP

    def _global(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise CorruptCheckpoint(f"a name made of {type(module).__name__} and {type(name).__name__} at byte {self.pos}")
        text = f"{module}.{name}"
        found = self.names.get(text)
        if found is None:
            found = self.names[text] = Global(text)
        return found

    def _call(self, callable_: Any, args: Any, kwargs: dict[Any, Any] | None = None) -> Any:
        if type(args) is not tuple:
            raise CorruptCheckpoint(f"a call with {type(args).__name__} for arguments at byte {self.pos}")
        if type(callable_) is Record:
            self.results[callable_.name] = self.results.get(callable_.name, 0) + 1
            return Record(callable_, args, kwargs)
        if type(callable_) is not Global:
            raise CorruptCheckpoint(f"a call of {type(callable_).__name__} at byte {self.pos}")
        text = callable_.text
        self.called[text] = self.called.get(text, 0) + 1
        if text in _NEW and args:  # copyreg's ways to say NEWOBJ
            bare = text.endswith("_reconstructor") and args[2:] == (None,)
            return self._new(args[0], () if bare else args[1:])
        construct = self.constructors.get(text)
        if construct is None or kwargs:
            return Record(callable_, args, kwargs)
        if text in _HASHING:
            for value in args[0] if args and isinstance(args[0], (list, tuple)) else ():
                self._check_key(value[0] if text not in _SETS and isinstance(value, (list, tuple)) and value else value)
        return construct(args)

    def _new(self, cls: Any, args: Any, kwargs: dict[Any, Any] | None = None) -> Any:
        if type(cls) is Global:
            self.made[cls.text] = self.made.get(cls.text, 0) + 1
        return self._call(cls, args, kwargs)

    def _persistent(self, pid: Any) -> Any:
        if self.persistent_load is None:
            raise CorruptCheckpoint(f"a persistent id at byte {self.pos}, where the container has none")
        return self.persistent_load(pid)

    def _build(self, target: Any, state: Any) -> None:
        if type(target) is Record:
            if isinstance(target.state, dict) and isinstance(state, dict):
                target.state = {**target.state, **state}
            elif target.state is None:
                target.state = state
            else:
                raise CorruptCheckpoint(f"a second state for {target.name} at byte {self.pos}")
        elif type(target) is Ordered and isinstance(state, dict):
            target.attributes = {**(target.attributes or {}), **state}
        elif self.rebuilder is None or not self.rebuilder.build(target, state):
            raise CorruptCheckpoint(f"a state for a {type(target).__name__} at byte {self.pos}")

    def _append(self, target: Any, values: list[Any]) -> None:
        if type(target) is list:
            target.extend(values)
        elif type(target) is Record:
            target.items = [*(target.items or ()), *values]
        else:
            raise CorruptCheckpoint(f"an item for a {type(target).__name__} at byte {self.pos}")

    def _set(self, target: Any, pairs: list[Any]) -> None:
        if type(target) is dict or type(target) is Ordered:
            entries = target
        elif type(target) is Record:
            entries = target.entries = target.entries if target.entries is not None else {}
        else:
            raise CorruptCheckpoint(f"a key for a {type(target).__name__} at byte {self.pos}")
        if len(pairs) > 64 and set(map(type, pairs[::2])) == {str}:
            entries.update(zip(pairs[::2], pairs[1::2], strict=True))
            return
        for at in range(0, len(pairs), 2):
            key = pairs[at]
            if type(key) is not str:
                self._check_key(key)
            entries[key] = pairs[at + 1]

    def _check_key(self, key: Any) -> None:
        """Hashing must be safe: C code hashes nested tuples by recursion and without memory of what it has seen."""
        if isinstance(key, (tuple, frozenset)):
            count = 0
            todo: list[Any] = [key]
            while todo:
                part = todo.pop()
                count += 1
                if count > self.limits.key_items:
                    raise LimitExceeded(f"a key of more than {self.limits.key_items} values at byte {self.pos}")
                if isinstance(part, (tuple, frozenset)):
                    todo.extend(part)
                elif isinstance(part, (list, dict, set)) and type(part) is not Ordered:
                    raise CorruptCheckpoint(f"a key that holds a {type(part).__name__} at byte {self.pos}")
            self._count_key(key)
        elif isinstance(key, int):
            if key.bit_length() > 60:
                self._count_key(key)
        elif isinstance(key, (list, dict, set)) and type(key) is not Ordered:
            raise CorruptCheckpoint(f"a {type(key).__name__} as a key at byte {self.pos}")

    def _count_key(self, key: Any) -> None:
        found = hash(key)
        self.colliding[found] = count = self.colliding.get(found, 0) + 1
        self.colliding_keys += 1
        if self.colliding_keys > self.limits.colliding_keys:
            raise LimitExceeded(f"more than {self.limits.colliding_keys} keys of long integers or tuples by byte {self.pos}")
        if count > self.limits.keys_of_one_hash:
            raise LimitExceeded(f"more than {self.limits.keys_of_one_hash} keys of one hash by byte {self.pos}")


_NEW = frozenset({"copy_reg._reconstructor", "copyreg._reconstructor", "copy_reg.__newobj__", "copyreg.__newobj__"})
_SETS = frozenset({"builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset"})
_HASHING = _SETS | {"collections.OrderedDict"}  # constructors that hash what the file gives them
