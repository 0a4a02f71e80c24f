"""Read-only FUSE mounts of the union, straight from the tree: for unprivileged users, for images that are in no
store, and where the kernel refuses other mounts. Linux, with mfusepy (extra ``fuse``) and libfuse 3.

A process of its own serves each mount. The kernel caches everything, because the union never changes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from lamina.errors import SystemFailure, Unsupported
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.source.stack import Stack
from lamina.union.tree import Tree
from lamina.view import kernel
from lamina.view.fuse.operations import ENCODING, ServedUnion

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from lamina.source.protocols import LayerHandle

DEVICE = "/dev/fuse"
TYPE = "lamina"
"""The type of the file system: mountinfo shows ``fuse.lamina``."""
SOURCE = "lamina"
FOREVER = 3600  # seconds for which the kernel caches names and attributes
_READY = b"\0"
_LIBRARIES = ("libfuse3.so.4", "libfuse3.so.3")
_INSTALL = "install fuse3 (Debian: apt-get install fuse3)"
_OPTIONS: dict[str, Any] = {
    "foreground": True,
    "nothreads": True,  # threads only cost time under Python's global lock
    "ro": True,
    "nosuid": True,
    "nodev": True,
    "subtype": TYPE,
    "attr_timeout": FOREVER,
    "entry_timeout": FOREVER,
    "negative_timeout": FOREVER,
    "kernel_cache": True,
    "use_ino": True,
}
_FOR_ALL = {"allow_other": True, "default_permissions": True}
"""Options of root's mounts, which are for all users, with modes checked by the kernel. The mount of an unprivileged
user is for that user only."""


def mount(stack: Stack, target: str, *, source: str = SOURCE) -> None:
    """Mount the union at the directory ``target``; when this returns, a process in the background serves it. Layers
    that are in no store are fetched first. ``source`` is what mountinfo shows as the source; plain characters only.

    Raises Unsupported (something is not installed), SystemFailure (refused, with the message of libfuse or
    fusermount3).
    """
    load()
    for layer in stack.layers:
        with layer.open(0, 0):
            pass  # whatever can fail in a layer fails now, when it can be reported
    serve(stack.tree(), stack.layers, target, source=source)


def serve(tree: Tree, layers: Sequence[LayerHandle], target: str, *, source: str = SOURCE) -> None:
    """Serve a tree, with the layers that have its files, as ``mount`` does."""
    binding = load()
    target = os.path.abspath(target)
    with reported(target):
        from_server, to_caller = os.pipe()
        try:
            first = os.fork()
            if first == 0:
                os.close(from_server)
                _serve(binding, tree, layers, target, source, to_caller)
        finally:
            os.close(to_caller)
        with open(from_server, "rb", buffering=0) as pipe:
            os.waitpid(first, 0)
            said = b""
            while not said.endswith(_READY):
                data = pipe.read(4096)
                if not data:
                    raise SystemFailure(_last_line(said), hint="check with `lamina info`")
                said += data


def unmount(target: str) -> None:
    """Unmount, also if the server has died; processes with open files keep them. Raises SystemFailure."""
    if os.geteuid() == 0:
        kernel.unmount(target)
        return
    import subprocess

    with reported("fusermount3"):
        done = subprocess.run(["fusermount3", "-u", "-z", "--", target], capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemFailure(_last_line(done.stderr) or target, hint="list mounts with `lamina mounts`")


def load() -> ModuleType:
    """Import mfusepy with libfuse 3. Raises Unsupported, which names what is missing."""
    if not os.path.exists(DEVICE):
        raise Unsupported(
            f"{DEVICE} does not exist", hint="load the module fuse, or pass the device to the container"
        )
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise Unsupported(f"{DEVICE} is not for this user", hint="let root give it mode 0666, as udev does")
    if os.geteuid() != 0:
        import shutil

        if shutil.which("fusermount3") is None:
            raise Unsupported("fusermount3 is not installed", hint=_INSTALL)
    library = next(filter(_is_there, _LIBRARIES), None)
    if library is None:
        raise Unsupported("libfuse3 is not installed", hint=_INSTALL)
    os.environ.setdefault("FUSE_LIBRARY_PATH", library)  # else mfusepy prefers libfuse 2
    try:
        import mfusepy
    except (ImportError, OSError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError):
            raise Unsupported("mfusepy is not installed", hint="run `pip install 'lamina[fuse]'`") from None
        raise Unsupported(f"mfusepy: {error}", hint=_INSTALL) from None
    module: ModuleType = mfusepy
    return module


def _is_there(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _serve(
    binding: ModuleType, tree: Tree, layers: Sequence[LayerHandle], target: str, source: str, to_caller: int
) -> NoReturn:
    """Run in the child: detach from the caller, mount, and serve until the mount is gone. Until it is mounted,
    standard error is the pipe to the caller, so that messages of libfuse and fusermount3 arrive there."""
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)  # the server is an orphan, so that no process has to wait for it
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # libfuse handles signals with the default action: they end the server in order
            signal.signal(number, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(to_caller, 2)
        os.close(to_caller)
        _close_inherited()
        os.chdir("/")

        def ready() -> None:
            os.write(2, _READY)  # fails if the caller has ended; then the mount ends too
            os.dup2(nowhere, 2)

        served = ServedUnion(tree, layers, ready)
        options = _OPTIONS | {"fsname": source} | (_FOR_ALL if os.geteuid() == 0 else {})
        binding.FUSE(served, os.fsencode(target).decode(ENCODING), encoding=ENCODING, **options)
    except BaseException as error:  # noqa: BLE001  (told to the caller: nobody else is there)
        # a RuntimeError has libfuse's exit code; libfuse has printed the reason
        if not isinstance(error, RuntimeError):
            os.write(2, os.fsencode(f"{error}\n"))
        os._exit(1)
    os._exit(0)


def _close_inherited() -> None:
    """Close the descriptors that the caller inherited (such as a shell's pipes): those that Python opened are not
    inheritable."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number > 2 and os.get_inheritable(number):
                os.close(number)
        except OSError:
            pass  # the descriptor of the listing itself


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return (
        lines[-1].removeprefix("fuse: ")
        if lines
        else f"the server ended immediately (Python {sys.version.split()[0]})"
    )
