"""Base images: looked up for the plan, and brought into the store when a step needs their layers."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lamina.build.planning.plan import Base
from lamina.build.progress import Progress, Vertex
from lamina.build.solving.cache import Made
from lamina.build.steps import BaseStep
from lamina.errors import NotFound, ReferenceNotFound, RemoteFailure, UsageError
from lamina.events import Warned
from lamina.light import pattern
from lamina.source.select import find_manifest, not_as_asked, read_config
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.events import Cancel
    from lamina.source.protocols import Reader
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.image_config import ImageConfig
    from lamina.store.session import StoreSession
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess

_SHORT = pattern(r"[0-9a-f]{1,11}")
"""Rather a name, like ``cafe``, than the first digits of an image's ID, which may be anybody's."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Where an image is: ``inside`` is its name at the ``reader``; ``name`` the one that it gets in the store, "" for
    none. ``reader`` None: it is in the store."""

    reader: Reader | None
    inside: str
    top: Descriptor
    name: str
    platform: Platform
    layers: tuple[Made, ...] = ()


class Bases:
    """The base images of one build. ``pull``: ask the registry even for images of the store."""

    def __init__(
        self,
        store: Store,
        session: StoreSession,
        network: RegistryAccess,
        progress: Progress,
        cancel: Cancel,
        *,
        pull: bool,
    ) -> None:
        self._store = store
        self._session = session
        self._network = network
        self._progress = progress
        self._cancel = cancel
        self._pull = pull
        self._found: dict[tuple[str, str], _Found] = {}
        self._guard = threading.Lock()
        self._locks: dict[tuple[str, str], threading.Lock] = {}

    def resolve(self, place: str, platform: Platform) -> Base:
        """Look up an image: in the store, else where it comes from. Only its documents are read. Raises what a pull
        raises."""
        place = place.removeprefix("docker-image://")
        with self._progress.vertex(f"[internal] load metadata for {_shown(place)}") as vertex:
            found = self._look(place, platform)
            reader = found.reader or self._store
            manifest = find_manifest(reader, found.top, platform, place)
            config = read_config(reader, manifest, place)
            warning = not_as_asked(config, platform)
            if warning:
                vertex.event(Warned(f"{place}: {warning}"))
        name = found.name or place
        created = (entry.created if entry else None for entry in config.steps())
        layers = zip(manifest.layers, config.diff_ids, created, strict=True)
        made = tuple(Made(layer, diff_id, time or "") for layer, diff_id, time in layers)
        self._found[name, str(platform)] = replace(found, layers=made)
        return Base(name, str(found.top.digest), config)

    def layers(self, step: BaseStep) -> tuple[Made, ...]:
        """The layers of a base, whether they are in the store or not."""
        return self._found[step.name, str(step.platform)].layers

    def stack(self, step: BaseStep, vertex: Vertex) -> Stack:
        """The layers of a base, which are brought into the store if they are not there. Raises what a pull raises."""
        key = (step.name, str(step.platform))
        found = self._found[key]
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            stack = self._stored(found, step.name)
            vertex.cached = stack is not None
            if stack is None:
                from lamina.transfer.copy import SessionWriter, copy

                assert found.reader is not None
                copy(
                    found.reader,
                    SessionWriter(self._session),
                    [(found.inside, found.name)],
                    platform=found.platform,
                    on_event=vertex.event,
                    cancel=self._cancel,
                )
                stack = self._stored(found, step.name)
        if stack is None:
            raise NotFound(f"the layers of {step.name} are not in the store", hint=f"run `lamina pull {step.name}`")
        return stack

    def _look(self, place: str, platform: Platform) -> _Found:
        if place.startswith("oci-layout://"):
            from lamina.archive.layout import LayoutReader

            path, name = _layout(place.removeprefix("oci-layout://"))
            layout = LayoutReader(path)
            return _Found(layout, name, layout.resolve(name), "", platform)
        stored = self._in_store(place, platform)
        if stored is not None and not self._pull and self._is_for(stored, platform):
            return stored
        reference = self._network.full(place)
        repository = self._network.repository(place)
        try:
            top = repository.resolve(str(reference))
        except (NotFound, RemoteFailure) as error:
            if stored is None or (self._pull and isinstance(error, RemoteFailure)):
                raise
            return stored
        inside = f"{reference.repository}@{top.digest}"
        return _Found(repository, inside, top, str(reference), platform)

    def _is_for(self, found: _Found, platform: Platform) -> bool:
        """Whether an image of the store is for the platform: one without an index may be for any."""
        stack = self._store.stack_at(found.top, platform, found.name)
        return not not_as_asked(stack.config, platform)

    def _in_store(self, place: str, platform: Platform) -> _Found | None:
        """The image if the store has it complete for this platform; else None."""
        full = str(self._network.full(place))
        names: Iterable[str] = (full,) if _SHORT.fullmatch(place) else dict.fromkeys((place, full))
        for name in names:
            try:
                top = self._store.resolve(name)
                found = _Found(None, name, top, _full(name), platform)
            except (ReferenceNotFound, UsageError):
                continue
            if self._stored(found, name) is not None:
                return found
        return None

    def _stored(self, found: _Found, name: str) -> Stack | None:
        """The image as a stack, protected from gc, if all of it is in the store."""
        self._session.has(found.top)
        try:
            stack = self._store.stack_at(found.top, found.platform, name)
        except NotFound:
            return None
        here = [self._session.has(layer.descriptor, layer.diff_id) for layer in stack.layers]
        return stack if all(here) else None


def stored_config(store: Store, network: RegistryAccess, name: str, platform: Platform) -> ImageConfig | None:
    """The config of an image, if the store has it for this platform."""
    try:
        names: Iterable[str] = dict.fromkeys((name, str(network.full(name))))
    except UsageError:
        return None
    for one in names:
        try:
            return read_config(store, find_manifest(store, store.resolve(one), platform, one), one)
        except (NotFound, UsageError):
            continue
    return None


def _full(name: str) -> str:
    """The reference with its tag; what is an ID stays."""
    try:
        return str(Reference.parse(name).with_default_tag())
    except UsageError:
        return name


def _layout(text: str) -> tuple[str, str]:
    """The directory and the name of ``path[:tag][@digest]``."""
    path, at, digest = text.partition("@")
    if at:
        return path.partition(":")[0], digest
    path, _, tag = text.partition(":")
    return path, tag


def _shown(place: str) -> str:
    return _full(place)
