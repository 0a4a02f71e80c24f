"""What the verbs of one run share: settings, the store, opening images, the listener."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from lamina.image import Image, load_settings, open_store, open_with

if TYPE_CHECKING:
    from lamina.config import Settings
    from lamina.spec.platform import Platform
    from lamina.store.store import Store


class Session:
    """One run of the command line. ``flags`` are the settings that were given as flags."""

    def __init__(self, flags: Mapping[str, str]) -> None:
        self.flags = dict(flags)

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.flags)

    @cached_property
    def store(self) -> Store:
        """The store to look into: it must be there."""
        return open_store(self.settings, create=False)

    @cached_property
    def writable_store(self) -> Store:
        """The store to write to: made where it is not there yet."""
        return open_store(self.settings)

    @property
    def platform(self) -> Platform:
        return self.settings.wanted_platform()

    def image(self, name: str) -> Image:
        return open_with(name, self.settings)
