"""The headers of a request as text, whatever their case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


class Headers(Mapping[str, str]):
    """Headers by name. Those that come several times are joined by commas (RFC 9110, section 5.2)."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        """``raw``: names in lower case, and values."""
        found: dict[str, str] = {}
        for name, value in raw:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            found[key] = f"{found[key]}, {text}" if key in found else text
        self._found = found

    def replace(self, name: str, value: str) -> None:
        """``name`` in lower case."""
        self._found[name] = value

    def __getitem__(self, name: str) -> str:
        return self._found[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
