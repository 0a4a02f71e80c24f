"""The images of deploy/, made of this host's programs and of wheels: no registry is asked for a base."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pip

from support import busybox, lamina, peer, require_tool

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
PYTHON = "/usr/bin/python3"
"""Debian's: other users than root can read it too."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PATIENCE = 90  # seconds
_LIBRARIES = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libm.so.6", "libutil.so.1", "libgcc_s.so.1")
"""What wheels need of the base, and Python itself does not."""


def ok(*words: str, root: Path) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout.decode().strip()


def make_server_image(root: Path, scratch: Path) -> None:
    """Build the image "lamina" from its Dockerfile."""
    require_tool(PYTHON)
    assert os.path.exists(CERTIFICATES), "install the package ca-certificates"
    own_pip = Path(pip.__file__).parent
    source = DEPLOY.parent
    wheels = [sys.executable, "-m", "pip", "--python", PYTHON, "wheel", "-q", "-w", f"{scratch}/context/wheels"]
    subprocess.run([*wheels, f"{source}[serve,s3]"], check=True, timeout=240)
    # the client of object storage wants certificates also where it needs none
    files = [f"--file={path}" for path in (*_libraries(), CERTIFICATES)]
    ok("pack", "-q", PYTHON, "sh", *files, f"--file={own_pip}:/usr/lib/python3/dist-packages/pip", "-t", "python:3",
       root=root)  # fmt: skip
    ok("build", "-q", "-t", "lamina", "-f", str(DEPLOY / "container/Dockerfile"), "--build-arg", "PYTHON=python:3",
       "--build-context", f"wheels={scratch}/context", str(source), root=root)  # fmt: skip


def make_other_images(root: Path) -> None:
    """The images "haproxy" and "versitygw"."""
    require_tool("haproxy")
    gateway = shutil.which(peer("versitygw")) or ""
    busybox()
    tools = [shutil.which("busybox") or ""]
    ok("pack", "-q", "haproxy", "-t", "haproxy", root=root)
    ok("pack", "-q", "sh", "mkdir", *tools, f"--file={os.path.realpath(gateway)}:/usr/local/bin/versitygw",
       "-t", "versitygw", root=root)  # fmt: skip


def _libraries() -> Iterable[str]:
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name, _, path = line.partition(" => ")
        if name.split(" ")[0].strip() in _LIBRARIES:
            # /lib is a link in the image as well, and a file below it would replace that link
            yield path.replace("/lib/", "/usr/lib/", 1) if path.startswith("/lib/") else path


def await_answer(url: str) -> None:
    """Wait until there is a server."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
