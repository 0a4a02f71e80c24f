"""Pull and push: copying an image between a registry and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.errors import UsageError
from lamina.events import Cancel, OnEvent, ignore
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.store.image_events import note_transfer
from lamina.transfer.connect import RegistryAccess, StoreAndRegistries
from lamina.transfer.copy import Copied, copy

if TYPE_CHECKING:
    from lamina.store.store import Store


def pull(
    name: str,
    store: Store,
    network: RegistryAccess,
    *,
    platform: Platform | None,
    all_platforms: bool = False,
    all_tags: bool = False,
    referrers: bool = False,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> list[Copied]:
    """Copy an image into the store under its full name: the manifest first, then what is missing. ``platform`` None
    means the host's.

    Raises ReferenceNotFound, AccessDenied, RemoteFailure, InvalidContent, SystemFailure, Cancelled.
    """
    repository = network.repository(name)
    reference = network.full(name)
    if all_tags:
        if reference != network.full(reference.repository):
            raise UsageError(f"{name} has a tag", hint="give only a repository with --all-tags")
        names = [f"{reference.repository}:{tag}" for tag in repository.tags()]
    else:
        names = [str(reference)]
    done = copy(
        repository,
        store,
        [(one, one) for one in names],
        platform=platform,
        all_platforms=all_platforms,
        referrers=referrers,
        on_event=on_event,
        cancel=cancel,
    )
    for image in done:
        note_transfer(store, "pull", image.name)
    return done


def push(
    name: str,
    target: str,
    store: Store,
    network: RegistryAccess,
    *,
    platform: Platform | None,
    all_platforms: bool = False,
    referrers: bool = False,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> Copied:
    """Copy the image ``name`` of the store to a registry as ``target`` ("": under its own name); only missing blobs
    are sent. Raises as ``pull``."""
    reference = network.full(target) if target else own_name(store, name, network)
    repository = network.repository(str(reference), store=store)
    done = copy(
        StoreAndRegistries(store, network),
        repository,
        [(name, str(reference))],
        platform=platform,
        all_platforms=all_platforms,
        referrers=referrers,
        on_event=on_event,
        cancel=cancel,
    )[0]
    note_transfer(store, "push", str(reference))
    return done


def own_name(store: Store, name: str, network: RegistryAccess) -> Reference:
    """Return the full name of an image in the store. Raises ReferenceNotFound, and UsageError if it was given by its
    ID."""
    known = {stored for stored, _ in store.names()}
    reference = network.full(name)
    if str(reference) not in known:
        store.resolve(name)
        raise UsageError(f"{name} is an ID, not a name", hint="give a target: `lamina push IMAGE HOST/PATH:TAG`")
    return reference
