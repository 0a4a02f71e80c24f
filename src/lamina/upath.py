"""Paths in images for universal-pathlib, which finds this by its entry point: ``UPath("lamina://debian:12//etc")``.

Nothing else of lamina loads this module: universal-pathlib need not be installed.
"""

from __future__ import annotations

from typing import NoReturn

from fsspec import get_filesystem_class
from upath import UPath

from lamina.errors import ReadOnly

get_filesystem_class("lamina")  # universal-pathlib then parses URLs with it


class LaminaPath(UPath):
    """An absolute path in an image, which is in ``storage_options``. Methods that write raise ReadOnly (EROFS)."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ReadOnly(f"{self.path!r:.300}: an image is read-only", hint="image.append() makes a new one")

    write_text = write_bytes = touch = mkdir = rmdir = unlink = rename = replace = _refuse
    symlink_to = hardlink_to = chmod = _refuse

    def is_symlink(self) -> bool:
        return bool(self.fs.islink(self.path))
