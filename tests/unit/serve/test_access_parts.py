"""Users, tokens, buckets, quotas, the audit log and watched files of the registry's access control."""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import SystemFailure, UsageError
from lamina.serve.access import tokens as tokens_module
from lamina.serve.access import watched as watched_module
from lamina.serve.access.audit import AuditLog
from lamina.serve.access.authorization import Basic, Bearer, bearer_challenge, is_host, parse_authorization
from lamina.serve.access.buckets import Buckets
from lamina.serve.access.htpasswd import Busy, PasswordCheck, hashed_password, parse_htpasswd
from lamina.serve.access.needs import need_of
from lamina.serve.access.patterns import RepositoryPattern
from lamina.serve.access.quotas import Quotas
from lamina.serve.access.rules import Quota
from lamina.serve.access.scopes import Scope, parse_scopes
from lamina.serve.access.tokens import REFRESH, BadToken, Tokens, make_key_file, parse_keys
from lamina.serve.access.watched import Watched
from lamina.serve.client_key import address_key
from lamina.serve.routes import ApiError, parse_target

# users

ALICE = "$2y$05$4jzcR6yTIsUUXzBDqzkoJeXWYTbrp.N.J.fVzc5eJeWMhAIU1ZF2a"


def entry(name: str, password: str) -> str:
    return f"{name}:{hashed_password(password, 4)}"


def test_passwords_are_checked() -> None:
    users = parse_htpasswd(f"# people\n{entry('alice', 'secret')}\n\n{entry('bob', 'ä' * 36)}\r\n".encode(), "f")
    check = PasswordCheck()
    assert users["alice"].startswith("$2y$")
    assert check.check(users, "alice", "secret")
    assert check.check(users, "bob", "ä" * 36)
    for name, password in [("alice", "secret2"), ("alice", ""), ("carol", "secret"), ("bob", "ä" * 37), ("", "")]:
        assert not check.check(users, name, password)
    assert not check.check(users, "alice", "secret\0")
    assert not check.check({}, "alice", "secret")


def test_a_good_password_is_remembered_until_the_entry_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    import bcrypt

    calls = []
    real = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda *given: (calls.append(1), real(*given))[1])
    users = parse_htpasswd(entry("alice", "one").encode(), "f")
    check = PasswordCheck()
    assert [check.check(users, "alice", "one") for _ in range(3)] == [True] * 3
    assert len(calls) == 1
    assert not check.check(users, "alice", "two")
    assert not check.check(users, "alice", "two")
    assert len(calls) == 3  # wrong ones are not remembered
    changed = parse_htpasswd(entry("alice", "two").encode(), "f")
    assert not check.check(changed, "alice", "one")
    assert check.check(changed, "alice", "two")


def test_an_unknown_user_costs_as_much_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import bcrypt

    hashes: list[bytes] = []
    real = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda raw, hashed: (hashes.append(hashed), real(raw, hashed))[1])
    users = parse_htpasswd(f"alice:{hashed_password('x', 5)}".encode(), "f")
    check = PasswordCheck()
    check.check(users, "alice", "wrong")
    check.check(users, "nobody", "wrong")
    assert [hashed[4:6] for hashed in hashes] == [b"05", b"05"]


