"""The kernel's mount calls (Linux, root): fsopen(2) and related calls, with the kernel's own messages in errors.

The older mount(2) limits its options to a page, and gives no message with an error.
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
_MAX_STRING = 255  # bytes; the longest value of an option for fsconfig(2)
_PATHS = ("lowerdir+", "upperdir", "workdir", "source", "device")
"""Options whose values are paths."""
BY_DESCRIPTOR = "/proc/self/fd/"
"""The prefix of a path that refers to an open file, for the kernel and in mountinfo."""
_FROM_EMPTY_PATH = 4
_CLONE = 1
_EMPTY_PATH = 0x1000
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS = 0x1, 0x2, 0x4, 0x8
"""Attributes of a mount (MOUNT_ATTR_*)."""
_DETACH = 2
_LOWERS_ONE_BY_ONE = (6, 8)
"""The first version of Linux with ``lowerdir+``."""
_PAGE = 4096  # bytes; the most options that mount(2) takes
_ID_MAPPED = 0x00100000
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000


def mount(kind: str, options: Sequence[tuple[str, str | None]], target: str, *, attributes: int = READ_ONLY) -> None:
    """Mount a file system of type ``kind`` at ``target``; an option without a value is a flag. Raises Unsupported if
    the kernel lacks the calls or the file system; SystemFailure with the kernel's message."""
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
    """Return the kernel's version, such as (6, 1); (0, 0) if it is unknown."""
    first, _, rest = os.uname().release.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return (int(first), int(digits)) if first.isdigit() and digits else (0, 0)


def _mount_overlay(options: Sequence[tuple[str, str | None]], target: str, attributes: int) -> None:
    """Mount an overlay with mount(2). Before Linux 6.8 the kernel takes all layers of an overlay only in one option,
    which fsconfig(2) limits to 255 bytes; mount(2) allows a page for all options. Paths that are too long, or that
    contain separators, are replaced by paths of open files."""
    opened: list[int] = []
    try:
        text = _overlay_text(options)
        if len(text) >= _PAGE or any(value and set(value) & set(",:\\") for _, value in options):
            options = [(key, _by_descriptor(value, opened) if key in _PATHS else value) for key, value in options]
            text = _overlay_text(options)
        if len(text) >= _PAGE:
            raise Unsupported(
                "mounting overlay: this kernel can't stack so many layers",
                hint="merge the layers with `lamina flatten`, or use Linux 6.8 or later",
            )
        place = os.fsencode(target)
        if libc().mount(b"overlay", place, b"overlay", ctypes.c_ulong(attributes), text) != 0:
            refused = failed()
            hint = "mount as root" if refused.errno == errno.EPERM else "check the kernel's log"
            raise SystemFailure(f"mounting overlay: {refused.strerror}", hint=hint)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _by_descriptor(path: str | None, opened: list[int]) -> str:
    with reported(path or ""):
        opened.append(os.open(path or "", os.O_PATH | os.O_CLOEXEC))
    return f"{BY_DESCRIPTOR}{opened[-1]}"


def _overlay_text(options: Sequence[tuple[str, str | None]]) -> bytes:
    """Return the options of an overlay as mount(2) takes them, with all layers in one option (pure)."""
    words = [key if value is None else f"{key}={value}" for key, value in options if key != "lowerdir+"]
    lowers = ":".join(value or "" for key, value in options if key == "lowerdir+")
    return os.fsencode(",".join([f"lowerdir={lowers}", *words]))


def _is_plain(path: str) -> bool:
    """Whether the kernel takes the path unchanged. Overlayfs removes backslashes in some of its options."""
    return len(os.fsencode(path)) <= _MAX_STRING and "\\" not in path


def _set_odd_path(context: int, kind: str, key: str, path: str, what: str) -> int:
    """Set an option to a path of any length with any bytes; returns a descriptor to close after the mount is made.
    From Linux 6.13 on, an overlay takes the descriptor itself, and shows the path in mountinfo."""
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
    """Bind-mount the directory ``source`` at ``target``. ``namespace`` is a descriptor of a user namespace for an
    ID-mapped mount: files of an id in the namespace appear with the id that it maps to outside (mount_setattr(2)).
    Raises as ``mount``."""
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
    """Return a descriptor of a copy of the mounts at and below ``source``, not attached anywhere yet. Raises as
    ``mount``."""
    flags = _CLONE | _CLOEXEC_FILE | _AT_RECURSIVE
    return _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags, what=f"mounting {source}", context=-1)


def make_read_only(path: str) -> None:
    """Make the mount at ``path`` and all mounts below it read-only in this mount namespace. Raises as ``mount``."""
    wanted = struct.pack("=QQQQ", READ_ONLY, 0, 0, 0)
    what = f"{path}: making its mounts read-only"
    name = os.fsencode(path)
    _call(_MOUNT_SETATTR, _AT_FDCWD, name, _AT_RECURSIVE, wanted, len(wanted), what=what, context=-1)


def place(mounted: int, target: str) -> None:
    """Attach a detached mount at ``target`` and close its descriptor. Raises as ``mount``."""
    try:
        path = os.fsencode(target)
        _call(_MOVE_MOUNT, mounted, b"", _AT_FDCWD, path, _FROM_EMPTY_PATH, what=f"mounting at {target}", context=-1)
    finally:
        os.close(mounted)


def unmount(target: str) -> None:
    """Unmount the topmost mount at ``target``; processes that use it keep it. Raises SystemFailure."""
    if libc().umount2(os.fsencode(target), _DETACH) != 0:
        raise SystemFailure(f"{target}: {failed().strerror}", hint="list mounts with `lamina mounts`")


def kind_of(path: str) -> int:
    """Return the type of a path's file system (f_type of statfs(2)). Raises SystemFailure."""
    answer = (ctypes.c_long * 64)()
    if libc().statfs(os.fsencode(path), answer) != 0:
        raise SystemFailure(f"{path}: {failed().strerror}", hint="check the path")
    return answer[0] & 0xFFFFFFFF


def _call(number: int, *arguments: int | bytes | None, what: str, context: int) -> int:
    made = [ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments]
    result: int = libc().syscall(ctypes.c_long(number), *made)
    if result < 0:
        refused = failed()
        said = _said(context) or refused.strerror
        if refused.errno in (errno.ENOSYS, errno.ENODEV):
            raise Unsupported(f"{what}: {said}", hint="unpack the image instead: this kernel does not support it")
        hint = "mount as root" if refused.errno == errno.EPERM else "check the kernel's message"
        raise SystemFailure(f"{what}: {said}", hint=hint)
    return result


def _said(context: int) -> str:
    """Return the kernel's messages for a mount context, without their levels."""
    lines: list[str] = []
    while context >= 0 and len(lines) < 10:
        try:
            line = os.read(context, 4096)
        except OSError:  # no more messages
            break
        lines.append(line.decode("utf-8", "replace").strip().partition(" ")[2])
    return "; ".join(lines)
