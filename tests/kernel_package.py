"""A real kernel for the tests of machines: Debian's package for clouds, unpacked once.

python tests/kernel_package.py   unpacks it, before tests need it, and prints where
"""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from support import require_tool

_META = "linux-image-cloud-amd64"


@functools.cache
def kernel_tree() -> Path:
    """A directory with /boot and /lib/modules, without what depmod makes. The package is in the cache of the tests,
    else it is downloaded."""
    require_tool("apt-get", "dpkg-deb", "qemu-system-x86_64", "mke2fs", "busybox")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamina-kernel"
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / "tree"
    if not tree.is_dir():
        _unpack(cache, tree)
    return tree


def _unpack(cache: Path, tree: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        try:
            depends = subprocess.run(
                ["apt-cache", "depends", _META], capture_output=True, text=True, check=True
            ).stdout
            name = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image" in line)
            subprocess.run(["apt-get", "download", "-qq", name], cwd=scratch, capture_output=True, check=True)
        except (subprocess.CalledProcessError, StopIteration):
            if os.environ.get("LAMINA_TEST_REQUIRE"):
                pytest.fail(f"{_META} can't be downloaded")
            pytest.skip(f"{_META} can't be downloaded")
        (package,) = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, f"{scratch}/tree"], check=True)
        try:
            os.rename(f"{scratch}/tree", tree)
        except OSError:
            if not tree.is_dir():  # another process was faster
                raise


def kernel_path() -> Path:
    """The path of the kernel in ``kernel_tree``."""
    (found,) = (kernel_tree() / "boot").glob("vmlinuz-*")
    return found


if __name__ == "__main__":
    print(kernel_path())
