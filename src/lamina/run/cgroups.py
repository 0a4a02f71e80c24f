"""The cgroups of a running container, and what the kernel counts in them: version 1 (a hierarchy for each controller)
and version 2 (one for all). A monitor loads this module: it imports little.
"""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.light import TYPE_CHECKING, Value, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TOP = "/sys/fs/cgroup"
_LIMIT = 1 << 20  # bytes of a file that are read


class Cgroups(Value):
    """``places``: the directories by controller, in version 1. ``unified``: the directory in version 2, "" in
    version 1."""

    places: Mapping[str, str] = field(default_factory=dict, hash=False)
    unified: str = ""

    def path(self, controller: str, name: str) -> str:
        """The path of a file of this controller; "" if the container has no cgroup of it."""
        place = self.unified or self.places.get(controller, "")
        return os.path.join(place, name) if place else ""

    def text(self, controller: str, name: str) -> str:
        """The content of a file; "" if it does not exist."""
        return read(self.path(controller, name))

    def number(self, controller: str, name: str) -> int | None:
        """The number in a file; None for "max" (no limit), or if there is no such file."""
        text = self.text(controller, name).strip()
        return int(text) if text.removeprefix("-").isdigit() else None

    def table(self, controller: str, name: str) -> dict[str, int]:
        """The numbers in a file with one name and one number on a line."""
        lines = (line.split() for line in self.text(controller, name).splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def cgroups_of(pid: int, identity: str, top: str = TOP, proc: str = "/proc") -> Cgroups | None:
    """The cgroups of the container ``identity``, whose first process is ``pid``; None if it has none of its own.
    They stay until the runtime deletes the container, so that a caller may read them after the process's end."""
    places: dict[str, str] = {}
    is_unified = os.path.exists(os.path.join(top, "cgroup.controllers"))
    for line in read(f"{proc}/{pid}/cgroup").splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        own = _own(path, identity)
        if not own:
            continue
        if not names:
            if is_unified:
                return Cgroups(unified=os.path.join(top, own))
            continue
        for name in names.split(","):
            for directory in (names, name):
                place = os.path.join(top, directory, own)
                if os.path.isdir(place):
                    places[name] = place
                    break
    return Cgroups(places) if places else None


def remove_left(identity: str, top: str = TOP, proc: str = "/proc") -> None:
    """Remove the empty cgroups that a runtime which was killed has left of a container: at the top, or in this
    process's own cgroup."""
    for line in read(f"{proc}/self/cgroup").splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if ".." in path.split("/"):  # outside of this process's cgroup namespace
            path = ""
        for name in {names, *names.split(",")} if names else ("unified", ""):
            for above in {path.strip("/"), ""}:
                with suppress(OSError):
                    os.rmdir(os.path.join(top, name, above, identity))


def lacking(controllers: Iterable[str], top: str = TOP) -> list[str]:
    """Those of the controllers that the kernel does not have, or not for cgroups at ``top``."""
    unified = os.path.join(top, "cgroup.controllers")
    there = set(read(unified).split())
    if not os.path.exists(unified):
        try:
            there = {name for directory in os.listdir(top) for name in directory.split(",")}
        except OSError:
            there = set()
    return sorted(set(controllers) - there)


def _own(path: str, identity: str) -> str:
    """The part of a cgroup's path that ends with the container's own directory (pure); a program in the container
    may be in a cgroup below it. "" if it is not the container's own, or outside of this process's namespace."""
    parts = path.strip("/").split("/")
    if identity not in parts or ".." in parts:
        return ""
    return "/".join(parts[: parts.index(identity) + 1])


def counts_swap(top: str = TOP, proc: str = "/proc") -> bool:
    """Whether the kernel can limit memory and swap together."""
    if not os.path.exists(os.path.join(top, "cgroup.controllers")):
        return os.path.exists(os.path.join(top, "memory", "memory.memsw.limit_in_bytes"))
    paths = [line[len("0::/") :] for line in read(f"{proc}/self/cgroup").splitlines() if line.startswith("0::/")]
    return any(os.path.exists(os.path.join(top, path, "memory.swap.max")) for path in paths)


def read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""
