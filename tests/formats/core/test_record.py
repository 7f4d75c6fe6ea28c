from __future__ import annotations

from typing import Any

import pytest

from formats.core.record import changed, made, record


@record
class Point:
    x: int
    y: int = 0
    names: list[str] = made(factory=list)


@record(frozen=True)
class Fixed:
    x: int
    y: str = "y"


def test_fields_come_in_order_by_name_and_with_defaults_of_their_own() -> None:
    one, other = Point(1), Point(x=1, y=0)
    assert (one.x, one.y, one.names) == (1, 0, [])
    assert one == other
    assert one != Point(2)
    assert one != (1, 0, [])
    one.names.append("n")
    assert other.names == []


@pytest.mark.parametrize(("values", "fields"), [((), {}), ((1, 2, [], 4), {}), ((1,), {"x": 2}), ((1,), {"z": 2})])
def test_wrong_fields_are_refused(values: tuple[Any, ...], fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Point(*values, **fields)


def test_frozen_records_are_hashable_and_stay_as_they_are() -> None:
    assert {Fixed(1), Fixed(1, "y")} == {Fixed(1)}
    with pytest.raises(AttributeError):
        Fixed(1).x = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        hash(Point(1))
    assert changed(Fixed(1), y="z") == Fixed(1, "z")


def test_a_repr_never_spells_what_a_field_holds() -> None:
    assert repr(Point(1, names=["secret"])) == "Point(x=1, y=0, names=<list>)"
