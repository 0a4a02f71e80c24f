"""Where credentials are found, kept and forgotten."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import LaminaError, NotFound, RemoteFailure, UsageError
from lamina.remote.credentials import DOCKER_HUB, Credential, auth_files, erase, find, save


def entry(name: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "PATH": os.environ["PATH"]}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def helper(home: dict[str, str], name: str, script: str) -> None:
    directory = Path(home["HOME"]) / "bin"
    path = write(directory / f"docker-credential-{name}", f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    home["PATH"] = f"{directory}:{os.environ['PATH']}"
    os.environ["PATH"] = home["PATH"]


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])


def test_order_of_files(home: dict[str, str]) -> None:
    top = Path(home["HOME"])
    write(top / ".docker/config.json", {"auths": {"h": entry("docker", "4")}})
    assert find("h", environ=home) == Credential("docker", "4")
    write(top / ".config/containers/auth.json", {"auths": {"h": entry("config", "3")}})
    assert find("h", environ=home) == Credential("config", "3")
    write(top / "run/containers/auth.json", {"auths": {"h": entry("runtime", "2")}})
    assert find("h", environ=home) == Credential("runtime", "2")
    own = write(top / "own.json", {"auths": {"h": entry("own", "1")}})
    assert find("h", environ={**home, "REGISTRY_AUTH_FILE": str(own)}) == Credential("own", "1")
    assert find("h", environ=home, authfile=str(own)) == Credential("own", "1")
    other = write(top / "dc/config.json", {"auths": {"z": entry("dc", "5")}})
    assert find("z", environ={**home, "DOCKER_CONFIG": str(other.parent)}) == Credential("dc", "5")
    assert find("nowhere", environ=home) is None
    assert len(auth_files(environ=home)) == 3


def test_longest_path_wins(home: dict[str, str]) -> None:
    auths = {"h:5000": entry("all", "1"), "h:5000/team": entry("team", "2"), "h:5000/team/app": entry("app", "3")}
    write(Path(home["HOME"]) / ".docker/config.json", {"auths": auths})
    names = {
        path: find("h:5000", path, environ=home) for path in ("x", "team/other", "team/app", "team/app/x", "teams")
    }
    assert {path: found.username for path, found in names.items() if found} == {
        "x": "all", "team/other": "team", "team/app": "app", "team/app/x": "app", "teams": "all",
    }  # fmt: skip


@pytest.mark.parametrize("key", [DOCKER_HUB, "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"])
def test_docker_hub_has_many_names(home: dict[str, str], key: str) -> None:
    write(Path(home["HOME"]) / ".docker/config.json", {"auths": {key: entry("me", "pw")}})
    assert find("docker.io", "library/debian", environ=home) == Credential("me", "pw")


def test_identity_tokens_and_plain_fields(home: dict[str, str]) -> None:
    auths = {"a": {**entry("<token>", ""), "identitytoken": "t"}, "b": {"username": "u", "password": "p"}, "c": {}}
    write(Path(home["HOME"]) / ".docker/config.json", {"auths": auths})
    found = find("a", environ=home)
    assert found is not None
    assert found.identity_token == "t"
    assert find("b", environ=home) == Credential("u", "p")
    assert find("c", environ=home) is None
    assert "t" not in repr(found).replace("Credential", "").replace("<token>", "")


def test_helpers(home: dict[str, str]) -> None:
    helper(home, "mine", 'test "$1" = get && host=$(cat) && echo "{\\"Username\\":\\"$host\\",\\"Secret\\":\\"s\\"}"')
    helper(home, "tok", 'echo \'{"Username":"<token>","Secret":"refresh"}\'')
    helper(home, "none", "echo 'credentials not found in native keychain'; exit 1")
    helper(home, "bad", "echo boom >&2; exit 1")
    helper(home, "junk", "echo '[]'")
    config = {
        "auths": {"a": {}, "store": {}},  # empty: the helper knows
        "credHelpers": {"a": "mine", "t": "tok", "n": "none", "b": "bad", "j": "junk", "gone": "not-there"},
        "credsStore": "mine",
    }
    write(Path(home["HOME"]) / ".docker/config.json", config)
    assert find("a", environ=home) == Credential("a", "s")
    assert find("store", environ=home) == Credential("store", "s")
    found = find("t", environ=home)
    assert found is not None
    assert found.identity_token == "refresh"
    assert find("n", environ=home) is None
    for host, kind, said in (
        ("b", RemoteFailure, "boom"),
        ("j", UsageError, "no credential"),
        ("gone", UsageError, "not installed"),
    ):
        with pytest.raises(kind, match=said):
            find(host, environ=home)


@pytest.mark.parametrize("name", ["../evil", "a b", "", "A", "x;y", 5])
def test_helper_names_are_checked(home: dict[str, str], name: Any) -> None:
    write(Path(home["HOME"]) / ".docker/config.json", {"credHelpers": {"h": name or "/"}})
    with pytest.raises(UsageError, match="no name of a credential helper"):
        find("h", environ=home)


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 10_000, '{"auths": [1]}', '{"auths": {"h": {"auth": "!!"}}}', "\x00"]
)
def test_bad_files_are_one_clear_error(home: dict[str, str], text: str) -> None:
    path = write(Path(home["HOME"]) / ".docker/config.json", text)
    with pytest.raises(LaminaError) as caught:
        find("h", environ=home)
    assert str(path) in str(caught.value)


def test_save_keeps_the_rest_and_is_private(home: dict[str, str]) -> None:
    path = write(Path(home["HOME"]) / ".docker/config.json", {"auths": {"x": entry("o", "o")}, "proxies": {"a": 1}})
    path.chmod(0o644)
    assert save("h", Credential("me", "pä:ss"), environ=home) == str(path)
    assert find("h", environ=home) == Credential("me", "pä:ss")
    value = json.loads(path.read_text())
    assert value["proxies"] == {"a": 1}
    assert find("x", environ=home) == Credential("o", "o")
    assert path.stat().st_mode & 0o777 == 0o600
    save("docker.io", Credential("hub", "pw"), environ=home)
    assert DOCKER_HUB in json.loads(path.read_text())["auths"]
    assert erase("h", environ=home) == [str(path)]
    assert find("h", environ=home) is None
    with pytest.raises(NotFound, match="not logged in"):
        erase("h", environ=home)
    erase("docker.io", environ=home, everything=True)
    assert json.loads(path.read_text()) == {"auths": {}, "proxies": {"a": 1}}


def test_save_makes_the_file(home: dict[str, str]) -> None:
    path = Path(home["HOME"]) / ".docker/config.json"
    save("h", Credential("me", "pw"), environ=home)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(path.parent.glob("*.tmp"))


def test_save_and_erase_with_a_helper(home: dict[str, str]) -> None:
    log = Path(home["HOME"]) / "log"
    helper(
        home,
        "log",
        f'echo "$1" >> {log}; cat >> {log}; test "$1" = get && echo \'{{"Username":"u","Secret":"s"}}\'; exit 0',
    )
    path = write(Path(home["HOME"]) / ".docker/config.json", {"credsStore": "log"})
    assert "docker-credential-log" in save("h", Credential("me", "pw"), environ=home)
    assert "pw" not in path.read_text()
    assert erase("h", environ=home)
    said = log.read_text()
    assert '"Secret": "pw"' in said
    assert "erase" in said
