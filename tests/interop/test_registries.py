"""Real registries, and other clients against lamina's: digests stay, in both directions."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import lamina as library
from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from socks_proxy import SocksProxy
from support import lamina, peer, podman_command, real_registry, require_root, require_tool, write_layout

pytestmark = pytest.mark.peer
BIG = random.Random(9).randbytes(1_500_000)
LAYERS = [[("bin/", None), ("etc/conf", b"one\n"), ("big", BIG)], [("etc/conf", b"two\n"), ("srv/x", b"x")]]
# bcrypt of "secret"
USERS = "me:$2b$05$0LqfGpznvZjHlpDDPo.AdeCvaz7yRMpUoaQb9fMZv4tXIci/tvdyu\n"


def run(*words: object, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def ok(*words: str, root: Path, input: bytes | None = None, **environment: str) -> str:
    done = lamina(*words, root=root, input=input, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "app", LAYERS)
    ok("load", "-i", str(tmp_path / "layout"), root=tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(params=["docker-registry", "registry", "lamina"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "lamina":
        with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
            yield server.name
    else:
        with real_registry(request.param, tmp_path / "registry") as name:
            yield name


def digest(root: Path, name: str = "app") -> str:
    return ok("images", name, "--digests", "--format", "{{.Digest}}", root=root).strip()


def test_push_pull_and_the_verbs_for_scripts(root: Path, host: str, tmp_path: Path) -> None:
    ok("push", "app", f"{host}/team/app:1", root=root)
    other = tmp_path / "other"
    table = ok("pull", f"{host}/team/app:1", "--format", "table", root=other)
    assert table.count("fetched") == 4
    assert ok("pull", f"{host}/team/app:1", "--format", "table", root=other).count("already here") == 4
    assert ok("cat", f"{host}/team/app:1", "/etc/conf", root=other) == "two\n"
    assert ok("tags", f"{host}/team/app", root=other) == "1\n"
    assert ok("digest", f"{host}/team/app:1", root=other).strip() == digest(root)
    manifest = json.loads(ok("manifest", f"{host}/team/app:1", root=other))
    assert json.loads(ok("config", f"{host}/team/app:1", root=other))["rootfs"]["type"] == "layers"
    layer = manifest["layers"][0]
    ok("blob", f"{host}/team/app@{layer['digest']}", "-o", str(tmp_path / "blob"), root=other)
    assert (tmp_path / "blob").stat().st_size == layer["size"]
    assert ok("validate", f"docker://{host}/team/app:1", root=other).count("ok") == 4
    assert f"{host}/team/app" in ok("search", host, "te*", root=other)
    # the second name of the same image moves no blob
    table = ok("push", "app", f"{host}/other/app:1", "--format", "table", root=root)
    assert table.count("already there") >= 1 or table.count("pushed") == 4
    index = ok(
        "index", "create", f"docker://{host}/team/app:all", f"docker://{host}/team/app:1", "-q", root=root
    ).strip()
    assert ok("digest", f"{host}/team/app:all", root=root).strip() == index
    ok("pull", f"{host}/team/app:all", "-q", root=tmp_path / "third")
    assert digest(tmp_path / "third", f"{host}/team/app:all") == index
    ok("sync", f"docker://{host}/team/*:*", f"docker://{host}/mirror", "-q", root=root)
    assert sorted(ok("tags", f"{host}/mirror/app", root=root).split()) == ["1", "all"]
    ok("delete", f"{host}/team/app@{digest(root)}", root=root)
    assert lamina("digest", f"{host}/team/app:1", root=root).returncode == 3


def test_copy_between_registries_stores_nothing(root: Path, host: str, tmp_path: Path) -> None:
    ok("push", "app", f"{host}/a/app:1", root=root)
    with RegistryServer(Store.open(str(tmp_path / "target")), writable=True) as server:
        ok("copy", f"docker://{host}/a/app:1", f"docker://{server.name}/b/app:2", root=tmp_path / "none")
        assert ok("digest", f"{server.name}/b/app:2", root=tmp_path / "none").strip() == digest(root)
    assert not (tmp_path / "none").exists()


def test_push_and_pull_through_a_socks_proxy(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("socks")
    with real_registry("registry", tmp_path / "registry") as name:
        host, _, port = name.partition(":")
        with SocksProxy({"registry.invalid": (host, int(port))}) as proxy:
            env = {"ALL_PROXY": f"socks5://{proxy.place}", "NO_PROXY": ""}
            there = f"registry.invalid:{port}/team/app:1"
            assert (
                ok("push", "--tls-verify=false", "app", there, "--format", "table", root=root, **env).count("pushed")
                == 4
            )
            ok("pull", "--tls-verify=false", there, root=tmp_path / "other", **env)
            assert digest(tmp_path / "other", there) == digest(root)
            assert set(proxy.asked) == {"registry.invalid"}


def test_skopeo(root: Path, host: str, tmp_path: Path) -> None:
    require_tool("skopeo")
    ok("push", "app", f"{host}/x/mine:1", root=root)
    run(
        "skopeo",
        "copy",
        "--insecure-policy",
        "--src-tls-verify=false",
        f"docker://{host}/x/mine:1",
        f"oci:{tmp_path}/sk:v",
    )
    run(
        "skopeo",
        "copy",
        "--insecure-policy",
        "--dest-tls-verify=false",
        f"oci:{tmp_path}/sk:v",
        f"docker://{host}/x/theirs:1",
    )
    ok("pull", "-q", f"{host}/x/theirs:1", root=tmp_path / "back")
    assert digest(tmp_path / "back", f"{host}/x/theirs:1") == digest(root)


@pytest.mark.parametrize("server", ["registry", "lamina"])
def test_what_crane_and_skopeo_delete_goes_as_in_a_real_registry(root: Path, tmp_path: Path, server: str) -> None:
    crane = peer("crane")
    require_tool("skopeo")
    served = Store.open(str(tmp_path / "served"))
    place = real_registry("registry", tmp_path / "registry") if server == "registry" else None
    with place or RegistryServer(served, writable=True) as started:
        host = started if isinstance(started, str) else started.name
        there = f"{host}/x/app"
        for tag in ("1", "2"):
            ok("push", "-q", "app", f"{there}:{tag}", root=root)
        run(crane, "delete", f"{there}:1")
        assert run(crane, "ls", there) == "2\n"
        if server == "lamina":  # the other tag has the image: nothing without a name stays
            assert [name for name, _ in served.names()] == ["docker.io/x/app:2"]
        run(crane, "delete", f"{there}:2")
        assert run(crane, "ls", there) == ""
        assert run(crane, "digest", f"{there}@{digest(root)}").strip() == digest(root)  # untagged, and still there
        if server == "lamina":
            assert [name for name, _ in served.names()] == [""]
        run(crane, "delete", f"{there}@{digest(root)}")
        gone = subprocess.run([crane, "manifest", f"{there}@{digest(root)}"], check=False, capture_output=True)
        assert b"MANIFEST_UNKNOWN" in gone.stderr
        for tag in ("1", "2"):
            ok("push", "-q", "app", f"{there}:{tag}", root=root)
        run("skopeo", "delete", "--tls-verify=false", f"docker://{there}:1")  # by digest: both tags go
        assert json.loads(run("skopeo", "list-tags", "--tls-verify=false", f"docker://{there}"))["Tags"] == []
        assert list(served.names()) == []


def test_umoci_by_way_of_a_layout(root: Path, host: str, tmp_path: Path) -> None:
    require_tool("umoci")
    ok("push", "app", f"{host}/x/mine:1", root=root)
    ok("copy", f"docker://{host}/x/mine:1", f"oci:{tmp_path}/um:v1", root=root)
    run("umoci", "tag", "--image", f"{tmp_path}/um:v1", "v2")
    run("umoci", "config", "--image", f"{tmp_path}/um:v2", "--config.cmd", "/bin/true")
    ok("copy", f"oci:{tmp_path}/um:v2", f"docker://{host}/x/mine:2", root=root)
    assert json.loads(ok("config", f"{host}/x/mine:2", root=root))["config"]["Cmd"] == ["/bin/true"]


def test_podman_and_buildah(root: Path, host: str, tmp_path: Path) -> None:
    require_tool("buildah")
    require_root()
    ok("push", "app", f"{host}/x/mine:1", root=root)
    with podman_command() as podman:
        run(*podman, "pull", "-q", "--tls-verify=false", f"{host}/x/mine:1")
        run(*podman, "push", "-q", "--tls-verify=false", f"{host}/x/mine:1", f"{host}/x/podman:1")
        storage = podman[1:]
        run(
            "buildah",
            *storage,
            "push",
            "-q",
            "--tls-verify=false",
            f"{host}/x/mine:1",
            f"docker://{host}/x/buildah:1",
        )
    for name in ("podman", "buildah"):
        ok("pull", "-q", f"{host}/x/{name}:1", root=tmp_path / "back")
        assert lamina("cat", f"{host}/x/{name}:1", "/big", root=tmp_path / "back").stdout == BIG
        one = ok("images", f"{host}/x/{name}:1", "--no-trunc", "-q", root=tmp_path / "back")
        assert one == ok("images", "app", "--no-trunc", "-q", root=root)


def test_crane_regctl_and_oras(root: Path, host: str, tmp_path: Path) -> None:
    crane, regctl, oras = peer("crane"), peer("regctl"), peer("oras")
    ok("push", "app", f"{host}/x/mine:1", root=root)
    run(crane, "validate", "--remote", f"{host}/x/mine:1")
    run(crane, "copy", f"{host}/x/mine:1", f"{host}/x/crane:1")
    home = {"HOME": str(tmp_path), "REGCTL_CONFIG": str(tmp_path / "regctl.json")}
    run(regctl, "registry", "set", "--tls", "disabled", host, **home)
    run(regctl, "image", "copy", f"{host}/x/mine:1", f"{host}/x/regctl:1", **home)
    run(oras, "copy", "--from-plain-http", "--to-plain-http", f"{host}/x/mine:1", f"{host}/x/oras:1", **home)
    for name in ("crane", "regctl", "oras"):
        assert ok("digest", f"{host}/x/{name}:1", root=root).strip() == digest(root)
        assert run(crane, "digest", f"{host}/x/{name}:1").strip() == digest(root)
    # an artifact that refers to the image travels along, also where the registry has all of it in another repository
    (tmp_path / "sbom.txt").write_text("all of it")
    attach = [oras, "attach", "--plain-http", "--artifact-type", "application/x.sbom", f"{host}/x/mine:1", "sbom.txt"]
    done = subprocess.run(attach, cwd=tmp_path, env={**os.environ, **home}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    run(oras, "copy", "-r", "--from-plain-http", "--to-plain-http", f"{host}/x/mine:1", f"{host}/v/mine:1", **home)
    run(regctl, "image", "copy", "--referrers", f"{host}/x/mine:1", f"{host}/w/mine:1", **home)
    for name in ("v", "w"):
        told = run(oras, "discover", "--plain-http", "--format", "json", f"{host}/{name}/mine:1", **home)
        assert "application/x.sbom" in told
    ok("copy", "--referrers", f"docker://{host}/x/mine:1", f"docker://{host}/y/mine:1", root=root)
    told = run(oras, "discover", "--plain-http", "--format", "json", f"{host}/y/mine:1", **home)
    assert "application/x.sbom" in told
    ok("pull", "-q", "--referrers", f"{host}/y/mine:1", root=tmp_path / "back")
    ok("push", "-q", "--referrers", f"{host}/y/mine:1", f"{host}/z/mine:1", root=tmp_path / "back")
    assert "application/x.sbom" in run(
        oras, "discover", "--plain-http", "--format", "json", f"{host}/z/mine:1", **home
    )


def test_users_and_login(root: Path, tmp_path: Path) -> None:
    with real_registry("docker-registry", tmp_path / "registry", users=USERS) as host:
        home = {"HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path / "docker"), "XDG_RUNTIME_DIR": str(tmp_path)}
        denied = lamina("push", "app", f"{host}/app:1", root=root, **home)
        assert denied.returncode == 9
        assert b"lamina login" in denied.stderr
        wrong = lamina("login", host, "-u", "me", "--password-stdin", root=root, input=b"wrong\n", **home)
        assert wrong.returncode == 9
        assert not (tmp_path / "docker").exists()
        ok("login", host, "-u", "me", "--password-stdin", root=root, input=b"secret\n", **home)
        assert (tmp_path / "docker/config.json").stat().st_mode & 0o777 == 0o600
        assert ok("login", host, "--get-login", root=root, **home) == "me\n"
        ok("push", "app", f"{host}/app:1", root=root, **home)
        require_tool("skopeo")
        auth = str(tmp_path / "docker/config.json")
        told = run("skopeo", "inspect", "--tls-verify=false", "--authfile", auth, f"docker://{host}/app:1")
        assert json.loads(told)["Digest"] == digest(root)
        ok("logout", host, root=root, **home)
        assert lamina("digest", f"{host}/app:1", root=root, **home).returncode == 9
        assert ok("digest", f"{host}/app:1", "--creds", "me:secret", root=root, **home).strip() == digest(root)
        # podman's login is lamina's too
        run(
            "skopeo",
            "login",
            "--tls-verify=false",
            "-u",
            "me",
            "-p",
            "secret",
            "--authfile",
            str(tmp_path / "a.json"),
            host,
        )
        ok("digest", f"{host}/app:1", "--authfile", str(tmp_path / "a.json"), root=root, **home)


def self_signed(directory: Path, name: str) -> Path:
    certificate = directory / f"{name}.crt"
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", certificate.with_suffix(".key"), "-out", certificate,
    )  # fmt: skip
    return certificate


def test_client_certificates(root: Path, tmp_path: Path) -> None:
    require_tool("openssl")
    server, client = self_signed(tmp_path, "host"), self_signed(tmp_path, "client")
    where = tmp_path / "registry"
    with real_registry("docker-registry", where, certificate=server, client_ca=client) as host:
        trusted = tmp_path / "trusted"
        trusted.mkdir()
        (trusted / "ca.crt").write_bytes(server.read_bytes())
        refused = lamina("push", "app", f"{host}/app:1", "--cert-dir", str(trusted), root=root)
        assert refused.returncode == 8, refused.stderr
        (trusted / "me.cert").write_bytes(client.read_bytes())
        (trusted / "me.key").write_bytes(client.with_suffix(".key").read_bytes())
        ok("push", "app", f"{host}/app:1", "--cert-dir", str(trusted), root=root)
        (trusted / "me.key").unlink()
        assert b"me.key" in lamina("digest", f"{host}/app:1", "--cert-dir", str(trusted), root=root).stderr


def test_tls_with_an_own_authority(root: Path, tmp_path: Path) -> None:
    require_tool("openssl")
    certificate = self_signed(tmp_path, "host")
    with real_registry("docker-registry", tmp_path / "registry", certificate=certificate) as host:
        done = lamina("push", "app", f"{host}/app:1", root=root)
        assert done.returncode == 8
        assert b"certificate is not trusted" in done.stderr
        trusted = tmp_path / "trusted"
        trusted.mkdir()
        (trusted / "ca.crt").write_bytes(certificate.read_bytes())
        ok("push", "app", f"{host}/app:1", "--cert-dir", str(trusted), root=root)
        assert ok("digest", f"{host}/app:1", "--tls-verify=false", root=root).strip() == digest(root)
        home = {"HOME": str(tmp_path)}
        place = tmp_path / ".config/containers/certs.d" / host
        place.mkdir(parents=True)
        (place / "ca.crt").write_bytes(certificate.read_bytes())
        assert ok("digest", f"{host}/app:1", root=root, **home).strip() == digest(root)
        (place / "ca.crt").write_text("no certificate")
        assert b"is not a certificate that can be used" in lamina("digest", f"{host}/app:1", root=root, **home).stderr


def test_in_python(root: Path, host: str, tmp_path: Path) -> None:
    pushed = library.push("app", f"{host}/py/app:1", root=root)
    registry = library.Registry(host)
    assert list(registry.tags("py/app")) == ["1"]
    assert registry.digest("py/app:1") == pushed
    assert "py/app" in list(registry.catalog())
    assert registry.image("py/app:1").read_bytes("/etc/conf") == b"two\n"
    image = library.pull(f"{host}/py/app:1", root=tmp_path / "py")
    assert image.digest == pushed
    assert library.open(f"docker://{host}/py/app:1").digest == pushed
