"""Devices of this host for a container."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from lamina.errors import NotFound, SystemFailure, Unsupported, UsageError
from lamina.light import replace
from lamina.run.options import Device, Node

_DEV = "/dev"
_NOT_GIVEN = ("pts", "shm", "mqueue", "hugepages", "fd", ".lxc", ".lxd-mounts", ".udev")
_OWN = ("console", "full", "null", "ptmx", "random", "tty", "urandom", "zero")
"""Every container has these of its own."""
_MAX_DEVICES = 10_000


def parse_device(word: str) -> Device:
    """``SOURCE[:TARGET][:ACCESS]`` (pure). Raises UsageError."""
    source, *rest = word.split(":")
    target, access = source, "rwm"
    if rest and not rest[0].startswith("/"):
        access = rest.pop()
    elif rest:
        target = rest.pop(0)
        access = rest.pop(0) if rest else access
    if rest or not source.startswith("/") or not access or set(access) - set("rwm") or len(set(access)) < len(access):
        raise UsageError(
            f"{word!r:.200} is not a device", hint="write it like /dev/fuse, /dev/sda:/dev/xvda:r, or a CDI name"
        )
    for path in (source, target):
        if "/../" in f"{path}/" or path.strip("/") == "":
            raise UsageError(f"{word!r:.200} is not a device", hint="give an absolute path without ..")
    return Device(source, target, access)


def nodes_of(devices: Iterable[Device]) -> list[Node]:
    """The device files of ``devices``: each one, or all below a directory. Raises NotFound, UsageError."""
    found: list[Node] = []
    for one in devices:
        place = os.path.realpath(one.source)
        if os.path.isdir(place):
            below = list(_below(place, one.target, one.access))
            if not below:
                raise NotFound(f"the directory {one.source!r:.200} has no devices", hint="check the path of --device")
            found += below
        else:
            found.append(_node(one, place))
    return found


def all_host_devices() -> list[Node]:
    """All devices of this host that a privileged container gets."""
    own = {os.path.join(_DEV, name) for name in _OWN}
    return [node for node in _below(_DEV, _DEV, "rwm") if node.path not in own]


def check_usable(nodes: Iterable[Node], *, guarded: bool, plain: bool) -> None:
    """Raise Unsupported if a device could not be used at its path. ``guarded``: a device cgroup guards devices.
    ``plain``: device files can't be made; the host's are bind-mounted, with their own permissions."""
    for node in nodes:
        if not node.path.startswith(f"{_DEV}/") and not guarded:
            raise Unsupported(
                f"the device {node.path} can't be used outside of {_DEV}: no device cgroup guards devices here",
                hint=f"give it a target below {_DEV}",
            )
        if not guarded and not {"r", "w"} <= set(node.access):
            raise Unsupported(
                f"the device {node.path} can't be given as {node.access} only: no device cgroup guards devices here",
                hint="leave the access out",
            )
        if plain and not os.access(node.source, os.F_OK):
            raise NotFound(f"the device {node.source} was not found", hint="check the path of --device")


def _below(top: str, target: str, access: str) -> Iterator[Node]:
    count = 0
    for where, directories, names in os.walk(top):
        directories[:] = sorted(name for name in directories if top != _DEV or where != top or name not in _NOT_GIVEN)
        for name in sorted(names):
            path = os.path.join(where, name)
            state = os.lstat(path)
            if stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode):
                count += 1
                if count > _MAX_DEVICES:
                    raise UsageError(
                        f"more than {_MAX_DEVICES} devices below {top}", hint="name a directory with fewer devices"
                    )
                yield _of(state, Device(path, target + path.removeprefix(top), access), path)


def _node(device: Device, place: str) -> Node:
    try:
        state = os.stat(place)
    except OSError as error:
        raise NotFound(
            f"the device {device.source!r:.200} was not found: {error.strerror}", hint="check the path of --device"
        ) from None
    if not (stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode)):
        raise UsageError(f"{device.source!r:.200} is not a device", hint="use --volume for files and directories")
    return _of(state, device, place)


def _of(state: os.stat_result, device: Device, place: str) -> Node:
    return Node(
        device.target,
        place,
        "c" if stat.S_ISCHR(state.st_mode) else "b",
        os.major(state.st_rdev),
        os.minor(state.st_rdev),
        device.access,
        stat.S_IMODE(state.st_mode),
        state.st_uid,
        state.st_gid,
    )


def with_host_numbers(node: Node) -> Node:
    """A CDI node, completed from this host's device file. Raises NotFound, UsageError, SystemFailure."""
    is_numbered = bool(node.major or node.minor)
    if node.kind and is_numbered and node.mode is not None:
        return node
    here = _node(Device(node.source, node.path, node.access), node.source)
    numbers = (node.major, node.minor) if is_numbered else (here.major, here.minor)
    if (node.kind or here.kind, *numbers) != (here.kind, here.major, here.minor):
        raise SystemFailure(
            f"{node.source} is another device than its CDI file says: {here.kind} {here.major}:{here.minor}",
            hint="write the CDI file again",
        )
    return replace(
        here,
        mode=here.mode if node.mode is None else node.mode,
        uid=here.uid if node.uid is None else node.uid,
        gid=here.gid if node.gid is None else node.gid,
    )
