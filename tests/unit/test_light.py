"""``Value`` compared with a dataclass of the same declaration: users must not see a difference."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pytest

from lamina.light import Value, as_dict, field, pattern, replace
from lamina.spec.digest import Digest


class Point(Value):
    """Two numbers, a name, and what is known besides."""

    x: int
    y: int = 2
    name: str = ""
    known: Mapping[str, Any] = field(default_factory=dict, hash=False)
    raw: object = field(default_factory=list, compare=False, repr=False)

    @cached_property
    def total(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True)
class Twin:
    x: int
    y: int = 2
    name: str = ""
    known: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    raw: object = dataclasses.field(default_factory=list, compare=False, repr=False)


class Point3(Point):
    z: int = 3


GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, 3), {"name": "a"}),
    ((), {"x": 1, "y": 3, "known": {"k": 1}}),
    ((1, 2, "n", {}, [7]), {}),
    ((), {}),
    ((1, 2, "n", {}, [], 6), {}),
    ((1,), {"x": 1}),
    ((1,), {"strange": 1}),
    ((), {"y": 1}),
    ((), {"x": 1, "strange": 2}),
]


@pytest.mark.parametrize(("given", "named"), GIVEN)
def test_made_as_a_dataclass_is(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    try:
        twin = Twin(*given, **named)
    except TypeError:
        with pytest.raises(TypeError):
            Point(*given, **named)
        return
    point = Point(*given, **named)
    assert as_dict(point) == dataclasses.asdict(twin)
    assert repr(point) == repr(twin).replace("Twin", "Point")
    assert hash(point) == hash(twin)


def test_values_are_compared_by_their_compared_fields() -> None:
    assert Point(1, raw=[1]) == Point(1, raw=[2])
    assert Point(1, known={"a": 1}) != Point(1)
    assert hash(Point(1, known={"a": 1})) == hash(Point(1))
    assert Point(1) != Twin(1)
    assert Point3(1) != Point(1)
    assert len({Point(1), Point(1, 2), Point(2)}) == 2


def test_defaults_are_not_shared_and_values_are_immutable() -> None:
    point = Point(1)
    assert point.known is not Point(1).known
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        point.strange = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        del point.x
    assert (point.total, point.x) == (3, 1)
    assert repr(point) == repr(Point(1))
    assert not hasattr(Point, "known")


def test_replaced_by_its_own_function_and_by_dataclasses() -> None:
    point = Point3(1, name="n", known={"a": 1})
    changed = replace(point, y=9, z=4)
    assert (type(changed), as_dict(changed)) == (Point3, {**as_dict(point), "y": 9, "z": 4})
    assert dataclasses.replace(point, y=9, z=4) == changed
    with pytest.raises(TypeError):
        replace(point, strange=1)
    assert dataclasses.asdict(point) == as_dict(point)
    assert [one.name for one in dataclasses.fields(Point3)] == ["x", "y", "name", "known", "raw", "z"]


def test_help_shows_what_it_is_made_of() -> None:
    said = (
        "(x: 'int', y: 'int' = 2, name: 'str' = '', known: 'Mapping[str, Any]' = Ellipsis, raw: 'object' = Ellipsis"
    )
    assert str(inspect.signature(Point)) == f"{said})"
    assert str(inspect.signature(Point3)) == f"{said}, z: 'int' = 3)"
    assert inspect.signature(Point).bind(1, name="n").arguments == {"x": 1, "name": "n"}
    with pytest.raises(TypeError):
        inspect.signature(Point).bind()
    assert not hasattr(Point(1), "__signature__")


def test_pickled_whole() -> None:
    point = Point(1, name="n", known={"a": 1})
    again = pickle.loads(pickle.dumps(point))
    assert again == point
    assert as_dict(again) == as_dict(point)


def test_a_pattern_behaves_like_one_of_re() -> None:
    found = pattern(r"(\d+)-(\d+)")
    assert found.fullmatch("12-3")[2] == "3"  # type: ignore[index]
    assert found.fullmatch("x") is None
    assert found.sub("-", "12-3 4-5") == "- -"
    assert found.pattern == r"(\d+)-(\d+)"
    assert pattern(rb"[a-z]").search(b"1a").start() == 1  # type: ignore[union-attr]
    assert pattern("(?i)A").groups == re.compile("(?i)A").groups


def test_digests_are_ordered_as_text_is() -> None:
    low, high = (Digest("sha256", letter * 64) for letter in "ab")
    assert all((low < high, low <= high, low <= Digest("sha256", "a" * 64), high >= low, high > low))
    assert not any((high <= low, low >= high, low > high))
    with pytest.raises(TypeError):
        low < "b"  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError):
        low <= "b"  # type: ignore[operator]  # noqa: B015


def test_values_are_matched_by_position() -> None:
    match Digest("sha256", "a"):
        case Digest(algorithm, encoded):
            assert (algorithm, encoded) == ("sha256", "a")


def test_patterns_are_copied_and_pickled() -> None:
    one = pattern("a+")
    for same in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert same.fullmatch("aa")
