"""Tell systemd which process of a service is its main one (sd_notify(3))."""

from __future__ import annotations

import os
from contextlib import suppress


def taken_socket() -> str:
    """The path of systemd's socket, if a unit of ``Type=notify`` has started this process; else "". It is taken out
    of the environment: runc would wait for a message of the container on it."""
    return os.environ.pop("NOTIFY_SOCKET", "")


def tell_main_process(path: str, pid: int) -> None:
    """Tell systemd that the service is ready, and lives as long as the process ``pid``. ``path``: of the socket, ""
    for none. Nothing that fails here stops the service."""
    if not path.startswith(("/", "@")) or pid <= 0:
        return
    import socket

    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendto(f"MAINPID={pid}\nREADY=1".encode(), address)
