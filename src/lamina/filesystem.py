"""The fsspec file system ``lamina``, opened by options or by URLs like ``lamina://debian:12//etc``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from lamina.errors import ReferenceNotFound, UsageError
from lamina.places import open_named, options_of, settings_of
from lamina.source.stack import Stack
from lamina.spec.transport import BY_NAME, IN_FILES, REGISTRY
from lamina.view.fs import UnionFileSystem
from lamina.view.path import shown, uri_of

SCHEME = "lamina://"
_HINT = "in a URL, write two slashes after the image: lamina://IMAGE//PATH"


class LaminaFileSystem(UnionFileSystem):
    """A read-only fsspec file system over the union of an image: ``fsspec.filesystem("lamina", image="debian:12")``,
    or ``image.fs``. ``image``, ``root`` and ``platform`` are as in ``lamina.open``: the image may be in the store, in
    a registry (``docker://REF``), a layout or an archive. Sizes are in bytes. Writing raises ReadOnly (EROFS)."""

    protocol = "lamina"

    def __init__(
        self, image: str | None = None, *, root: str | None = None, platform: str | None = None, **options: Any
    ) -> None:
        """Open the image. ``options``: options of fsspec. Raises the errors of ``lamina.open``."""
        stack = options.pop("stack", None)
        super().__init__(**options)
        if stack is None:
            if image is None:
                raise UsageError("no image named", hint='write fsspec.filesystem("lamina", image="debian:12")')
            stack = _opened(image, root, platform)
        self.stack = stack

    @classmethod
    def of(cls, stack: Stack) -> LaminaFileSystem:
        """Return the file system of an opened image."""
        made = cls(stack=stack, skip_instance_cache=True)
        made.storage_options = {"image": uri_of(stack), **options_of(stack)}
        return made

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Return the path of a URL (``lamina://IMAGE//etc/passwd``, ``lamina:///etc/passwd``) or a plain path:
        absolute, without a slash at the end."""
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        text = os.fspath(path)
        return "/" + (split_url(text)[1] if text.startswith(SCHEME) else text).strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        """Return the image of a URL as an option: ``lamina://debian:12/etc/os-release``. ``lamina:///etc/os-release``
        has none; it is a path in the image of the option ``image``."""
        image = split_url(path)[0] if path.startswith(SCHEME) else ""
        return {"image": image} if image else {}

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        if name.startswith(SCHEME):
            return name
        return f"{SCHEME}{uri_of(self.stack)}/{self._strip_protocol(name)}"

    @property
    def fsid(self) -> str:
        """An identifier; equal for the same layers of the same image, in every process."""
        return f"lamina_{uri_of(self.stack)}"

    def __reduce__(self) -> tuple[Callable[..., LaminaFileSystem], tuple[Stack]]:
        return _of, (self.stack,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LaminaFileSystem) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return tuple(map(str, self._key))

    @property
    def _key(self) -> tuple[object, ...]:
        return self.stack.manifest.descriptor.digest, self.stack.first, len(self.stack.layers)

    def __repr__(self) -> str:
        return f"<lamina.LaminaFileSystem {self.stack.name!r}>"


def _of(stack: Stack) -> LaminaFileSystem:
    return LaminaFileSystem.of(stack)


def split_url(url: str) -> tuple[str, str]:
    """Split a ``lamina://`` URL into the image ("" for none) and the path in it (pure). Two slashes end the image.
    Without two slashes it ends after its tag, digest or range of layers, else at the first slash. So an image with a
    registry host needs a tag; a host with a port is recognized by a dot in it, or as localhost."""
    rest = url.removeprefix(SCHEME)
    if rest.startswith("/"):
        return "", rest
    registry = BY_NAME[REGISTRY].prefix
    transport = registry if rest.startswith(registry) else ""
    rest = rest.removeprefix(transport)
    image, two, path = rest.partition("//")
    if two or rest.startswith(tuple(one.prefix for one in IN_FILES)):
        return transport + image, path
    parts = rest.split("/")
    ends = (number for number, part in enumerate(parts) if _ends_image(part, first=number == 0))
    end = 1 + next(ends, 0)
    return transport + "/".join(parts[:end]), "/".join(parts[end:])


def _ends_image(part: str, *, first: bool) -> bool:
    name, _, port = part.partition(":")
    if first and port.isdecimal() and ("." in name or name == "localhost"):
        return False
    return any(mark in part for mark in ":@~")


def _opened(image: str, root: str | None, platform: str | None) -> Stack:
    if root is None and platform is None:
        stack = shown(image)
        if stack is not None:
            return stack
    try:
        return open_named(image, settings_of(root, platform))
    except ReferenceNotFound as error:
        raise ReferenceNotFound(error.message, hint=f"{error.hint}; {_HINT}") from None
