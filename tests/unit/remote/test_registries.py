"""registries.conf: the hosts where a repository is looked up."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.errors import UsageError
from lamina.remote.registries import Endpoint, Registries, api_host, registries_files
from lamina.spec.reference import Reference

CONF = """
unqualified-search-registries = ["docker.io"]
[aliases]
"fedora" = "registry.fedoraproject.org/fedora"
[[registry]]
prefix = "example.com/team"
location = "internal.example.com/mirror-of-team"
insecure = true
[[registry.mirror]]
location = "m1.example.com/x"
[[registry.mirror]]
location = "m2.example.com/y"
insecure = true
pull-from-mirror = "digest-only"
[[registry]]
location = "example.com"
[[registry]]
prefix = "bad.example.com"
blocked = true
[[registry]]
prefix = "*.wild.example.com"
insecure = true
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example.com"
pull-from-mirror = "tag-only"
"""
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def registries(tmp_path: Path) -> Registries:
    path = tmp_path / "registries.conf"
    path.write_text(CONF)
    return Registries.load(files=[str(path)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quay.io/a/b", [("quay.io", "a/b", False, False)]),
        (
            "example.com/team/app:1",
            [("m1.example.com", "x/app", False, True), ("internal.example.com", "mirror-of-team/app", True, False)],
        ),
        (
            f"example.com/team/app@{DIGEST}",
            [
                ("m1.example.com", "x/app", False, True),
                ("m2.example.com", "y/app", True, True),
                ("internal.example.com", "mirror-of-team/app", True, False),
            ],
        ),
        ("example.com/teams/app", [("example.com", "teams/app", False, False)]),  # a prefix ends at a component
        ("a.wild.example.com/x", [("a.wild.example.com", "x", True, False)]),
        (
            "debian",
            [("mirror.example.com", "library/debian", False, True), ("docker.io", "library/debian", False, False)],
        ),
        (f"debian@{DIGEST}", [("docker.io", "library/debian", False, False)]),
    ],
)
def test_endpoints(registries: Registries, name: str, expected: list[tuple[str, str, bool, bool]]) -> None:
    assert registries.endpoints(Reference.parse(name)) == tuple(Endpoint(*one) for one in expected)


def test_a_push_does_not_use_a_mirror(registries: Registries) -> None:
    found = registries.endpoints(Reference.parse("example.com/team/app:1"), push=True)
    assert found == (Endpoint("internal.example.com", "mirror-of-team/app", True),)


def test_blocked_names_the_file(registries: Registries) -> None:
    with pytest.raises(UsageError, match=r"blocked.*registries\.conf"):
        registries.endpoints(Reference.parse("bad.example.com/x"))


def test_aliases_and_hosts(registries: Registries) -> None:
    assert registries.alias("fedora") == "registry.fedoraproject.org/fedora"
    assert registries.alias("debian") is None
    assert api_host("docker.io") == "registry-1.docker.io"
    assert api_host("ghcr.io") == "ghcr.io"


def test_no_file_is_the_host_itself() -> None:
    assert Registries.load(files=[]).endpoints(Reference.parse("a.io/b")) == (Endpoint("a.io", "b"),)


def test_drop_ins_replace(tmp_path: Path) -> None:
    one, two = tmp_path / "1.conf", tmp_path / "2.conf"
    one.write_text('[[registry]]\nlocation="a.io"\ninsecure=true\n[aliases]\nx="a.io/x"\n')
    two.write_text('[[registry]]\nlocation="a.io"\n[aliases]\nx="b.io/x"\n')
    found = Registries.load(files=[str(one), str(two), str(tmp_path / "missing")])
    assert found.endpoints(Reference.parse("a.io/b")) == (Endpoint("a.io", "b"),)
    assert found.alias("x") == "b.io/x"


def test_which_files(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert registries_files(home)[0] == "/etc/containers/registries.conf"
    own = tmp_path / ".config/containers/registries.conf.d"
    own.mkdir(parents=True)
    (own / "b.conf").touch()
    (own / "a.conf").touch()
    (own / "readme").touch()
    assert registries_files(home)[-2:] == [str(own / "a.conf"), str(own / "b.conf")]
    assert registries_files({**home, "CONTAINERS_REGISTRIES_CONF": "/x"}) == ["/x"]


@pytest.mark.parametrize(
    "text",
    [
        "[registries.search]\nregistries = []",
        "registry = 5",
        "[[registry]]\ninsecure = true",
        '[[registry]]\nlocation = "a"\ninsecure = "yes"',
        '[[registry]]\nlocation = "a"\n[[registry.mirror]]\ninsecure = true',
        '[[registry]]\nlocation = "a"\n[[registry.mirror]]\nlocation = "b"\npull-from-mirror = "never"',
        'unqualified-search-registries = "docker.io"',
        "[aliases]\nx = 5",
        '[[registry]]\nlocation = "https://a.io"',
        '[[registry]]\nprefix = "a.io"\n[[registry.mirror]]\nlocation = "http://m.io"',
        '[[registry]]\nprefix = "a.io/b:1"\nlocation = "m.io/b:2"',
        "x = " + "1" * 5000,
        "#" + "x" * (1 << 20),
        "not toml",
        "\udcff",
    ],
)
def test_bad_files_name_themselves(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.conf"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as caught:
        Registries.load(files=[str(path)])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("conf", "name", "expected"),
    [
        ('prefix = "*.a.io"\nlocation = "m.io/c"', "x.a.io/b:1", ("m.io", "c/b")),
        ('prefix = "a.io/b:1"\nlocation = "m.io/c"', "a.io/b:1", ("m.io", "c")),
        ('location = "a.io/b:1"', "a.io/b:1", ("a.io", "b")),
        ('prefix = "a.io:5000/b"\nlocation = "m.io:6000"', "a.io:5000/b/c", ("m.io:6000", "c")),
    ],
)
def test_rewritten_places(tmp_path: Path, conf: str, name: str, expected: tuple[str, str]) -> None:
    path = tmp_path / "r.conf"
    path.write_text(f"[[registry]]\n{conf}\n")
    assert Registries.load(files=[str(path)]).endpoints(Reference.parse(name)) == (Endpoint(*expected),)


def test_an_insecure_wildcard_is_for_hosts_too(registries: Registries) -> None:
    assert registries.insecure("a.wild.example.com")
    assert not registries.insecure("wild.example.com")


def test_an_empty_value_takes_away_what_was_there(tmp_path: Path) -> None:
    one, two = tmp_path / "1.conf", tmp_path / "2.conf"
    one.write_text('unqualified-search-registries = ["a.io"]\n[aliases]\nx = "a.io/x"\ny = "a.io/y"\n')
    two.write_text('unqualified-search-registries = []\n[aliases]\nx = ""\n')
    found = Registries.load(files=[str(one), str(two)])
    assert (found.alias("x"), found.alias("y"), found.search) == (None, "a.io/y", ())


def test_a_users_main_file_leaves_the_systems_drop_ins_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / ".config/containers/registries.conf"
    home = {"HOME": str(tmp_path)}
    monkeypatch.setattr("os.listdir", lambda path: ["s.conf"] if str(path).startswith("/etc/") else [])
    assert "/etc/containers/registries.conf.d/s.conf" in registries_files(home)
    own.parent.mkdir(parents=True)
    own.touch()
    assert registries_files(home) == [str(own)]