def test_clients_of_one_user_that_begin_at_once_cost_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    import bcrypt

    begun, go = threading.Event(), threading.Event()
    calls = []

    def slow(raw: bytes, hashed: bytes) -> bool:
        calls.append(raw)
        begun.set()
        assert go.wait(30)
        return True

    monkeypatch.setattr(bcrypt, "checkpw", slow)
    users = parse_htpasswd(f"alice:{ALICE}".encode(), "f")
    check = PasswordCheck(waiting=1)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(check.check, users, "alice", "x")
        assert begun.wait(30)
        others = [pool.submit(check.check, users, "alice", "x") for _ in range(6)]
        with pytest.raises(Busy):  # another password finds no place
            check.check(users, "alice", "y")
        go.set()
        assert [one.result(30) for one in (first, *others)] == [True] * 7
    assert calls == [b"x"]
    monkeypatch.undo()
    assert not check.check(users, "alice", "y")


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        ":x",
        "alice:secret",
        "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "alice:$apr1$x$y",
        f"@alice:{ALICE}",
        f"anonymous:{ALICE}",
        f"*:{ALICE}",
        f"a\x07b:{ALICE}",
        f"alice:{ALICE.replace('$05$', '$31$')}",
        f"alice:{ALICE}\nalice:{ALICE}",
    ],
)
def test_a_bad_line_is_refused_and_no_secret_is_shown(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_htpasswd(line.encode(), "users")
    assert "secret" not in str(caught.value)
    assert ALICE not in str(caught.value)
    assert "users" in caught.value.message
    with pytest.raises(UsageError):
        parse_htpasswd(b"\xff:x", "users")


@pytest.mark.parametrize("password", ["", "a" * 73, "ä" * 37, "a\0b"])
def test_a_password_that_bcrypt_can_not_take_is_refused(password: str) -> None:
    with pytest.raises(UsageError):
        hashed_password(password)


# tokens

KEY, OTHER = b"k" * 64, b"o" * 64
SCOPES = parse_scopes(["repository:a/b:pull,push registry:catalog:*"])


def test_a_token_says_what_was_granted() -> None:
    claims = Tokens([OTHER, KEY], "s").check(Tokens([KEY], "s").issue("alice", SCOPES, mark="m"))
    assert (claims.user, claims.catalog, claims.mark) == ("alice", True, "m")
    assert claims.scopes == {"a/b": {"pull", "push"}}


def forged(claims: dict[str, Any] | None = None, header: dict[str, Any] | None = None, key: bytes = KEY) -> str:
    """A token of ours with changed claims or headers, signed by ``key``."""
    good = Tokens([KEY], "s").issue("alice", SCOPES)
    payload = jwt.decode(good, options={"verify_signature": False})
    payload.update(claims or {})
    payload = {name: value for name, value in payload.items() if value is not None}
    headers = {**jwt.get_unverified_header(good), **(header or {})}
    algorithm = headers.pop("alg")
    if algorithm == "none":
        text = [json.dumps({"alg": "none", **headers}).encode(), json.dumps(payload).encode()]
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in text) + "."
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "x" * 100_000,
        "ä",
        forged(key=OTHER),
        forged(header={"alg": "none"}),
        forged(header={"alg": "HS512"}),
        forged(header={"kid": "other"}),
        forged(header={"kid": "../../etc/passwd"}),
        forged({"aud": "other"}),
        forged({"aud": None}),
        forged({"aud": ["s2", "t"]}),
        forged({"iss": "other"}),
        forged({"iss": None}),
        forged({"exp": 1}),
        forged({"exp": None}),
        forged({"exp": "never"}),
        forged({"nbf": 1 << 40}),
        forged({"sub": 3}),
        forged({"sub": None}),
        forged({"jti": None}),
        forged({"typ": REFRESH}),
        forged({"access": "all"}),
        Tokens([KEY], "s").issue("alice", SCOPES, kind=REFRESH),
        Tokens([KEY], "s").issue("alice", SCOPES, now=1.0),
        Tokens([OTHER], "s").issue("alice", SCOPES),
        Tokens([KEY], "t").issue("alice", SCOPES),
    ],
)
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(BadToken) as caught:
        Tokens([KEY], "s").check(token)
    assert token not in str(caught.value) or not token.strip(".")


def test_every_changed_byte_makes_a_token_invalid() -> None:
    tokens = Tokens([KEY], "s")
    good = tokens.issue("alice", SCOPES)
    for at in range(0, len(good) - 1, 7):  # the last letter has bits that mean nothing
        bad = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        with pytest.raises(BadToken):
            tokens.check(bad)


def test_a_refresh_token_is_not_an_access_token() -> None:
    tokens = Tokens([KEY], "s")
    assert tokens.check(tokens.issue("alice", (), kind=REFRESH), kind=REFRESH).user == "alice"
    with pytest.raises(BadToken):
        tokens.check(tokens.issue("alice", ()), kind=REFRESH)


def test_the_mark_of_an_entry_survives_a_new_first_key() -> None:
    old, new = Tokens([KEY], "s"), Tokens([OTHER, KEY], "s")
    claims = new.check(old.issue("alice", (), mark=old.mark_of("hash")))
    assert claims.mark == new.mark_of("hash", claims.key)
    assert claims.mark != new.mark_of("hash")
    assert claims.mark != new.mark_of("other", claims.key)


