"""The union as a read-only FUSE mount, straight from the tree: for plain users, for images that are in no store, and
wherever the kernel's own mounts are refused. Linux, with mfusepy (extra ``fuse``) and libfuse 3.

A process of its own serves the mount as long as that stands. The kernel keeps what it was told: the union never
changes.
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
"""mountinfo shows ``fuse.lamina``."""
SOURCE = "lamina"
FOREVER = 3600  # seconds that the kernel keeps names and attributes
_READY = b"\0"
_LIBRARIES = ("libfuse3.so.4", "libfuse3.so.3")
_INSTALL = "install fuse3 (Debian: apt-get install fuse3)"
_OPTIONS: dict[str, Any] = {
    "foreground": True,
    "nothreads": True,  # with Python's one lock, threads only cost
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
"""Root's mount is as any other of root's: for all, and the kernel checks the modes. A plain user's is his alone."""


def mount(stack: Stack, target: str, *, source: str = SOURCE) -> None:
    """Mount the union at the directory ``target``; when this returns, a process in the background serves it. An image
    that is in no store is fetched first. ``source``: what mountinfo tells as the source; plain letters.

    Raises Unsupported (something is not installed), SystemFailure (refused, in the words of libfuse or fusermount3).
    """
    load()
    for layer in stack.layers:
        with layer.open(0, 0):
            pass  # whatever can fail in a layer does so now, where it can be told
    serve(stack.tree(), stack.layers, target, source=source)


def serve(tree: Tree, layers: Sequence[LayerHandle], target: str, *, source: str = SOURCE) -> None:
    """As ``mount``, of a tree and the layers that have its files."""
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
                    raise SystemFailure(_last_line(said), hint="see `lamina info`")
                said += data


def unmount(target: str) -> None:
    """Take the mount away, also one whose server is gone; who has something open keeps it. Raises SystemFailure."""
    if os.geteuid() == 0:
        kernel.unmount(target)
        return
    import subprocess

    with reported("fusermount3"):
        done = subprocess.run(["fusermount3", "-u", "-z", "--", target], capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemFailure(_last_line(done.stderr) or target, hint="see `lamina mounts`")


def load() -> ModuleType:
    """mfusepy over libfuse 3. Raises Unsupported with what is missing here."""
    if not os.path.exists(DEVICE):
        raise Unsupported(f"{DEVICE} is not there", hint="load the module fuse, or let the container have the device")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise Unsupported(f"{DEVICE} is not for this user", hint="udev gives it mode 0666; root may do so by hand")
    if os.geteuid() != 0:
        import shutil

        if shutil.which("fusermount3") is None:
            raise Unsupported("fusermount3 is not installed", hint=_INSTALL)
    library = next(filter(_is_there, _LIBRARIES), None)
    if library is None:
        raise Unsupported("libfuse3 is not installed", hint=_INSTALL)
    os.environ.setdefault("FUSE_LIBRARY_PATH", library)  # else mfusepy takes libfuse 2 where both are
    try:
        import mfusepy
    except (ImportError, OSError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError):
            raise Unsupported("mfusepy is not installed", hint="pip install 'lamina[fuse]'") from None
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
    """The child: leaves the caller, mounts, and answers until the mount is gone. Standard error is the pipe to the
    caller until the mount stands: there libfuse and fusermount3 say what they don't like."""
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)  # the server is nobody's child: nobody has to wait for it
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # libfuse takes those that nobody has: they end it in order
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(to_caller, 2)
        os.close(to_caller)
        _close_inherited()
        os.chdir("/")

        def ready() -> None:
            os.write(2, _READY)  # fails where the caller is gone: then the mount goes too
            os.dup2(nowhere, 2)

        served = ServedUnion(tree, layers, ready)
        options = _OPTIONS | {"fsname": source} | (_FOR_ALL if os.geteuid() == 0 else {})
        binding.FUSE(served, os.fsencode(target).decode(ENCODING), encoding=ENCODING, **options)
    except BaseException as error:  # noqa: BLE001  (told to the caller: nobody else is there)
        if not isinstance(error, RuntimeError):  # that is libfuse's exit code, and it has said why
            os.write(2, os.fsencode(f"{error}\n"))
        os._exit(1)
    os._exit(0)


def _close_inherited() -> None:
    """Close what the caller was given by its own caller (a shell's pipes): what Python opened is not inheritable."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number > 2 and os.get_inheritable(number):
                os.close(number)
        except OSError:
            pass  # the listing's own


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return (
        lines[-1].removeprefix("fuse: ") if lines else f"the server ended at once (Python {sys.version.split()[0]})"
    )
