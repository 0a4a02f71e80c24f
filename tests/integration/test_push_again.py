"""A registry loses blobs between the moment when it is asked for them and the manifest that needs them, as with gc
while it runs: what it lacks is sent again, and the manifest once more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import ContentMissing
from lamina.events import BlobDone, Event, Warned
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.serve.server import RegistryServer
from lamina.spec.manifest import Index, Manifest, build_index, parse
from lamina.spec.reference import Reference
from lamina.store.store import Store
from lamina.transfer.copy import Copied, copy
from support import real_registry, write_layout
from unruly import Answer, Rule, Seen, Unruly

HERE = pytest.mark.parametrize(
    "program", ["lamina", *(pytest.param(name, marks=pytest.mark.peer) for name in ("docker-registry", "registry"))]
)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images "app" and "arm", and an index "all" of both."""
    directory = tmp_path_factory.mktemp("layout")
    for name, machine in (("app", "amd64"), ("arm", "arm64")):
        write_layout(directory, name, [[("a", name.encode())], [("b", b"same")]], config={"architecture": machine})
    reader = LayoutReader(str(directory))
    index = build_index([reader.resolve("app"), reader.resolve("arm")])
    name = f"blobs/sha256/{index.descriptor.digest.encoded}"
    (directory / name).write_bytes(index.raw)
    listed = json.loads((directory / "index.json").read_bytes())
    entry = {**index.descriptor.to_json(), "annotations": {"org.opencontainers.image.ref.name": "all"}}
    listed["manifests"].append(entry)
    (directory / "index.json").write_text(json.dumps(listed))
    return directory


def push(
    layout: Path, ref: str, image: str, on_event: Callable[[Event], None] = lambda event: None, mount_from: str = ""
) -> Copied:
    target = Repository(image, Access(first_wait=0.001), Registries(), mount_from=lambda blob: [mount_from])
    return copy(LayoutReader(str(layout)), target, [(ref, image)], all_platforms=ref == "all", on_event=on_event)[0]


def document(layout: Path, ref: str) -> Manifest | Index:
    reader = LayoutReader(str(layout))
    top = reader.resolve(ref)
    return parse(reader.manifest(top), top.media_type, ref)


def remove(image: str, kind: str, digest: object) -> None:
    site = Repository(image, Access(), Registries()).sites()[-1]
    scopes = (f"repository:{Reference.parse(image).path}:delete",)
    site.client.request("DELETE", site.url(f"{kind}/{digest}"), scopes=scopes, ok=(202,)).release()


def check_pulls(layout: Path, ref: str, image: str, tmp_path: Path) -> None:
    """Pull everything to an empty store; all bytes are verified there."""
    store = Store.open(str(tmp_path / "pulled"))
    done = copy(Repository(image, Access(), Registries()), store, [(image, image)], all_platforms=ref == "all")[0]
    assert done.descriptor.digest == LayoutReader(str(layout)).resolve(ref).digest


@HERE
def test_a_blob_that_goes_before_the_manifest_is_sent_again(layout: Path, tmp_path: Path, program: str) -> None:
    def check(host: str) -> None:
        image, lost = f"{host}/team/app:1", document(layout, "app").listed[1:]
        push(layout, "app", f"{host}/team/app:0")
        said: list[Event] = []

        def on_event(event: Event) -> None:
            said.append(event)
            if isinstance(event, BlobDone) and event.digest in {one.digest for one in lost} and event.reused:
                remove(image, "blobs", event.digest)

        remove(image, "manifests", document(layout, "app").descriptor.digest)
        done = push(layout, "app", image, on_event)
        assert [blob.descriptor.digest for blob in done.blobs if not blob.reused and blob.what == "layer"] == [
            one.digest for one in lost
        ]
        assert len([event for event in said if isinstance(event, Warned) and "sent again" in event.message]) == 1
        check_pulls(layout, "app", image, tmp_path)

    if program == "lamina":
        with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
            check(server.name)
    else:
        with real_registry(program, tmp_path / "registry") as name:
            check(name)


def test_a_manifest_that_goes_before_its_index_is_sent_again_with_its_blobs(layout: Path, tmp_path: Path) -> None:
    with RegistryServer(Store.open(str(tmp_path / "served")), writable=True) as server:
        image = f"{server.name}/team/app:1"
        children = [child.digest for child in document(layout, "all").listed]
        only_arm = [blob.digest for blob in document(layout, "arm").listed[:2]]

        def on_event(event: Event) -> None:
            if isinstance(event, BlobDone) and event.what == "index":  # the index waits for its name
                for child in children:
                    remove(image, "manifests", child)
                for blob in only_arm:
                    remove(image, "blobs", blob)

        push(layout, "all", image, on_event)
        check_pulls(layout, "all", image, tmp_path)


def refusing(code: str, times: int, detail: str = "", status: int = 404) -> Rule:
    """Refuse the first ``times`` manifests, and lose all blobs that were there."""
    left = [times]

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method != "PUT" or "/manifests/" not in seen.path or not left[0]:
            return None
        left[0] -= 1
        server.blobs.clear()
        body = {"errors": [{"code": code, "message": "it is gone", "detail": {"digest": detail}}]}
        return Answer(status, {}, json.dumps(body).encode())

    return rule


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("code", ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"])
def test_where_the_registry_names_nothing_each_blob_is_looked_for_again(layout: Path, code: str, status: int) -> None:
    with Unruly(rule=refusing(code, 1, status=status)) as server:
        push(layout, "app", server.image)
        assert set(server.blobs) == {str(one.digest) for one in document(layout, "app").listed}
        assert len(server.requests("PUT", "/manifests/")) == 2


def test_what_the_registry_names_is_sent_whatever_its_head_says(layout: Path) -> None:
    named = str(document(layout, "app").listed[1].digest)
    base = refusing("MANIFEST_BLOB_UNKNOWN", 1, named)

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        answer = base(server, seen)
        if seen.method == "HEAD" and named in seen.path:
            return Answer(200)  # a registry with a cache that knows nothing of gc
        return answer

    with Unruly(rule=rule) as server:
        push(layout, "app", server.image, mount_from=f"{server.name}/other")
        assert named in server.blobs
        mounts = ["mount=" in seen.path for seen in server.requests("POST", "/uploads/")]
        assert mounts == [True] * 2 + [False] * 3  # the named one is not asked for at first; then nothing is mounted


def test_a_manifest_is_refused_twice_and_no_more(layout: Path) -> None:
    with Unruly(rule=refusing("MANIFEST_BLOB_UNKNOWN", 99)) as server:
        with pytest.raises(ContentMissing, match="it was sent twice") as error:
            push(layout, "app", server.image)
        assert "operator" in str(error.value.hint)
        assert len(server.requests("PUT", "/manifests/")) == 2
        assert "1" not in server.manifests


def test_a_registry_that_names_what_was_not_pushed_is_believed_at_once(layout: Path) -> None:
    """An index whose manifests are not copied: there is nothing to send again."""
    child = str(document(layout, "all").listed[0].digest)
    with Unruly(rule=refusing("MANIFEST_UNKNOWN", 99, child)) as server:
        target = Repository(server.image, Access(first_wait=0.001), Registries())
        with pytest.raises(ContentMissing, match="it is gone"):
            copy(LayoutReader(str(layout)), target, [("all", server.image)], index_only=True)
        assert len(server.requests("PUT", "/manifests/")) == 1
