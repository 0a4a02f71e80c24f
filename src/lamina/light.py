"""``Value`` and ``pattern``: frozen dataclasses and regular expressions without ``dataclasses``, ``typing`` and
``re``, which take longer to load than Python itself. A type checker sees the originals.

Use them in modules that `run`, `images`, `ls`, `tags`, `digest` and `manifest` load at their start. Everywhere else,
and for types that are created in large numbers, use a dataclass.
"""

from __future__ import annotations

from operator import attrgetter

TYPE_CHECKING = False

if TYPE_CHECKING:
    import re
    import signal
    from collections.abc import Callable
    from inspect import Signature
    from typing import Any, AnyStr, TypeVar, dataclass_transform

    _V = TypeVar("_V", bound="Value")
else:
    import _signal as signal  # signal itself makes enumerations of all numbers

    def dataclass_transform(**_):
        return lambda kind: kind


__all__ = [
    "TYPE_CHECKING",
    "Value",
    "as_dict",
    "field",
    "pattern",
    "replace",
    "signal",
]


class _Field:
    def __init__(self, factory: Callable[[], Any] | None, compare: bool, hashed: bool, shown: bool) -> None:
        self.factory, self.compare, self.hashed, self.shown = factory, compare, hashed, shown


def field(
    *,
    default_factory: Callable[[], Any] | None = None,
    compare: bool = True,
    hash: bool = True,
    repr: bool = True,
) -> Any:
    """As ``dataclasses.field``."""
    return _Field(default_factory, compare, hash and compare, repr)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class _Values(type):
    """Reads the fields of a class of values off its annotations, once."""

    __match_args__: tuple[str, ...]
    _fields: tuple[str, ...]
    _defaults: dict[str, Any]

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any], *, kw_only: bool = False) -> _Values:
        return super().__new__(mcs, name, bases, space)

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], *, kw_only: bool = False) -> None:
        """``kw_only``: as for a dataclass; the fields come after those of all subclasses."""
        super().__init__(name, bases, space)
        told: dict[str, _Field] = {}
        defaults: dict[str, Any] = {}
        named: set[str] = set(space.get("__annotations__", ())) if kw_only else set()
        for base in reversed(cls.__mro__[1:]):
            if isinstance(base, _Values):
                told |= base._told
                defaults |= base._defaults
                named |= base._named
        for one in space.get("__annotations__", ()):
            told[one] = _PLAIN
            if one in space:
                defaults[one] = space[one]
                if isinstance(space[one], _Field):
                    told[one] = space[one]
                    delattr(cls, one)
        if named:
            told = dict(sorted(told.items(), key=lambda one: one[0] in named))
        cls._told, cls._defaults, cls._fields, cls._named = told, defaults, tuple(told), named
        if "__match_args__" not in space:
            cls.__match_args__ = cls._fields  # type: ignore[misc]
        cls._key = _getter([one for one, how in told.items() if how.compare])
        cls._hashed = _getter([one for one, how in told.items() if how.hashed])

    _told: dict[str, _Field]
    _named: set[str]
    _key: Callable[[Any], Any]
    _hashed: Callable[[Any], Any]

    @property
    def __signature__(cls) -> Signature:
        """What ``help()`` shows that a value is made of."""
        from inspect import Parameter, Signature

        found = []
        for name in cls._fields:
            default = cls._defaults.get(name, Parameter.empty)
            if isinstance(default, _Field):
                default = ... if default.factory else Parameter.empty
            kind = cls._annotated(name)
            found.append(Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind))
        return Signature(found)

    def _annotated(cls, name: str) -> Any:
        from inspect import get_annotations

        return next(kinds[name] for kinds in map(get_annotations, cls.__mro__) if name in kinds)


def _getter(names: list[str]) -> Any:
    return staticmethod(attrgetter(*names)) if names else staticmethod(lambda _: ())


_PLAIN = _Field(None, True, True, True)


class _Fields:
    """The fields of a value as ``dataclasses`` describes them, so that its functions accept values."""

    def __get__(self, value: object, kind: _Values) -> dict[str, Any]:
        import dataclasses

        found: dict[str, Any] = {}
        for name, how in kind._told.items():
            default = kind._defaults.get(name, dataclasses.MISSING)
            one: Any = dataclasses.field(
                **{"default_factory": how.factory} if how.factory else {"default": default},
                compare=how.compare,
                hash=how.hashed,
                repr=how.shown,
            )
            one.name, one.type = name, kind.__annotations__.get(name, "Any")
            one._field_type = dataclasses._FIELD  # type: ignore[attr-defined]
            found[name] = one
        return found


class Value(metaclass=_Values):
    """A frozen dataclass, declared as one: annotated fields, with their defaults."""

    if not TYPE_CHECKING:
        __dataclass_fields__ = _Fields()

    def __init__(self, *given: Any, **named: Any) -> None:
        fields, values = type(self)._fields, self.__dict__
        values.update(zip(fields, given, strict=False))
        if named or len(given) != len(fields):
            self._complete(given, named)

    def _complete(self, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        fields, values, defaults = type(self)._fields, self.__dict__, type(self)._defaults
        if len(given) > len(fields) or not values.keys().isdisjoint(named):
            raise TypeError(f"{type(self).__name__} takes {', '.join(fields)}, each once")
        values.update(named)
        for name in fields:
            if name not in values:
                default = defaults.get(name, _PLAIN)
                if isinstance(default, _Field):
                    if default.factory is None:
                        raise TypeError(f"{type(self).__name__} needs {name}")
                    default = default.factory()
                values[name] = default
        if len(values) != len(fields):
            raise TypeError(f"{type(self).__name__} has no {', '.join(named.keys() - set(fields))}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is a value: its {name} can't be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is a value: its {name} can't be taken away")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        key = type(self)._key
        return bool(key(self) == key(other))

    def __hash__(self) -> int:
        return hash(type(self)._hashed(self))

    def __repr__(self) -> str:
        told = type(self)._told
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name, how in told.items() if how.shown)
        return f"{type(self).__qualname__}({shown})"

    def __replace__(self: _V, **changes: Any) -> _V:
        return replace(self, **changes)


def replace(value: _V, **changes: Any) -> _V:
    """The value with some fields changed."""
    return type(value)(**{**as_dict(value), **changes})


def as_dict(value: Value) -> dict[str, Any]:
    """The fields by name. What is in them stays as it is."""
    return {name: getattr(value, name) for name in type(value)._fields}


def pattern(text: AnyStr) -> re.Pattern[AnyStr]:
    """``re.compile(text)``, done when it is first asked."""
    return _Pattern(text)  # type: ignore[return-value]


class _Pattern:
    def __init__(self, text: Any) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy asks for these before the text is set
            raise AttributeError(name)
        import re

        compiled = re.compile(self._text)
        for one in ("fullmatch", "match", "search", "finditer", "findall", "split", "sub", "pattern"):
            setattr(self, one, getattr(compiled, one))
        return getattr(compiled, name)
