"""Logins of real clients against `lamina serve` with users, rules and TLS: who may pull and push, and what the
others are told."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import buildkit_process
from docker_engine import Docker
from lamina.serve.access.htpasswd import hashed_password
from server_process import serving
from support import lamina, peer, podman_command, require_root, require_tool, write_layout

pytestmark = pytest.mark.peer

RULES = """
[[rules]]
repositories = ["team/**"]
who = "alice"
actions = ["pull", "push", "delete"]

[[rules]]
repositories = ["team/**"]
who = "reader"
actions = "pull"

[[rules]]
repositories = "public/*"
who = "anonymous"
actions = "pull"

[[rules]]
repositories = ["secret/**", "team/**", "public/**"]
who = "root"
actions = "admin"
"""
REFUSED = (
    "denied",
    "unauthorized",
    "not found",
    "forbidden",
    "401",
    "403",
    "name_unknown",
    "name unknown",
    "no anonymous token",
)


@dataclass
class Registry:
    name: str
    certificates: Path

    @property
    def ca(self) -> str:
        return str(self.certificates / "ca.crt")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with team/app:1 and secret/app:1, which have layers of their own."""
    top = tmp_path_factory.mktemp("registry")
    names = ("alice", "reader", "root")
    (top / "users").write_text("".join(f"{name}:{hashed_password(f'{name}-secret', 4)}\n" for name in names))
    (top / "rules.toml").write_text(RULES)
    for name in ("team", "secret", "public"):
        write_layout(top / "layout", name, [[(name, name.encode() * 1000)], [("etc/", None)]])
    words = ["--tls-self-signed", "localhost", "--htpasswd", str(top / "users"), "--access", str(top / "rules.toml")]
    words += ["--writable", "--audit-log", str(top / "audit")]
    with serving(top / "store", *words, log=top / "log") as server:
        certificates = top / "certificates"
        certificates.mkdir()
        (certificates / "ca.crt").write_bytes((top / "store/serve/tls/ca.crt").read_bytes())
        found = Registry(f"localhost:{server.port}", certificates)
        own = Lamina(found, top / "own")
        own.login("root", "root-secret")
        for name in ("team", "secret", "public"):
            own.ok("copy", f"oci:{top / 'layout'}:{name}", f"docker://{found.name}/{name}/app:1")
        yield found
        assert server.running()
        assert server.stop() == 0
    assert "Traceback" not in (top / "log").read_text()
    assert '-secret"' not in (top / "audit").read_text()


class Client:
    """A client with a home of its own. ``copy`` moves an image within the registry, with the layers mounted where the
    client can."""

    def __init__(self, registry: Registry, home: Path) -> None:
        self.registry, self.home = registry, home
        home.mkdir(parents=True, exist_ok=True)
        (home / "auth.json").write_text("{}")  # podman wants it
        self.environment = {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "DOCKER_CONFIG": str(home),
            "REGISTRY_AUTH_FILE": str(home / "auth.json"),
            "SSL_CERT_FILE": registry.ca,
            "REGCTL_CONFIG": str(home / "regctl.json"),
        }

    def run(self, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            words, input=input, capture_output=True, text=True, env=environment, check=False, timeout=120
        )

    def ok(self, *words: str, input: str = "") -> str:
        done = self.run(*words, input=input)
        assert done.returncode == 0, (words, done.stderr[-2000:])
        return done.stdout

    def login(self, user: str, password: str) -> subprocess.CompletedProcess[str]:
        raise NotImplementedError

    def pull(self, repository: str) -> subprocess.CompletedProcess[str]:
        raise NotImplementedError

    def copy(self, source: str, target: str) -> subprocess.CompletedProcess[str]:
        raise NotImplementedError


