"""`lamina serve` with users and TLS, as a process: certificates given, renewed, self-made and of clients; files that
change while it runs; and the verb that makes users."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from lamina.errors import UsageError
from lamina.serve.access.htpasswd import hashed_password, parse_htpasswd
from lamina.serve.self_signed import SelfSigned, check_names
from lamina.serve.tls import ServerTls, TlsFiles
from server_process import ServerProcess, serving
from support import lamina, require_tool, write_layout


class Authority:
    """A CA of the test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.certificate = self._signed(self._key, name, name, ca=True)

    def _signed(
        self, key: ec.EllipticCurvePrivateKey, subject: x509.Name, issuer: x509.Name, *, ca: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())

    def write(self, directory: Path, name: str, common_name: str) -> tuple[str, str]:
        """Write a certificate and its key; their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = self._signed(key, subject, self.certificate.subject, ca=False)
        paths = directory / f"{name}.crt", directory / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(paths[0]), str(paths[1])

    def write_own(self, path: Path) -> str:
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return str(path)


def trusting(ca: str, client: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if client is not None:
        context.load_cert_chain(*client)
    return context


def status(server: ServerProcess, path: str, context: ssl.SSLContext | None = None, **headers: str) -> int:
    scheme = "http" if context is None else "https"
    request = urllib.request.Request(f"{scheme}://localhost:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def subject(server: ServerProcess, context: ssl.SSLContext, *, name: str | None = "localhost") -> str:
    """The common name that the server shows."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as raw:
        with context.wrap_socket(raw, server_hostname=name) as one:
            certificate = one.getpeercert()
            assert certificate is not None
            return str(dict(pair[0] for pair in certificate["subject"])["commonName"])


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def users(tmp_path: Path) -> str:
    path = tmp_path / "users"
    path.write_text(f"alice:{hashed_password('one', 4)}\n")
    return str(path)


@pytest.fixture
def secure(tmp_path: Path, users: str) -> Iterator[tuple[ServerProcess, Authority, ssl.SSLContext]]:
    ca = Authority()
    certificate, key = ca.write(tmp_path, "server", "first")
    words = ["--tls-cert", certificate, "--tls-key", key, "--htpasswd", users, "--writable"]
    with serving(tmp_path / "store", *words, log=tmp_path / "log") as server:
        yield server, ca, trusting(ca.write_own(tmp_path / "ca.crt"))
        assert server.stop() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_renewed_certificate_is_used_for_new_connections(
    secure: tuple[ServerProcess, Authority, ssl.SSLContext], tmp_path: Path
) -> None:
    server, ca, context = secure
    assert subject(server, context) == "first"
    ca.write(tmp_path, "server", "second")
    eventually(lambda: subject(server, context) == "second")
    (tmp_path / "server.crt").write_text("broken")
    time.sleep(1.2)  # until the file is looked at
    assert [subject(server, context) for _ in range(3)] == ["second"] * 3
    eventually(lambda: "stays in use" in (tmp_path / "log").read_text())
    without_name = trusting(str(tmp_path / "ca.crt"))
    without_name.check_hostname = False
    ca.write(tmp_path, "server", "third")
    eventually(lambda: subject(server, without_name, name=None) == "third")


def test_old_versions_of_tls_and_plain_http_are_refused(
    secure: tuple[ServerProcess, Authority, ssl.SSLContext], tmp_path: Path
) -> None:
    server, _, context = secure
    assert status(server, "/v2/", context, Authorization=basic("alice", "one")) == 200
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        subject(server, context)
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        status(server, "/v2/")


def test_changed_users_count_within_a_second_and_at_a_signal(
    secure: tuple[ServerProcess, Authority, ssl.SSLContext], users: str
) -> None:
    server, _, context = secure
    assert status(server, "/v2/", context, Authorization=basic("bob", "two")) == 401
    assert lamina("passwd", users, "bob", "--password-stdin", root="/none", input=b"two\n").returncode == 0
    eventually(lambda: status(server, "/v2/", context, Authorization=basic("bob", "two")) == 200)
    Path(users).write_text("broken\n")
    os.kill(server.pid, signal.SIGHUP)

    def told() -> bool:
        assert status(server, "/v2/", context, Authorization=basic("bob", "two")) == 200
        return "what was read before stays in force" in server.log.read_text()

    eventually(told)