def test_servers_that_start_at_once_take_one_key(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "key")
    threads = [threading.Thread(target=make_key_file, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert len(parse_keys(Path(path).read_bytes(), path)) == 1
    assert os.listdir(tmp_path / "deep") == ["key"]
    os.chmod(path, 0o640)
    with pytest.raises(SystemFailure, match="others can read"):
        make_key_file(path)


@pytest.mark.parametrize("raw", [b"", b"short\n", base64.b64encode(b"x" * 31), b"!" * 60])
def test_a_bad_key_file_is_refused_without_its_content(raw: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        parse_keys(raw, "key")
    assert not raw.strip() or raw.decode().strip() not in str(caught.value)


def test_a_remembered_token_still_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens([KEY], "s")
    good = tokens.issue("alice", SCOPES)
    assert tokens.check(good) is tokens.check(good)
    with pytest.raises(BadToken):  # remembered as one kind, not as the other
        tokens.check(good, kind=REFRESH)
    later = time.time() + tokens_module.LIFE + 1
    monkeypatch.setattr(time, "time", lambda: later)
    asked: list[str] = []

    def verified(self: Tokens, token: str, kind: str) -> object:
        asked.append(token)
        raise BadToken("expired")

    monkeypatch.setattr(Tokens, "_verified", verified)
    with pytest.raises(BadToken):
        tokens.check(good)
    assert asked == [good]


def test_a_token_lives_as_long_as_it_says() -> None:
    token = Tokens([KEY], "s").issue("a", ())
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload["exp"] - payload["iat"] == tokens_module.LIFE


# the header


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None),
        ("", None),
        ("Basic " + base64.b64encode(b"a:b:c").decode(), Basic("a", "b:c")),
        ("basic  " + base64.b64encode("ä:ö".encode()).decode(), Basic("ä", "ö")),
        ("BEARER x.y.z", Bearer("x.y.z")),
    ],
)
def test_the_header_is_parsed(header: str | None, found: object) -> None:
    assert parse_authorization(header) == found


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!", "Basic YQ==", "Digest x", "Negotiate", "Basic " + "A" * 70_000]
)
def test_a_bad_header_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match=r"Authorization|credentials|supported"):
        parse_authorization(header)


@given(st.text(max_size=80) | st.text(max_size=20).map(lambda text: f"Basic {text}"))
def test_any_header_is_parsed_or_refused_with_words(header: str) -> None:
    kind: type[Exception] | None = None
    try:
        parse_authorization(header)
    except ValueError as error:
        kind = type(error)
    assert kind in (None, ValueError)  # a UnicodeDecodeError would show the secret


def test_secrets_are_not_in_the_repr() -> None:
    assert "secret" not in repr(Basic("a", "secret")) + repr(Bearer("secret"))


@pytest.mark.parametrize(
    ("query", "scopes"),
    [
        ("mount=sha256:0&from=library/base", "repository:team/app:pull,push repository:base:pull"),
        (
            "mount=sha256:0&from=me/app&ns=ghcr.io",
            "repository:ghcr.io/team/app:pull,push repository:ghcr.io/me/app:pull",
        ),
        ("mount=sha256:0&from=team/app", "repository:team/app:pull,push"),
        ("mount=sha256:0&from=a%22,b", "repository:team/app:pull,push"),
        ("mount=sha256:0", "repository:team/app:pull,push"),
        ("from=base", "repository:team/app:pull,push"),
    ],
)
def test_a_mount_asks_for_pull_of_its_source(query: str, scopes: str) -> None:
    route = parse_target(f"/v2/team/app/blobs/uploads/?{query}")
    assert " ".join(map(str, need_of("POST", route).scopes())) == scopes


def test_the_challenge_has_what_clients_need() -> None:
    challenge = bearer_challenge("https://h/token", "s", [Scope("repository", "a", frozenset({"push", "pull"}))], "e")
    assert challenge == 'Bearer realm="https://h/token",service="s",scope="repository:a:pull,push",error="e"'
    assert is_host("registry.example.com:5000")
    assert is_host("[::1]:80")
    assert not any(map(is_host, ['a"b', "a/b", "a b", "", "a:b", 'x",service="y']))


