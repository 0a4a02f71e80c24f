"""The process that forwards published ports: sockets of this host on one side, the container on the other.

It runs in the container's network namespace, with sockets that were bound in that of the host. Bytes of tcp go
through pipes in the kernel (splice(2)); Python only sees how many there are. ``forwarder`` starts and ends it. It
loads few modules, because there is one such process for each container with published ports.
"""

from __future__ import annotations

import _socket
import errno
import fcntl  # now: as nobody, this process may not be able to read the directory of Python's modules
import os
import select
import struct
import time
from collections.abc import Callable, Sequence

from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_IN, _OUT, _GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR
_CHUNK = 1 << 20  # bytes: the most that a pipe holds
_SPARE_PIPES = 32
_ACCEPTED_AT_ONCE, _MOVES_AT_ONCE = 64, 16
_DATAGRAM = 1 << 16  # bytes
_FLOWS = 4096  # per port of udp
_SILENCE = 90.0  # seconds until a flow of udp without a datagram ends: docker's
EVERY = 15.0
"""Seconds between two looks at whether the bundle still exists."""
_AGAIN = (errno.EAGAIN, errno.EINTR)
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LINGER = struct.pack("ii", 1, 0)  # closing resets the connection
_PACKET_INFO, _RECEIVE_INFO_6, _INFO_6 = 8, 49, 50  # IP_PKTINFO (ip(7)), IPV6_RECVPKTINFO, IPV6_PKTINFO (ipv6(7))
_LIST_ADDRESSES = 0x8912  # SIOCGIFCONF (netdevice(7))
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ (fcntl(2))
_SPLICE_FLAGS = 1 | 2  # move, do not block
_NOBODY = 65534

Handler = Callable[[int, int], None]
"""Called with a descriptor and its events (epoll_ctl(2))."""


class Loop:
    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self.paused: list[tuple[int, Handler]] = []
        """Listening sockets that wait for free descriptors."""

    def watch(self, descriptor: int, events: int, handler: Handler) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, events)

    def change(self, descriptor: int, events: int) -> None:
        self._poll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def pause(self, descriptor: int, handler: Handler) -> None:
        """Leave a listening socket alone until a descriptor was closed, or for a moment."""
        self.forget(descriptor)
        self.paused.append((descriptor, handler))

    def resume(self) -> None:
        waiting, self.paused = self.paused, []
        for descriptor, handler in waiting:
            self.watch(descriptor, _IN, handler)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Work until ``is_over`` says so, which is asked from time to time."""
        asked = time.monotonic()
        while True:
            found = self._poll.poll(0.2 if self.paused else EVERY, 256)
            if time.monotonic() - asked >= EVERY:
                asked = time.monotonic()
                if is_over():
                    return
            for descriptor, events in found:
                handler = self._handlers.get(descriptor)
                if handler is not None:  # another handler of this round may have closed it
                    handler(descriptor, events)
            if not found:
                self.resume()


class Pipes:
    """Pipes for data on its way. An idle connection has none."""

    def __init__(self) -> None:
        self._spare: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        if self._spare:
            return self._spare.pop()
        made = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(made[1], _SET_PIPE_SIZE, _CHUNK)
        except OSError:
            pass  # this user has many large pipes: a small one does
        return made

    def give(self, pipe: tuple[int, int], *, is_empty: bool = True) -> None:
        if is_empty and len(self._spare) < _SPARE_PIPES:
            self._spare.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])


class Addresses:
    """The container's own addresses, those of IPv4 and those of IPv6. Its networks may change while it runs."""

    def __init__(self) -> None:
        self._known: tuple[list[str], list[str]] = ([], [])
        self.refresh()

    def refresh(self) -> None:
        self._known = (_addresses_4(), _addresses_6())

    def towards(self, family: int) -> list[str]:
        """Where to reach the container for a client of this family, best first."""
        four, six = self._known
        return [*six[:1], *four[:1]] if family == _socket.AF_INET6 else [*four[:1], *six[:1]]


