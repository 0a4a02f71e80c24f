"""aardvark-dns, which resolves the names of containers: the files that it reads, and whether it answers."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial

from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, signal
from lamina.run.networks.place import aardvark, enter_namespace, in_child
from lamina.run.networks.programs import find, run_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lamina.run.networks.place import Place

_PID = "aardvark.pid"
_NAMES = 3
"""The word of a line that has the names."""
_PATIENCE, _AGAIN = 2.0, 0.02  # seconds
_PORT = 53
_ADDRESS, _ADDRESS_6, _INTERNET = 1, 28, 1  # RFC 1035, RFC 3596


def forget(place: Place, members: Mapping[str, set[str]]) -> None:
    """Let the server forget containers that were killed: without this, their names lead nowhere. ``members``: the ids
    of the containers on each network. Call it under the lock of the catalog. Raises SystemFailure."""
    directory = os.path.join(place.directory, "aardvark-dns")
    server = aardvark(place.directory)
    changed = False
    with reported(directory):
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return
        for name in names:
            if name != _PID:
                changed |= _forget(os.path.join(directory, name), members.get(name, set()))
        if not server:  # netavark would send a signal to whatever has its pid
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, _PID))
    if changed and server:
        with suppress(OSError):
            os.kill(server, signal.SIGHUP)


def _forget(path: str, members: set[str]) -> bool:
    """Returns whether the file was changed."""
    with open(path, encoding="utf-8", errors="replace") as file:
        head, *lines = file.read().split("\n") or [""]
    kept = [line for line in lines if line.partition(" ")[0] in members]
    if kept == [line for line in lines if line] and kept:
        return False
    if not kept:
        os.unlink(path)
        return True
    _replace(path, "\n".join([head, *kept, ""]))
    return True


def rename(place: Place, identity: str, names: Mapping[str, Sequence[str]]) -> None:
    """Let a container of that id be known by other names. ``names``: by network. Call it under the lock of the
    catalog. Raises SystemFailure."""
    directory = os.path.join(place.directory, "aardvark-dns")
    changed = False
    with reported(directory):
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            if name in names:
                changed |= _rename(os.path.join(directory, name), identity, names[name])
    server = aardvark(place.directory)
    if changed and server:
        with suppress(OSError):
            os.kill(server, signal.SIGHUP)


def _rename(path: str, identity: str, names: Sequence[str]) -> bool:
    """Returns whether the file was changed."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    changed = "\n".join(renamed(line, identity, names) for line in text.split("\n"))
    if changed == text:
        return False
    _replace(path, changed)
    return True


def renamed(line: str, identity: str, names: Sequence[str]) -> str:
    """A line of aardvark-dns (id, addresses of both kinds, names, servers), with these names if it is of that
    container (pure)."""
    words = line.split(" ")
    if words[0] != identity or len(words) < _NAMES + 1:
        return line
    return " ".join([*words[:_NAMES], ",".join(names), *words[_NAMES + 1 :]])


def _replace(path: str, text: str) -> None:
    new = f"{path}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(new, path)


def await_end(place: Place, server: int) -> None:
    """Wait until the server has ended, if it has no network left: it does not take a new one any more.
    ``server``: a descriptor of the process."""
    import select

    directory = os.path.join(place.directory, "aardvark-dns")
    with suppress(OSError):
        if set(os.listdir(directory)) <= {_PID}:
            waiting = select.poll()
            waiting.register(server, select.POLLIN)
            if not waiting.poll(_PATIENCE * 1000):
                signal.pidfd_send_signal(server, signal.SIGKILL)
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, _PID))


def start_again(place: Place) -> None:
    """Start the server again, which has ended, or does not answer."""
    server = aardvark(place.directory)
    if server:
        with suppress(OSError):
            os.kill(server, signal.SIGKILL)
    directory = os.path.join(place.directory, "aardvark-dns")
    run_in(place, [find("aardvark-dns"), "--config", directory, "-p", str(_PORT), "run"])


def unanswered(namespace: str, name: str, servers: Mapping[str, Sequence[str]]) -> list[str]:
    """Wait until the name servers know a container; the networks whose servers do not answer in time.
    ``namespace``: the container's: a server answers by who asks. ``servers``: by network."""
    with reported(namespace):
        opened = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = []
        for network, addresses in servers.items():
            if not in_child(lambda: enter_namespace(opened), partial(_answers, addresses[0], name)):
                found.append(network)
        return found
    finally:
        os.close(opened)


def _answers(server: str, name: str) -> bool:
    import socket
    import time

    end = time.monotonic() + _PATIENCE
    kind = socket.AF_INET6 if ":" in server else socket.AF_INET
    while time.monotonic() < end:
        with socket.socket(kind, socket.SOCK_DGRAM) as asking:
            asking.settimeout(_AGAIN * 10)
            try:
                asking.connect((server, _PORT))
                for number in (_ADDRESS, _ADDRESS_6):
                    asking.send(question(name, number))
                    if asking.recv(512)[6:8] != b"\0\0":  # the number of answers
                        return True
            except OSError:
                pass
        time.sleep(_AGAIN)
    return False


def question(name: str, kind: int) -> bytes:
    """A question for the addresses of a name (RFC 1035, pure)."""
    head = bytes([0x4C, 0x61, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    labels = b"".join(bytes([len(word)]) + word.encode() for word in name.split("."))
    return head + labels + b"\0" + kind.to_bytes(2, "big") + _INTERNET.to_bytes(2, "big")
