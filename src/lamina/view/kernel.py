"""The kernel's mount calls (Linux, root): fsopen and its kin, with the kernel's own words in errors.

``mount(2)`` has a limit of a page for its options, and none of its words say what it did not like.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

from lamina.errors import SystemFailure, Unsupported
from lamina.host.files import reported
from lamina.host.libc import failed, libc

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_CLOEXEC = 1
_CLOEXEC_FILE = os.O_CLOEXEC
_SET_FLAG, _SET_STRING, _SET_DESCRIPTOR, _CREATE = 0, 1, 5, 6
_MAX_STRING = 255  # bytes: fsconfig(2) takes no longer text
_PATHS = ("lowerdir+", "upperdir", "workdir", "source", "device")
"""Options whose values are paths."""
BY_DESCRIPTOR = "/proc/self/fd/"
"""How a path begins, for the kernel and in mountinfo, that is named by an open file."""
_FROM_EMPTY_PATH = 4
_CLONE = 1
_EMPTY_PATH = 0x1000
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS = 0x1, 0x2, 0x4, 0x8
"""Attributes of a mount (MOUNT_ATTR_*)."""
_DETACH = 2
_LOWERS_ONE_BY_ONE = (6, 8)
"""The version of Linux that has ``lowerdir+``."""
_PAGE = 4096  # bytes of options: mount(2) takes no more
_ID_MAPPED = 0x00100000
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000


def mount(kind: str, options: Sequence[tuple[str, str | None]], target: str, *, attributes: int = READ_ONLY) -> None:
    """Mount a file system of type ``kind`` at ``target``; an option without a value is a flag. Raises Unsupported
    where the kernel has not the calls or the type, SystemFailure with what the kernel says."""
    if kind == "overlay" and release() < _LOWERS_ONE_BY_ONE:
        _mount_overlay(options, target, attributes)
        return
    context = _call(_FSOPEN, kind.encode(), _CLOEXEC, what=f"mounting {kind}", context=-1)
    opened: list[int] = []
    try:
        for key, value in options:
            what = f"{kind}: {key}" if value is None else f"{kind}: {key}={value}"
            if value is None:
                _call(_FSCONFIG, context, _SET_FLAG, key.encode(), None, 0, what=what, context=context)
            elif key in _PATHS and not _is_plain(value):
                opened.append(_set_odd_path(context, kind, key, value, what))
            else:
                text = os.fsencode(value)
                _call(_FSCONFIG, context, _SET_STRING, key.encode(), text, 0, what=what, context=context)
        _call(_FSCONFIG, context, _CREATE, None, None, 0, what=f"mounting {kind}", context=context)
        mounted = _call(_FSMOUNT, context, _CLOEXEC, attributes, what=f"mounting {kind}", context=context)
    finally:
        for descriptor in (context, *opened):
            os.close(descriptor)
    place(mounted, target)


def release() -> tuple[int, int]:
    """The kernel's version, like (6, 1); (0, 0) where it can't be told."""
    first, _, rest = os.uname().release.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return (int(first), int(digits)) if first.isdigit() and digits else (0, 0)


def _mount_overlay(options: Sequence[tuple[str, str | None]], target: str, attributes: int) -> None:
    """As ``mount``, by mount(2): a kernel before Linux 6.8 takes an overlay's layers only in one option, whose text
    fsconfig(2) limits to 255 bytes. Here the limit is a page for all options. Where paths are longer, or hold what
    separates them, open files stand in their place."""
    opened: list[int] = []
    try:
        text = _overlay_text(options)
        if len(text) >= _PAGE or any(value and set(value) & set(",:\\") for _, value in options):
            options = [(key, _by_descriptor(value, opened) if key in _PATHS else value) for key, value in options]
            text = _overlay_text(options)
        if len(text) >= _PAGE:
            raise Unsupported(
                "mounting overlay: this kernel takes no stack of so many layers",
                hint="`lamina flatten` makes one layer of them; or take a kernel from Linux 6.8",
            )
        place = os.fsencode(target)
        if libc().mount(b"overlay", place, b"overlay", ctypes.c_ulong(attributes), text) != 0:
            refused = failed()
            hint = "only root may mount" if refused.errno == errno.EPERM else "see the kernel's log"
            raise SystemFailure(f"mounting overlay: {refused.strerror}", hint=hint)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _by_descriptor(path: str | None, opened: list[int]) -> str:
    with reported(path or ""):
        opened.append(os.open(path or "", os.O_PATH | os.O_CLOEXEC))
    return f"{BY_DESCRIPTOR}{opened[-1]}"


def _overlay_text(options: Sequence[tuple[str, str | None]]) -> bytes:
    """The options of an overlay as mount(2) takes them, with all layers in one (pure)."""
    words = [key if value is None else f"{key}={value}" for key, value in options if key != "lowerdir+"]
    lowers = ":".join(value or "" for key, value in options if key == "lowerdir+")
    return os.fsencode(",".join([f"lowerdir={lowers}", *words]))


def _is_plain(path: str) -> bool:
    """Whether the kernel takes the path as it is written. Overlay undoes backslashes in some of its options."""
    return len(os.fsencode(path)) <= _MAX_STRING and "\\" not in path


def _set_odd_path(context: int, kind: str, key: str, path: str, what: str) -> int:
    """Set an option to a path of any length and with any bytes; the descriptor to close after the mount is made.
    An overlay takes the descriptor itself from Linux 6.13, and tells the path in mountinfo then."""
    with reported(path):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if kind == "overlay":
            try:
                _call(_FSCONFIG, context, _SET_DESCRIPTOR, key.encode(), None, descriptor, what=what, context=context)
                return descriptor
            except SystemFailure:
                pass  # an older kernel
        text = f"{BY_DESCRIPTOR}{descriptor}".encode()
        _call(_FSCONFIG, context, _SET_STRING, key.encode(), text, 0, what=what, context=context)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def bind(source: str, target: str, *, attributes: int = READ_ONLY, namespace: int = -1) -> None:
    """Show the directory ``source`` at ``target`` too. ``namespace``: a descriptor of a user namespace; what belongs
    to an id in there belongs outside to what that id is mapped to (mount_setattr(2), "ID-mapped mounts"). Raises as
    ``mount``."""
    what = f"mounting {source} at {target}"
    mounted = _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _CLONE | _CLOEXEC_FILE, what=what, context=-1)
    try:
        if namespace >= 0:
            attributes |= _ID_MAPPED
        wanted = struct.pack("=QQQQ", attributes, 0, 0, max(namespace, 0))
        _call(_MOUNT_SETATTR, mounted, b"", _EMPTY_PATH, wanted, len(wanted), what=what, context=-1)
    except BaseException:
        os.close(mounted)
        raise
    place(mounted, target)


def copied(source: str) -> int:
    """A descriptor of a mount that shows ``source``, with all that is mounted below it, and is nowhere yet. Raises as
    ``mount``."""
    flags = _CLONE | _CLOEXEC_FILE | _AT_RECURSIVE
    return _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags, what=f"mounting {source}", context=-1)


def make_read_only(path: str) -> None:
    """Make the mount at ``path`` and all below it read-only in this mount namespace. Raises as ``mount``."""
    wanted = struct.pack("=QQQQ", READ_ONLY, 0, 0, 0)
    what = f"{path}: making its mounts read-only"
    name = os.fsencode(path)
    _call(_MOUNT_SETATTR, _AT_FDCWD, name, _AT_RECURSIVE, wanted, len(wanted), what=what, context=-1)


def place(mounted: int, target: str) -> None:
    """Let a mount that is nowhere yet be at ``target``; its descriptor is closed. Raises as ``mount``."""
    try:
        path = os.fsencode(target)
        _call(_MOVE_MOUNT, mounted, b"", _AT_FDCWD, path, _FROM_EMPTY_PATH, what=f"mounting at {target}", context=-1)
    finally:
        os.close(mounted)


def unmount(target: str) -> None:
    """Take the topmost mount at ``target`` away; who is in it keeps it. Raises SystemFailure."""
    if libc().umount2(os.fsencode(target), _DETACH) != 0:
        raise SystemFailure(f"{target}: {failed().strerror}", hint="see `lamina mounts`")


def kind_of(path: str) -> int:
    """The number of a path's file system (statfs(2), f_type). Raises SystemFailure."""
    answer = (ctypes.c_long * 64)()
    if libc().statfs(os.fsencode(path), answer) != 0:
        raise SystemFailure(f"{path}: {failed().strerror}")
    return answer[0] & 0xFFFFFFFF


def _call(number: int, *arguments: int | bytes | None, what: str, context: int) -> int:
    made = [ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments]
    result: int = libc().syscall(ctypes.c_long(number), *made)
    if result < 0:
        refused = failed()
        said = _said(context) or refused.strerror
        if refused.errno in (errno.ENOSYS, errno.ENODEV):
            raise Unsupported(f"{what}: {said}", hint="this kernel does not have it; unpack the image instead")
        hint = "only root may mount" if refused.errno == errno.EPERM else "see the kernel's words"
        raise SystemFailure(f"{what}: {said}", hint=hint)
    return result


def _said(context: int) -> str:
    """The kernel's messages for a context, without their levels."""
    lines: list[str] = []
    while context >= 0 and len(lines) < 10:
        try:
            line = os.read(context, 4096)
        except OSError:  # no more of them
            break
        lines.append(line.decode("utf-8", "replace").strip().partition(" ")[2])
    return "; ".join(lines)
