"""netavark and aardvark-dns of this host: where they are, and a call of netavark."""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext

from lamina.errors import NotFound, SystemFailure
from lamina.host.files import reported
from lamina.host.lock import locked_for_now
from lamina.light import TYPE_CHECKING, signal
from lamina.run.child import Streams, in_memory, spawned
from lamina.run.runtime import find_program
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from lamina.run.networks.place import Place

_DIRECTORIES = ("/usr/libexec/podman", "/usr/lib/podman", "/usr/local/libexec/podman", "/usr/local/lib/podman")
_ADMINISTRATORS = ":/usr/local/sbin:/usr/sbin:/sbin"
_MAX_SAID = 1 << 20
_HOST_LOCKS = "/run"


def find(name: str) -> str:
    """The path of netavark or aardvark-dns, also where podman's packages have it; "" if it is not installed."""
    found = find_program(name)
    for directory in _DIRECTORIES:
        found = found or find_program(os.path.join(directory, name))
    return found


def netavark() -> str:
    """Raises NotFound."""
    found = find("netavark")
    if not found:
        raise NotFound(
            "a network with a name needs netavark, which is not installed",
            hint="install the packages netavark and aardvark-dns, or use --network pasta, none or host",
        )
    return found


def version() -> tuple[int, ...]:
    """The version of netavark, like (1, 4). Raises NotFound, SystemFailure."""
    from lamina.run.child import output_of

    said = output_of([netavark(), "--version"])[1].split()
    numbers = said[-1].split(".") if said else []
    return tuple(int(one) for one in numbers[:2] if one.isdecimal())


def call(place: Place, verb: str, namespace: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Let netavark make (``setup``) or remove (``teardown``) the networks of a namespace; what it answers.
    ``namespace``: a path that every process reaches. ``wanted``: netavark's own JSON. Raises NotFound,
    SystemFailure."""
    program = netavark()
    with reported(place.directory):
        os.makedirs(place.directory, mode=0o700, exist_ok=True)
    words = [program, "--config", place.directory, "--aardvark-binary", find("aardvark-dns") or "/nowhere"]
    words += ["--rootless", "true" if place.pid else "false", verb, namespace]
    with alone(place):
        code, said, error = run_in(place, words, write_own(wanted).encode())
    if not said.strip() and not code:
        return {}
    try:
        answer = read_own(said.decode())
    except ValueError:
        answer = None
    if code or not isinstance(answer, dict) or "error" in answer:
        why = answer.get("error") if isinstance(answer, dict) else error or said.decode("utf-8", "replace")
        raise SystemFailure(f"netavark: {_line(str(why))}", hint="check that iptables works on this host")
    return answer


def alone(place: Place) -> AbstractContextManager[None]:
    """Other stores of this host may have networks of the same name: netavark gives their rules the same name too, and
    expects that nobody else changes them meanwhile."""
    if place.pid or not os.access(_HOST_LOCKS, os.W_OK):
        return nullcontext()
    return locked_for_now(os.path.join(_HOST_LOCKS, "lamina-netavark.lock"))


def _line(text: str) -> str:
    return " ".join(text.replace("netavark encountered multiple errors:", "").split())[:300] or "it failed"


def run_in(place: Place, words: Sequence[str], data: bytes = b"") -> tuple[int, bytes, str]:
    """Run a program where the bridges are; its exit code, output, and the last line of its errors. Its output goes
    to files in memory: a server that it starts keeps them open."""
    seen: list[int] = []
    with ExitStack() as opened:
        streams = [in_memory(one) for one in (data, b"", b"")]
        for one in streams:
            opened.callback(os.close, one)
        enter = place.entrance(opened)

        def prepare() -> None:
            os.setsid()  # signals of the terminal do not stop it half-way
            enter()
            os.environ["PATH"] = os.environ.get("PATH", os.defpath) + _ADMINISTRATORS
            if place.pid:
                os.environ["XTABLES_LOCKFILE"] = os.path.join(place.directory, "xtables.lock")

        with spawned(list(words), Streams(streams[0], streams[1], streams[2]), prepare=prepare) as child:
            code = child.wait(lambda number, by_terminal: seen.append(number))
        output, errors = (os.pread(one, _MAX_SAID, 0) for one in streams[1:])
    for number in seen:
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return code, output, lines[-1] if lines else ""
