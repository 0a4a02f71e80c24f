"""A mirror between real clients and a real registry: docker with registry-mirrors, podman and skopeo with a mirror in
registries.conf, crane by the path, and containerd's ?ns=."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_engine import die_with_us, docker_daemon
from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from server_process import ServerProcess
from support import lamina, peer, podman_command, real_registry, require_root, require_tool, write_layout

pytestmark = pytest.mark.peer
LAYERS = [[("bin/", None), ("etc/conf", b"one\n")], [("etc/conf", b"two\n"), ("big", bytes(range(256)) * 9000)]]


def run(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False, timeout=120, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


class World:
    """An upstream with library/app:1 and team/app:1, and a mirror of it as docker.io."""

    def __init__(self, top: Path, upstream: str, mirror: ServerProcess) -> None:
        self.top, self.upstream, self.mirror = top, upstream, mirror
        self.digest = str(write_layout(top / "l", "app", LAYERS).digest)
        for name in ("library/app:1", "team/app:1"):
            done = lamina("copy", f"oci:{top / 'l'}:app", f"docker://{upstream}/{name}", root=top / "none")
            assert done.returncode == 0, done.stderr

    def kept(self) -> int:
        return len(list((self.top / "mirror" / "blobs" / "sha256").iterdir()))


@contextmanager
def mirroring(top: Path, upstream: str) -> Iterator[ServerProcess]:
    options = ("--mirror", f"docker.io=http://{upstream}", "--mirror-dir", str(top / "mirror"), "--mirror-ttl", "0s")
    server = ServerProcess(top / "served", *options, "--workers", "2", log=top / "log")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(params=["registry", "lamina"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "lamina":
        with RegistryServer(Store.open(str(tmp_path / "upstream")), writable=True) as server:
            with mirroring(tmp_path, server.name) as mirror:
                yield World(tmp_path, server.name, mirror)
    else:
        with real_registry("registry", tmp_path / "registry") as name, mirroring(tmp_path, name) as mirror:
            yield World(tmp_path, name, mirror)


def test_docker_pulls_through_its_registry_mirror(world: World) -> None:
    mirror = world.mirror.name
    with docker_daemon("--registry-mirror", f"http://{mirror}", "--insecure-registry", mirror) as docker:
        for name in ("app:1", "team/app:1"):
            docker.ok("pull", name)
            pulled = json.loads(docker.ok("image", "inspect", name))[0]
            assert pulled["RepoDigests"][0].endswith(world.digest)
    assert world.kept() == 4  # the manifest, the config and two layers


def test_containerd_pulls_by_its_hosts_directory(world: World, tmp_path: Path) -> None:
    require_root()
    require_tool("containerd", "ctr")
    hosts = tmp_path / "certs.d" / "docker.io"
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(
        'server = "https://nowhere.invalid"\n'
        f'[host."http://{world.mirror.name}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    with tempfile.TemporaryDirectory(prefix="lc-", ignore_cleanup_errors=True) as top:  # sockets want a short path
        address = f"{top}/c.sock"
        (Path(top) / "config.toml").write_text(
            f'version = 2\nroot = "{top}/root"\nstate = "{top}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{address}"\n'
        )
        with open(f"{top}/log", "wb") as log:
            daemon = subprocess.Popen(
                ["containerd", "--config", f"{top}/config.toml"],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_us,  # noqa: PLW1509
            )
        try:
            deadline = time.monotonic() + 30
            while subprocess.run(["ctr", "-a", address, "version"], capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline, Path(f"{top}/log").read_text()[-2000:]
                time.sleep(0.1)
            image = "docker.io/team/app:1"
            run("ctr", "-a", address, "content", "fetch", "--hosts-dir", tmp_path / "certs.d", image)
            assert world.digest in run("ctr", "-a", address, "images", "ls")
        finally:
            daemon.kill()
            daemon.wait()
    assert world.kept() == 4


def test_podman_and_skopeo_pull_by_a_mirror_of_registries_conf(world: World, tmp_path: Path) -> None:
    require_tool("skopeo")
    mirror = world.mirror.name
    conf = tmp_path / "registries.conf"
    conf.write_text(
        '[[registry]]\nlocation = "docker.io"\n'
        f'[[registry.mirror]]\nlocation = "{mirror}/docker.io"\ninsecure = true\n'
    )
    told = run("skopeo", "--registries-conf", conf, "inspect", "--raw", "docker://docker.io/library/app:1")
    assert json.loads(told)["layers"]
    with podman_command() as podman:
        done = subprocess.run(
            [*podman, "pull", "-q", "docker.io/team/app:1"],
            capture_output=True,
            check=False,
            env={"CONTAINERS_REGISTRIES_CONF": str(conf), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"},
        )
        assert done.returncode == 0, done.stderr
    assert world.kept() == 4


def test_lamina_pulls_by_the_same_mirror_and_shows_its_warning(world: World, tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    mirror = world.mirror.name
    conf.write_text(
        '[[registry]]\nlocation = "docker.io"\n'
        f'[[registry.mirror]]\nlocation = "{mirror}/docker.io"\ninsecure = true\n'
    )
    done = lamina("pull", "app:1", root=tmp_path / "s", CONTAINERS_REGISTRIES_CONF=str(conf))
    assert done.returncode == 0, done.stderr
    assert world.digest in lamina("images", "--digests", root=tmp_path / "s").stdout.decode()


def test_crane_copies_by_the_path_and_can_not_push(world: World) -> None:
    mirror = world.mirror.name
    image = f"{mirror}/docker.io/team/app:1"
    assert run(peer("crane"), "digest", "--insecure", image).strip() == world.digest
    run(peer("crane"), "pull", "--insecure", image, world.top / "app.tar")
    run(peer("crane"), "validate", "--insecure", "--remote", image)
    done = subprocess.run(
        [peer("crane"), "tag", "--insecure", image, "2"], capture_output=True, check=False, timeout=60
    )
    assert done.returncode != 0


def test_signatures_come_through_the_mirror(world: World) -> None:
    (world.top / "sbom.json").write_text("{}")
    attach = ("attach", "--plain-http", "--artifact-type", "application/spdx+json", f"{world.upstream}/team/app:1")
    run(peer("oras"), *attach, "sbom.json:application/json", cwd=world.top)
    told = run(
        peer("oras"), "discover", "--plain-http", "--format", "json", f"{world.mirror.name}/docker.io/team/app:1"
    )
    found = json.loads(told)
    listed = found.get("referrers") or found.get("manifests") or []
    assert len(listed) == 1
    run(peer("oras"), "pull", "--plain-http", "-o", world.top / "got", listed[0]["reference"])
    assert (world.top / "got" / "sbom.json").read_text() == "{}"
