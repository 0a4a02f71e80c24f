"""fsspec's own tests of file systems: those that read, over an image that is made anew for what they write first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

import lamina
from lamina.filesystem import LaminaFileSystem
from lamina.source.stack import Stack
from support import write_layout


class Growing(LaminaFileSystem):
    """An image's file system whose image is built again, with other files, when a test has made some."""

    place: Path

    def __init__(self, place: Path) -> None:
        self.files: dict[str, bytes | None] = {}
        self.place = place
        self.built = 0
        self._built: Stack | None = None
        super().__init__(stack=None if place is None else self._build())

    @property  # type: ignore[misc]
    def stack(self) -> Stack:  # type: ignore[override]
        if self._built is None:
            self._built = self._build()
        return self._built

    @stack.setter
    def stack(self, stack: Stack) -> None:
        self._built = stack

    def _build(self) -> Stack:
        self.built += 1
        members = [(f"{path}/" if data is None else path, data) for path, data in self.files.items()]
        write_layout(self.place / "l", f"n{self.built}", [members], compress=False)
        return lamina.open(f"oci:{self.place}/l:n{self.built}", root=self.place / "none").stack

    def _put(self, path: str, data: bytes | None) -> None:
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            self.files.setdefault("/".join(parts[:depth]), None)
        self.files["/".join(parts)] = data
        self._built = None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._put(path, None)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        self._put(path, None)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        self._put(path, b"")

    def pipe(self, path: str, value: bytes | None = None, **_: Any) -> None:
        self._put(path, value)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        name = path.strip("/")
        self.files = {one: data for one, data in self.files.items() if one != name and not one.startswith(name + "/")}
        self._built = None


class TestGet(AbstractGetTests, AbstractFixtures):  # type: ignore[misc]
    @pytest.fixture
    def fs(self, tmp_path: Path) -> Iterator[Growing]:
        made = Growing(tmp_path / "images")
        yield made
        assert made.built > 1  # the test has read an image with files of its own

    @pytest.fixture
    def fs_path(self) -> str:
        return "/base"