# buckets


class NaiveBucket:
    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.level, self.seen = rate, burst, burst, 0.0

    def take(self, now: float) -> bool:
        self.level = min(self.burst, self.level + (now - self.seen) * self.rate)
        self.seen = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=60))
def test_buckets_are_as_the_model(steps: list[tuple[str, int]]) -> None:
    buckets, naive = Buckets(0.5, 3), {"a": NaiveBucket(0.5, 3), "b": NaiveBucket(0.5, 3)}
    now = 0.0
    for key, tenths in steps:
        now += tenths / 8
        waits = buckets.wait(key, now)
        taken = buckets.take(key, now)
        assert (taken == 0) == naive[key].take(now)
        assert waits == pytest.approx(taken, abs=0.002)


def test_a_refused_client_that_waits_as_told_gets_in() -> None:
    buckets = Buckets(2, 1)
    assert buckets.take("a", 0.0) == 0
    wait = buckets.take("a", 0.1)
    assert 0 < wait <= 0.5
    assert buckets.take("a", 0.1 + wait + 0.001) == 0


def test_what_is_charged_at_once_is_paid_for_later() -> None:
    buckets = Buckets(1, 2)
    for _ in range(5):
        buckets.charge("a", 0.0)
    assert buckets.wait("a", 0.0) == pytest.approx(4)
    assert buckets.wait("a", 4.0) == 0
    for _ in range(1000):
        buckets.charge("a", 4.0)
    assert buckets.wait("a", 4.0) == pytest.approx(21)


def test_buckets_are_bounded_in_memory() -> None:
    buckets = Buckets(1, 1, most=100)
    for number in range(1000):
        buckets.take(str(number), 0.0)
        buckets.wait(f"other {number}", 0.0)
    assert len(buckets._levels) == 100


def test_addresses_of_one_client_count_as_one() -> None:
    assert address_key("2001:db8:1:2:3::4") == address_key("2001:db8:1:2:ffff::1")
    assert address_key("2001:db8:1:2::1") != address_key("2001:db8:1:3::1")
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1")
    assert address_key("fe80::1%eth0") == address_key("fe80::2%eth1")
    assert address_key("") == ""
    assert len(address_key("x" * 1000)) == 100


# quotas


class Place:
    def __init__(self, **sizes: int) -> None:
        self.sizes = {f"docker.io/{name.replace('__', '/')}": size for name, size in sizes.items()}
        self.asked = 0
        self.uploads = self
        self.open: dict[str, tuple[str, int]] = {}

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        return {ident: one for ident, one in self.open.items() if repository in ("", one[0])}

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        return sorted(self.sizes)

    def usage(self, repository: str) -> int:
        self.asked += 1
        return self.sizes.get(repository, 0)


def test_quotas_count_together_or_each() -> None:
    team = (RepositoryPattern.parse("team/**"),)
    place = Place(team__a=60, team__b=30, other__x=500)
    quotas = Quotas()
    quotas.check([Quota(team, 100)], "docker.io/team/a", 10, place)
    with pytest.raises(ApiError, match="quota of team") as caught:
        quotas.check([Quota(team, 100)], "docker.io/team/new", 11, place)
    assert (caught.value.status, caught.value.code) == (403, "DENIED")
    quotas.check([Quota(team, 100)], "docker.io/other/x", 1000, place)
    quotas.check([Quota(team, 100, each=True)], "docker.io/team/b", 70, place)
    with pytest.raises(ApiError, match="quota of team/b"):
        quotas.check([Quota(team, 100, each=True)], "docker.io/team/b", 71, place)


def test_what_was_taken_in_counts_at_once_and_counts_are_remembered() -> None:
    quota = Quota((RepositoryPattern.parse("**"),), 100)
    place, quotas = Place(library__a=10), Quotas()
    for _ in range(9):
        quotas.check([quota], "docker.io/library/a", 10, place)
        with quotas.room([quota], "docker.io/library/a", 10, place):
            pass
    with pytest.raises(ApiError):
        quotas.check([quota], "docker.io/library/a", 1, place)
    assert place.asked == 1


