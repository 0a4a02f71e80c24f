"""Debian trees: a base by mmdebstrap, packages on top of it by apt in an overlay.

apt runs on the host, with the tree as its root: it uses the name servers, proxies and certificates of the host,
and only dpkg and the packages' scripts run inside. Package lists and archives stay out of the layers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from big_overlay import Overlay, alone
from big_shell import logged

SUITE = "bookworm"
# as slim images have it; the setting stays in the base and holds for the packages on top of it
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# written by an installation and of no use in a layer
_LEAVINGS = (
    "etc/apt/apt.conf.d/99mmdebstrap", "etc/hostname", "etc/resolv.conf", "usr/sbin/policy-rc.d", "var/cache/apt/*",
    "var/cache/debconf/*-old", "var/cache/ldconfig/*", "var/lib/apt/lists/*", "var/lib/dpkg/*-old", "var/log/*.log",
    "var/log/apt",
)  # fmt: skip
_NO_SERVICES = "#!/bin/sh\nexit 101\n"  # packages that want to start their server are told no


def mirrors() -> dict[str, str]:
    """The mirrors that apt of this host uses: label (``Debian``, ``Debian-Security``) to URL. Empty if it knows none,
    or was never updated."""
    # every list that apt keeps says whose it is, however its source is written
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        origin, label, url = line.split("|", 2)
        if origin == "Debian" and not url.startswith("cdrom:"):
            found.setdefault(label, url)
    return found if "Debian" in found else {}


def sources(urls: dict[str, str]) -> list[str]:
    """The lines of a sources.list for ``SUITE``."""
    lines = [f"deb {urls['Debian']} {SUITE} main"]
    if "Debian-Security" in urls:
        lines.append(f"deb {urls['Debian-Security']} {SUITE}-security main")
    return lines


def debootstrap(target: Path, lines: Iterable[str], log: Path) -> None:
    """Make a minimal Debian in the directory ``target``."""
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    options += [f"--aptopt={line}" for line in _acquire()]
    form = ["--mode=root", "--format=directory", "--variant=minbase"]
    logged(alone(["mmdebstrap", *form, *options, SUITE, target, *lines]), log, "mmdebstrap")
    tidy(target)


def install(overlay: Overlay, scratch: Path, packages: Sequence[str], log: Path) -> None:
    """Install packages into the overlay, with their dependencies but without recommended packages."""
    services = overlay.upper / "usr/sbin/policy-rc.d"
    services.parent.mkdir(parents=True, exist_ok=True)
    services.write_text(_NO_SERVICES)
    services.chmod(0o755)
    script = 'set -e; apt-get update -qq; apt-get install -qq -y "$@"; apt-get clean'
    logged(overlay.around(["sh", "-c", script, "sh", *packages]), log, "apt-get", env=_environment(overlay, scratch))
    tidy(overlay.upper)


def download_kernel(overlay: Overlay, scratch: Path, target: Path, log: Path) -> None:
    """Download the package with Debian's kernel for virtual machines into the directory ``target``."""
    script = """
        set -e
        apt-get update -qq
        meta=linux-image-cloud-$(dpkg --print-architecture)
        name=$(apt-cache depends "$meta" | sed -n 's/.*Depends: \\(linux-image-[^ ]*\\).*/\\1/p' | head -n 1)
        cd "$1"
        apt-get download -qq "$name"
    """
    logged(overlay.around(["sh", "-c", script, "sh", target]), log, "apt-get", env=_environment(overlay, scratch))


def _environment(overlay: Overlay, scratch: Path) -> dict[str, str]:
    """For an apt that works on the overlay."""
    lists = scratch / "apt-lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    config = scratch / "apt.conf"
    config.write_text(
        "\n".join(
            [
                f'Dir "{overlay.root}";',
                f'DPkg::Chroot-Directory "{overlay.root}";',
                f'Dir::State::Lists "{lists}";',
                'APT::Install-Recommends "false";',
                'APT::Sandbox::User "root";',
                'Dpkg::Use-Pty "false";',
                *_acquire(),
            ]
        )
        + "\n"
    )
    env = {**os.environ, "APT_CONFIG": str(config), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    env.pop("TMPDIR", None)  # packages' scripts run in the tree, which lacks directories of this host
    return env


def tidy(tree: Path) -> None:
    for pattern in _LEAVINGS:
        for path in tree.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _acquire() -> list[str]:
    """The network settings of this host's apt (proxies, certificates, retries), for another apt."""
    done = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True)
    wanted = ("Acquire::http", "Acquire::Check-")
    return [line for line in done.stdout.splitlines() if line.startswith(wanted) and not line.endswith(' "";')]