class Lamina(Client):
    def run(self, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
        given = [*words, "--cert-dir", str(self.registry.certificates)]
        done = lamina(*given, root=self.home / "store", input=input.encode(), **self.environment)
        return subprocess.CompletedProcess(given, done.returncode, done.stdout.decode(), done.stderr.decode())

    def login(self, user: str, password: str) -> subprocess.CompletedProcess[str]:
        return self.run("login", "-u", user, "--password-stdin", self.registry.name, input=password)

    def pull(self, repository: str) -> subprocess.CompletedProcess[str]:
        return self.run("pull", f"{self.registry.name}/{repository}")

    def copy(self, source: str, target: str) -> subprocess.CompletedProcess[str]:
        host = f"docker://{self.registry.name}"
        return self.run("copy", f"{host}/{source}", f"{host}/{target}")


class Skopeo(Client):
    def login(self, user: str, password: str) -> subprocess.CompletedProcess[str]:
        words = ("skopeo", "login", "--cert-dir", str(self.registry.certificates), "-u", user, "--password-stdin")
        return self.run(*words, self.registry.name, input=password)

    def pull(self, repository: str) -> subprocess.CompletedProcess[str]:
        words = ("skopeo", "copy", "--src-cert-dir", str(self.registry.certificates))
        return self.run(*words, f"docker://{self.registry.name}/{repository}", f"dir:{self.home}/pulled")

    def copy(self, source: str, target: str) -> subprocess.CompletedProcess[str]:
        certificates, host = str(self.registry.certificates), f"docker://{self.registry.name}"
        words = ("skopeo", "copy", "--src-cert-dir", certificates, "--dest-cert-dir", certificates)
        return self.run(*words, f"{host}/{source}", f"{host}/{target}")


class Crane(Client):
    def login(self, user: str, password: str) -> subprocess.CompletedProcess[str]:
        self.run(peer("crane"), "auth", "login", self.registry.name, "-u", user, "--password-stdin", input=password)
        return self.run(peer("crane"), "catalog", self.registry.name)  # it does not check a login

    def pull(self, repository: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            peer("crane"), "pull", "--format=oci", f"{self.registry.name}/{repository}", f"{self.home}/pulled"
        )

    def copy(self, source: str, target: str) -> subprocess.CompletedProcess[str]:
        return self.run(peer("crane"), "copy", f"{self.registry.name}/{source}", f"{self.registry.name}/{target}")


class Regctl(Client):
    def login(self, user: str, password: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            peer("regctl"), "registry", "login", self.registry.name, "-u", user, "--pass-stdin", input=password
        )

    def pull(self, repository: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            peer("regctl"), "image", "export", f"{self.registry.name}/{repository}", f"{self.home}/pulled.tar"
        )

    def copy(self, source: str, target: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            peer("regctl"), "image", "copy", f"{self.registry.name}/{source}", f"{self.registry.name}/{target}"
        )


class Oras(Client):
    def login(self, user: str, password: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            peer("oras"),
            "login",
            "--plain-http=false",
            self.registry.name,
            "-u",
            user,
            "--password-stdin",
            input=password,
        )

    def pull(self, repository: str) -> subprocess.CompletedProcess[str]:
        name = f"{self.registry.name}/{repository}"
        return self.run(
            peer("oras"), "copy", "--from-plain-http=false", "--to-oci-layout", name, f"{self.home}/pulled:1"
        )

    def copy(self, source: str, target: str) -> subprocess.CompletedProcess[str]:
        words = (peer("oras"), "copy", "--from-plain-http=false", "--to-plain-http=false")
        return self.run(*words, f"{self.registry.name}/{source}", f"{self.registry.name}/{target}")


class Podman(Client):
    command: list[str]

    def _podman(self, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
        return self.run(*self.command, *words, input=input)

    def login(self, user: str, password: str) -> subprocess.CompletedProcess[str]:
        words = ("login", "--cert-dir", str(self.registry.certificates), "-u", user, "--password-stdin")
        return self._podman(*words, self.registry.name, input=password)

    def pull(self, repository: str) -> subprocess.CompletedProcess[str]:
        words = ("pull", "--cert-dir", str(self.registry.certificates))
        return self._podman(*words, f"{self.registry.name}/{repository}")

    def copy(self, source: str, target: str) -> subprocess.CompletedProcess[str]:
        done = self.pull(source)
        if done.returncode:
            return done
        words = ("push", "--cert-dir", str(self.registry.certificates))
        return self._podman(*words, f"{self.registry.name}/{source}", f"{self.registry.name}/{target}")


CLIENTS = {"lamina": Lamina, "skopeo": Skopeo, "crane": Crane, "regctl": Regctl, "oras": Oras, "podman": Podman}


@pytest.fixture(params=sorted(CLIENTS))
def make(request: pytest.FixtureRequest, registry: Registry, tmp_path: Path) -> Iterator[object]:
    """A function that makes a client with a home of its own."""
    kind = CLIENTS[request.param]
    if kind is Skopeo:
        require_tool("skopeo")

    def one(name: str) -> Client:
        return kind(registry, tmp_path / name)

    if kind is not Podman:
        yield one
        return
    with podman_command() as command:
        Podman.command = command
        yield one


def refused(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a client was refused, and says so."""
    text = (done.stdout + done.stderr).lower()
    assert "-secret" not in text
    return done.returncode != 0 and any(word in text for word in REFUSED)


def test_a_client_does_what_its_user_may_do(make: object, registry: Registry) -> None:
    assert callable(make)
    stranger, alice, reader = make("stranger"), make("alice"), make("reader")
    name = type(alice).__name__.lower()
    assert refused(stranger.pull("team/app:1"))
    assert refused(stranger.pull("team/none:1"))
    done = stranger.pull("public/app:1")
    assert done.returncode == 0, done.stderr
    assert alice.login("alice", "guess").returncode != 0
    done = alice.login("alice", "alice-secret")
    assert done.returncode == 0, done.stderr
    done = alice.pull("team/app:1")
    assert done.returncode == 0, done.stderr
    done = alice.copy("team/app:1", f"team/{name}:1")
    assert done.returncode == 0, done.stderr
    done = alice.pull(f"team/{name}:1")
    assert done.returncode == 0, done.stderr
    assert reader.login("reader", "reader-secret").returncode == 0
    assert reader.pull(f"team/{name}:1").returncode == 0
    assert refused(reader.copy("team/app:1", f"team/{name}:2"))
    assert refused(alice.pull("secret/app:1"))
    assert refused(alice.pull("secret/none:1"))
    assert refused(alice.copy("team/app:1", "secret/app:2"))
    root = make("root")
    assert root.login("root", "root-secret").returncode == 0
    done = root.copy("secret/app:1", f"team/{name}-mounted:1")
    assert done.returncode == 0, done.stderr
    assert "Failed to mount" not in done.stderr  # regctl asks for the scopes of the challenge only


def test_docker_logs_in_pulls_pushes_and_is_refused(registry: Registry, tmp_path: Path) -> None:
    from docker_engine import docker_daemon

    require_root()
    place = Path("/etc/docker/certs.d") / registry.name
    place.mkdir(parents=True)
    try:
        (place / "ca.crt").write_bytes(Path(registry.ca).read_bytes())
        with docker_daemon() as docker:
            check_docker(docker, registry.name)
    finally:
        (place / "ca.crt").unlink()
        place.rmdir()


def check_docker(docker: Docker, host: str) -> None:
    assert docker("pull", f"{host}/team/app:1").returncode != 0
    docker.ok("pull", f"{host}/public/app:1")
    docker.ok("rmi", f"{host}/public/app:1")
    assert docker("login", host, "-u", "alice", "--password-stdin", input=b"guess").returncode != 0
    docker.ok("login", host, "-u", "alice", "--password-stdin", input=b"alice-secret")
    docker.ok("pull", f"{host}/team/app:1")
    docker.ok("tag", f"{host}/team/app:1", f"{host}/team/docker:1")
    assert "Mounted from team/app" in docker.ok("push", f"{host}/team/docker:1")
    docker.ok("tag", f"{host}/team/app:1", f"{host}/secret/docker:1")
    pushed = docker("push", f"{host}/secret/docker:1")
    assert pushed.returncode != 0
    assert b"denied" in pushed.stderr.lower() + pushed.stdout.lower()
    docker.ok("logout", host)
    docker.ok("login", host, "-u", "reader", "--password-stdin", input=b"reader-secret")
    pushed = docker("push", f"{host}/team/docker:1")
    assert pushed.returncode != 0
    assert b"reader may not push team/docker" in pushed.stderr + pushed.stdout
    assert docker("pull", f"{host}/secret/app:1").returncode != 0
    for name in ("team/app", "team/docker", "secret/docker"):
        docker.ok("rmi", f"{host}/{name}:1")


def test_buildkit_pushes_with_the_login_of_docker(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(
        "".join(f"{name}:{hashed_password(f'{name}-secret', 4)}\n" for name in ("alice", "reader"))
    )
    (tmp_path / "rules.toml").write_text(RULES)
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    words = ["--writable", "--htpasswd", str(tmp_path / "users"), "--access", str(tmp_path / "rules.toml")]
    with serving(tmp_path / "store", *words, log=tmp_path / "log") as server, buildkit_process() as address:

        def build(user: str, name: str) -> subprocess.CompletedProcess[str]:
            home = tmp_path / user
            home.mkdir(exist_ok=True)
            login = base64.b64encode(f"{user}:{user}-secret".encode()).decode()
            (home / "config.json").write_text(json.dumps({"auths": {server.name: {"auth": login}}}))
            command = [
                peer("buildctl"), "--addr", address, "build", "--frontend", "dockerfile.v0", "--progress", "plain",
                "--local", f"context={context}", "--local", f"dockerfile={context}",
                "--output", f"type=image,name={server.name}/{name},push=true,registry.insecure=true",
            ]  # fmt: skip
            environment = {**os.environ, "DOCKER_CONFIG": str(home)}
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

        done = build("alice", "team/built:1")
        assert done.returncode == 0, done.stderr[-3000:]
        assert refused(build("reader", "team/built:2"))
        assert refused(build("alice", "secret/built:1"))