def test_open_uploads_count_once_whoever_received_their_bytes() -> None:
    quota = Quota((RepositoryPattern.parse("team/**"),), 100)
    place, quotas, name = Place(team__a=10), Quotas(), "docker.io/team/new"
    place.open = {"theirs": (name, 30), "mine": (name, 20), "other": ("docker.io/other/x", 500)}
    with quotas.upload([quota], name, "mine", place) as mine:
        mine.grow(50)  # 20 of them were counted
        mine.check(60)
        with pytest.raises(ApiError, match="90B are in use, 11B more do not fit"):
            mine.grow(61)
        with quotas.upload([quota], "docker.io/team/a", "third", place) as third:
            third.grow(10)
            with pytest.raises(ApiError):
                mine.grow(51)
            third.ended(held=False)
        mine.grow(60)
        mine.ended(held=True)
    with pytest.raises(ApiError):
        quotas.check([quota], name, 1, place)
    assert place.asked == 1


def test_a_count_knows_what_running_requests_have_not_written_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.serve.access.quotas.LIFE", 0.0)
    quota, name = Quota((RepositoryPattern.parse("**"),), 100, each=True), "docker.io/library/a"
    place, quotas = Place(), Quotas()
    with quotas.upload([quota], name, "mine", place) as mine:
        mine.grow(60)
        with pytest.raises(ApiError):
            quotas.check([quota], name, 41, place)
        place.open = {"mine": (name, 60)}
        quotas.check([quota], name, 40, place)
    place.open = {}
    quotas.check([quota], name, 100, place)


def test_room_that_became_free_is_found_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    quota, name = Quota((RepositoryPattern.parse("**"),), 100), "docker.io/library/a"
    place, quotas = Place(library__a=100), Quotas()
    with pytest.raises(ApiError):
        quotas.check([quota], name, 1, place)
    place.sizes.clear()
    with pytest.raises(ApiError):
        quotas.check([quota], name, 1, place)
    monkeypatch.setattr("lamina.serve.access.quotas.AGAIN", 0.0)
    quotas.check([quota], name, 1, place)


# the audit log and watched files


def test_the_audit_log_is_lines_of_json_and_follows_a_rename(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog(str(path))
    log.write(user='a"\n{"user": "b"}', address="", status=200, lost_=None)
    path.rename(tmp_path / "audit.log.1")
    log.reopen()
    log.write(user="second", status=401)
    log.close()
    first = json.loads((tmp_path / "audit.log.1").read_text())
    assert first["user"] == 'a"\n{"user": "b"}'
    assert "address" not in first
    assert (tmp_path / "audit.log.1").read_text().count("\n") == 1
    assert json.loads(path.read_text())["user"] == "second"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_audit_log_counts_what_it_could_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(str(tmp_path / "log"))
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "lamina.serve"):
        patch.setattr(os, "write", full)
        for _ in range(3):
            log.write(status=1)
    assert len(caplog.records) == 1
    assert os.write is real
    log.write(status=2)
    log.close()
    assert json.loads((tmp_path / "log").read_text()) | {"time": ""} == {"time": "", "status": 2, "lost": 3}


def test_a_watched_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched_module, "INTERVAL", 0.0)
    path = tmp_path / "users"
    path.write_text(entry("alice", "a"))
    file = Watched(str(path), parse_htpasswd)
    file._next = 0.0
    assert list(file.value) == ["alice"]
    path.write_text("alice:broken")
    with caplog.at_level(logging.WARNING, "lamina.serve"):
        assert list(file.value) == ["alice"]
        assert list(file.value) == ["alice"]
    assert len(caplog.records) == 1
    (tmp_path / "new").write_text(entry("bob", "b"))
    os.replace(tmp_path / "new", path)
    assert list(file.value) == ["bob"]
    path.unlink()
    assert list(file.value) == ["bob"]
    path.write_text(entry("carol", "c"))
    file.reload()
    assert list(file.value) == ["carol"]


def test_a_broken_or_missing_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="no such file"):
        Watched(str(tmp_path / "missing"), parse_htpasswd)
    (tmp_path / "bad").write_text("bad")
    with pytest.raises(UsageError):
        Watched(str(tmp_path / "bad"), parse_htpasswd)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SystemFailure):
        Watched(str(tmp_path / "fifo"), parse_htpasswd)
