"""`copy` and `sync` with the options of skopeo: both sides, formats, directories, and an air gap."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lamina.archive.dir_layout import DirectoryReader, DirectoryWriter
from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.cli.access import seconds
from lamina.cli.session import credentials
from lamina.errors import (
    Conflict,
    DigestMismatch,
    InvalidDocument,
    NotFound,
    ReferenceNotFound,
    Unsupported,
    UsageError,
)
from lamina.host.lock import acquire
from lamina.host.temporary import Temporary
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.source.protocols import Blob
from lamina.source.select import find_manifest
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.manifest import Index, build_index, build_manifest, parse
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.transfer.convert import Converted
from lamina.transfer.copy import copy
from lamina.transfer.sync import Named, image_directories, named_in
from lamina.transfer.validate import validate
from support import lamina, require_tool, write_layout
from unruly import Answer, Rule, Seen, Unruly

HOST = Platform.host()
OTHER = Platform("linux", "s390x" if HOST.architecture != "s390x" else "amd64")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image "app", and an index "many" for this machine and another."""
    directory = tmp_path_factory.mktemp("layout")
    write_layout(directory, "app", [[("a", b"1")], [("b", b"2")]])
    entries = []
    for platform in (HOST, OTHER):
        made = write_layout(
            directory, platform.architecture, [[("who", b"x")]], config={"architecture": platform.architecture}
        )
        entries.append(Descriptor(made.media_type, made.digest, made.size, {"k": "v"}, platform))
    index = build_index(entries, annotations={"of": "all"})
    writer = LayoutWriter(str(directory))
    with writer.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
        session.tag("many", index.descriptor)
    return directory


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()


def wants(secret: str) -> Rule:
    """A registry that opens for one login."""

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.headers.get("authorization") == secret:
            return None
        return Answer(401, {"WWW-Authenticate": 'Basic realm="test"'})

    return rule


@pytest.mark.parametrize("count", [1, 2])
def test_a_list_of_referrers_under_a_tag_is_copied_whole(tmp_path: Path, count: int) -> None:
    """Registries without the API of referrers have one beside the image: `sync` of a repository meets it."""
    source, target = LayoutWriter(str(tmp_path / "from")), LayoutWriter(str(tmp_path / "to"))
    empty = Descriptor.of(mediatype.OCI_EMPTY, b"{}")
    subject = write_layout(tmp_path / "from", "app", [[("a", b"1")]])
    with source.session("test") as session:
        session.put_blob(empty, BytesBlob(empty, b"{}"))
        made = [
            build_manifest(empty, [empty], subject=subject, artifact_type=f"a/{number}") for number in range(count)
        ]
        for one in made:
            session.put_manifest(one.descriptor, one.raw)
        index = build_index([one.as_referrer() for one in made])
        session.put_manifest(index.descriptor, index.raw)
        session.tag("sha256-of", index.descriptor)
    copy(LayoutReader(str(tmp_path / "from")), target, [("sha256-of", "sha256-of")], platform=OTHER)
    reader = LayoutReader(str(tmp_path / "to"))
    assert [reader.manifest(one.descriptor) for one in made] == [one.raw for one in made]


def test_login_that_is_refused_says_what_to_check(tmp_path: Path) -> None:
    with Unruly(rule=lambda server, seen: Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})) as server:
        words = ("login", server.name, "-u", "me", "--password-stdin")
        done = lamina(*words, root=tmp_path, input=b"wrong\n", HOME=str(tmp_path), DOCKER_CONFIG=str(tmp_path / "d"))
        assert done.returncode == 9
        assert b"check the user name and the password" in done.stderr
        assert b"`lamina login" not in done.stderr