def test_tokens_of_one_server_hold_at_another_with_the_same_key_and_after_kill_9(tmp_path: Path, users: str) -> None:
    words = ["--htpasswd", users, "--token-key", str(tmp_path / "key")]
    assert lamina("load", "-i", str(_layout(tmp_path)), root=tmp_path / "store").returncode == 0
    with (
        serving(tmp_path / "store", *words, log=tmp_path / "log") as one,
        serving(tmp_path / "store", *words, log=tmp_path / "log2") as other,
    ):
        request = urllib.request.Request(
            f"http://{one.name}/token?scope=repository:app:pull", headers={"Authorization": basic("alice", "one")}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            header = "Bearer " + json.load(answer)["token"]
        assert status(other, "/v2/app/manifests/latest", Authorization=header) == 200
        one.kill()
        one.start()
        assert status(one, "/v2/app/manifests/latest", Authorization=header) == 200
        assert status(one, "/v2/app/manifests/latest") == 401
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def _layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "app", [[("x", b"x")]])
    return tmp_path / "layout"


def test_guesses_at_once_are_limited_and_hold_up_nobody(tmp_path: Path, users: str) -> None:
    with serving(tmp_path / "store", "--writable", "--htpasswd", users, log=tmp_path / "log") as server:
        good = basic("alice", "one")
        assert status(server, "/v2/", Authorization=good) == 200
        with ThreadPoolExecutor(32) as pool:
            guesses = [
                pool.submit(status, server, "/v2/", Authorization=basic("alice", f"guess {number}"))
                for number in range(64)
            ]
            asked = [pool.submit(status, server, "/v2/", Authorization=good) for _ in range(20)]
            assert [one.result() for one in asked] == [200] * 20
        codes = [one.result() for one in guesses]
        assert set(codes) == {401, 429}
        assert codes.count(401) <= 10 + 16  # the burst, and those that were being checked at that moment
        assert status(server, "/v2/", Authorization=basic("alice", "another")) == 429


@pytest.mark.parametrize(
    "headers",
    [
        [basic("alice", "one"), basic("alice", "one")],
        [basic("alice", "wrong"), basic("alice", "one")],
        ["Bearer x", basic("alice", "one")],
        [basic("alice", "one") + ", Bearer x"],
        ["Bearer " + "x" * 50_000],
        ["\xff\xfe"],
    ],
)
def test_a_request_with_odd_credentials_is_refused(headers: list[str], tmp_path: Path, users: str) -> None:
    with serving(tmp_path / "store", "--writable", "--htpasswd", users, log=tmp_path / "log") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.putrequest("POST", "/v2/app/blobs/uploads/")
        for value in headers:
            connection.putheader("Authorization", value.encode("latin-1"))
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 401
        assert json.loads(answer.read())["errors"][0]["code"] == "UNAUTHORIZED"
        connection.close()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_page_shows_what_the_user_may_pull(tmp_path: Path, users: str) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rules]]\nrepositories="own/*"\nwho="alice"\nactions="pull"\n'
        '[[rules]]\nrepositories="open/*"\nwho="anonymous"\nactions="pull"\n'
    )
    for name in ("own/app", "open/app", "other/app"):
        write_layout(tmp_path / "layout", name, [[("x", name.encode())]])
    assert lamina("load", "-i", str(tmp_path / "layout"), root=tmp_path / "store").returncode == 0
    words = ["--htpasswd", users, "--access", str(rules), "--audit-log", str(tmp_path / "audit")]
    with serving(tmp_path / "store", *words, log=tmp_path / "log") as server:

        def shown(**headers: str) -> list[str]:
            request = urllib.request.Request(f"http://{server.name}/explore/api/repositories", headers=headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return [one["name"] for one in json.load(answer)["repositories"]]

        alice = basic("alice", "one")
        assert shown() == ["open/app"]
        assert shown(Authorization=alice) == ["open/app", "own/app"]
        assert status(server, "/explore/api/repositories", Authorization=basic("alice", "x")) == 401
        assert status(server, "/explore/api/tags?repository=docker.io/own/app") == 404
        assert status(server, "/explore/api/tags?repository=docker.io/own/app", Authorization=alice) == 200
        assert status(server, "/explore/api/tags?repository=docker.io/other/app", Authorization=alice) == 404
        assert status(server, "/") == 200
        assert status(server, "/?login", Authorization=alice) == 200
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{server.name}/?login", timeout=30)
        with caught.value as refused:
            assert (refused.code, refused.headers["WWW-Authenticate"].partition(" ")[0]) == (401, "Basic")
        rules.write_text('[[rules]]\nrepositories="own/*"\nwho="alice"\nactions="pull"\n')
        eventually(lambda: status(server, "/") == 401)
    records = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [(one["action"], one["claimed"]) for one in records] == [("explore", "alice")]


def test_the_certificate_of_a_client_is_a_login(tmp_path: Path) -> None:
    ca, other = Authority(), Authority()
    certificate, key = ca.write(tmp_path, "server", "server")
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rules]]\nrepositories="**"\nwho="alice"\nactions="pull"\n')
    own = ca.write_own(tmp_path / "ca.crt")
    words = ["--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", own, "--access", str(rules)]
    alice, mallory = ca.write(tmp_path, "alice", "alice"), other.write(tmp_path, "mallory", "alice")
    assert lamina("load", "-i", str(_layout(tmp_path)), root=tmp_path / "store").returncode == 0
    with serving(tmp_path / "store", *words, log=tmp_path / "log") as server:
        assert status(server, "/v2/app/tags/list", trusting(own, alice)) == 200
        assert status(server, "/v2/app/tags/list", trusting(own)) == 401
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
            status(server, "/v2/app/tags/list", trusting(own, mallory))
        assert status(server, "/v2/app/tags/list", trusting(own, ca.write(tmp_path, "bob", "bob"))) == 404


