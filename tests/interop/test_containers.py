"""docker and lamina run the same sequences of verbs of containers (`corpus/containers.txt`): the same exit codes,
outputs and states. What is meant to differ is in ``DIFFERENCES``, and in oracles.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sequences import Answer, Engine, played, sequences

pytestmark = pytest.mark.peer
SECTIONS = sequences((Path(__file__).parent.parent / "corpus/containers.txt").read_text())
_PLACES = {name: number for number, name in enumerate(name for section in SECTIONS.values() for name in section)}
_AT_ONCE = 4
_HEARINGS = 3
"""How often docker is asked where lamina's answer is not its first one: some of its answers are races of its own
(`stop` returns before a container of --rm is gone), and lamina's need be one of them."""

DIFFERENCES: dict[str, dict[str, str]] = {
    "run -d and -a": {"run -d -a stdout --name @a app true": "all refusals of `run` are 125"},
    "the options in inspect": {
        "show @a '{{json .Config.Env}}'": "each variable once",
        "show @a '{{json .Config.Labels}} {{.Config.WorkingDir}} {{.Config.User}} {{.Config.Hostname}}'": (
            "a label file may have labels without a value, as podman's and newer dockers' may"
        ),
        "show @a '{{.Config.Image}} {{.Name}} {{.Driver | len | eq 0}} {{.Platform}}'": (
            "how a container is mounted is known when it starts"
        ),
    },
    "rights in inspect": {
        "show @a '{{json .HostConfig.CapAdd}} {{json .HostConfig.CapDrop}} {{json .HostConfig.SecurityOpt}} "
        "{{json .HostConfig.GroupAdd}}'": "the names of capabilities as newer dockers and podman write them",
    },
    "defaults in inspect": {
        "show @a '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} "
        "{{.HostConfig.AutoRemove}} {{.HostConfig.LogConfig.Type}} {{json .HostConfig.LogConfig.Config}}'": (
            "the default log driver is local"
        ),
    },
    "logs --tail": {"logs --tail x @a": "refused: it is no number"},
    "logs that are not text": {"logs @a": "bytes stay as they were written"},
    "logs --details": dict.fromkeys(
        ("run --name @a --log-opt labels=x --label x=y app echo one", "logs --details @a"),
        "the driver local has no labels",
    ),
    "exec": dict.fromkeys(
        (
            "exec @a nothing-here",
            "exec @a /etc/passwd",
            "exec -w /nowhere @a true",
            "exec -u nobody-here @a true",
        ),
        "as `run` and podman: 127 for what is not there, and the reason on standard error",
    ),
    "exec -d of what is not there": {"code exec -d @a nothing-here": "as podman: 127"},
    "other detach keys": {
        "code run --detach-keys ctrl-nonsense --name @b app true": "all refusals of `run` are 125",
    },
    "attach and detach": dict.fromkeys(
        (r"typed 'one\r\x10\x11' attach @a", r"typed 'two\rq' attach --detach-keys q @a"),
        "as podman: to detach is no failure",
    ),
    "restart": {"state @a": "what runs has not finished"},
    "restart of a paused one": {"state @a": "what runs has not finished"},
    "rm of a running one": {"code rm -f @a": "as podman: -f says nothing of what is not there"},
    "commit": {"run --rm image-@a sh -c 'echo $A $B'": "as podman: -e of `run` may be a secret, and stays out"},
    "export": {"code export -o {d}/tar @a": "it says how much it has written"},
    "volume prune": dict.fromkeys(
        ("volume prune -f", "volume ls -q"), "as docker since 23: volumes with names stay, unless --all is given"
    ),
    "system prune": {"volume ls -q": "as docker since 23: volumes with names stay"},
    "any free port": {"port-count @b": "addresses of IPv6 in brackets, as newer dockers write them"},
    "an internal network": {
        "run --rm --network @n app sh -c 'ip route | grep -c default'": "as podman: no default route",
    },
    "events of a life": {
        "events --since 1h --until 0s -f container=@a -f label=x=@a --format '{{.Action}}'": (
            "exec_create ends without a space, as in newer dockers"
        ),
    },
    "events of a container's changes": {"code export -o {d}/e @b": "it says how much it has written"},
    "events of volumes": {
        "events --since 1h --until 0s -f volume=@v --format '{{.Action}}'": (
            "a volume that is there is not created again"
        ),
    },
    "names and prefixes": {
        "inspect -f '{{.Name}}' @a @nosuch": "stdout never holds a part of an answer",
    },
}
"""The lines of sequences whose answers are meant to differ, and why."""


@pytest.mark.parametrize("section", SECTIONS)
def test_verbs_of_containers(engines: tuple[Engine, Engine], section: str, tmp_path: Path) -> None:
    judge, subject = engines

    def told(engine: Engine, name: str) -> list[Answer]:
        return played(engine, _PLACES[name], SECTIONS[section][name], tmp_path / f"{_PLACES[name]}")

    def both(name: str) -> tuple[list[Answer], list[Answer]]:
        return told(judge, name), told(subject, name)

    alone = any(text.startswith("alone") for text in SECTIONS[section].values())
    with ThreadPoolExecutor(1 if alone else _AT_ONCE) as pool:
        answers = dict(zip(SECTIONS[section], pool.map(both, SECTIONS[section]), strict=True))
    wrong = []
    for name, (theirs, ours) in answers.items():
        plays = [theirs]
        while (found := list(compared(name, plays, ours))) and len(plays) < _HEARINGS:
            plays.append(told(judge, name))
        wrong += found
    assert not wrong, "\n" + "\n".join(wrong)


def compared(name: str, plays: list[list[Answer]], ours: list[Answer]) -> Iterator[str]:
    """What is wrong with our answers, in lines. ``plays``: what docker said, each time it was asked."""
    meant = DIFFERENCES.get(name, {})
    differ = set()
    for our, *theirs in zip(ours, *plays, strict=True):
        if any(their != our for their in theirs):
            differ.add(our.line)
        if our not in theirs and our.line not in meant:
            yield f"=== {name}\ndocker: {theirs[0]}\nlamina: {our}"
    for line in meant.keys() & {our.line for our in ours} - differ:
        yield f"=== {name}\nthe answers to {line!r} do not differ: take it out of DIFFERENCES"
