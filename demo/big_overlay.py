"""A tree changed in an overlay: commands see the union and write into the upper directory, which becomes a layer.

Every command runs in its own mount namespace: whatever happens, no mount is left on this host, and to remove
the directories never removes what was mounted on them. What builds runs in a process namespace too, which ends with
the demo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lamina.layer.entry import Kind
from lamina.layer.tar_write import Item
from lamina.scan.overlay_upper import scan_upper

# redirects and metadata-only copies can't be said in an OCI layer: an upper directory must be without them
_MOUNT = """
set -eu
mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3,redirect_dir=off,metacopy=off,index=off" overlay "$4"
"""
_SYSTEM = """
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
"""


class Overlay:
    """``lowers``: directories, the top one first. ``directory`` is created and holds the upper directory."""

    def __init__(self, lowers: Sequence[Path], directory: Path) -> None:
        self.lowers = list(lowers)
        self.upper, self._work, self.root = (directory / name for name in ("upper", "work", "root"))
        for path in (self.upper, self._work, self.root):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)  # the upper one's mode is that of the union's root

    def around(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Run a command of the host while the union is mounted at ``root``, with /proc and /dev in it."""
        script = _MOUNT + "root=$4; shift 4" + _SYSTEM + 'exec "$@"'
        mounted: list[str | Path] = [":".join(map(str, self.lowers)), self.upper, self._work, self.root]
        return alone(["sh", "-c", script, "sh", *mounted, *command])

    def inside(self, command: Sequence[str | Path], *, user: str = "root") -> list[str | Path]:
        """Run a command of the union in the union."""
        return self.around(chroot(self.root, command, user=user))


def alone(command: Sequence[str | Path]) -> list[str | Path]:
    """``command`` in its own mount and pid namespaces: its mounts and processes end with it."""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *command]


def chroot(root: Path, command: Sequence[str | Path], *, user: str = "root") -> list[str | Path]:
    return ["chroot", f"--userspec={user}", root, *command]


def upper_items(upper: Path, lowers: Sequence[Path]) -> Iterator[Item]:
    """The content of an overlay's upper directory as entries of an OCI layer. The kernel marks most new directories
    as opaque; the layer does so only if ``lowers`` have something to hide."""
    for entry, content in scan_upper(str(upper)):
        below = (os.path.join(os.fsencode(lower), entry.path) for lower in lowers)
        if entry.kind != Kind.OPAQUE or any(os.path.isdir(path) and not os.path.islink(path) for path in below):
            yield entry, content
