"""keep = blob+tar, blob, tar: every reader gives the same bytes, and changing the setting loses nothing."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.errors import BlobNotFound, UsageError
from lamina.events import Event, Warned
from lamina.layer.checkpoints import libz
from lamina.layer.codec import encoder
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.settings import KEEPS, Settings
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.store.fault import KEEP_POINTS
from lamina.store.fsck import fsck
from lamina.store.gc import collect
from lamina.store.prune import prune
from lamina.store.remove import remove_images
from lamina.store.retention import apply_keep
from lamina.store.store import Store
from lamina.store.usage import usage
from lamina.transfer.copy import copy
from support import lamina, make_tar, require_root, running, write_layout
from unruly import Unruly


def text(size: int, seed: int) -> bytes:
    """Bytes that compress as files do."""
    chance = random.Random(seed)
    known = [chance.randbytes(9) for _ in range(500)]
    return b"".join(chance.choice(known) for _ in range(size // 9 + 1))[:size]


BIG = text(3_000_000, 1)
BASE = [
    ("etc/", None),
    ("etc/conf", b"one\n"),
    ("big", BIG),
    ("link", "-> big"),
    *((f"d/{n:03}", text(40_000, n)) for n in range(50)),
    ("last", b"the last\n"),
]
TOP = [("etc/conf", b"two\n"), ("second", "= etc/conf"), ("d/.wh.003", b"")]
CONTENT = {
    b"big": BIG,
    b"last": b"the last\n",
    b"etc/conf": b"two\n",
    **{b"d/%03d" % n: text(40_000, n) for n in range(50) if n != 3},
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout")
    write_layout(directory, "app", [BASE, TOP])
    return directory


@pytest.fixture
def registry(layout: Path) -> Iterator[Unruly]:
    with Unruly(layout) as server:
        yield server


def pulled(server: Unruly, root: Path, keep: str) -> Store:
    store = Store.open(str(root), keep=keep)
    repository = Repository(server.image, Access(first_wait=0.001), Registries())
    copy(repository, store, [(server.image, server.image)])
    return store


def loaded(layout: Path, root: Path, keep: str, on_event: list[Event] | None = None) -> Store:
    store = Store.open(str(root), keep=keep)
    events: list[Event] = [] if on_event is None else on_event
    copy(LayoutReader(str(layout)), store, [("app", "app")], on_event=events.append)
    return store


def check_content(store: Store, name: str = "") -> None:
    """In an order that jumps about, then front to back with several files open."""
    stack = store.stack(name, Platform.host())
    tree = stack.tree()
    paths = sorted(CONTENT, key=lambda path: hashlib.sha256(path).digest())
    for path in paths + sorted(CONTENT):
        with stack.open_file(tree.lookup(path)) as stream:
            assert stream.read() == CONTENT[path]
    streams = [stack.open_file(tree.lookup(path)) for path in paths]
    pieces: list[bytes] = [b""] * len(paths)
    for _ in range(5):
        for number, stream in enumerate(streams):
            pieces[number] += stream.read(9000)
    assert pieces == [CONTENT[path][:45_000] for path in paths]
    for stream in streams:
        stream.close()
    for layer in stack.layers:
        with layer.open() as stream:
            assert Digest.of(stream.read()) == layer.diff_id


def what_is_kept(store: Store, name: str = "") -> set[str]:
    """Of the first layer."""
    layer = store.stack(name, Platform.host()).layers[0]
    found = {
        "tar": store.paths.tar(layer.diff_id),
        "blob": store.blobs.path(layer.descriptor.digest),
        "seek": store.paths.seek(layer.diff_id),
    }
    return {what for what, path in found.items() if os.path.exists(path)}


def problems(store: Store) -> list[str]:
    return [f.what for f in fsck(store) if f.severity not in ("leftover", "elsewhere")]


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {name: file.read() for name in tar.getnames() if (file := tar.extractfile(name)) is not None}


EXPECTED = {"blob+tar": {"blob", "tar"}, "blob": {"blob", "seek"}, "tar": {"tar"}}


@pytest.mark.parametrize("keep", KEEPS)
def test_a_pull_keeps_what_the_setting_says_and_reads_the_same(registry: Unruly, tmp_path: Path, keep: str) -> None:
    store = pulled(registry, tmp_path / "s", keep)
    assert what_is_kept(store) == EXPECTED[keep]
    check_content(store)
    check_content(Store.open(str(tmp_path / "s")))  # the files decide, not the setting of the reader
    assert what_is_kept(store) == EXPECTED[keep]
    assert problems(store) == []
    assert os.listdir(tmp_path / "s/ingest") == []
    before = len(registry.requests())
    pulled(registry, tmp_path / "s", keep)
    assert len(registry.requests()) == before
    assert what_is_kept(store) == EXPECTED[keep]


@pytest.mark.parametrize("keep", KEEPS)
def test_command_line(registry: Unruly, tmp_path: Path, keep: str) -> None:
    root = tmp_path / "s"
    assert lamina("pull", "-q", "--keep", keep, registry.image, root=root).returncode == 0
    plain = tmp_path / "plain"
    assert lamina("pull", "-q", registry.image, root=plain).returncode == 0

    def both(*words: str) -> None:
        ours, theirs = (lamina(*words, root=where) for where in (root, plain))
        assert (ours.returncode, ours.stderr) == (0, b"")
        assert ours.stdout == theirs.stdout
        assert ours.stdout

    image = registry.image
    both("ls", "-l", image, "/d")
    both("cat", image, "/big")
    both("cat", image, "/link")
    both("cat", image, "/etc/conf")
    both("tree", image)
    both("layers", image)
    both("blame", image, "/etc/conf")
    both("validate", "--format", "json", image)
    (tmp_path / "new").write_bytes(b"new")
    done = lamina("append", image, f"{tmp_path}/new:/d/new", "-t", "own:1", root=root)
    assert done.returncode == 0, done.stderr
    assert lamina("cat", "own:1", "/d/new", "/last", root=root).stdout == b"newthe last\n"
    assert lamina("unpack", image, str(tmp_path / "tree"), root=root).returncode == 0
    assert {p: (tmp_path / "tree" / os.fsdecode(p)).read_bytes() for p in CONTENT} == CONTENT
    for kind in ("oci-archive", "docker-archive"):
        archives = [tmp_path / f"{where.name}.{kind}" for where in (root, plain)]
        for where, archive in zip((root, plain), archives, strict=True):
            done = lamina("save", "-q", "--type", kind, "-o", str(archive), image, root=where)
            assert done.returncode == 0, done.stderr
        assert members(archives[0]) == members(archives[1])  # blobs stand in the order in which they were ready
    with Unruly() as other:
        done = lamina("push", "-q", image, f"{other.name}/new/app:1", root=root)
        assert done.returncode == 0, done.stderr
        assert other.manifests["1"] == registry.manifests["1"]
        assert {digest: other.blobs[digest] for digest in registry.blobs} == registry.blobs
    used = json.loads(lamina("df", "--format", "json", root=root).stdout)
    files = [path.stat() for path in root.rglob("*") if path.is_file()]
    assert used["total"] == sum({(f.st_dev, f.st_ino): f.st_blocks * 512 for f in files}.values())
    assert sum(used["layers"].values()) == used["images"] + used["unneeded"]
    assert (used["layers"]["tars"] > 3_000_000) == ("tar" in keep)
    assert lamina("fsck", root=root).returncode == 0
    shown = json.loads(lamina("info", "--format", "json", root=root, LAMINA_KEEP=keep).stdout)
    assert shown["settings"]["keep"]["value"] == keep
    assert shown["checkpoints"]["gzip"] == libz.refusal()
    assert lamina("rmi", image, "own:1", root=root).returncode == 0
    assert [*(root / "layers/sha256").iterdir(), *(root / "blobs/sha256").iterdir()] == []


@pytest.mark.parametrize("keep", KEEPS)
def test_all_derived_data_can_be_deleted(registry: Unruly, tmp_path: Path, keep: str) -> None:
    """Derived is all but a tar whose blob is gone, and the note where that is."""
    store = pulled(registry, tmp_path / "s", keep)
    names = ("index", "seek") if keep == "tar" else ("index", "seek", "tar", "origins")
    for path in list((tmp_path / "s/layers").rglob("*")):
        if path.name in names:
            path.unlink()
    shutil.rmtree(tmp_path / "s/unions")
    (tmp_path / "s/unions").mkdir()
    store = Store.open(str(tmp_path / "s"), keep=keep)
    check_content(store)
    assert what_is_kept(store) == EXPECTED[keep]
    assert problems(store) == []


@pytest.mark.parametrize("after", KEEPS)
@pytest.mark.parametrize("before", KEEPS)
def test_prune_changes_from_each_setting_of_keep_to_each_other(
    registry: Unruly, tmp_path: Path, before: str, after: str
) -> None:
    root = tmp_path / "s"
    store = pulled(registry, root, before)
    total = usage(store).total
    would = json.loads(lamina("prune", "--keep", after, "-n", "--format", "json", root=root).stdout)
    assert what_is_kept(store) == EXPECTED[before]
    assert usage(store).total == total
    ran = lamina("prune", "--keep", after, "--format", "json", root=root)
    done = json.loads(ran.stdout)
    assert done["deleted"] == would["deleted"]
    assert (b"in a registry only" in ran.stderr, b"in registries only" in ran.stderr) == (
        before == "tar" and after == "blob",
        before == "tar" and after == "blob+tar",
    )
    kept = what_is_kept(store)
    if before == "tar":
        assert kept == {"tar"}  # no blob comes from a registry by prune
    elif before == "blob" and after == "tar":
        assert kept == {"tar"}
    else:
        assert kept == EXPECTED[after]
    check_content(Store.open(str(root)))
    assert problems(store) == []
    again = json.loads(lamina("prune", "--keep", after, "--format", "json", root=root).stdout)
    assert (again["deleted"], again["freed"]) == ([], 0)
    pulled(registry, root, "blob+tar")
    check_content(Store.open(str(root)))


def test_serve_passes_on_blobs_that_are_not_kept(registry: Unruly, tmp_path: Path) -> None:
    pulled(registry, tmp_path / "s", "tar")
    with running("serve", "--port", "0", root=tmp_path / "s") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-2].decode().rstrip("/")

        layer = registry.layers[0]
        with urlopen(f"{url}/v2/app/blobs/{layer}?ns={registry.name}") as answer:
            assert answer.read() == registry.blobs[layer]


def test_a_blob_that_no_registry_has_is_kept(layout: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    store = loaded(layout, tmp_path / "s", "tar", events)
    assert what_is_kept(store) == {"tar", "blob"}
    assert [e.message for e in events if isinstance(e, Warned)] == [
        "keep=tar: blobs are kept that no registry is known to have"
    ]
    done = lamina("prune", "--keep", "tar", root=tmp_path / "s")
    assert done.returncode == 0
    assert b"2 blobs" in done.stderr
    assert b"no registry is known" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert what_is_kept(store) == {"tar", "blob"}
    check_content(store)


def test_fsck_distinguishes_not_kept_from_missing(registry: Unruly, tmp_path: Path) -> None:
    store = pulled(registry, tmp_path / "tar", "tar")
    found = fsck(store)
    assert {f.severity for f in found} == {"elsewhere"}
    assert all(f"it is at {registry.name}/app" in f.what for f in found)
    assert len(found) == 2
    tar = Path(store.paths.tar(store.stack("", Platform.host()).layers[0].diff_id))
    tar.chmod(0o600)
    with open(tar, "r+b") as file:
        file.seek(5000)
        file.write(b"!")
    assert [f.severity for f in fsck(store) if f.severity != "elsewhere"] == ["derived"]
    assert any("run `lamina pull` to fetch it" in f.what for f in fsck(store, repair=True) if f.severity == "error")
    assert not tar.exists()  # a damaged tar is not read, and the next pull fetches the layer
    assert any("is missing" in f.what and f"{registry.name}/app had it" in f.what for f in fsck(store))
    with pytest.raises(BlobNotFound):
        store.stack("", Platform.host()).layers[0].open()
    check_content(pulled(registry, tmp_path / "tar", "tar"))  # and the next pull brings it back
    assert problems(store) == []

    store = pulled(registry, tmp_path / "both", "blob+tar")
    Path(store.blobs.path(store.stack("", Platform.host()).layers[0].descriptor.digest)).unlink()
    assert [f.severity for f in fsck(store)] == ["error"]
    assert f"which is missing; {registry.name}/app had it" in fsck(store)[0].what


@pytest.mark.parametrize("place", [30, 300, -30])
def test_damaged_checkpoints_are_made_again(layout: Path, tmp_path: Path, place: int) -> None:
    store = loaded(layout, tmp_path / "s", "blob")
    path = Path(store.paths.seek(store.stack("", Platform.host()).layers[0].diff_id))
    good = path.read_bytes()
    path.chmod(0o600)
    for _ in range(2):
        bad = bytearray(good)
        bad[place] ^= 1
        path.unlink()
        path.write_bytes(bytes(bad))
        assert [f.severity for f in fsck(store)] == ["derived"]
        check_content(store)
        layer = store.stack("", Platform.host()).layers[0]
        for at in range(0, layer.index().tar_size, 500_000):  # each window is read
            with layer.open(at, at + 1):
                pass
        assert path.read_bytes() == good
    path.unlink()
    path.write_bytes(b"")
    assert [f.repaired for f in fsck(store, repair=True)] == [True]
    assert path.read_bytes() == good
    assert what_is_kept(store) == {"blob", "seek"}


def test_checkpoints_of_another_blob_are_found_by_fsck(layout: Path, tmp_path: Path) -> None:
    from lamina.layer.checkpoints.checkpoint import Checkpoint
    from lamina.layer.checkpoints.file import SeekIndex, dump

    store = loaded(layout, tmp_path / "s", "blob")
    path = Path(store.paths.seek(store.stack("", Platform.host()).layers[0].diff_id))
    index = SeekIndex.load(str(path))
    checkpoints = list(index.checkpoints())
    assert len(checkpoints) >= 3
    checkpoints[1] = Checkpoint(checkpoints[1].bits + 3, checkpoints[1].at, checkpoints[1].window)
    path.unlink()
    path.write_bytes(b"".join(dump(index.blob, "gzip", index.tar_size, checkpoints)))
    assert ["checkpoints" in f.what for f in fsck(store, repair=True)] == [True]
    assert fsck(store) == []
    check_content(store)


def test_a_damaged_blob_is_one_clear_error(layout: Path, tmp_path: Path) -> None:
    store = loaded(layout, tmp_path / "s", "blob")
    layer = store.stack("", Platform.host()).layers[0]
    path = Path(store.blobs.path(layer.descriptor.digest))
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    done = lamina("cat", "app", "/last", root=tmp_path / "s")
    assert done.returncode in (4, 6)
    assert len(done.stderr.splitlines()) == 1
    assert lamina("fsck", root=tmp_path / "s").returncode == 1


SCRIPT = """
import sys
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.store.retention import apply_keep
from lamina.store.store import Store
from lamina.transfer.copy import copy
image, root, first, then = sys.argv[1:]
store = Store.open(root, keep=first)
copy(Repository(image, Access(first_wait=0.001), Registries()), store, [(image, image)])
apply_keep(store, then, grace=0)
print("done")
"""


@pytest.mark.parametrize(
    ("point", "first", "then"),
    [
        ("ingest.seek-renamed", "blob", "blob"),
        ("ingest.origin-noted", "tar", "tar"),
        ("keep.tar-removed", "blob+tar", "blob"),
        ("ingest.seek-renamed", "blob+tar", "blob"),
        ("keep.blob-removed", "blob+tar", "tar"),
        ("ingest.tar-renamed", "blob", "tar"),
    ],
)
def test_kill_at_each_point(registry: Unruly, tmp_path: Path, point: str, first: str, then: str) -> None:
    root = tmp_path / "s"

    def run(**environment: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", SCRIPT, registry.image, str(root), first, then]
        return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)

    done = run(LAMINA_FAULT=point)
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
    store = Store.open(str(root), create=False)
    assert problems(store) == []
    if list(store.names()):
        check_content(store)
    done = run()
    assert done.stdout == b"done\n", done.stderr
    assert problems(store) == []
    check_content(store)
    assert what_is_kept(store) == EXPECTED[then]
    prune(store, grace=0)
    assert os.listdir(root / "ingest") == []
    check_content(store)


def test_every_point_is_tested() -> None:
    tested = {mark.args[1][n][0] for mark in test_kill_at_each_point.pytestmark for n in range(6)}  # type: ignore[attr-defined]
    assert set(KEEP_POINTS) <= tested


@pytest.mark.parametrize("keep", KEEPS)
def test_a_reader_can_finish_after_its_image_was_removed(registry: Unruly, tmp_path: Path, keep: str) -> None:
    store = pulled(registry, tmp_path / "s", keep)
    stack = store.stack("", Platform.host())
    with stack.open_file(stack.tree().lookup(b"big")) as stream:
        start = stream.read(100_000)
        remove_images(store, [registry.image])
        assert list((tmp_path / "s/layers/sha256").iterdir()) == []
        assert start + stream.read() == BIG


def test_changing_while_others_read_pull_and_collect(registry: Unruly, tmp_path: Path) -> None:
    root = tmp_path / "s"
    store = pulled(registry, root, "blob+tar")
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                check_content(Store.open(str(root)))
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=work) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for keep in ("blob", "blob+tar", "blob", "blob+tar"):
            apply_keep(store, keep, grace=0)
            collect(store, grace=0)
            pulled(registry, root, keep)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert problems(store) == []


def test_a_tar_that_another_image_needs_is_kept(registry: Unruly, tmp_path: Path) -> None:
    """With keep=tar the same layer under another digest is known by its tar alone: keep=blob must not take that."""
    with Unruly(packed_otherwise(tmp_path / "m")) as other:
        store = pulled(registry, tmp_path / "s", "blob+tar")
        pulled(other, tmp_path / "s", "tar")
        assert not [one for one in other.requests() if one.path.rpartition("/")[2] in other.layers]
        kept = apply_keep(store, "blob", grace=0)
        assert kept.removed == ()
        assert what_is_kept(store, other.image) == {"tar"}
        remove_images(store, [registry.image])
        check_content(store, other.image)
        assert problems(store) == []
        pulled(registry, tmp_path / "s", "blob")
        check_content(store, registry.image)


def packed_otherwise(directory: Path) -> Path:
    """The same layers packed in another way, in an image of its own."""
    writer = LayoutWriter(str(directory))
    with writer.session("test") as session:
        diff_ids, layers = [], []
        for members in (BASE, TOP):
            tar = make_tar(members)
            blob = b""
            for at in range(0, len(tar), 1 << 20):
                made = encoder("zstd")
                blob += made.compress(tar[at : at + (1 << 20)]) + made.flush()
            descriptor = Descriptor.of(mediatype.layer_type("zstd"), blob)
            session.put_blob(descriptor, BytesBlob(descriptor, blob))
            layers.append(descriptor)
            diff_ids.append(Digest.of(tar))
        raw = json.dumps(ImageConfig.build(Platform.host(), diff_ids=diff_ids, cmd=["/other"]).json).encode()
        config = Descriptor.of(mediatype.OCI_CONFIG, raw)
        session.put_blob(config, BytesBlob(config, raw))
        manifest = build_manifest(config, layers)
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("app", manifest.descriptor)
    return directory


def test_zstd_is_read_by_its_frames(tmp_path: Path) -> None:
    from lamina.layer.checkpoints.file import SeekIndex

    store = loaded(packed_otherwise(tmp_path / "l"), tmp_path / "s", "blob")
    assert what_is_kept(store) == {"blob", "seek"}
    index = SeekIndex.load(store.paths.seek(store.stack("", Platform.host()).layers[0].diff_id))
    assert [mark.at for mark in index.checkpoints()] == [1 << 20, 2 << 20, 3 << 20, 4 << 20]
    check_content(store)
    assert fsck(store) == []


@pytest.mark.parametrize("keep", KEEPS)
def test_an_uncompressed_blob_is_the_tar(tmp_path: Path, keep: str) -> None:
    write_layout(tmp_path / "l", "app", [BASE, TOP], compress=False)
    with Unruly(tmp_path / "l") as server:
        store = pulled(server, tmp_path / "s", keep)
        for mode in KEEPS:
            assert apply_keep(store, mode, grace=0).removed == ()
            layer = store.stack("", Platform.host()).layers[0]
            assert os.path.samefile(store.paths.tar(layer.diff_id), store.blobs.path(layer.descriptor.digest))
            check_content(store)
            assert usage(store).tars == 0


def test_without_libz_files_are_read_from_the_start(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.layer.checkpoints.file import SeekIndex

    monkeypatch.setattr(libz, "_library", lambda: None)
    store = loaded(layout, tmp_path / "s", "blob")
    index = SeekIndex.load(store.paths.seek(store.stack("", Platform.host()).layers[0].diff_id))
    assert list(index.checkpoints()) == []
    check_content(store)
    assert fsck(store) == []


def test_a_mount_makes_the_tar_and_prune_removes_it_after_the_unmount(layout: Path, tmp_path: Path) -> None:
    require_root()
    root, target = tmp_path / "s", tmp_path / "mnt"
    store = loaded(layout, root, "blob")
    done = lamina("mount", "app", str(target), root=root, LAMINA_KEEP="blob")
    assert done.returncode == 0, done.stderr
    try:
        assert what_is_kept(store) == {"blob", "seek", "tar"}
        assert (target / "last").read_bytes() == b"the last\n"
        assert lamina("prune", root=root, LAMINA_KEEP="blob").returncode == 0
        assert what_is_kept(store) == {"blob", "seek", "tar"}
        assert (target / "big").read_bytes() == BIG
    finally:
        lamina("umount", str(target), root=root)
    assert lamina("prune", root=root).returncode == 0  # another setting: not its business
    assert what_is_kept(store) == {"blob", "seek", "tar"}
    assert lamina("prune", root=root, LAMINA_KEEP="blob").returncode == 0
    assert what_is_kept(store) == {"blob", "seek"}
    check_content(store)


def test_the_setting(tmp_path: Path) -> None:
    for keep in KEEPS:
        environ = {"LAMINA_KEEP": keep, "HOME": str(tmp_path)}
        found = Settings.load(environ=environ, system_file=str(tmp_path / "none"))
        assert found.keep == keep
    with pytest.raises(UsageError, match=r"LAMINA_KEEP: keep: unknown value"):
        Settings.load(environ={"LAMINA_KEEP": "all", "HOME": str(tmp_path)}, system_file=str(tmp_path / "none"))


def test_plan_shows_the_growth_of_the_store(registry: Unruly, tmp_path: Path) -> None:
    found = {}
    for keep in KEEPS:
        done = lamina("plan", "pull", "--format", "json", registry.image, root=tmp_path / "s", LAMINA_KEEP=keep)
        assert done.returncode == 0, done.stderr
        found[keep] = json.loads(done.stdout)["disk"]
    assert found["blob"] < found["tar"] < found["blob+tar"]


def test_another_compression_of_a_layer_is_fetched_and_not_inflated_again(
    registry: Unruly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keep=blob+tar both stay: the image can be handed on when its registry is gone."""
    store = pulled(registry, tmp_path / "s", "blob+tar")

    def never(*_: object) -> None:
        raise AssertionError("inflated")

    with Unruly(packed_otherwise(tmp_path / "m")) as other:
        monkeypatch.setattr("lamina.store.ingest.LayerFiles.start", never)
        pulled(other, tmp_path / "s", "blob+tar")
        assert [len(other.requests(part=layer)) for layer in other.layers] == [1, 1]
        pulled(other, tmp_path / "s", "blob+tar")
        assert [len(other.requests(part=layer)) for layer in other.layers] == [1, 1]
    assert fsck(store) == []
    copy(store, LayoutWriter(str(tmp_path / "out")), [(other.image, "x")])
    assert {str(layer.descriptor.digest) for layer in store.stack(other.image, Platform.host()).layers} == {
        *other.layers
    }


