"""docker's images reach lamina and lamina's reach docker: through a registry and through archives."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_engine import Docker
from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from support import busybox, lamina, write_layout

pytestmark = pytest.mark.peer
OCI_ARCHIVES = (25,)  # the first docker that loads them
CONFIG = {"Env": ["A=1"], "Cmd": ["/bin/sh", "-c", "cat /etc/conf"], "Labels": {"kind": "test"}}


def layers(mark: str) -> list[list[tuple[Any, ...]]]:
    """Of an image that no other test has: docker keeps what it has seen."""
    noise = random.Random(mark).randbytes(300_000)
    base = [
        ("bin/", None),
        ("bin/busybox", busybox(), {"mode": 0o755}),
        *((f"bin/{name}", "-> busybox") for name in ("sh", "cat", "rm")),
        ("etc/", None),
        ("etc/conf", b"one\n"),
        ("etc/old", b"old"),
        ("noise", noise),
    ]
    return [base, [("etc/", None), ("etc/conf", mark.encode()), ("etc/.wh.old", b"")]]


def ok(*words: str, root: Path) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def image_id(root: Path, name: str) -> str:
    return ok("images", name, "--no-trunc", "-q", root=root)


@pytest.fixture
def name(request: pytest.FixtureRequest, docker: Docker) -> Iterator[str]:
    """A name of the test's own, for an image that docker forgets afterwards."""
    name = request.node.name.replace("[", "-").replace("]", "").replace("_", "-")
    yield name
    names = docker.ok("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for one in filter(lambda one: name in one, names):
        docker.ok("rmi", "--force", one)


@pytest.fixture
def root(tmp_path: Path, name: str) -> Path:
    """A store with the image ``name``."""
    write_layout(tmp_path / "layout", name, layers(name), config={"config": CONFIG})
    ok("load", "-i", str(tmp_path / "layout"), root=tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def host(root: Path) -> Iterator[str]:
    """`lamina serve --writable` over the store."""
    with RegistryServer(Store.open(str(root)), writable=True) as server:
        yield server.name


def test_docker_pulls_from_lamina_serve(docker: Docker, root: Path, name: str, host: str) -> None:
    assert image_id(root, name) in docker.ok("pull", f"{host}/{name}") + docker.ok(
        "inspect", "--format", "{{.Id}}", f"{host}/{name}"
    )
    (told,) = json.loads(docker.ok("inspect", f"{host}/{name}"))
    digest = ok("images", name, "--digests", "--format", "{{.Digest}}", root=root)
    assert told["RepoDigests"] == [f"{host}/{name}@{digest}"]
    assert {key: told["Config"][key] for key in CONFIG} == CONFIG
    assert docker.ok("run", "--rm", f"{host}/{name}") == name


def test_docker_pushes_to_lamina_serve(docker: Docker, root: Path, name: str, host: str, tmp_path: Path) -> None:
    docker.ok("pull", f"{host}/{name}")
    docker.ok("run", "--name", name, f"{host}/{name}", "sh", "-c", "echo three > /etc/conf; rm /noise")
    docker.ok("commit", "--change", 'CMD ["cat", "/etc/conf"]', name, f"{host}/{name}-changed:2")
    docker.ok("rm", name)
    told = docker.ok("push", f"{host}/{name}-changed:2")
    assert told.count("Layer already exists") + told.count("Mounted from") == 2
    pulled = f"{host}/{name}-changed:2"
    assert ok("cat", f"{name}-changed:2", "/etc/conf", root=root) == "three"
    assert "noise" not in ok("ls", f"{name}-changed:2", root=root).split()
    assert image_id(root, f"{name}-changed:2") == docker.ok("inspect", "--format", "{{.Id}}", pulled)
    assert docker.ok("inspect", "--format", "{{index .RepoDigests 0}}", pulled).endswith(
        ok("images", f"{name}-changed:2", "--digests", "--format", "{{.Digest}}", root=root)
    )
    # and on, through lamina's own client
    ok("pull", "-q", pulled, root=tmp_path / "other")
    assert ok("run", "--rm", "--network", "none", pulled, root=tmp_path / "other") == "three"


def test_docker_loads_what_lamina_saves(docker: Docker, root: Path, name: str, tmp_path: Path) -> None:
    ok("tag", name, f"host.example/team/{name}:v2", root=root)
    ok("save", "-o", str(tmp_path / "both.tar"), name, f"host.example/team/{name}:v2", root=root)
    assert docker.ok("load", "-i", str(tmp_path / "both.tar")).splitlines() == [
        f"Loaded image: {name}:latest",
        f"Loaded image: host.example/team/{name}:v2",
    ]
    for one in (name, f"host.example/team/{name}:v2"):
        assert docker.ok("inspect", "--format", "{{.Id}}", one) == image_id(root, name)
    assert docker.ok("run", "--rm", name) == name
    (told,) = json.loads(docker.ok("inspect", name))
    assert {key: told["Config"][key] for key in CONFIG} == CONFIG


def test_docker_loads_what_lamina_saves_to_a_pipe(docker: Docker, root: Path, name: str) -> None:
    saved = lamina("save", name, root=root)
    assert saved.returncode == 0, saved.stderr
    done = docker("load", input=saved.stdout)
    assert done.stdout.decode() == f"Loaded image: {name}:latest\n", done.stderr


def test_oci_archives_are_for_docker_25_and_later(docker: Docker, root: Path, name: str, tmp_path: Path) -> None:
    ok("save", "--type", "oci-archive", "-o", str(tmp_path / "oci.tar"), name, root=root)
    done = docker("load", "-i", str(tmp_path / "oci.tar"))
    if docker.version < OCI_ARCHIVES:
        assert done.returncode == 1
    else:
        assert done.returncode == 0, done.stderr
        assert docker.ok("run", "--rm", name) == name


@pytest.mark.parametrize("through", ["file", "pipe", "xz"])
def test_lamina_loads_what_docker_saves(docker: Docker, root: Path, name: str, through: str, tmp_path: Path) -> None:
    ok("save", "-o", str(tmp_path / "mine.tar"), name, root=root)
    docker.ok("load", "-i", str(tmp_path / "mine.tar"))
    docker.ok("tag", name, f"host.example/{name}:v2")
    saved = docker("save", name, f"host.example/{name}:v2").stdout
    if through == "xz":
        import lzma

        saved = lzma.compress(saved, preset=0)
    (tmp_path / "theirs.tar").write_bytes(saved)
    other = tmp_path / "other"
    words, given = (("load",), saved) if through == "pipe" else (("load", "-i", str(tmp_path / "theirs.tar")), None)
    done = lamina(*words, root=other, input=given)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.decode().splitlines()) == sorted(
        [f"loaded {name}:latest", f"loaded host.example/{name}:v2"]
    ) or sorted(done.stdout.decode().splitlines()) == sorted(
        [f"loaded docker.io/library/{name}:latest", f"loaded host.example/{name}:v2"]
    )
    assert image_id(other, name) == image_id(root, name) == image_id(other, f"host.example/{name}:v2")
    assert ok("ls", "-R", name, root=other) == ok("ls", "-R", name, root=root)
    assert ok("cat", name, "/etc/conf", root=other) == name


def test_an_image_without_a_name_is_loaded(docker: Docker, root: Path, name: str, tmp_path: Path) -> None:
    ok("save", "-o", str(tmp_path / "mine.tar"), name, root=root)
    docker.ok("load", "-i", str(tmp_path / "mine.tar"))
    docker.ok("save", "-o", str(tmp_path / "nameless.tar"), image_id(root, name))
    ok("load", "-i", str(tmp_path / "nameless.tar"), root=tmp_path / "other")
    assert ok("images", "--no-trunc", "-q", root=tmp_path / "other") == image_id(root, name)


def test_there_and_back_is_the_same_image(docker: Docker, root: Path, name: str, tmp_path: Path) -> None:
    ok("save", "-o", str(tmp_path / "mine.tar"), name, root=root)
    docker.ok("load", "-i", str(tmp_path / "mine.tar"))
    docker.ok("save", "-o", str(tmp_path / "theirs.tar"), name)
    ok("load", "-i", str(tmp_path / "theirs.tar"), root=tmp_path / "other")
    ok("save", "-o", str(tmp_path / "again.tar"), name, root=tmp_path / "other")
    docker.ok("rmi", name)
    docker.ok("load", "-i", str(tmp_path / "again.tar"))
    assert docker.ok("inspect", "--format", "{{.Id}}", name) == image_id(root, name)
    assert docker.ok("run", "--rm", name) == name


def test_lamina_imports_what_docker_exports(docker: Docker, root: Path, name: str, tmp_path: Path) -> None:
    ok("save", "-o", str(tmp_path / "mine.tar"), name, root=root)
    docker.ok("load", "-i", str(tmp_path / "mine.tar"))
    docker.ok("run", "--name", name, name, "sh", "-c", "echo changed > /etc/conf")
    docker.ok("export", "-o", str(tmp_path / "tree.tar"), name)
    docker.ok("rm", name)
    ok("import", str(tmp_path / "tree.tar"), "flat", root=tmp_path / "other")
    assert ok("cat", "flat", "/etc/conf", root=tmp_path / "other") == "changed"
    assert "old" not in ok("ls", "flat", "/etc", root=tmp_path / "other").split()


def test_docker_imports_what_lamina_exports(docker: Docker, root: Path, name: str, tmp_path: Path) -> None:
    ok("export", "-o", str(tmp_path / "tree.tar"), name, root=root)
    docker.ok("import", "--change", 'CMD ["/bin/cat", "/etc/conf"]', str(tmp_path / "tree.tar"), f"{name}:flat")
    assert docker.ok("run", "--rm", f"{name}:flat") == name