def test_each_side_has_its_login(layout: Path, tmp_path: Path) -> None:
    auth = tmp_path / "auth.json"
    with Unruly(layout, rule=wants(basic("from:a"))) as source, Unruly(rule=wants(basic("to:b"))) as target:
        words = ("copy", "-q", f"docker://{source.image}", f"docker://{target.image}")
        auth.write_text(json.dumps({"auths": {target.name: {"auth": base64.b64encode(b"to:b").decode()}}}))
        for more in (
            ("--src-creds", "from:a", "--dest-creds", "to:b"),
            ("--src-username", "from", "--src-password", "a", "--dest-authfile", str(auth)),
            ("--creds", "to:b", "--src-creds", "from:a"),
        ):
            target.manifests.clear()
            done = lamina(*words, *more, root=tmp_path / "s")
            assert (done.returncode, list(target.manifests)) == (0, ["1"]), (more, done.stderr)
        done = lamina(*words, "--creds", "to:b", root=tmp_path / "s")
        assert done.returncode == 9
        done = lamina(*words, "--creds", "from:a", "--dest-no-creds", root=tmp_path / "s")
        assert done.returncode == 9


def test_a_token_is_sent_unchanged_and_only_to_its_registry(layout: Path, tmp_path: Path) -> None:
    with Unruly(layout) as storage, Unruly(layout) as source:

        def rule(server: Unruly, seen: Seen) -> Answer | None:
            if seen.headers.get("authorization") != "Bearer T0KEN":
                return Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{server.name}/token"'})
            if "/blobs/" in seen.path:
                return Answer(307, {"Location": f"http://{storage.name}{seen.path}"})
            return None

        source.rule = rule
        words = ("copy", "-q", f"docker://{source.image}", f"oci:{tmp_path}/l:app")
        assert lamina(*words, "--src-registry-token", "T0KEN", root=tmp_path / "s").returncode == 0
        assert storage.requests()
        assert not any("authorization" in seen.headers for seen in storage.seen)
        assert lamina(*words, "--src-registry-token", "other", root=tmp_path / "s").returncode == 9
        assert not source.requests(part="/token")
        assert lamina("digest", "--registry-token", "T0KEN", source.image, root=tmp_path / "s").returncode == 0


@pytest.mark.parametrize("token", ["SECRET\n", "SECRET\nX: y", "SECRET two", "SECRET\u20ac"])
def test_a_token_that_is_invalid_in_a_header_is_not_printed(layout: Path, tmp_path: Path, token: str) -> None:
    with Unruly(layout) as source:
        done = lamina("digest", "--registry-token", token, source.image, root=tmp_path / "s")
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"token" in done.stderr
        assert b"SECRET" not in done.stderr
        assert not source.seen


def test_contradictory_options_are_refused() -> None:
    assert credentials({"username": "me", "password": "secret"}) == "me:secret"
    assert credentials({"creds": "a:b", "tls_verify": "false"}) == "a:b"
    assert credentials({}) is None
    for given in ({"creds": "a:b", "no_creds": "True"}, {"username": "a", "registry_token": "t"}, {"password": "x"}):
        with pytest.raises(UsageError):
            credentials(given)


@pytest.mark.parametrize(("text", "wanted"), [("2", 2.0), ("2s", 2.0), ("500ms", 0.5), ("0s", 0.0), ("1m", 60.0)])
def test_the_pause_between_retries_is_as_requested(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "x", "2x", "-1s", "1h"])
def test_an_invalid_pause_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text)


@pytest.mark.parametrize("times", [0, 2])
def test_retries_are_counted(layout: Path, tmp_path: Path, times: int) -> None:
    with Unruly(layout, rule=lambda server, seen: Answer(503) if "/manifests/" in seen.path else None) as server:
        words = ("digest", server.image, "--retry-times", str(times), "--retry-delay", "1ms")
        assert lamina(*words, root=tmp_path / "s").returncode == 8
        assert len(server.requests("HEAD", "/manifests/")) == times + 1


