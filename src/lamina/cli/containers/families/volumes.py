"""Options of `run`: volumes of other containers, and the temporary directories of a read-only container."""

from __future__ import annotations

from lamina.cli.option_table import FLAG, MANY, Option
from lamina.light import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.options import Mount

OPTIONS = (
    Option(
        ("--volumes-from",),
        "volumes_from",
        "Mount the volumes and binds of another container, running or not.",
        "CONTAINER[:ro]",
        MANY,
    ),
    Option(
        ("--read-only-tmpfs",),
        "read_only_tmpfs",
        "With --read-only: mount a tmpfs at /run, /tmp and /var/tmp.",
        kind=FLAG,
    ),
)
_WRITABLE = ("/run", "/tmp", "/var/tmp")


def parsed(given: dict[str, Any]) -> dict[str, Any]:
    return {"volumes_from": given["volumes_from"]}


def mounts(given: dict[str, Any]) -> list[Mount]:
    """What --volume, --mount, --tmpfs and --read-only-tmpfs ask for, with absolute sources of binds. Raises
    UsageError, Unsupported."""
    import posixpath

    from lamina.run import options

    found = [options.parse_volume(word) for word in given["volume"]]
    if given["mount"]:
        from lamina.run.mount_option import parse_mount

        found += [parse_mount(word) for word in given["mount"]]
    found = [replace(one, source=posixpath.abspath(one.source)) if one.kind == "bind" else one for one in found]
    memory = {posixpath.normpath(one.target): one for one in map(options.parse_tmpfs, given["tmpfs"])}
    found += memory.values()  # of several for one target the last counts, as in docker
    if given["read_only"] and given["read_only_tmpfs"]:
        taken = {posixpath.normpath(one.target) for one in found}
        found += [options.parse_tmpfs(target) for target in _WRITABLE if target not in taken]
    return found
