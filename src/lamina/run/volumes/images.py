"""Mounts that lamina makes for a container beside its root file system: images, and paths inside of volumes.

Each is in a directory ``mounts/NUMBER`` of the container. They are unmounted with its root file system
(``run.sandbox``), also after its lamina was killed.
"""

from __future__ import annotations

import os
import stat

from lamina.errors import NotFound
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run.rootfs import Inside
from lamina.run.volumes.points import stack_of
from lamina.store.foreign_trees import remove_tree
from lamina.view import kernel
from lamina.view.overlay.mount import Top, mount_union
from lamina.view.owners import Owners

if TYPE_CHECKING:
    from lamina.run.options import Mount
    from lamina.store.containers import Container
    from lamina.store.store import Store

_MAPPED = "bundle"
"""The directory for ID-mapped parts. ``view.overlay.lower`` finds those of killed containers by this name."""


def attach_image(store: Store, container: Container, number: int, mount: Mount, view: str) -> Mount:
    """Mount the union of another image, and return the bind of it. Its layers are mounted once on a host, and shared
    with everything else that shows them. Raises BlobNotFound, Unsupported, SystemFailure."""
    place = _place(store, container, number)
    target, scratch = os.path.join(place, "root"), os.path.join(place, _MAPPED)
    owners = Owners(container.users, container.groups)
    with reported(place):
        for path in (target, scratch):
            os.mkdir(path, 0o755)
    top = None
    if not mount.read_only or owners:
        written = ("", "") if mount.read_only else _writable(container, number, place)
        top = Top(*written, volatile=True, owners=owners, scratch=scratch)
    mount_union(store, stack_of(store, mount), target, view=view, top=top)
    source = target
    if mount.subpath:
        source = _pin(target, mount, os.path.join(place, "path"), read_only=mount.read_only)
    # a runtime that mounts it again would lose what the union was mounted with
    safe = ("nosuid", "nodev") if mount.read_only else ("nodev",)
    return replace(mount, kind="bind", source=source, options=(*mount.options, *safe))


def _writable(container: Container, number: int, place: str) -> tuple[str, str]:
    """New directories ``upper`` and ``work``, where the container's own writable layer is."""
    above = os.path.join(container.top, f"mount-{number}") if container.top else place
    upper, work = (os.path.join(above, name) for name in ("upper", "work"))
    with reported(above):
        if container.top and os.path.isdir(above):
            remove_tree(above)
        for path in (upper, work):
            os.makedirs(path, mode=0o755)
    return upper, work


def pinned(store: Store, container: Container, number: int, volume: str, mount: Mount) -> str:
    """Bind-mount the subpath of a volume, and return the mount point. A container that shares the volume may replace
    a directory with a symlink at any time: the runtime must not look up the path again. Raises NotFound,
    SystemFailure."""
    place = _place(store, container, number)
    return _pin(volume, mount, os.path.join(place, "path"), read_only=False)


def _pin(root: str, mount: Mount, place: str, *, read_only: bool) -> str:
    with Inside(root) as inside:
        try:
            found = inside.open(mount.subpath, os.O_PATH)
        except OSError as error:
            raise NotFound(
                f"{mount.subpath!r:.200} in {mount.kind} {mount.source:.100}: {error.strerror}",
                hint="create it first, or check the subpath",
            ) from None
        try:
            with reported(place):
                if stat.S_ISDIR(os.fstat(found).st_mode):
                    os.mkdir(place, 0o700)
                else:
                    os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            kernel.bind(f"{kernel.BY_DESCRIPTOR}{found}", place, attributes=kernel.READ_ONLY if read_only else 0)
        finally:
            os.close(found)
    return place


def _place(store: Store, container: Container, number: int) -> str:
    """A new directory, in the place of what a killed start has left."""
    above = store.containers.path(container.id, "mounts")
    place = os.path.join(above, str(number))
    with reported(place):
        if os.path.isdir(place):
            remove_tree(place)  # nothing is mounted in there: ``settle`` was called before
        os.makedirs(place, mode=0o700)
    return place