def test_image_in_the_other_format_and_back(layout: Path, tmp_path: Path) -> None:
    source = LayoutReader(str(layout))
    made = Converted(source, True, platform=None)
    target = LayoutWriter(str(tmp_path / "l"))
    copy(made, target, [("app", "app")])
    reader = LayoutReader(str(tmp_path / "l"))
    document = find_manifest(reader, reader.resolve("app"), HOST, "app")
    assert document.media_type == mediatype.DOCKER_MANIFEST
    assert {layer.media_type for layer in document.layers} == {mediatype.DOCKER_LAYER_GZIP}
    assert document.config.media_type == mediatype.DOCKER_CONFIG
    before = find_manifest(source, source.resolve("app"), HOST, "app")
    assert [one.digest for one in document.layers] == [one.digest for one in before.layers]
    assert not any(one.problem for one in validate(reader, "app", platform=HOST))
    assert Converted(reader, False, platform=None).resolve("app").digest == before.descriptor.digest


def test_index_in_the_other_format(layout: Path, tmp_path: Path) -> None:
    source = LayoutReader(str(layout))
    copy(
        Converted(source, True, platform=None), LayoutWriter(str(tmp_path / "l")), [("many", "x")], all_platforms=True
    )
    reader = LayoutReader(str(tmp_path / "l"))
    top = reader.resolve("x")
    document = parse(reader.manifest(top), top.media_type)
    assert isinstance(document, Index)
    assert document.media_type == mediatype.DOCKER_LIST
    assert [entry.platform for entry in document.manifests] == [HOST, OTHER]
    assert not document.annotations
    assert not any(one.problem for one in validate(reader, "x", platform=HOST, all_platforms=True))
    one = Converted(source, True, platform=OTHER).resolve("many")
    assert one.media_type == mediatype.DOCKER_MANIFEST


def test_preserve_digests_refuses_only_a_format_that_changes_them(layout: Path, tmp_path: Path) -> None:
    source = LayoutReader(str(layout))
    assert Converted(source, False, platform=None, preserve=True).resolve("many") == source.resolve("many")
    with pytest.raises(Conflict, match="digest"):
        Converted(source, True, platform=None, preserve=True).resolve("app")
    for words, code in (
        (("--format", "v2s1", f"oci:{tmp_path}/l"), 7),
        (("--format", "nonsense", f"oci:{tmp_path}/l"), 2),
        (("--format", "v2s2", "--preserve-digests", f"oci:{tmp_path}/l"), 5),
        (("--preserve-digests", f"docker-archive:{tmp_path}/a.tar"), 2),
    ):
        done = lamina("copy", "-q", f"oci:{layout}:app", *words[-1:], *words[:-1], root=tmp_path / "s")
        assert done.returncode == code, (words, done.stderr)


def test_artifact_has_no_docker_form(tmp_path: Path) -> None:
    writer = LayoutWriter(str(tmp_path / "l"))
    config = Descriptor.of(mediatype.OCI_EMPTY, b"{}")
    manifest = build_manifest(config, [], artifact_type="x/y")
    with writer.session("test") as session:
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("x", manifest.descriptor)
    with pytest.raises(Unsupported, match="artifact"):
        Converted(LayoutReader(str(tmp_path / "l")), True, platform=None).resolve("x")


def test_copy_says_the_digest_and_takes_further_tags(layout: Path, tmp_path: Path) -> None:
    with Unruly() as server:
        words = ("copy", "-q", f"oci:{layout}:app", f"docker://{server.image}", "--digestfile", str(tmp_path / "d"))
        done = lamina(
            *words, "--additional-tag", "2", "--additional-tag", f"{server.name}/app:3", root=tmp_path / "s"
        )
        assert done.returncode == 0, done.stderr
        assert sorted(server.manifests) == ["1", "2", "3"]
    assert (tmp_path / "d").read_text() == str(LayoutReader(str(layout)).resolve("app").digest)