def _addresses_4() -> list[str]:
    found = _towards_outside(_socket.AF_INET, "198.51.100.1")
    if not found:  # no way out: any address of an interface
        before = ""
        for line in _lines("/proc/self/net/fib_trie"):
            if "host LOCAL" in line and not before.startswith("127."):
                found.append(before)
            before = line.split()[-1]
    return found or ["127.0.0.1"]


def _addresses_6() -> list[str]:
    found = _towards_outside(_socket.AF_INET6, "2001:db8::1")
    if not found:
        lines = (line.split() for line in _lines("/proc/self/net/if_inet6"))
        found = [_socket.inet_ntop(_socket.AF_INET6, bytes.fromhex(words[0])) for words in lines if words[3] == "00"]
    return found


def _towards_outside(family: int, address: str) -> list[str]:
    """The address that this network uses for connections to others. Nothing is sent."""
    try:
        one = _socket.socket(family, _socket.SOCK_DGRAM)
    except OSError:
        return []
    try:
        one.connect((address, 9))
        return [one.getsockname()[0]]
    except OSError:
        return []
    finally:
        one.close()


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return [line for line in file.read(1 << 20).splitlines() if line.strip()]
    except OSError:
        return []


class Half:
    """One direction of a connection. ``pending``: bytes in the pipe."""

    __slots__ = ("ended", "pending", "pipe", "source", "target")

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self.pipe: tuple[int, int] | None = None
        self.pending = 0
        self.ended = False


class Forwarder:
    """What all connections share."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.pipes = Pipes()
        self.addresses = Addresses()

    def listen(self, descriptor: int, port: int) -> None:
        """Forward connections of a listening socket to ``port`` of the container."""
        listener = _socket.socket(fileno=descriptor)
        listener.setblocking(False)

        def on_event(descriptor: int, events: int) -> None:
            for _ in range(_ACCEPTED_AT_ONCE):
                try:
                    accepted, _ = listener._accept()  # type: ignore[attr-defined]
                except OSError as error:
                    if error.errno in _FULL:
                        self.loop.pause(descriptor, on_event)
                        return
                    if error.errno in _AGAIN:
                        return
                    continue  # the client has gone
                Connection(self, accepted, listener.family, port)

        self.loop.watch(descriptor, _IN, on_event)


class Connection:
    """A client of tcp, and the container's server."""

    def __init__(self, shared: Forwarder, accepted: int, family: int, port: int) -> None:
        self._shared, self._port = shared, port
        self._client = _socket.socket(fileno=accepted)
        self._client.setblocking(False)
        self._client.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._server: _socket.socket | None = None
        self._targets = shared.addresses.towards(family)
        self._halves: tuple[Half, Half] | None = None
        self._watched: dict[int, int] = {}  # events by descriptor
        self._connect()

    def _connect(self) -> None:
        while self._targets:
            address = self._targets.pop(0)
            family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
            try:
                server = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
            except OSError:
                break
            try:
                server.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
                code = server.connect_ex((address, self._port))
            except OSError:
                code = errno.EINVAL
            if code in (0, errno.EINPROGRESS):
                self._server = server
                if _is_connected(server):  # as a rule: the container is on this host
                    self._begin(server)
                else:
                    self._shared.loop.watch(server.fileno(), _OUT, self._on_connected)
                return
            server.close()
        self._shared.addresses.refresh()  # they may be old
        self._reset()

    def _on_connected(self, descriptor: int, events: int) -> None:
        server = self._server
        assert server is not None
        self._shared.loop.forget(server.fileno())
        if server.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            server.close()
            self._server = None
            self._connect()
            return
        self._begin(server)

    def _begin(self, server: _socket.socket) -> None:
        client, server_number = self._client.fileno(), server.fileno()
        self._halves = Half(client, server_number), Half(server_number, client)
        for number in (client, server_number):
            self._watched[number] = _IN
            self._shared.loop.watch(number, _IN, self._on_event)

    def _on_event(self, descriptor: int, events: int) -> None:
        assert self._halves is not None
        try:
            for half in self._halves:
                self._move(half)
        except OSError:
            self._reset()
            return
        if all(half.ended for half in self._halves):
            self._close()
            return
        if events & _GONE:
            if not any(half.pending for half in self._halves):
                self._reset()
                return
            # the other side still takes what this one has sent; its events go on, this one's would not stop
            self._shared.loop.forget(descriptor)
            self._watched.pop(descriptor, None)
        self._watch()

    def _move(self, half: Half) -> None:
        """Move what can be moved now. Raises OSError (a side has gone)."""
        for _ in range(_MOVES_AT_ONCE):
            if half.ended:
                return
            if not half.pending:
                if half.pipe is None:
                    half.pipe = self._shared.pipes.take()
                try:
                    half.pending = os.splice(half.source, half.pipe[1], _CHUNK, flags=_SPLICE_FLAGS)
                except BlockingIOError:
                    self._release(half)
                    return
                if not half.pending:
                    self._release(half)
                    half.ended = True
                    _half_close(half.target)
                    return
            assert half.pipe is not None
            try:
                half.pending -= os.splice(half.pipe[0], half.target, half.pending, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                return

    def _release(self, half: Half) -> None:
        if half.pipe is not None:
            self._shared.pipes.give(half.pipe, is_empty=not half.pending)
            half.pipe = None

    def _watch(self) -> None:
        assert self._halves is not None
        forth, back = self._halves
        for reading, writing in ((forth, back), (back, forth)):
            descriptor = reading.source
            events = (_IN if not (reading.ended or reading.pending) else 0) | (_OUT if writing.pending else 0)
            if events != self._watched.get(descriptor, events):
                self._watched[descriptor] = events
                self._shared.loop.change(descriptor, events)

    def _reset(self) -> None:
        """End the connection as if the container had reset it."""
        for one in (self._client, self._server):
            if one is not None:
                try:
                    one.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER)
                except OSError:
                    pass
        self._close()

    def _close(self) -> None:
        for half in self._halves or ():
            self._release(half)
        for one in (self._client, self._server):
            if one is not None:
                self._shared.loop.forget(one.fileno())
                one.close()
        self._shared.loop.resume()


