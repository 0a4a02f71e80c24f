"""The local driver of volumes: without options a volume is its directory in the store; with options it is what
mount(8) would mount: another directory, a tmpfs, or a file system (docker's ``type``, ``device`` and ``o``).

A file system other than a directory is mounted once, at the volume's directory, while a container that has the volume
runs. A plain user's mounts are in the namespace of one process, so each container has its own tmpfs there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from lamina.errors import LaminaError, NotFound, SystemFailure, Unsupported, UsageError
from lamina.host import privileges
from lamina.light import TYPE_CHECKING, replace
from lamina.run.options import Mount, parse_size
from lamina.run.volumes.points import users_of
from lamina.view import kernel

if TYPE_CHECKING:
    from lamina.store.store import Store
    from lamina.store.volumes import Volume

_KNOWN = ("type", "device", "o", "size")
_BINDS = ("bind", "rbind")
_ATTRIBUTES = {
    "ro": kernel.READ_ONLY,
    "nosuid": kernel.NO_SETUID,
    "nodev": kernel.NO_DEVICES,
    "noexec": kernel.NO_PROGRAMS,
}
_DEFAULTS = ("rw", "suid", "dev", "exec", "defaults", "auto", "async", "noauto", "relatime", "user", "nouser")


def check_options(options: Mapping[str, str]) -> None:
    """By docker's rule: all or none of type and device (pure). Raises UsageError, Unsupported."""
    if not options:
        return
    for name in options:
        if name not in _KNOWN:
            raise UsageError(f"unknown option of a volume: {name!r:.60}", hint="use type, device and o")
    if "size" in options:
        parse_size(options["size"])
        raise Unsupported(
            "a volume has no limit for its size", hint="use --opt type=tmpfs --opt device=tmpfs --opt o=size=SIZE"
        )
    for name in ("device", "type"):
        if not options.get(name):
            raise UsageError(f"a volume with options needs the option {name}", hint=f"add --opt {name}=...")
    if _is_bind(options) and not options["device"].startswith("/"):
        raise UsageError(
            f"{options['device']!r:.200} is not an absolute path", hint="give the absolute path of a directory"
        )


def _words(options: Mapping[str, str]) -> list[str]:
    return [word for word in options.get("o", "").split(",") if word]


def _is_bind(options: Mapping[str, str]) -> bool:
    return options.get("type") in _BINDS or any(word in _BINDS for word in _words(options))


def mounted(store: Store, volume: Volume, mount: Mount) -> Mount:
    """A volume with options as a bind or a tmpfs for the runtime; mounted before, if it has to be. Raises NotFound,
    Unsupported, SystemFailure."""
    options, path = dict(volume.options), store.volumes.path(volume.name)
    plain = replace(mount, kind="bind", source=path)
    check_options(options)
    words = _words(options)
    if _is_bind(options):
        source = os.path.realpath(options["device"])
        if not os.path.exists(source):
            raise NotFound(
                f"the volume {volume.name} is {source!r:.200}, which was not found", hint="create this directory"
            )
        more = tuple(word for word in words if word in _ATTRIBUTES and word not in mount.options)
        return replace(plain, source=source, options=(*mount.options, *more))
    if not privileges.is_root():
        if options["type"] != "tmpfs":
            raise Unsupported(
                f"the volume {volume.name}: only root may mount a file system of type {options['type']!r:.40}",
                hint="mount it as root, and use -v PATH:TARGET",
            )
        return Mount("tmpfs", "", mount.target, (*(["ro"] if mount.read_only else []), *words))
    with store.volumes.alone():
        if not os.path.ismount(path):
            _mount(volume, options, words, path)
    return plain


def _mount(volume: Volume, options: Mapping[str, str], words: list[str], path: str) -> None:
    attributes = 0
    values: list[tuple[str, str | None]] = [("source", options["device"])]
    for word in words:
        name, equals, value = word.partition("=")
        if name in _ATTRIBUTES:
            attributes |= _ATTRIBUTES[name]
        elif name not in _DEFAULTS:
            values.append((name, value if equals else None))
    try:
        if options["type"] == "tmpfs":
            kernel.mount("tmpfs", values, path, attributes=attributes)
        else:
            _mount_by_program(options, path)
    except (SystemFailure, Unsupported) as error:
        raise SystemFailure(f"the volume {volume.name} can't be mounted: {error.message}", hint=error.hint) from None


def _mount_by_program(options: Mapping[str, str], path: str) -> None:
    """mount(8) knows the helpers of file systems: of nfs, of cifs, of images in files."""
    import subprocess

    command = ["mount", "-t", options["type"], *(["-o", options["o"]] if options.get("o") else [])]
    try:
        done = subprocess.run(
            [*command, "--", options["device"], path], capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError:
        raise Unsupported("mount(8) was not found", hint="install the package mount") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it failed"]
        raise SystemFailure(said[0], hint="check the options of the volume")


def unmount(store: Store, name: str, *, but: str = "") -> None:
    """Unmount a volume, if no running container has it but the one with the ID ``but``. Call it in a block of
    ``alone``. Raises SystemFailure."""
    path = store.volumes.path(name)
    if not os.path.ismount(path):
        return
    for one in users_of(store, name):
        if one.id != but and store.containers.is_running(one):
            return
    try:
        kernel.unmount(path)
    except LaminaError:
        if os.path.ismount(path):
            raise
