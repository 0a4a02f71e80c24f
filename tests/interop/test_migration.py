"""Moving from a docker-registry: out of its storage directory, and over the network."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from support import lamina, peer, real_registry, write_index, write_layout

pytestmark = pytest.mark.peer
ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"


def ok(*words: str, root: Path) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def digest_at(host: str, repository: str, name: str) -> str:
    asked = urllib.request.Request(f"http://{host}/v2/{repository}/manifests/{name}", headers={"Accept": ACCEPT})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return str(answer.headers["Docker-Content-Digest"])


def upload_that_never_ends(host: str) -> None:
    asked = urllib.request.Request(f"http://{host}/v2/half/blobs/uploads/", method="POST", data=b"")
    with urllib.request.urlopen(asked, timeout=20) as answer:
        location = answer.headers["Location"]
    more = urllib.request.Request(location, method="PATCH", data=b"the first half")
    more.add_header("Content-Type", "application/octet-stream")
    urllib.request.urlopen(more, timeout=20).close()


class Old:
    """A registry that people have used: tags, an index, a signature, a tag that was moved, half a push."""

    def __init__(self, host: str, top: Path) -> None:
        one = write_layout(top / "l", "one", [[("a", b"1")], [("b", b"2")]])
        two = write_layout(top / "l", "two", [[("c", b"3")]])
        write_index(top / "l", "both", [one, two])
        self.untagged = str(two.digest)
        for name, target in (("two", "app:1"), ("one", "app:1"), ("one", "team/app:1"), ("both", "team/app:latest")):
            words = ("copy", "--all", f"oci:{top / 'l'}:{name}", f"docker://{host}/{target}")
            ok(*words, root=top / "none")
        (top / "sbom.json").write_text("{}")
        words = ["attach", "--plain-http", "--artifact-type", "application/spdx+json", f"{host}/team/app:1"]
        done = subprocess.run(
            [peer("oras"), *words, "sbom.json:application/json"], cwd=top, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        upload_that_never_ends(host)
        self.tags = [("app", "1"), ("team/app", "1"), ("team/app", "latest")]
        self.digests = {one: digest_at(host, *one) for one in self.tags}
        self.subject = self.digests["team/app", "1"]


@pytest.fixture(params=["docker-registry", "registry"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Old]]:
    with real_registry(request.param, tmp_path / "registry") as host:
        yield host, Old(host, tmp_path)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[str]:
    with RegistryServer(Store.open(str(tmp_path / "new")), writable=True) as server:
        yield server.name


def referrers(host: str, repository: str, subject: str) -> list[str]:
    done = subprocess.run(
        [peer("oras"), "discover", "--plain-http", "--format", "json", f"{host}/{repository}@{subject}"],
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    return [one["digest"] for one in found.get("referrers") or found.get("manifests") or []]


def check_new(host: str, old: Old, source: str) -> None:
    assert {one: digest_at(host, *one) for one in old.tags} == old.digests
    assert len(referrers(host, "team/app", old.subject)) == 1
    assert referrers(host, "team/app", old.subject) == referrers(source, "team/app", old.subject)


def test_the_storage_directory_moves_to_another_registry(old: tuple[str, Old], new: str, tmp_path: Path) -> None:
    host, made = old
    place = f"docker-registry:{tmp_path}/registry/data"
    ok("sync", "--all", "--keep-path", "--untagged", "--referrers", place, f"docker://{new}", root=tmp_path / "none")
    check_new(new, made, host)
    assert digest_at(new, "app", made.untagged) == made.untagged


def test_the_storage_directory_is_served_as_it_is(old: tuple[str, Old], tmp_path: Path) -> None:
    from lamina.archive.docker_registry import DockerRegistryReader

    _, made = old
    with RegistryServer(DockerRegistryReader(f"{tmp_path}/registry/data")) as server:
        assert {one: digest_at(server.name, *one) for one in made.tags} == made.digests
        ok("copy", "--all", f"docker://{server.name}/team/app:latest", "got:1", root=tmp_path / "s")
        assert made.digests["team/app", "latest"] in ok("images", "--digests", root=tmp_path / "s")
        assert len(referrers(server.name, "team/app", made.subject)) == 1


def test_a_registry_moves_over_the_network(old: tuple[str, Old], new: str, tmp_path: Path) -> None:
    host, made = old
    words = ("sync", "--all", "--keep-path", "--referrers", f"docker://{host}/*", f"docker://{new}")
    ok(*words, root=tmp_path / "none")
    check_new(new, made, host)
    again = json.loads(ok(*words, "--format", "json", root=tmp_path / "none"))
    assert {one["state"] for one in again} == {"already there"}