def test_a_self_made_certificate_is_trusted_by_its_ca_and_stays(tmp_path: Path, users: str) -> None:
    words = ["--tls-self-signed", "localhost,127.0.0.1,::1", "--htpasswd", users, "--workers", "2", "--writable"]
    state = tmp_path / "store" / "serve"
    for _ in range(2):
        with serving(tmp_path / "store", *words, log=tmp_path / "log") as server:
            context = trusting(str(state / "tls" / "ca.crt"))
            assert subject(server, context) == "localhost"
            assert subject(server, context, name="127.0.0.1") == "localhost"
            assert status(server, "/v2/", context, Authorization=basic("alice", "one")) == 200
            assert server.stop() == 0
    assert str(state / "tls" / "ca.crt") in (tmp_path / "log").read_text()
    for directory in (state, state / "tls"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("tls/ca.key", "tls/server.key", "token-key"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    assert lamina("fsck", root=tmp_path / "store").returncode == 0


def test_a_self_made_certificate_is_made_anew_only_when_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.serve import self_signed

    own = SelfSigned(str(tmp_path / "tls"), ("a.example", "10.0.0.1", "::1"))
    own.renew()
    first, ca = Path(own.certificate).read_bytes(), Path(own.ca).read_bytes()
    own.renew()
    assert Path(own.certificate).read_bytes() == first
    SelfSigned(own.directory, ("b.example",)).renew()
    second = Path(own.certificate).read_bytes()
    assert second != first
    assert Path(own.ca).read_bytes() == ca
    monkeypatch.setattr(self_signed, "RENEW_DAYS", 398)
    SelfSigned(own.directory, ("b.example",)).renew()
    assert Path(own.certificate).read_bytes() != second
    monkeypatch.setattr(self_signed, "DAYS", 4000)
    SelfSigned(own.directory, ("c.example",)).renew()
    assert Path(own.ca).read_bytes() != ca
    monkeypatch.undo()
    for name, other in (("server.key", "ca.key"), ("ca.key", "server.key"), ("server.crt", "ca.crt")):
        # as after a kill between two files: they do not belong together
        Path(own.directory, name).write_bytes(Path(own.directory, other).read_bytes())
        own.renew()
        ServerTls(TlsFiles(own.certificate, own.key))
        assert own._holds()
    Path(own.certificate).write_text("broken")
    with pytest.raises(UsageError, match="not a certificate"):
        own.renew()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:5000", "-a", "*", "a..b", "x" * 300, "ä"])
def test_a_certificate_has_only_host_names_and_addresses(name: str) -> None:
    with pytest.raises(UsageError):
        check_names([name])
    assert check_names(["*.example.com", "a_b", "::1", "a_b"]) == ("*.example.com", "a_b", "::1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--host 0.0.0.0 --htpasswd USERS", "would not be encrypted"),
        ("--host 0.0.0.0 --plain-http --writable", "anyone there could push"),
        ("--writable --trusted-proxy 127.0.0.1", "other machines reach this server through a proxy"),
        ("--htpasswd missing", "no such file"),
        ("--htpasswd BAD", "line 1"),
        ("--access missing", "no such file"),
        ("--access BAD", "not valid TOML"),
        ("--access BAD --anonymous-push", "can't be combined"),
        ("--anonymous-pull", "needs users"),
        ("--tls-key BAD", "needs a certificate"),
        ("--tls-client-ca BAD", "needs a certificate"),
        ("--tls-cert BAD", "can't be used for TLS"),
        ("--tls-cert missing", "no such file"),
        ("--tls-cert BAD --tls-self-signed a", "can't be combined"),
        ("--tls-self-signed a/b", "not a host name"),
        ("--tls-self-signed ,", "no names"),
        ("oci:LAYOUT --tls-self-signed a", "--state-dir"),
        ("--htpasswd USERS --token-key OPEN", "others can read"),
        ("--htpasswd USERS --url registry", "is not a URL"),
        ("--audit-log missing/log", "no such file"),
    ],
)
def test_options_that_are_wrong_are_refused_before_anything_listens(
    words: str, said: str, tmp_path: Path, users: str
) -> None:
    (tmp_path / "bad").write_text("bad[")
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    _layout(tmp_path)
    for name, path in (("USERS", users), ("BAD", "bad"), ("OPEN", "open"), ("LAYOUT", "layout"), ("missing", "none")):
        words = words.replace(name, str(tmp_path / path))
    store = tmp_path / "store"
    lamina("load", "-i", str(tmp_path / "layout"), root=store)
    done = lamina("serve", "--port", "0", *words.split(), root=store)
    assert done.returncode in (2, 6), done
    assert said.encode() in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


