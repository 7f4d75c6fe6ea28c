"""Classes of named fields, as `dataclasses` has them, at a tenth of the cost of start-up.

The standard library's decorator imports inspect, ast and tokenize, and compiles methods for each class anew at every start: for the
thirty classes that a plain conversion needs this takes longer than converting a small file. Here the methods are shared.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: importing typing would be a seventh of the start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, dataclass_transform, overload

    Class = TypeVar("Class", bound=type)
    Instance = TypeVar("Instance")


class _Made:
    __slots__ = ("factory",)

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory


def made(factory: Callable[[], Any]) -> Any:
    """A default that is made anew for each instance: ``names: list[str] = made(factory=list)``."""
    return _Made(factory)


if TYPE_CHECKING:

    @overload
    def record(cls: Class) -> Class: ...
    @overload
    def record(*, frozen: bool) -> Callable[[Class], Class]: ...
    @dataclass_transform(field_specifiers=(made,))
    def record(cls: Any = None, *, frozen: bool = False) -> Any: ...

else:

    def record(cls: Any = None, *, frozen: bool = False) -> Any:
        """A class whose annotated names are its fields, in their order, with the defaults that they are given.

        Instances are equal where their fields are. ``frozen`` ones are hashable and their fields cannot be set. Fields are not inherited.
        """
        if cls is None:
            return lambda given: record(given) if not frozen else _frozen(record(given))
        names = tuple(cls.__annotations__)
        plain: dict[str, Any] = {}
        fresh: list[tuple[str, Callable[[], Any]]] = []
        for name in names:
            default = cls.__dict__.get(name, _ABSENT)
            if type(default) is _Made:
                fresh.append((name, default.factory))
                delattr(cls, name)
            elif default is not _ABSENT:
                plain[name] = default
        known, count = frozenset(names), len(names)

        def initialise(self: Any, *values: Any, **fields: Any) -> None:
            if len(values) > count:
                raise TypeError(f"{cls.__name__} takes {count} fields, {len(values)} are given")
            given = self.__dict__
            given.update(zip(names, values, strict=False))
            if not given.keys().isdisjoint(fields) or not known.issuperset(fields):
                raise TypeError(f"{cls.__name__} takes each of its fields once and no other, not {', '.join(fields)}")
            given.update(fields)
            if len(given) == count:
                return
            for name, value in plain.items():
                if name not in given:
                    given[name] = value
            for name, factory in fresh:
                if name not in given:
                    given[name] = factory()
            if len(given) != count:
                raise TypeError(f"{cls.__name__} needs {', '.join(sorted(known - given.keys()))}")

        cls.__init__ = initialise
        cls.__match_args__ = names  # type: ignore[misc]
        cls.__repr__ = _repr
        cls.__eq__ = _eq
        cls.__hash__ = None
        return cls


def changed(instance: Instance, **fields: Any) -> Instance:
    """A copy of a record with other values for ``fields``."""
    kept = {name: getattr(instance, name) for name in type(instance).__match_args__}  # type: ignore[attr-defined]
    return type(instance)(**{**kept, **fields})


_ABSENT = object()


def _frozen(cls: Any) -> Any:
    def refuse(self: Any, name: str, value: Any = None) -> None:
        raise AttributeError(f"{cls.__name__}.{name} cannot be changed")

    cls.__setattr__ = cls.__delattr__ = refuse
    cls.__hash__ = _hash
    return cls


def _values(instance: Any) -> tuple[Any, ...]:
    return tuple(instance.__dict__[name] for name in type(instance).__match_args__)


def _eq(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    """Scalars as they are, of everything else the type: a field may hold the tree of a file."""
    shown = [
        f"{name}={value!r:.80}" if isinstance(value, (str, int, float, bytes, type(None))) else f"{name}=<{type(value).__name__}>"
        for name, value in zip(type(self).__match_args__, _values(self), strict=True)
    ]
    return f"{type(self).__name__}({', '.join(shown)})"
