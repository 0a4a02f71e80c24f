"""What a container sees of the network, and the files that docker puts into it: hosts, hostname, resolv.conf."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

from lamina.errors import NotFound, SystemFailure, UsageError
from lamina.run.options import NETWORKS

_LOCAL = ("127.", "::1", "0.0.0.0")
_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def choose(wanted: str) -> str:
    """One of NETWORKS: what was asked, or pasta where it is installed, else none. Raises UsageError, NotFound."""
    if wanted in ("", "default", "private"):
        return "pasta" if shutil.which("pasta") else "none"
    if wanted not in NETWORKS:
        raise UsageError(f"no network {wanted!r:.60}", hint=f"one of {', '.join(NETWORKS)}")
    if wanted == "pasta" and not shutil.which("pasta"):
        raise NotFound("pasta is not installed", hint="install the package passt, or take --network host or none")
    return wanted


def hosts_file(hostname: str, more: Iterable[tuple[str, str]]) -> str:
    lines = [f"{address}\t{name}\n" for name, address in more]
    return _HOSTS + "".join(lines) + f"127.0.1.1\t{hostname}\n"


def resolv_file(text: str, network: str) -> str:
    """The machine's resolv.conf without servers that the container can't reach (pure)."""
    if network == "host":
        return text
    if network == "none":
        return ""
    kept = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and words[1].startswith(_LOCAL):
            continue
        kept.append(line + "\n")
    return "".join(kept)


def machine_resolv() -> str:
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


class Pasta:
    """A network namespace with a way out of it through this user's own sockets; gone when closed."""

    def __init__(self) -> None:
        """Raises SystemFailure."""
        words = ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"]
        self._holder = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()  # it is in its namespace now
        self.path = f"/proc/{self._holder.pid}/ns/net"
        done = subprocess.run(
            ["pasta", "--config-net", "--quiet", "--no-map-gw", "--netns", self.path],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            self.close()
            said = done.stderr.decode("utf-8", "replace").strip()
            raise SystemFailure(f"pasta: {said:.300}", hint="take --network none or host")

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()
