"""Where credentials are found, stored and removed."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Conflict, LaminaError, NotFound, RemoteFailure, SystemFailure, UsageError
from lamina.remote import credentials
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
    with pytest.raises(UsageError, match="is not the name of a credential helper"):
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


KEYCHAIN = """mkdir -p {at}
case $1 in
get) key=$(cat | tr /: __); cat {at}/$key 2>/dev/null || {{ echo "credentials not found"; exit 1; }};;
store) value=$(cat); key=$(echo "$value" | sed 's/.*"ServerURL": *"\\([^"]*\\)".*/\\1/' | tr /: __)
  echo "$value" > {at}/$key;;
erase) rm -f {at}/$(cat | tr /: __);;
esac"""


def keychain(home: dict[str, str], name: str) -> Path:
    at = Path(home["HOME"]) / f"keys-{name}"
    at.mkdir()
    helper(home, name, KEYCHAIN.format(at=at))
    return at


def test_a_login_by_helper_replaces_what_the_file_has(home: dict[str, str]) -> None:
    keychain(home, "kc")
    auths = {"h": entry("me", "old"), "https://h/v1/": entry("me", "older"), "h/team": entry("team", "t")}
    path = write(Path(home["HOME"]) / ".docker/config.json", {"auths": auths, "credsStore": "kc"})
    save("h", Credential("me", "new"), environ=home)
    assert find("h", environ=home) == Credential("me", "new")
    assert json.loads(path.read_text())["auths"] == {"h": {}, "h/team": entry("team", "t")}


def test_a_login_to_docker_hub_replaces_its_other_names(home: dict[str, str]) -> None:
    path = write(Path(home["HOME"]) / ".docker/config.json", {"auths": {"docker.io": entry("me", "old")}})
    save("docker.io", Credential("me", "new"), environ=home)
    assert find("docker.io", environ=home) == Credential("me", "new")
    assert list(json.loads(path.read_text())["auths"]) == [DOCKER_HUB]


def test_logout_finds_docker_hub_under_any_name_in_a_helper(home: dict[str, str]) -> None:
    at = keychain(home, "kc")
    write(Path(home["HOME"]) / ".docker/config.json", {"credsStore": "kc"})
    (at / "docker.io").write_text('{"Username": "u", "Secret": "s"}')
    assert erase("docker.io", environ=home) == ["the helper docker-credential-kc"]
    assert find("docker.io", environ=home) is None


def test_logout_of_all_asks_the_helpers_too(home: dict[str, str]) -> None:
    stored, own = keychain(home, "kc"), keychain(home, "own")
    helper(home, "sad", "echo boom; exit 1")
    config = {"credHelpers": {"g": "own", "bad": "sad"}, "credsStore": "kc"}
    write(Path(home["HOME"]) / ".docker/config.json", config)
    save("h", Credential("me", "pw"), environ=home)
    save("g", Credential("me", "pw"), environ=home)
    assert list(stored.iterdir())
    assert list(own.iterdir())
    with pytest.raises(RemoteFailure, match="boom"):  # the error comes after all other logins were removed
        erase("", environ=home, everything=True)
    assert not list(stored.iterdir())
    assert not list(own.iterdir())


def test_a_helper_without_output_has_no_credential(home: dict[str, str]) -> None:
    helper(home, "empty", 'echo \'{"Username":"","Secret":""}\'')
    write(Path(home["HOME"]) / ".docker/config.json", {"credsStore": "empty"})
    assert find("h", environ=home) is None


@pytest.mark.parametrize("key", ["auths", "credHelpers"])
@pytest.mark.parametrize("value", [[], [1], "x", 5])
def test_a_credential_file_with_a_wrong_type_is_refused(home: dict[str, str], key: str, value: Any) -> None:
    path = write(Path(home["HOME"]) / ".docker/config.json", {key: value})
    before = path.read_bytes()
    for action in (
        lambda: save("h", Credential("u", "p"), environ=home),
        lambda: erase("h", environ=home),
        lambda: find("h", environ=home),
    ):
        with pytest.raises(UsageError, match=f"{key} must be an object"):
            action()
    assert path.read_bytes() == before


def test_null_is_as_if_absent(home: dict[str, str]) -> None:
    write(Path(home["HOME"]) / ".docker/config.json", {"auths": None, "credHelpers": None})
    save("h", Credential("me", "pw"), environ=home)
    assert find("h", environ=home) == Credential("me", "pw")


def test_a_file_that_may_not_be_read_is_not_written_over(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(Path(home["HOME"]) / ".docker/config.json", {"auths": {"x": entry("o", "o")}})
    before = path.read_bytes()

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # root may read everything
        patch.setattr(credentials, "open", refused, raising=False)
        assert find("x", environ=home) is None
        with pytest.raises(SystemFailure, match="permission denied"):
            save("h", Credential("me", "pw"), environ=home)
    assert path.read_bytes() == before


def test_two_logins_at_once_keep_both(home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    waits_or_done = threading.Event()
    real_write, real_sleep = credentials._write, credentials.time.sleep
    second = threading.Thread(
        target=lambda: (save("b", Credential("b", "b"), environ=home), waits_or_done.set()), daemon=True
    )

    def write_while_another_comes(file: str, value: dict[str, Any]) -> None:
        monkeypatch.setattr(credentials, "_write", real_write)
        second.start()
        assert waits_or_done.wait(20)
        real_write(file, value)

    def sleep(seconds: float) -> None:
        waits_or_done.set()
        real_sleep(seconds)

    monkeypatch.setattr(credentials.time, "sleep", sleep)
    monkeypatch.setattr(credentials, "_write", write_while_another_comes)
    save("a", Credential("a", "a"), environ=home)
    second.join(20)
    assert find("a", environ=home) == Credential("a", "a")
    assert find("b", environ=home) == Credential("b", "b")
    assert sorted(path.name for path in (Path(home["HOME"]) / ".docker").iterdir()) == ["config.json"]


def test_the_error_for_a_stale_lock_file_names_it(home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    lock = write(Path(home["HOME"]) / ".docker/config.json.lock", "")
    monkeypatch.setattr(credentials, "_PATIENCE", -1)
    with pytest.raises(Conflict, match=r"config\.json\.lock"):
        save("h", Credential("me", "pw"), environ=home)
    assert lock.exists()


def test_login_takes_the_place_of_an_older_one_that_is_found_first(home: dict[str, str]) -> None:
    first = write(Path(home["HOME"]) / "run/containers/auth.json", {"auths": {"h": entry("old", "1")}})
    assert save("h", Credential("new", "2"), environ=home) == str(first)
    assert find("h", environ=home) == Credential("new", "2")
    assert save("other", Credential("new", "2"), environ=home).endswith("config.json")


def test_an_old_lock_of_a_killed_login_is_removed(home: dict[str, str]) -> None:
    path = write(Path(home["HOME"]) / ".docker/config.json", {})
    lock = Path(f"{path}.lock")
    lock.touch()
    os.utime(lock, (1, 1))
    save("h", Credential("me", "pw"), environ=home)
    assert not lock.exists()