class Nested:
    """A place whose image is an index of indexes: each lists the one below it ``times`` times."""

    location = "nested"

    def __init__(self, deep: int, times: int) -> None:
        config = Descriptor.of(mediatype.OCI_CONFIG, b"{}")
        manifest = build_manifest(config, [])
        self.top = replace(manifest.descriptor, platform=HOST)
        self.documents = {self.top.digest: manifest.raw}
        self.reads = 0
        for number in range(deep):
            one = build_index([self.top] * times, annotations={"number": str(number)})
            self.top = replace(one.descriptor, platform=HOST)
            self.documents[self.top.digest] = one.raw

    def resolve(self, name: str) -> Descriptor:
        return self.top

    def manifest(self, descriptor: Descriptor) -> bytes:
        self.reads += 1
        assert self.reads < 1000
        return self.documents[descriptor.digest]

    def blob(self, descriptor: Descriptor) -> Blob:
        raise NotImplementedError


@pytest.mark.parametrize("platform", [None, HOST])
def test_nested_indexes_are_converted_once_and_to_a_limited_depth(platform: Platform | None) -> None:
    source = Nested(6, 60)
    made = Converted(source, True, platform=platform)
    assert mediatype.is_docker(made.resolve("").media_type)
    assert source.reads <= 7
    with pytest.raises(InvalidDocument, match="nested"):
        Converted(Nested(600, 1), True, platform=platform).resolve("")


@pytest.mark.parametrize(
    ("how", "found"), [("system", [True, False]), ("all", [True, True]), ("index-only", [False, False])]
)
def test_multi_arch(layout: Path, tmp_path: Path, how: str, found: list[bool]) -> None:
    done = lamina("copy", "-q", "--multi-arch", how, f"oci:{layout}:many", f"oci:{tmp_path}/l:x", root=tmp_path / "s")
    assert done.returncode == 0, done.stderr
    reader = LayoutReader(str(tmp_path / "l"))
    assert reader.resolve("x").digest == LayoutReader(str(layout)).resolve("many").digest
    document = parse(reader.manifest(reader.resolve("x")))
    assert isinstance(document, Index)
    assert [(tmp_path / "l/blobs/sha256" / entry.digest.encoded).exists() for entry in document.manifests] == found


@pytest.mark.parametrize("every", [True, False])
def test_directory_and_back(layout: Path, tmp_path: Path, every: bool) -> None:
    source, place = LayoutReader(str(layout)), str(tmp_path / "app:1")
    copy(source, DirectoryWriter(place), [("many", "")], all_platforms=every)
    reader = DirectoryReader(place)
    assert reader.resolve("").digest == source.resolve("many" if every else HOST.architecture).digest
    assert not any(one.problem for one in validate(reader, "", platform=HOST, all_platforms=every))
    assert lamina("cat", f"dir:{place}", "/who", root=tmp_path / "s").stdout == b"x"
    copy(source, DirectoryWriter(place), [("app", "")])  # another image takes its place, and nothing is left
    assert DirectoryReader(place).resolve("").digest == source.resolve("app").digest
    assert len(list(Path(place).iterdir())) == 2 + 3


def test_a_directory_left_by_a_killed_copy_can_be_written_again(layout: Path, tmp_path: Path) -> None:
    """As SIGKILL leaves it: a file that is not whole, under a name of its own."""
    source, place = LayoutReader(str(layout)), tmp_path / "d"
    place.mkdir()
    (place / "version.0123456789ab.tmp").write_bytes(b"Dir")
    copy(source, DirectoryWriter(str(place)), [("app", "")])
    (place / f"{'a' * 64}.0123456789ab.tmp").write_bytes(b"half a layer")
    with Temporary(str(place), "b" * 64) as held:  # of one that is not killed
        copy(source, DirectoryWriter(str(place)), [("app", "")])
        assert os.path.basename(held.path) in os.listdir(place)
    assert len(list(place.iterdir())) == 2 + 3
    (place / "mine.0123456789ab.tmp").write_bytes(b"")
    with pytest.raises(Conflict, match="mine"):
        copy(source, DirectoryWriter(str(place)), [("app", "")])


