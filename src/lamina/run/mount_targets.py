"""Where a container's mounts go: targets without links of the image, made where they are missing; and the container's
files as its programs see them: the image's, with the mounts above.

Runtimes follow the image's links at another time, and each in its own way: some refuse a dangling link, bubblewrap
follows it on the host. So every target is resolved here, and the runtime gets a path without a link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from lamina.errors import Unsupported
from lamina.light import TYPE_CHECKING
from lamina.run.rootfs import Inside

if TYPE_CHECKING:
    from typing import Any

_KERNELS = ("/proc", "/sys", "/dev")
"""The runtimes check these themselves. Their paths must stay as they are, because masked paths are below them."""
_SHOWN_KERNELS = (("bind", "/proc"), ("bind", "/sys"))
_HINT_TARGET = "choose another target"
_HINT_DIRECTORY = "choose another working directory"
DEVICE_LINKS = ("fd", "stdin", "stdout", "stderr", "core")
"""Links in /dev to a process's open files."""


def prepare_targets(
    mounts: Sequence[Mapping[str, Any]], inside: Inside, owner: tuple[int, int], ours: Collection[str] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """The mounts of a runtime spec with targets that have no link of the image on their way, and the mount points
    that were made in the image. Files come last: a directory mounted above a file would hide it. ``owner`` gets
    what is made. ``ours``: targets of files that nobody asked for: such a mount is left out if a read-only
    directory has no mount point for it. Raises Unsupported (a target that is the root), SystemFailure."""
    found: list[dict[str, Any]] = []
    made: list[str] = []
    covered: list[str] = []
    for mount in sorted(mounts, key=_is_file):
        target = os.path.normpath(mount["destination"])
        place = _place(target, inside, covered)
        above = covering(covered, place)
        if above < 0:
            made += inside.make(place, directory=not _is_file(mount), owner=owner, quiet=True)
        elif target in ours and not _has_room(found[above], place.removeprefix(covered[above])):
            continue
        covered.append(place)
        kernels = mount["type"] != "bind" and target in _KERNELS
        found.append({**mount, "destination": target if kernels else place})
    return found, made


def _is_file(mount: Mapping[str, Any]) -> bool:
    return mount["type"] == "bind" and not os.path.isdir(mount["source"])


def _has_room(mount: Mapping[str, Any], rest: str) -> bool:
    read_only = mount["type"] == "bind" and "ro" in mount["options"]
    return not read_only or os.path.exists(mount["source"] + rest)


def _place(target: str, inside: Inside, covered: Sequence[str]) -> str:
    try:
        place = inside.place(target, covered)
    except OSError as error:
        raise Unsupported(f"nothing can be mounted at {target!r:.200}: {error.strerror}", hint=_HINT_TARGET) from None
    if place == "/":
        raise Unsupported(f"nothing can be mounted at {target!r:.200}: a link to / in the image", hint=_HINT_TARGET)
    return place


def covering(places: Sequence[str], target: str) -> int:
    """The index of the place that ``target`` is below: the longest, of equal ones the last; -1 for none (pure)."""
    found = -1
    for number, place in enumerate(places):
        if target.startswith(place.rstrip("/") + "/") and (found < 0 or len(place) >= len(places[found])):
            found = number
    return found


class VisibleFiles:
    """The container's files as its programs will see them. ``mounts``: of a runtime spec, as ``prepare_targets``
    returns them. The contents of kernel file systems (a tmpfs, /proc, /sys) do not exist yet."""

    def __init__(self, inside: Inside, mounts: Sequence[Mapping[str, Any]]) -> None:
        self._inside = inside
        self._mounts = mounts
        self._places = [mount["destination"] for mount in mounts]

    def place(self, path: str) -> str:
        """As ``Inside.place``."""
        return self._inside.place(path, link=self._link)

    def open(self, path: str, flags: int) -> int:
        """A descriptor. Raises OSError, Unsupported."""
        with self._at(self.place(path)) as (root, rest):
            if root is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return root.open(rest, flags, links=False)

    def is_kernels(self, path: str) -> bool:
        """Whether the path is in a file system that is mounted when the container starts."""
        number = covering(self._places, f"{self.place(path)}/")
        return number >= 0 and self._mounts[number]["type"] != "bind"

    def is_kernels_own(self, path: str) -> bool:
        """Whether the path is in a procfs or a sysfs."""
        number = covering(self._places, path)
        if number < 0:
            return False
        mount = self._mounts[number]
        return mount["type"] in ("proc", "sysfs") or (mount["type"], mount["source"]) in _SHOWN_KERNELS

    def make_directory(self, path: str, owner: tuple[int, int]) -> None:
        """Make the directory in the volume that covers it; the path has no links. Raises SystemFailure."""
        number = covering(self._places, f"{path}/")
        if number < 0 or "ro" in self._mounts[number]["options"]:
            return
        with self._at(path) as (root, rest):
            if root is not None and not root.is_there(rest):
                root.make(rest, directory=True, owner=owner)

    def working_directory(self, path: str) -> str:
        """The working directory without links, for the runtime. In /proc only its top and /proc/sys are allowed: a
        runtime that follows a link to one of its own open files leaves the container (CVE-2024-21626; bubblewrap
        has the host's /proc open). Raises Unsupported."""
        try:
            place = self.place(path)
        except OSError as error:
            raise Unsupported(
                f"the working directory {path!r:.200}: {error.strerror}", hint=_HINT_DIRECTORY
            ) from None
        number = covering(self._places, f"{place}/")
        if number >= 0:
            top = self._places[number]
            first = place.removeprefix(top).strip("/").partition("/")[0]
            is_proc = self._mounts[number]["type"] == "proc" or top == "/proc"
            if (is_proc and first not in ("", "sys")) or (top == "/dev" and first in DEVICE_LINKS):
                raise Unsupported(
                    f"the working directory {path!r:.200} leads to a process's own files in /proc",
                    hint=_HINT_DIRECTORY,
                )
        return place

    def kind(self, path: str) -> str:
        """ "file" or "directory"; "" if there is neither."""
        try:
            descriptor = self.open(path, os.O_PATH)
        except OSError:
            return ""
        try:
            mode = os.fstat(descriptor).st_mode
        finally:
            os.close(descriptor)
        return "directory" if stat.S_ISDIR(mode) else "file"

    def _link(self, path: str) -> str:
        with self._at(f"/{path}") as (root, rest):
            return root.link(rest) if root is not None else ""

    @contextmanager
    def _at(self, path: str) -> Iterator[tuple[Inside | None, str]]:
        """The root file system or volume that has the path (which has no links), and the path in there; None for a
        kernel file system."""
        number = covering(self._places, f"{path}/")
        if number < 0:
            yield self._inside, path
            return
        mount, rest = self._mounts[number], path.removeprefix(self._places[number])
        source = mount["source"]
        if mount["type"] != "bind":
            yield None, rest
        elif os.path.isdir(source):
            with Inside(source) as volume:
                yield volume, rest
        else:
            with Inside(os.path.dirname(source)) as above:
                yield above, f"/{os.path.basename(source)}{rest}"
