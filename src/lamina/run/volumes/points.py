"""The mounts of a container, as its record keeps them: decided once, when it is created.

``--volumes-from`` is resolved, anonymous volumes have names, and images have digests. So a container has the same
mounts at every start, and everybody can see which volumes it uses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from lamina.errors import Conflict, NotFound, UsageError
from lamina.light import TYPE_CHECKING, as_dict, replace
from lamina.run.options import ContainerOptions, Mount
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.store.containers import Container, damage
from lamina.store.volumes import LOCAL, check_name, new_name

if TYPE_CHECKING:
    from typing import Any

    from lamina.source.stack import Stack
    from lamina.store.store import Store

_FROM_MODES = ("ro", "rw", "z", "Z", "ro,z", "ro,Z", "rw,z", "rw,Z", "z,ro", "Z,ro", "z,rw", "Z,rw")
_TUPLES = ("options", "labels", "driver_options", "image")


def points_for(store: Store, wanted: ContainerOptions, declared: Iterable[str]) -> list[Mount]:
    """The mounts of a new container. ``declared``: the volumes of its image. Of several for one target, those of the
    command line come before those of other containers, and these before the image's. Raises UsageError, NotFound,
    Conflict (a container that is named has a damaged record)."""
    own: dict[str, Mount] = {}
    for mount in wanted.mounts:
        target = os.path.normpath(mount.target)
        if target in own:
            raise UsageError(f"two mounts have the same target: {target!r:.200}", hint="remove one of them")
        own[target] = _resolved(store, mount)
    found = {os.path.normpath(mount.target): mount for mount in _of_others(store, wanted.volumes_from)}
    found |= own
    for target in declared:
        place = os.path.normpath(target)
        if place not in found:
            found[place] = Mount("volume", new_name(), target, anonymous=True, mode="")
    return list(found.values())


def _resolved(store: Store, mount: Mount) -> Mount:
    if mount.kind == "bind":
        more = ("create",) if mount.makes_source and "create" not in mount.options else ()
        source = os.path.abspath(mount.source)
        return replace(mount, source=source, options=(*mount.options, *more), mode=mount.mode or "")
    if mount.kind == "volume":
        if not mount.source:
            mode = "z" if mount.mode is None else mount.mode  # docker's
            return replace(mount, source=new_name(), anonymous=True, mode=mode)
        if store.volumes.exists(mount.source):
            store.volumes.checked(mount.source)
        else:
            check_name(mount.source)
        return replace(mount, mode=mount.mode or "z")  # docker's word for it
    if mount.kind == "image":
        stack = _opened(store, mount.source)
        one = stack.manifest.descriptor
        return replace(mount, image=(one.media_type, str(one.digest), one.size), mode="")
    return mount


def _opened(store: Store, name: str) -> Stack:
    from lamina.spec.name import parse_stored

    try:
        return store.stack(str(parse_stored(name)), Platform.host())
    except NotFound as error:
        raise NotFound(
            f"the image {name!r:.200}, to be mounted, is not in the store: {error.message}",
            hint=f"pull it first: lamina pull {name:.200}",
        ) from None


def _of_others(store: Store, words: Sequence[str]) -> Iterable[Mount]:
    """The mounts that ``--volumes-from`` asks for; of several for one target the last counts. Raises UsageError,
    NotFound, Conflict."""
    for word in words:
        name, colon, mode = word.partition(":")
        if not name or (colon and mode not in _FROM_MODES):
            raise UsageError(f"--volumes-from {word!r:.100}: unknown mode", hint="write CONTAINER, or CONTAINER:ro")
        other = store.containers.get(name)
        mounts = points_of(other)
        if mounts is None:
            raise Conflict(
                f"--volumes-from {name:.100}: an older lamina made this container, and its volumes are not known",
                hint="name the volumes with -v",
            )
        for mount in mounts:
            if mount.kind == "tmpfs":
                continue
            read_only = "ro" in mode.split(",") and not mount.read_only
            yield replace(mount, options=(*mount.options, *(("ro",) if read_only else ())), mode="")


def images_of(store: Store, mounts: Iterable[Mount]) -> tuple[tuple[str, str, int, tuple[str, ...]], ...]:
    """``Container.images`` for these mounts. Raises BlobNotFound."""
    found = []
    for mount in mounts:
        if mount.image is not None:
            stack = stack_of(store, mount)
            found.append((*mount.image, tuple(map(str, stack.diff_ids))))
    return tuple(dict.fromkeys(found))


def stack_of(store: Store, mount: Mount) -> Stack:
    """The image of a mount. Raises BlobNotFound."""
    assert mount.image is not None
    kind, digest, size = mount.image
    return store.stack_at(Descriptor(kind, Digest.parse(digest), size), Platform.host(), mount.source)


def names_of(mounts: Iterable[Mount]) -> tuple[str, ...]:
    """The names of volumes, the sources of binds and the targets, for ``ps --filter volume``."""
    kept = [mount for mount in mounts if mount.kind != "tmpfs"]
    sources = [mount.source for mount in kept if mount.kind != "image"]
    return tuple(dict.fromkeys((*sources, *(mount.target for mount in kept))))


def to_json(mounts: Iterable[Mount]) -> tuple[dict[str, Any], ...]:
    """``Container.mounts`` (pure)."""
    return tuple(as_dict(mount) for mount in mounts)


def points_of(container: Container) -> list[Mount] | None:
    """The mounts that the record states; None in the record of an older lamina. Raises StoreDamaged."""
    if container.mounts is None:
        return None
    try:
        return [_mount(one) for one in container.mounts]
    except (TypeError, ValueError, AttributeError, UsageError):
        raise damage(container) from None


def _mount(value: Any) -> Mount:
    known = {key: item for key, item in value.items() if key in Mount.__match_args__}
    for key in _TUPLES:
        if known.get(key) is not None:
            known[key] = tuple(tuple(one) if isinstance(one, list) else one for one in known[key])
    mount = Mount(**known)
    texts = (mount.kind, mount.source, mount.target, mount.subpath, *mount.options)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text")
    if mount.image is not None:
        kind, digest, size = mount.image
        Descriptor(kind, Digest.parse(digest), size)
    return mount


def mounts_of(store: Store, container: Container) -> list[dict[str, Any]]:
    """The mounts of a container as docker's inspect lists them. Empty for a container of an older lamina. Raises
    StoreDamaged."""
    mounts = [mount for mount in points_of(container) or () if not is_option(mount)]
    return [described(mount, store.volumes.path(mount.source)) for mount in mounts]


def is_option(mount: Mount) -> bool:
    """Whether it was asked for with ``--tmpfs``, which docker shows among the options only (pure)."""
    return mount.kind == "tmpfs" and mount.mode is not None


def described(mount: Mount, place: str) -> dict[str, Any]:
    """A mount as docker's inspect shows it (pure). ``place``: the directory of the volume, if it is one."""
    found: dict[str, Any] = {"Type": mount.kind}
    if mount.kind == "volume":
        found |= {"Name": mount.source, "Source": os.path.join(place, mount.subpath) if mount.subpath else place}
    else:
        found["Source"] = "" if mount.kind == "tmpfs" else mount.source
    found["Destination"] = mount.target
    if mount.kind == "volume":
        found["Driver"] = LOCAL
    return found | {
        "Mode": (mount.mode or "") if mount.kind != "tmpfs" else "",
        "RW": not mount.read_only,
        "Propagation": mount.propagation if mount.kind == "bind" else "",
    }


def users_of(store: Store, name: str) -> list[Container]:
    """The containers that have this volume, running or not."""
    return [one for one in store.containers.every() if is_user(one, name)]


def is_user(container: Container, name: str) -> bool:
    """Whether the container has this volume (pure)."""
    if container.mounts is None:
        return name in container.volumes
    return any(one.get("kind") == "volume" and one.get("source") == name for one in container.mounts)
