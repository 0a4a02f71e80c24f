"""What a container sees of the network, and the files that docker puts into it: hosts, hostname, resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Iterable

from lamina.errors import NotFound, SystemFailure, UsageError
from lamina.files import reported
from lamina.light import signal
from lamina.run.options import NETWORKS
from lamina.run.runtime import asked, find_program

_TUN = "/dev/net/tun"
_NO_PORTS = [word for option in ("-t", "-u", "-T", "-U") for word in (option, "none")]
"""Else pasta looks every second which ports are open, and passes them on: a container's to all who reach this
machine, and to the container what listens for this machine alone."""
_LOCAL = ("127.", "::1", "0.0.0.0")
_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def choose(wanted: str) -> str:
    """One of NETWORKS: what was asked, or pasta where it works, else none. Raises UsageError, NotFound."""
    if wanted in ("", "default", "private"):
        return "none" if _without_pasta() else "pasta"
    if wanted not in NETWORKS:
        raise UsageError(f"no network {wanted!r:.60}", hint=f"one of {', '.join(NETWORKS)}")
    if wanted == "pasta" and (reason := _without_pasta()):
        raise NotFound(reason, hint="or take --network host or none")
    return wanted


def _without_pasta() -> str:
    """Why there is no pasta, or ""."""
    if not find_program("pasta"):
        return "pasta is not installed: install the package passt"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"pasta needs {_TUN}, which is not there, or not for this user"
    return ""


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
    """A network namespace with a way out of it through this process's own sockets. It lives as a file, because pasta
    lets go of its rights before it opens it; ``close`` ends both."""

    def __init__(self, directory: str) -> None:
        """``directory``: for the file. Raises SystemFailure."""
        self.path = os.path.join(directory, "netns")
        self._opened = -1
        self.close_left(directory)
        with reported(self.path), open(self.path, "wb"):
            pass
        _check(["unshare", f"--net={self.path}", "true"])
        try:
            # root stays root: else pasta becomes nobody, and may not enter the namespace
            words = ["pasta", "--runas", "0", "--config-net", "--quiet", "--no-map-gw", *_NO_PORTS]
            _check([*words, "--pid", os.path.join(directory, "pasta.pid"), "--netns", self.path])
        except BaseException:
            self.close()
            raise

    @property
    def plain_path(self) -> str:
        """A path of the namespace without the comma that runc takes in none."""
        if "," not in self.path:
            return self.path
        if self._opened < 0:
            with reported(self.path):
                self._opened = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return f"/proc/{os.getpid()}/fd/{self._opened}"

    def close(self) -> None:
        if self._opened >= 0:
            os.close(self._opened)
            self._opened = -1
        self.close_left(os.path.dirname(self.path))

    @staticmethod
    def close_left(directory: str) -> None:
        """Take away what one of these left in ``directory``, if one did. pasta ends with its namespace's file."""
        from lamina.view import kernel

        path, pid = os.path.join(directory, "netns"), os.path.join(directory, "pasta.pid")
        try:
            with open(pid, encoding="utf-8") as file:
                number = int(file.read())
            held = os.pidfd_open(number)
            try:
                with open(f"/proc/{number}/comm", encoding="utf-8", errors="replace") as file:
                    if file.read().startswith("pasta"):  # the number may have been another's before we held it
                        signal.pidfd_send_signal(held, signal.SIGTERM)
            finally:
                os.close(held)
        except (OSError, ValueError):
            pass
        if os.path.exists(path):
            if _is_namespace(path):
                kernel.unmount(path)
            os.unlink(path)


def _is_namespace(path: str) -> bool:
    """Whether a namespace is mounted upon the file: they all stand on one device of the kernel's."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def _check(words: list[str]) -> None:
    code, said = asked(words)
    if code:
        last = said.rpartition("\n")[2]
        raise SystemFailure(f"{words[0]}: {last:.300}", hint="take --network none or host")
