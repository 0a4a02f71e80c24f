"""Records for templates and JSON: the fields of an image, a container or a file by name (pure).

As in Go, a record is like a structure: an unknown field is an error. In any other mapping an unknown key is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Record(dict[str, Any]):
    """Fields by name. ``absent``: values for fields that are missing, which JSON leaves out. ``methods``: fields that
    take arguments."""

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
        """Return a field by its name, or by the only name that differs just in upper and lower case (docker uses both
        Id and ID). Raises KeyError."""
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
    """A missing list: empty in templates, null in JSON."""

    __slots__ = ()


class NoMap(dict[str, Any]):
    """A missing map: empty in templates, null in JSON."""

    __slots__ = ()


NO_LIST, NO_MAP = NoList(), NoMap()
