"""Open images by name, in any place: the store, a registry, a layout or an archive."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

from lamina.errors import NoStore, NotFound, ReferenceNotFound, UsageError
from lamina.light import TYPE_CHECKING, replace
from lamina.source.stack import Stack
from lamina.spec.name import ImageName, parse_name
from lamina.spec.transport import BY_NAME, IN_FILES, REGISTRY, TRANSPORTS, or_list

if TYPE_CHECKING:
    from lamina.settings import Settings
    from lamina.source.protocols import Reader, Writer
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.platform import Platform
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess
    from lamina.union.tree import Union

_MAX_OPENED = 4
"""Number of opened stacks that are kept for values that are unpickled later: merging them again is slow."""
_opened: OrderedDict[tuple[object, ...], Stack] = OrderedDict()


def load_settings(flags: Mapping[str, str] | None = None) -> Settings:
    """Read the current settings: defaults, files, environment, then ``flags``. Raises UsageError, SystemFailure."""
    from lamina.settings import Settings

    return Settings.load(flags=flags or {})


def settings_of(root: str | os.PathLike[str] | None = None, platform: str | None = None) -> Settings:
    """Read the settings; ``root`` and ``platform`` override them. Raises UsageError, SystemFailure."""
    given = (("root", root), ("platform", platform))
    return load_settings({key: os.fspath(value) for key, value in given if value is not None})


def adapted(settings: Settings, **given: object) -> Settings:
    """Return the settings with these values (paths, or booleans); None leaves a value as it is."""
    from lamina.settings import Setting, Settings

    values = {
        key: Setting(value if isinstance(value, bool) else os.path.abspath(os.fspath(value)), "flag")  # type: ignore[call-overload]
        for key, value in given.items()
        if value is not None
    }
    return Settings({**settings.values, **values})


def open_store(settings: Settings | None = None, *, create: bool = True) -> Store:
    """Open the store of the settings (default: the current ones). ``create``: create it if it does not exist. Raises
    NotFound (it does not exist, and ``create`` is false), Unsupported (another format), StoreDamaged,
    SystemFailure."""
    from lamina.store.store import Store

    settings = settings or load_settings()
    return Store.of(settings, create=create)


def reader_for(name: ImageName, network: RegistryAccess) -> Reader:
    """Open the place of an image for reading: a registry, layout, directory or archive. Raises UsageError (unknown
    transport), NotFound, InvalidDocument, SystemFailure."""
    if name.transport == REGISTRY:
        return network.repository(name.name)
    transport = BY_NAME.get(name.transport)
    if transport is None:
        hint = f"use {or_list(one.name for one in TRANSPORTS)}"
        raise UsageError(f"can't read from {name.transport!r:.60}: unknown transport", hint=hint)
    return transport.reader_class()(name.location)  # type: ignore[no-any-return]


def writer_for(transport: str, location: str) -> Writer:
    """Open a layout, directory or archive for writing. Raises UsageError (another transport), SystemFailure."""
    found = BY_NAME.get(transport)
    if found is None or not found.writer:
        hint = f"use {or_list(one.name for one in IN_FILES if one.writer)}"
        why = "it is only read" if found is not None and found.reader else "it is not a transport for files"
        raise UsageError(f"can't write to {transport!r:.60}: {why}", hint=hint)
    return found.writer_class()(location)  # type: ignore[no-any-return]


def open_named(name: str, settings: Settings, network: RegistryAccess | None = None) -> Stack:
    """Open an image by a name as in ``lamina.open``. ``network``: access to registries (default: as in the settings).
    Raises the errors of ``lamina.open``."""
    parsed = parse_name(name)
    platform = settings.wanted_platform()
    if parsed.transport:
        stack = _elsewhere(parsed, settings, platform, network)
    else:
        stack = _stored(settings, parsed.name, platform)
    return stack if parsed.whole else stack.slice(parsed.low, parsed.high)


def _elsewhere(
    parsed: ImageName, settings: Settings, platform: Platform, network: RegistryAccess | None = None
) -> Stack:
    from lamina.transfer.connect import RegistryAccess
    from lamina.transfer.open_stack import open_stack

    network = network or RegistryAccess(settings)
    reader = reader_for(parsed, network)
    inside = str(network.full(parsed.name)) if parsed.transport == REGISTRY else parsed.name
    whole = replace(parsed, low=1, high=None)
    stack = open_stack(reader, inside, platform, str(whole), max_layer=settings.max_layer)
    if whole.location:  # another process may have another working directory
        whole = replace(whole, location=os.path.abspath(whole.location))
    return replace(stack, reopened_by=(reopen, (str(whole), settings, stack.manifest.descriptor, stack.name)))


def _stored(settings: Settings, name: str, platform: Platform) -> Stack:
    """Open an image in the store. If the name is not found, it is tried as an alias of registries.conf."""
    try:
        store = open_store(settings, create=False)
    except NoStore as error:
        hint = f"pull it with `lamina pull {name:.200}`"
        raise ReferenceNotFound(f"no image {name!r:.300}: {error.message} yet", hint=hint) from None
    try:
        found = store.stack(name, platform)
    except ReferenceNotFound:
        from lamina.remote.registries import Registries

        alias = Registries.load().alias(name.partition(":")[0])
        if alias is None:
            raise
        found = store.stack(alias + name[len(name.partition(":")[0]) :], platform)
    return of_store(store, found, settings)


def of_store(store: Store, stack: Stack, settings: Settings) -> Stack:
    """Return the stack of an image in the store with faster ways to its union; it can be pickled."""
    again = (reopen, ("", settings, stack.manifest.descriptor, stack.name))
    return replace(
        stack, open_union=partial(_open_union, store), stored_union=partial(_stored_union, store), reopened_by=again
    )


def reopen(source: str, settings: Settings, descriptor: Descriptor, name: str) -> Stack:
    """Open the image with this manifest again, in another process or later: in the store, or in the place ``source``.
    Raises NotFound if it is not there any more, and the errors of ``open_named``."""
    key = (source, settings.root, settings.view, settings.keep, settings.platform, descriptor.digest, name)
    found = _opened.pop(key, None)
    if found is None:
        platform = settings.wanted_platform()
        if not source:
            store = open_store(settings, create=False)
            found = of_store(store, store.stack_at(descriptor, platform, name), settings)
        else:
            found = replace(_elsewhere(parse_name(source), settings, platform), name=name)
        if found.manifest.descriptor.digest != descriptor.digest:
            raise NotFound(f"{source} is now another image, not {descriptor.digest}", hint="open it by name again")
    _opened[key] = found
    while len(_opened) > _MAX_OPENED:
        _opened.popitem(last=False)
    return found


def options_of(stack: Stack) -> dict[str, str]:
    """Return the root and platform with which ``open_named`` finds the image of an opened stack."""
    if stack.reopened_by is None:
        return {}
    source, settings = stack.reopened_by[1][:2]
    root = {} if source else {"root": settings.root}  # type: ignore[attr-defined]
    return {**root, "platform": str(stack.config.platform)}


def _open_union(store: Store, stack: Stack) -> Union:
    from lamina.view.erofs.open_stored import open_union

    return open_union(store, stack)


def _stored_union(store: Store, stack: Stack) -> Union | None:
    from lamina.view.erofs.open_stored import stored_union

    return stored_union(store, stack)


def to_bytes(path: str | os.PathLike[str]) -> bytes:
    """Convert a path of a user to the form of the packages below: relative, without slashes at its ends; ``.`` and
    ``..`` are resolved as text, never above the root. Raises TypeError."""
    parts: list[bytes] = []
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"a path is str, bytes or os.PathLike, not {type(path).__name__}: {path!r:.100}")
    text = path if isinstance(path, (str, bytes)) else getattr(path, "as_posix", path.__fspath__)()
    for part in os.fsencode(text).split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