def test_two_writers_of_one_directory_wait_for_each_other(layout: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "d")

    def is_free() -> bool:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            return acquire(descriptor, place, wait=False)
        finally:
            os.close(descriptor)

    writer = DirectoryWriter(place)
    with writer.session("test"):
        assert not is_free()
    assert is_free()


def test_directory_of_skopeo_and_for_skopeo(layout: Path, tmp_path: Path) -> None:
    require_tool("skopeo")
    copy(LayoutReader(str(layout)), DirectoryWriter(str(tmp_path / "ours")), [("app", "")])
    skopeo = ["skopeo", "copy", "-q", "--insecure-policy"]
    subprocess.run([*skopeo, f"dir:{tmp_path}/ours", f"dir:{tmp_path}/theirs"], check=True)
    digest = LayoutReader(str(layout)).resolve("app").digest
    assert DirectoryReader(str(tmp_path / "theirs")).resolve("").digest == digest
    assert not any(one.problem for one in validate(DirectoryReader(str(tmp_path / "theirs")), "", platform=HOST))


def test_a_directory_that_is_not_an_image_directory_is_refused(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        DirectoryReader(str(tmp_path / "nothing"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("mine")
    with pytest.raises(Conflict, match="precious"):
        copy(LayoutReader(str(layout)), DirectoryWriter(str(tmp_path / "full")), [("app", "")])
    assert (tmp_path / "full/precious").read_text() == "mine"
    place = tmp_path / "d"
    copy(LayoutReader(str(layout)), DirectoryWriter(str(place)), [("app", "")])
    with pytest.raises(ReferenceNotFound):
        DirectoryReader(str(place)).resolve("app")
    (place / "version").write_text("Directory Transport Version: 2.0\n")
    with pytest.raises(Unsupported):
        DirectoryReader(str(place))
    (place / "version").write_text("Directory Transport Version: 1.1\n")
    blob = next(one for one in place.iterdir() if len(one.name) == 64)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(DigestMismatch):
        copy(DirectoryReader(str(place)), LayoutWriter(str(tmp_path / "l")), [("", "app")])
    (place / "manifest.json").write_text("[]")
    with pytest.raises(InvalidDocument):
        DirectoryReader(str(place))


def test_names_below_a_target() -> None:
    one = Named.of(Reference.parse("localhost:5000/team/app:1"))
    assert one.below("host/mirror/", scoped=False) == "host/mirror/app:1"
    assert one.below("host", scoped=True, suffix="-x") == "host/localhost-5000/team/app:1-x"
    pinned = Named.of(Reference.parse(f"a.com/app@sha256:{'0' * 64}"))
    assert pinned.below("host", scoped=False, suffix="-x") == f"host/app@sha256:{'0' * 64}"
    descriptor = Descriptor.of(mediatype.OCI_MANIFEST, b"{}")
    found = list(named_in([("1.0", descriptor), ("debian:12", descriptor)], "here"))
    assert [one.below("host/repo", scoped=False) for one in found] == ["host/repo:1.0", "host/repo/debian:12"]
    assert [one.inside for one in found] == ["1.0", "debian:12"]
    for name in ("", "Not Valid", "a/B:1"):
        with pytest.raises(UsageError):
            list(named_in([(name, descriptor)], "here"))


def test_there_and_back_over_an_air_gap(layout: Path, tmp_path: Path) -> None:
    """Out of a registry into a layout or directories, and from these into another registry, digests kept."""
    root = tmp_path / "s"
    with Unruly() as outside, Unruly() as inside:
        for tag in ("1", "2"):
            name = f"{outside.name}/team/app:{tag}"
            remote = Repository(name, Access(), Registries())
            copy(LayoutReader(str(layout)), remote, [("many", name)], all_platforms=True)
        digest = str(LayoutReader(str(layout)).resolve("many").digest)
        outside.rule = lambda server, seen: Answer(200, {}, b'{"tags":["1","2"]}') if "/tags/" in seen.path else None
        for gap in ("oci", "dir"):
            there = f"{tmp_path}/{gap}"
            done = lamina("sync", "-a", f"docker://{outside.name}/team/app", f"{gap}:{there}", root=root)
            assert done.returncode == 0, done.stderr
            inside.manifests.clear()
            lines = tmp_path / "lines"
            done = lamina(
                "sync", "-aq", f"{gap}:{there}", f"docker://{inside.name}/hub", "--digestfile", str(lines), root=root
            )
            assert done.returncode == 0, done.stderr
            assert {tag for tag in inside.manifests if ":" not in tag} == {"1", "2"}
            assert lines.read_text().split("\n")[:2] == [
                f"{digest} docker://{inside.name}/hub/app:{tag}" for tag in "12"
            ]
        assert sorted(path.name for path in (tmp_path / "dir").iterdir()) == ["app:1", "app:2"]
        assert [name.short for _, name in image_directories(f"{tmp_path}/dir")] == ["app:1", "app:2"]
        words = ("sync", "-q", "--src", "dir", "--dest", "docker", "--append-suffix", "-x", f"{tmp_path}/dir")
        inside.manifests.clear()
        assert lamina(*words, f"{inside.name}/hub", root=root).returncode == 0
        assert {tag for tag in inside.manifests if ":" not in tag} == {"1-x", "2-x"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--src", "oci", "--dest", "docker", "docker://a.test/x", "b.test"), 2),
        (("--dest", "docker", "x.yaml"), 2),
        (("dir:HERE", "docker://a.test/x"), 3),
        (("oci:HERE/none", "docker://a.test/x"), 3),
        (("oci:LAYOUT:app", "docker://a.test/x"), 2),
        (("oci:LAYOUT", "docker-archive:HERE/a.tar"), 2),
    ],
)
def test_contradictory_arguments_of_sync_are_refused(
    layout: Path, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    (tmp_path / "x.yaml").write_text("[]")
    meant = [word.replace("LAYOUT", str(layout)).replace("HERE", str(tmp_path)) for word in words]
    done = lamina("sync", *meant, root=tmp_path / "s")
    assert done.returncode == code, done.stderr


def test_push_of_all_tags(layout: Path, tmp_path: Path) -> None:
    with Unruly() as server:
        for tag in ("a", "b"):
            assert lamina("load", "-q", "-i", str(layout), root=tmp_path / "s").returncode == 0
            assert lamina("tag", "app", f"{server.name}/team/app:{tag}", root=tmp_path / "s").returncode == 0
        assert lamina("push", "-q", "-a", f"{server.name}/team/app", root=tmp_path / "s").returncode == 0
        assert sorted(server.manifests) == ["a", "b"]
        assert lamina("push", "-q", "-a", f"{server.name}/team/app:a", root=tmp_path / "s").returncode == 2
        assert lamina("push", "-q", "-a", f"{server.name}/team/none", root=tmp_path / "s").returncode == 3


def test_a_sync_of_existing_images_requests_only_digests(layout: Path, tmp_path: Path) -> None:
    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if seen.method == "HEAD" and "/manifests/" in seen.path:  # with the digest, as registries do
            answer = server.plain(seen)
            stated = (
                {"Docker-Content-Digest": f"sha256:{hashlib.sha256(answer.body).hexdigest()}"} if answer.body else {}
            )
            return replace(answer, headers={**answer.headers, **stated})
        return None

    with Unruly(layout, rule=rule) as source, Unruly(rule=rule) as target:
        words = ("sync", "--format", "json", f"docker://{source.name}/app:1", f"docker://{target.name}/hub")
        for state in ("copied", "already there"):
            source.seen.clear()
            target.seen.clear()
            done = lamina(*words, root=tmp_path / "s")
            assert json.loads(done.stdout)[0]["state"] == state, done.stderr
        for server in (source, target):
            asked = [(seen.method, seen.path) for seen in server.seen if seen.path != "/v2/"]
            assert [method for method, _ in asked] == ["HEAD"], asked
