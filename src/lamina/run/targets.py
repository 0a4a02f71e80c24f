"""Where a container's mounts go: their targets without links of the image, made where they are missing.

A runtime that follows the image's links itself does so at another time, and in its own way: some refuse a link that
leads nowhere, bubblewrap follows it on the machine. Below, every target is a path that has no link on its way.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from lamina.errors import Unsupported
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.inside import Inside

_KERNELS = ("/proc", "/sys", "/dev")
"""The runtimes check these themselves: the paths that are masked stand below them."""
_OTHER = "choose another target"


def settled(
    mounts: Sequence[Mapping[str, Any]], inside: Inside, owner: tuple[int, int], ours: Collection[str] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """The mounts of a runtime spec with targets that no link of the image is on the way to, and what had to be made
    in the image for them. Files come last: a directory mounted above one would hide it. ``owner`` gets what is made.
    ``ours``: targets of files that nobody asked for; one is left out where a read-only directory has no place for it.
    Raises Unsupported (a target that is the root), SystemFailure."""
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
        raise Unsupported(f"nothing can be mounted at {target!r:.200}: {error.strerror}", hint=_OTHER) from None
    if place == "/":
        raise Unsupported(f"nothing can be mounted at {target!r:.200}: a link to / in the image", hint=_OTHER)
    return place


def covering(places: Sequence[str], target: str) -> int:
    """Which of the places the target is below: the longest, the last of equal ones; -1 for none (pure)."""
    found = -1
    for number, place in enumerate(places):
        if target.startswith(place.rstrip("/") + "/") and (found < 0 or len(place) >= len(places[found])):
            found = number
    return found
