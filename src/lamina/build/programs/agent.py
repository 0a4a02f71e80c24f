"""A socket in a sandbox that leads to an ssh agent of this user (``RUN --mount=type=ssh``).

An agent answers only processes of its own user, and its socket is closed to others. So the program gets a socket of
its own, with the owner and mode that were asked for, and this process passes the bytes on.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from lamina.errors import NotFound, SystemFailure
from lamina.host import privileges
from lamina.host.files import reported
from lamina.run.runtime import find_program

_PIECE = 64 << 10
_MOST = 64
"""Connections at the same time."""


@contextmanager
def agent_socket(agent: str, path: str, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> Iterator[None]:
    """A socket at ``path`` that leads to the agent's socket while the block runs. Raises NotFound (no agent is
    there), SystemFailure."""
    try:
        _connected(agent).close()
    except OSError as error:
        raise NotFound(
            f"no ssh agent answers at {agent!r:.200}: {error.strerror}", hint="start one, and set SSH_AUTH_SOCK"
        ) from None
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reported(path), _near(path) as short:
            listening.bind(short)
            os.chmod(path, mode & 0o777)
            if (uid, gid) != (0, 0):
                privileges.give(path, uid, gid)
            listening.listen(_MOST)
        relay = _Relay(listening, agent)
        try:
            yield
        finally:
            relay.close()
    finally:
        listening.close()


@contextmanager
def agent_with_keys(directory: str, keys: Sequence[str]) -> Iterator[str]:
    """The socket of a new agent with these private keys; the agent runs while the block does. ``directory``: for the
    socket. Raises NotFound (ssh-agent is not installed, no such key), SystemFailure."""
    import subprocess

    path = os.path.join(directory, "keys")
    programs = [find_program(name) for name in ("ssh-agent", "ssh-add")]
    if not all(programs):
        raise NotFound("ssh-agent and ssh-add are not installed", hint="install OpenSSH's client, or give a socket")
    for key in keys:
        if not os.path.isfile(key):
            raise NotFound(f"no key file {key!r:.200}", hint="check the path of --ssh")
    with _near(path) as short:
        # they find the socket by this process's descriptor: the path itself may be too long for an address
        number = int(short.split("/")[-2])
        short = short.replace("self", str(os.getpid()), 1)
        with (
            reported(programs[0]),
            subprocess.Popen(
                [programs[0], "-D", "-a", short],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(number,),
            ) as agent,
        ):
            try:
                assert agent.stdout is not None
                if not agent.stdout.readline():  # it says where its socket is when it listens
                    raise SystemFailure("ssh-agent did not start", hint="give the socket of an agent")
                added = subprocess.run(
                    [programs[1], "-q", *keys],
                    env={**os.environ, "SSH_AUTH_SOCK": short},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                )
                if added.returncode:
                    why = added.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
                    raise SystemFailure(f"ssh-add: {why:.300}", hint="add the key to an agent, and give its socket")
                yield path
            finally:
                agent.kill()


@contextmanager
def _near(path: str) -> Iterator[str]:
    """The path of a socket in a form that is short enough: an address has at most 107 bytes."""
    above, name = os.path.split(path)
    directory = os.open(above or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)


def _connected(agent: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _near(agent) as short:
            connection.connect(short)
    except BaseException:
        connection.close()
        raise
    return connection


class _Relay:
    """Accepts connections in a thread, and passes bytes on in two threads for each."""

    def __init__(self, listening: socket.socket, agent: str) -> None:
        self._listening, self._agent = listening, agent
        self._free = threading.Semaphore(_MOST)
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise SystemFailure(f"no further thread: {error}", hint="raise the limit of processes") from None

    def close(self) -> None:
        with self._guard:
            self._closed = True
            left = list(self._open)
        for one in left:
            _shut(one)
        _shut(self._listening)  # wakes accept
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._free.acquire()
            with self._guard:
                if self._closed:
                    client.close()
                    return
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with _connected(self._agent) as agent:
                with self._guard:
                    self._open.add(agent)
                try:
                    back = threading.Thread(target=_pass, args=(agent, client), daemon=True)
                    back.start()
                    _pass(client, agent)
                    back.join()
                finally:
                    with self._guard:
                        self._open.discard(agent)
        except (OSError, RuntimeError):
            pass  # the program sees that the connection ends
        finally:
            with self._guard:
                self._open.discard(client)
            client.close()
            self._free.release()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_PIECE):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        source.shutdown(socket.SHUT_RD)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
