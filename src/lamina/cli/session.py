"""What all verbs share in one call: settings, the store, access to registries, opening images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

from lamina.errors import NoStore, UsageError
from lamina.events import Cancel, OnEvent, ignore
from lamina.light import TYPE_CHECKING
from lamina.places import load_settings, open_named, open_store

if TYPE_CHECKING:
    from lamina.image import Image
    from lamina.settings import Settings
    from lamina.source.protocols import Reader, Writer
    from lamina.source.stack import Stack
    from lamina.spec.image_config import ImageConfig
    from lamina.spec.platform import Platform
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess
    from lamina.transfer.copy import Copied


class Session:
    """One call of the command line. ``flags``: settings that were given as flags."""

    def __init__(self, flags: Mapping[str, str] | None = None) -> None:
        self.flags = dict(flags or {})
        self.credentials: str | None = None
        """USER[:PASSWORD] for registries, if given for this call."""
        self.access: dict[str, dict[str, str]] = {}
        """Options of ``cli.access``: under "" for the whole call, under "src" and "dest" for one side of a copy."""

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.flags)

    @cached_property
    def store(self) -> Store:
        """The store for reading. Raises NoStore if it does not exist."""
        return open_store(self.settings, create=False)

    @cached_property
    def store_if_any(self) -> Store | None:
        """The store for lists; None if it does not exist yet."""
        try:
            return self.store
        except NoStore:
            return None

    @cached_property
    def writable_store(self) -> Store:
        """The store for writing; created if it does not exist."""
        return open_store(self.settings)

    def network(
        self,
        on_event: OnEvent = ignore,
        side: str = "",
        more: Mapping[str, str] | None = None,
    ) -> RegistryAccess:
        """Return the access to registries with the options of the whole call. Options of one ``side`` of a copy
        override them; ``more`` overrides both."""
        from lamina.transfer.connect import RegistryAccess

        whole = self.access.get("", {})
        given = {**self.access.get(side, {}), **(more or {})} if side or more else {}
        flags: dict[str, str] = {key: given[key] for key in ("tls_verify", "cert_dir", "authfile") if key in given}
        settings = load_settings({**self.flags, **flags}) if flags else self.settings
        creds, token, anonymous = self.credentials, "", False
        for one in filter(None, (whole, given)):
            found = credentials({**one, **({"creds": creds} if one is whole and creds else {})})
            if found or one.keys() & {"registry_token", "no_creds"}:
                creds, token, anonymous = found, one.get("registry_token", ""), "no_creds" in one
        return RegistryAccess(
            settings,
            credentials=creds,
            token=token,
            anonymous=anonymous,
            retries=int(whole["retry_times"]) if "retry_times" in whole else None,
            retry_delay=float(whole["retry_delay"]) if "retry_delay" in whole else None,
            on_event=on_event,
            cancel=self.cancel,
        )

    def copied(
        self,
        source: Reader,
        target: Writer,
        pairs: list[tuple[str, str]],
        progress: OnEvent,
        *,
        all_platforms: bool = False,
        index_only: bool = False,
        referrers: bool = False,
    ) -> list[Copied]:
        """Call ``transfer.copy`` with the settings of this call. Ctrl-C cancels it."""
        from lamina.transfer.copy import copy

        with self.interruptible():
            return copy(
                source,
                target,
                pairs,
                platform=self.settings.asked_platform(),
                all_platforms=all_platforms,
                index_only=index_only,
                referrers=referrers,
                on_event=progress,
                cancel=self.cancel,
            )

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C inside the block cancel what waits for the network."""
        try:
            yield
        except KeyboardInterrupt:
            self.cancel.set()
            raise

    @cached_property
    def cancel(self) -> Cancel:
        """Set when the call is interrupted."""
        return Cancel()

    @property
    def platform(self) -> Platform:
        return self.settings.wanted_platform()

    def image(self, name: str) -> Image:
        from lamina.image import Image

        return Image(self.stack(name), self.settings)

    def stack(self, name: str) -> Stack:
        """Open an image as a ``Stack``, without importing ``lamina.image``, so that `run` starts faster."""
        found = open_named(name, self.settings, self.network() if name.startswith("docker://") else None)
        self.check_platform(found.config, name)
        return found

    def check_platform(self, config: ImageConfig, name: str) -> None:
        """Warn if the image is for another platform than the requested one."""
        asked = self.settings.asked_platform()
        if asked is not None:
            from lamina.cli import warn
            from lamina.source.select import not_as_asked

            warning = not_as_asked(config, asked)
            if warning:
                warn(f"{name}: {warning}")


def credentials(given: Mapping[str, str]) -> str | None:
    """Return USER:PASSWORD of the options, or None. Raises UsageError if options contradict each other."""
    named = [key for key in ("creds", "username", "registry_token", "no_creds") if key in given]
    if len(named) > 1:
        first, second = (key.replace("_", "-") for key in named[:2])
        raise UsageError(f"--{first} can't be combined with --{second}", hint="give one of them")
    if "password" in given and "username" not in given:
        raise UsageError("--password needs --username", hint="give both")
    if "username" in given:
        return f"{given['username']}:{given.get('password', '')}"
    return given.get("creds")
