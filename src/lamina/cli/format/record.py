"""What stands for an image, container or file in templates and JSON: fields by name (pure).

A record has the fields of a structure, and to ask for another one is an error; of any other mapping a key that is
missing is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Record(dict[str, Any]):
    """Fields by name. ``absent``: the values of those that it may lack, which JSON then lacks too; ``methods``: those
    that take arguments."""

    def __init__(
        self,
        fields: Mapping[str, Any],
        absent: Mapping[str, Any] | None = None,
        methods: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        super().__init__(fields)
        self.absent = absent or {}
        self.methods = methods or {}

    def find(self, name: str) -> Any:
        """The field: by its own name, else by the one that differs in upper and lower case only (docker writes Id
        here and ID there). Raises KeyError."""
        for fields in (self, self.absent, self.methods):
            if name in fields and (fields[name] is not None or fields is not self):
                return fields[name]
        if name in self:
            return None
        same = [fields[key] for fields in (self, self.absent) for key in fields if key.lower() == name.lower()]
        if len(same) != 1:
            raise KeyError(name)
        return same[0]

    @property
    def names(self) -> list[str]:
        return sorted({*self, *self.absent, *self.methods})


class NoList(tuple[()]):
    """A list that is not there: empty, and null in JSON."""

    __slots__ = ()


class NoMap(dict[str, Any]):
    """A map that is not there: likewise."""

    __slots__ = ()


NO_LIST, NO_MAP = NoList(), NoMap()