def _is_connected(one: _socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True


def _half_close(descriptor: int) -> None:
    one = _socket.socket(fileno=descriptor)
    try:
        one.shutdown(_socket.SHUT_WR)
    except OSError:
        pass  # it has ended
    finally:
        one.detach()


class Datagrams:
    """A port of udp: a flow for each client, which ends when it was silent for a while."""

    def __init__(self, shared: Forwarder, descriptor: int, port: int) -> None:
        self._shared, self._port = shared, port
        self._here = _socket.socket(fileno=descriptor)
        self._here.setblocking(False)
        self._flows: dict[tuple[object, bytes], Flow] = {}
        self._info = 0
        if self._here.getsockname()[0] in ("0.0.0.0", "::"):  # answer from the address that was asked
            if self._here.family == _socket.AF_INET:
                self._level, self._info = _socket.IPPROTO_IP, _PACKET_INFO
                self._here.setsockopt(self._level, _PACKET_INFO, 1)
            else:
                self._level, self._info = _socket.IPPROTO_IPV6, _INFO_6
                self._here.setsockopt(self._level, _RECEIVE_INFO_6, 1)
        shared.loop.watch(descriptor, _IN, self._on_event)

    def _on_event(self, descriptor: int, events: int) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                data, more, _, client = self._here.recvmsg(_DATAGRAM, 64)
            except OSError as error:
                if error.errno in _AGAIN:
                    return
                continue
            flow = self._flow(client, self._source(more))
            if flow is not None:
                flow.send(data)

    def _source(self, more: Sequence[tuple[int, int, bytes]]) -> bytes:
        """The control data with which the answer comes from the address that the client has asked."""
        for level, kind, value in more:
            if (level, kind) == (self._level, self._info):
                return bytes(4) + value[4:8] + bytes(4) if kind == _PACKET_INFO else value
        return b""

    def _flow(self, client: object, source: bytes) -> Flow | None:
        found = self._flows.get((client, source))
        if found is None:
            self._sweep()
            try:
                found = Flow(self, client, source)
            except OSError:
                return None  # no descriptor is free
        self.used(found)
        return found

    def used(self, flow: Flow) -> None:
        """Make it the last one of the flows, which are in the order of their last datagrams."""
        flow.moment = time.monotonic()
        self._flows.pop(flow.key, None)
        self._flows[flow.key] = flow

    def _sweep(self) -> None:
        """End the flows that were silent for long; the one that was silent longest also if there is no room: a client
        with many ports must not keep others out."""
        now = time.monotonic()
        while self._flows:
            first = next(iter(self._flows.values()))
            if now - first.moment <= _SILENCE and len(self._flows) < _FLOWS:
                return
            del self._flows[first.key]
            first.close()

    def targets(self) -> list[str]:
        return self._shared.addresses.towards(self._here.family)

    def connected(self, address: str, handler: Handler) -> _socket.socket:
        """A socket for datagrams to the container. Raises OSError."""
        made = _socket.socket(
            _socket.AF_INET6 if ":" in address else _socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK
        )
        try:
            made.connect((address, self._port))
            self._shared.loop.watch(made.fileno(), _IN, handler)
        except BaseException:
            made.close()
            raise
        return made

    def ended(self, descriptor: int) -> None:
        self._shared.loop.forget(descriptor)

    def refused(self) -> None:
        self._shared.addresses.refresh()

    def answer(self, data: bytes, client: Any, source: bytes) -> None:
        more = [(self._level, self._info, source)] if source else []
        try:
            self._here.sendmsg([data], more, 0, client)
        except OSError:
            pass  # as on any network, datagrams may be lost


class Flow:
    """The datagrams of one client."""

    def __init__(self, port: Datagrams, client: object, source: bytes) -> None:
        """Raises OSError."""
        self.key = client, source
        self._port, self._client, self._source = port, client, source
        self._targets = port.targets()
        self._server = port.connected(self._targets.pop(0), self._on_event)
        self._first: bytes | None = None
        self._answered = False
        self.moment = 0.0
        """Of its last datagram."""

    def send(self, data: bytes) -> None:
        if not self._answered:
            self._first = data
        try:
            self._server.send(data)
        except OSError as error:
            if error.errno not in _AGAIN:
                self._try_next()

    def _on_event(self, descriptor: int, events: int) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                data = self._server.recv(_DATAGRAM)
            except OSError as error:
                if error.errno not in _AGAIN:
                    self._try_next()
                return
            self._answered, self._first = True, None
            self._port.used(self)
            self._port.answer(data, self._client, self._source)

    def _try_next(self) -> None:
        """Nobody listens at this address of the container: try its other one, once for a datagram."""
        if self._answered:
            return
        first, self._first = self._first, None
        if not self._targets:
            self._port.refused()
            self._targets, first = self._port.targets(), None
        try:
            server = self._port.connected(self._targets.pop(0), self._on_event)
        except OSError:
            return
        self.close()
        self._server = server
        if first is not None:
            try:
                server.send(first)
            except OSError:
                pass

    def close(self) -> None:
        self._port.ended(self._server.fileno())
        self._server.close()


def _allow_descriptors() -> None:
    """Take all the open files that this user may have: a connection needs two, and a shell allows 1024."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass


def main(described: int) -> None:
    """Forward as the descriptor ``described`` says, until this process is killed, or somebody has deleted the bundle
    with the store. Its lines: a protocol, a descriptor and a port of the container; ``lock`` and a descriptor of the
    file in the bundle; the word ``nobody``: give up the rights of root."""
    with open(described, encoding="ascii") as file:
        lines = [line.split() for line in file]
    _allow_descriptors()
    shared, lock = Forwarder(), -1
    for words in lines:
        if words == ["nobody"]:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        elif words[0] == "lock":
            lock = int(words[1])
        elif words[0] == "tcp":
            shared.listen(int(words[1]), int(words[2]))
        else:
            Datagrams(shared, int(words[1]), int(words[2]))
    shared.loop.run(lambda: lock >= 0 and not os.fstat(lock).st_nlink)
