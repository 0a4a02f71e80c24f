"""Options of `run` that podman has: a list of words as entrypoint, proxies, pods."""

from __future__ import annotations

import pytest

from lamina.cli.containers.families.together import proxy_variables
from lamina.cli.containers.run_command import OPTIONS, environment, wanted_by
from lamina.errors import UsageError


def start() -> dict[str, object]:
    return {option.argument: option.start for option in OPTIONS}


@pytest.mark.parametrize(
    ("given", "entrypoint", "command"),
    [
        (None, None, ()),
        ("", "", ()),
        ("sh", "sh", ()),
        ('["sh"]', "sh", ()),
        ('["sh", "-c", "ls"]', "sh", ("-c", "ls")),
        ("[]", "", ()),
        ("[", "[", ()),
        ("[x]", "[x]", ()),
    ],
)
def test_entrypoint_may_be_a_list(given: str | None, entrypoint: str | None, command: tuple[str, ...]) -> None:
    wanted = wanted_by(entrypoint=given)
    assert (wanted.entrypoint, wanted.command) == (entrypoint, command)


def test_a_list_of_other_things_is_no_entrypoint() -> None:
    with pytest.raises(UsageError, match="list of words"):
        wanted_by(entrypoint="[1]")


def test_pod_and_requirements() -> None:
    wanted = wanted_by(pod="site", requires=("a,b", "c"), no_hosts=True)
    assert (wanted.pod, wanted.requires, wanted.no_hosts) == ("site", ("a,b", "c"), True)
    with pytest.raises(UsageError, match="--no-hosts"):
        wanted_by(no_hosts=True, add_host=("a:127.0.0.1",))


def test_proxies_come_before_given_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_variables({"http_proxy": "a", "NO_PROXY": "b", "HOME": "c"}) == [
        ("http_proxy", "a"),
        ("NO_PROXY", "b"),
    ]
    monkeypatch.setenv("HTTPS_PROXY", "host")
    given = {**start(), "env": ("HTTPS_PROXY=mine",)}
    assert ("HTTPS_PROXY", "host") not in environment(given)
    with_proxy = [value for name, value in environment({**given, "http_proxy": True}) if name == "HTTPS_PROXY"]
    assert with_proxy == ["host", "mine"]


@pytest.mark.parametrize("word", ["bridge:alias=web", "bridge:alias=web,alias=other", "default:alias=web"])
def test_aliases_in_the_default_network_mean_nothing(word: str) -> None:
    wanted = wanted_by(network=(word,))
    assert (wanted.network, wanted.networks) == (word.partition(":")[0], ())


@pytest.mark.parametrize("word", ["bridge:ip=10.0.0.2", "bridge:", "host:alias=web"])
def test_other_details_need_a_network_with_a_name(word: str) -> None:
    with pytest.raises(UsageError):
        wanted_by(network=(word,))
