"""Secrets: each pattern finds its kind, no output shows a secret, and hostile text does no harm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.insight.secrets import MASK, MOST_A_FILE, Sieve, in_file, in_words, is_binary
from support import rounds

KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ" + "\n"


def secret(*parts: str) -> str:
    """Put together here, so that scanners of this repository do not report the test as a leak."""
    return "".join(parts)


FILES = [
    ("private-key", "root/.ssh/id_ed25519", "# mine\n" + KEY, 2),
    ("private-key", "app/sa.json", '{"private_key": "' + KEY.replace("\n", "\\n") + '"}', 1),
    ("aws-access-key", "x", secret("key: AKIA", "QWERTYUIOPASDFGH"), 1),
    ("aws-secret-key", ".aws/credentials", "[default]\naws_secret_access_key = " + "a1B2" * 10, 2),
    ("gcp-api-key", "x.js", secret("k='AIza", "a" * 35, "'"), 1),
    ("github-token", "x", secret("ghp_", "a1B2" * 9), 1),
    ("github-token", "x", secret("github_pat_", "a1B2" * 20), 1),
    ("gitlab-token", "x", secret("glpat-", "a1B2" * 5), 1),
    ("slack-token", "x", secret("xoxb-", "1234567890-abcdef"), 1),
    ("slack-webhook", "x", secret("https://hooks.slack.com/services/", "T0/B0/" + "a" * 24), 1),
    ("npm-token", "x", secret("npm_", "a1B2" * 9), 1),
    ("npm-token", "root/.npmrc", secret("//registry.npmjs.org/:_authToken=", "abcdef-123"), 1),
    ("pypi-token", "x", secret("pypi-AgE", "a1B2" * 20), 1),
    ("pypi-password", "root/.pypirc", "[pypi]\nusername = x\npassword = hunter22\n", 3),
    ("netrc-password", "root/.netrc", "machine h\n  login me\n  password hunter22\n", 3),
    ("docker-auth", "root/.docker/config.json", '{"auths": {"h": {"auth": "bWU6aHVudGVyMjI="}}}', 1),
    ("pgpass-password", "root/.pgpass", "db:5432:app:me:hunter22\n", 1),
    ("url-password", "root/.git-credentials", "https://me:hunter22@example.org\n", 1),
    ("url-password", "etc/apt/sources.list.d/own.list", "deb https://me:hunter22@apt.example.org stable main\n", 1),
    ("password-hash", "etc/shadow", "root:*:1:::::\nme:$y$j9T$abcdefgh$abcdefgh:1:::::\n", 2),
    ("password", "srv/.env", "DEBUG=1\nDB_PASSWORD=hunter22\n", 2),
    ("kube-config", "root/.kube/config", "users:\n- user:\n    token: " + "a1B2" * 8, 3),
    ("stripe-key", "x", secret("sk_live_", "a1B2" * 6), 1),
    ("json-web-token", "x", secret("eyJhbGciOiJIUzI1NiJ9", ".eyJzdWIiOiIxMjM0In0", ".c2lnbmF0dXJlc2ln"), 1),
]


@pytest.mark.parametrize(("pattern", "path", "text", "line"), FILES)
def test_each_pattern_finds_its_secret_and_hides_it(pattern: str, path: str, text: str, line: int) -> None:
    (found,) = in_file(path.encode(), text.encode())
    assert (found.pattern, found.line) == (pattern, line)
    if pattern != "private-key":
        assert found.masked.endswith(MASK)
        assert len(found.masked) <= len(MASK) + 24
    for hidden in ("hunter22", "a1B2a1B2", "QWERTY", "bWU6", "b3Blbn", "abcdef"):
        assert hidden not in found.masked


def test_a_key_store_is_found_by_its_file_name() -> None:
    (found,) = in_file(b"etc/own.p12", b"\0\1\2")
    assert (found.pattern, found.line, found.masked) == ("key-store", 0, "")


@pytest.mark.parametrize(
    "text",
    [
        secret("AKIA", "IOSFODNN7EXAMPLE"),
        "-----BEGIN PRIVATE " + "KEY-----\n(your key here)\n",
        "if line == '-----BEGIN RSA PRIVATE " + "KEY-----':",
        "password = hunter22",  # in no file that is known to hold passwords
        "x" + secret("ghp_", "short"),
        "https://me:hunter22@example.org",
    ],
)
def test_text_that_only_looks_like_a_secret_is_not_reported(text: str) -> None:
    assert in_file(b"usr/share/doc/x.txt", text.encode()) == []


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("POSTGRES_PASSWORD=hunter22", "password"),
        ("|1 API_TOKEN=hunter22 /bin/sh -c make", "password"),
        ('RUN /bin/sh -c curl -H "Authorization: Bearer hunter22hunter22" https://h', "authorization-header"),
        ("RUN pip install --index-url https://me:hunter22@h/simple x", "url-password"),
        ("RUN login --password hunter22", "password"),
        ("DATABASE_URL=postgres://me:hunter22@db/app", "url-password"),
    ],
)
def test_words_of_config_and_history(text: str, pattern: str) -> None:
    (found,) = in_words(text)
    assert (found.pattern, found.masked) == (pattern, MASK)


@pytest.mark.parametrize(
    "text",
    [
        "POSTGRES_PASSWORD_FILE=/run/secrets/db",
        "GPG_KEY=A035C8C19219BA821ECEA86B64E628F8D684696D",
        "PASSWORD=",
        "API_TOKEN=${API_TOKEN}",
        "TOKEN=$1",
        "REQUIRE_PASSWORD=true",
        "PATH=/usr/local/sbin:/usr/local/bin",
        "RUN git clone https://example.org/a@b",
    ],
)
def test_words_without_secrets(text: str) -> None:
    assert in_words(text) == []


def test_entropy_only_when_asked() -> None:
    text = b"x = 'q7Zp2Lr9Xv4Kt8Wm3Ny6Bd1Gs5Hf0Jc'\ny = '0123456789abcdef0123456789abcdef'\n"
    assert in_file(b"x", text) == []
    assert [(found.pattern, found.line) for found in in_file(b"x", text, entropy=True)] == [("high-entropy", 1)]


def test_binary_files_are_not_looked_into_and_findings_have_an_end() -> None:
    token = secret("ghp_", "a1B2" * 9).encode()
    assert in_file(b"x", b"\0" + token) == []
    assert len(in_file(b"x", b"\n".join([token] * 1000))) == MOST_A_FILE


@settings(max_examples=rounds(200), deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"password", b"=", b":", b"://", b"@", b"-----BEGIN PRIVATE KEY-----", b"\n", b" ", b"eyJ", b"$",
             b"aws_", b"secret", b"key", b"\xff", b"'", b'"auth"', b"A" * 40, b"--token", b"authorization: bearer "]
        ),
        max_size=40,
    ),
    st.sampled_from([b"x", b".env", b".npmrc", b".pgpass", b"etc/shadow", b".kube/config", b".git-credentials"]),
)  # fmt: skip
def test_any_bytes_can_be_searched_for_secrets(parts: list[bytes], path: bytes) -> None:
    data = b"".join(parts)
    for found in (*in_file(path, data, entropy=True), *in_words(data.decode("utf-8", "replace"), entropy=True)):
        assert 0 < found.line <= data.count(b"\n") + 1
        assert len(found.masked) <= 100


@settings(max_examples=rounds(200), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["x", "srv/a.txt", "k.p12", "sub/k.p12\n", "app.env", *(path for _, path, _, _ in FILES)]
            ),
            st.sampled_from(["", "plain\n", "AWS\n", "\0binary", *(text for _, _, text, _ in FILES)]),
            st.sampled_from(["", "PRIVATE", "\n# aws_\n"]),
        ),
        max_size=6,
    )
)
def test_files_that_the_sieve_stops_hold_no_secret(files: list[tuple[str, str, str]]) -> None:
    """A search of many files together finds the same as a search of each file."""
    texts = [(path.encode(), (before + text).encode()) for path, text, before in files]
    sieve = Sieve([text for _, text in texts if not is_binary(text)])
    for path, text in texts:
        data = b"" if is_binary(text) else text
        if not sieve.passes(path, data):
            assert in_file(path, text) == []


def test_the_sieve_passes_only_files_that_may_hold_secrets() -> None:
    secret_one = FILES[5][2].encode()
    sieve = Sieve([b"plain\n", secret_one])
    assert not sieve.passes(b"x", b"plain\n")
    assert sieve.passes(b"x", secret_one)
    assert sieve.passes(b"root/.netrc", b"")


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        (b".env", True), (b"app/.env.local", True), (b"app/prod.env", True), (b"prod.env", True),
        (b".npmrc", True), (b"root/.netrc", True), (b"etc/shadow-", True), (b"shadow", True),
        (b".docker/config.json", True), (b"etc/apt/auth.conf.d/x", True), (b"key.p12", True), (b"a/b.jks", True),
        (b"my.npmrc", False), (b"config.json", False), (b"shadow/x", False), (b"etc/shadows", False),
        (b"x.docker/config.json", False), (b".env/x", False), (b"p12", False), (b"b.jks/x", False),
    ],
)  # fmt: skip
def test_the_sieve_passes_file_names_of_secrets_in_any_directory(path: bytes, counts: bool) -> None:
    assert Sieve([b"nothing"]).passes(path, b"nothing") == counts