def test_a_doubtful_tar_is_verified_before_it_replaces_a_fetch(registry: Unruly, tmp_path: Path) -> None:
    """The blob is gone and the tar is of before a crash, with other bytes: the pull brings both anew."""
    store = pulled(registry, tmp_path / "s", "blob+tar")
    layer = store.stack("", Platform.host()).layers[0]
    tar = Path(store.paths.tar(layer.diff_id))
    Path(store.blobs.path(layer.descriptor.digest)).unlink()
    Path(f"{tar}.written").unlink()
    tar.chmod(0o600)
    with open(tar, "r+b") as file:
        file.seek(3000)
        file.write(bytes(1000))
    pulled(registry, tmp_path / "s", "blob+tar")
    check_content(store)
    assert fsck(store) == []


def test_the_next_pull_makes_a_missing_tar_from_its_blob(registry: Unruly, tmp_path: Path) -> None:
    store = pulled(registry, tmp_path / "s", "blob+tar")
    layer = store.stack("", Platform.host()).layers[0]
    Path(store.paths.tar(layer.diff_id)).unlink()
    before = len(registry.requests())
    pulled(registry, tmp_path / "s", "blob+tar")
    assert what_is_kept(store) == {"blob", "tar"}
    assert len(registry.requests()) == before


def test_fsck_calls_an_image_broken_whose_blob_a_kill_took_and_the_next_pull_heals_it(
    registry: Unruly, tmp_path: Path
) -> None:
    store = pulled(registry, tmp_path / "s", "blob+tar")
    layer = store.stack("", Platform.host()).layers[0]
    Path(store.blobs.path(layer.descriptor.digest)).unlink()
    assert [f.severity for f in fsck(store)] == ["error"]
    pulled(registry, tmp_path / "s", "blob+tar")
    assert fsck(store) == []
    assert what_is_kept(store) == {"blob", "tar"}
