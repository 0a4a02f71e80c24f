"""The disk of what a machine has written: ext4 in a sparse file in the container's directory.

Inside it are the upper and the work directory of the machine's overlay. A machine may write anything to it, also what
damages a kernel that mounts it: commit, diff, export and cp out of a machine read it without a mount (``scan.ext4``).
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, InvalidContent, NotFound, SystemFailure, Unsupported
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.run.machine.process import kept_out
from lamina.run.runtime import find_program
from lamina.run.writable import UPPER, WORK, shown_disk
from lamina.scan.directory import OnWarning
from lamina.store.fault import point
from lamina.view import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.layer.tar_write import Item
    from lamina.store.containers import Container
    from lamina.store.store import Store

_DISK = "upper.img"
_OPTIONS = "loop,nodev,nosuid,noexec,errors=remount-ro"  # the disk may ask for a panic of this host on an error
_LOOPS = "/sys/block"
_POLL, _PATIENCE = 0.02, 5.0  # seconds
_LEAST, _MOST = 1 << 30, 1 << 37  # bytes; only what is written takes space
_FEATURES = (
    *(
        "none",
        "sparse_super",
        "large_file",
        "filetype",
        "dir_index",
        "ext_attr",
        "has_journal",
        "extent",
        "huge_file",
    ),
    *("flex_bg", "metadata_csum", "64bit", "dir_nlink", "extra_isize"),
)
"""Named one by one: what this host's mke2fs.conf has may be unknown to a machine's kernel, or to ``scan.ext4``."""
_MAKE = (
    *("-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096", "-I", "256", "-J", "size=64", "-O", ",".join(_FEATURES)),
    *("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"),
)


def disk_of(store: Store, container: Container) -> str:
    """The path of the disk; it is made if it is not there. Raises Conflict (it is still mounted), NotFound (mke2fs is
    missing), SystemFailure."""
    path = os.path.abspath(store.containers.path(container.id, _DISK))
    if not os.path.exists(path):
        make_disk(path)
        return path
    limit = time.monotonic() + _PATIENCE
    while loop := _loop_of(path):
        if time.monotonic() > limit:
            raise Conflict(
                f"the disk of {container.name} is still mounted from {loop}",
                hint="end the processes that were started while its changes were read, or run `umount` there",
            )
        time.sleep(_POLL)
    return path


def _loop_of(path: str) -> str:
    """The loop device of a file; "" if it has none. Two kernels that have the file system mounted would damage it."""
    name = os.path.realpath(path)
    with suppress(FileNotFoundError):
        for device in os.listdir(_LOOPS):
            if device.startswith("loop"):
                with suppress(OSError), open(f"{_LOOPS}/{device}/loop/backing_file", "rb") as file:
                    if os.fsdecode(file.read().removesuffix(b"\n")) == name:
                        return f"/dev/{device}"
    return ""


def make_disk(path: str, size: int = 0) -> None:
    """Make an empty disk at ``path``. ``size``: in bytes; 0: as large as the space that is free now, so that a
    program sees that the disk is full before the file system of this host is. Raises as ``disk_of``."""
    mke2fs = find_program("mke2fs")
    if not mke2fs:
        raise NotFound("mke2fs is not installed", hint="install e2fsprogs")
    new = f"{path}.tmp"
    with reported(new), open(new, "wb", opener=_private) as file:
        free = os.statvfs(file.fileno())
        file.truncate(size or min(_MOST, max(_LEAST, free.f_bavail * free.f_frsize)) >> 20 << 20)
    done = subprocess.run([mke2fs, *_MAKE, new], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        os.unlink(new)
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise SystemFailure(f"the disk {path} can't be made: {said}", hint="free space, or see mke2fs(8)")
    os.rename(new, path)


def written(store: Store, container: Container) -> int:
    """The bytes that the disk takes."""
    try:
        return os.stat(store.containers.path(container.id, _DISK)).st_blocks * 512
    except FileNotFoundError:
        return 0


def check_ended(store: Store, container: Container) -> None:
    """Raises Conflict if the machine runs. Call it in a block of ``using``."""
    if store.containers.is_running(container):
        raise Conflict(
            f"the machine {container.name} runs: only it knows what its disk holds",
            hint=f"stop it first with `lamina stop {container.name}`",
        )


def machine_items(store: Store, container: Container, on_warning: OnWarning = lambda text: None) -> Iterator[Item]:
    """What a machine that does not run has written, as ``scan_upper`` yields it. Raises InvalidContent (the disk is
    damaged), SystemFailure."""
    from lamina.scan.ext4.files import DiskFiles
    from lamina.scan.ext4.volume import Volume
    from lamina.scan.overlay_upper import scan_upper_files

    path = store.containers.path(container.id, _DISK)
    if not os.path.lexists(path):
        return  # it was not started
    volume = Volume(path, f"the disk of {container.name}")
    if volume.has_errors:
        on_warning(f"the disk of {container.name} has errors, as of a full host: what it wrote last may be lost")
    with suppress(NotFound):  # it ended before it mounted the disk
        files = DiskFiles(volume, os.fsencode(UPPER))
        yield from scan_upper_files(files, on_warning=on_warning)


@contextmanager
def shown(store: Store, container: Container) -> Iterator[None]:
    """Show what a machine that does not run has written, while the block runs; nothing is done for other containers.
    Call it in a block of ``using``, after ``settle``. Raises Conflict (it runs), Unsupported (not root),
    SystemFailure."""
    target = shown_disk(store, container)
    if not target:
        yield
        return
    check_ended(store, container)
    if (container.wanted or {}).get("read_only"):
        raise Unsupported(
            f"the root file system of the machine {container.name} is read-only",
            hint="copy into a volume on this host",
        )
    if not privileges.is_root():
        raise Unsupported("only root may look into the disk of a machine", hint="use `lamina run` for this image")
    with reported(target), kept_out(store.containers.path(container.id, "bundle")):
        os.makedirs(target, mode=0o700, exist_ok=True)
        disk = disk_of(store, container)
        for _ in machine_items(store, container):  # a disk that can't be read does not meet this host's kernel
            pass
        with _mounted(container, disk, target):
            yield


@contextmanager
def _mounted(container: Container, disk: str, target: str) -> Iterator[None]:
    command = [find_program("mount") or "mount", "-t", "ext4", "-o", _OPTIONS, disk, target]
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise SystemFailure(f"the disk of {container.name} can't be mounted: {said}", hint="see dmesg(1)")
    try:
        point("machine.shown")
        for name in (UPPER, WORK):
            path = os.path.join(target, name)
            with suppress(FileExistsError):
                os.mkdir(path)
            if not stat.S_ISDIR(os.lstat(path).st_mode):  # a symlink would lead out of the disk
                raise InvalidContent(
                    f"the disk of {container.name} has no directory {name!r}",
                    hint="a program in the machine may have damaged it",
                )
        yield
    finally:
        kernel.unmount(target)


def hide(store: Store, container: Container) -> None:
    """Unmount what a killed ``shown`` has left. Call it in a block of ``using``. Raises SystemFailure."""
    target = shown_disk(store, container)
    while os.path.ismount(target):
        kernel.unmount(target)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