# the verb


def test_passwd_makes_what_htpasswd_reads_and_reads_what_it_makes(tmp_path: Path) -> None:
    require_tool("htpasswd")
    import subprocess

    users = str(tmp_path / "users")

    def passwd(*words: str, input: bytes = b"") -> tuple[int, str]:
        done = lamina("passwd", users, *words, root="/none", input=input)
        assert b"Traceback" not in done.stderr
        return done.returncode, (done.stdout + done.stderr).decode()

    assert passwd("alice", "--password-stdin", input=b"a b\n") == (0, "")
    assert stat.S_IMODE(os.stat(users).st_mode) == 0o600
    Path(users).chmod(0o640)
    assert subprocess.run(["htpasswd", "-vb", users, "alice", "a b"], check=False).returncode == 0
    assert subprocess.run(["htpasswd", "-bB", users, "bob", "x"], check=False).returncode == 0
    code, generated = passwd("ci", "--generate")
    assert code == 0
    assert subprocess.run(["htpasswd", "-vb", users, "ci", generated.strip()], check=False).returncode == 0
    assert passwd("bob", "--delete") == (0, "")
    assert list(parse_htpasswd(Path(users).read_bytes(), users)) == ["alice", "ci"]
    assert stat.S_IMODE(os.stat(users).st_mode) == 0o640
    before = Path(users).read_bytes()
    for code, words, given in (
        (3, ("bob", "--delete"), b""),
        (2, ("alice", "--password-stdin"), b"\n"),
        (2, ("alice", "--password-stdin"), b"x" * 73),
        (2, ("alice",), b"x"),
        (2, ("a:b", "--generate"), b""),
        (2, ("anonymous", "--generate"), b""),
        (2, ("alice", "--generate", "--delete"), b""),
    ):
        assert passwd(*words, input=given)[0] == code
    assert Path(users).read_bytes() == before
    assert os.listdir(tmp_path) == ["users"]


def test_users_that_are_made_at_once_are_all_there(tmp_path: Path) -> None:
    import subprocess
    import sys

    users = str(tmp_path / "users")
    command = [sys.executable, "-m", "lamina", "passwd", users, "--generate", "--cost", "4"]
    running = [subprocess.Popen([*command, f"u{number}"], stdout=subprocess.DEVNULL) for number in range(6)]
    assert [one.wait(60) for one in running] == [0] * 6
    assert len(parse_htpasswd(Path(users).read_bytes(), users)) == 6
