"""Orders for QEMU: QMP over the socket in the bundle."""

from __future__ import annotations

import os
import socket

from lamina.errors import SystemFailure
from lamina.light import TYPE_CHECKING
from lamina.run.machine.machine import ORDERS
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from typing import Any

_SECONDS = 10.0
_MOST = 1 << 20  # bytes of an answer


def order(bundle: str, command: str) -> dict[str, Any]:
    """Let QEMU do this; its answer. Raises SystemFailure (it does not run, or refuses)."""
    place = -1
    try:
        place = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(f"/proc/self/fd/{place}/{ORDERS}")  # the path of a socket has 107 bytes at most
            with connection.makefile("rb") as answers:
                answers.readline(_MOST)  # the greeting
                for word in ("qmp_capabilities", command):
                    connection.sendall(f"{write_own({'execute': word})}\n".encode())
                    answer: dict[str, Any] = {"event": ""}
                    while "event" in answer:
                        answer = read_own(answers.readline(_MOST).decode())
    except (OSError, ValueError) as error:
        raise SystemFailure(f"the machine can't be told to {command}: {error}", hint="see `lamina ps -a`") from None
    finally:
        if place >= 0:
            os.close(place)
    if "error" in answer:
        said = answer["error"].get("desc", "")
        raise SystemFailure(f"QEMU refuses {command}: {said}", hint="see `lamina ps -a`")
    found: dict[str, Any] = answer.get("return", {})
    return found
