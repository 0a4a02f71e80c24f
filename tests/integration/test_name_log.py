"""Names that change in the log: kills at each point, several processes, damage, and what other tools read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader
from lamina.errors import DiskFull, StoreDamaged, SystemFailure, Unsupported
from lamina.light import replace
from lamina.spec.descriptor import Descriptor
from lamina.store import name_files, refs
from lamina.store.fault import NAME_POINTS
from lamina.store.fsck import fsck
from lamina.store.gc import collect
from lamina.store.layer_map import layer_map
from lamina.store.store import Store

TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG = b"{}"


def document(number: int) -> bytes:
    config = {"mediaType": "application/vnd.example", "digest": str(the_config().digest), "size": len(CONFIG)}
    value = {"schemaVersion": 2, "mediaType": TYPE, "config": config, "layers": [], "annotations": {"n": str(number)}}
    return json.dumps(value).encode()


def the_config() -> Descriptor:
    return Descriptor.of("application/vnd.example", CONFIG)


def bring(store: Store, number: int) -> Descriptor:
    descriptor = Descriptor.of(TYPE, document(number))
    store.blobs.write(descriptor, document(number))
    return descriptor


def opened(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "s"))
    store.blobs.write(the_config(), CONFIG)
    return store


def full(name: object) -> str:
    return f"docker.io/library/{name}:1"


def names(root: Path) -> dict[str, str]:
    return {name: str(entry.digest) for name, entry in Store.open(str(root)).names()}


def in_index(root: Path) -> set[str]:
    """What a tool sees that reads index.json alone."""
    return {name for name, _ in LayoutReader(str(root)).names()}


def test_a_server_appends_and_folds(tmp_path: Path) -> None:
    store = opened(tmp_path)
    root = tmp_path / "s"
    with store.refs.logging():
        before = (root / "index.json").stat().st_ino
        wanted = {}
        for number in range(50):
            wanted[full(number)] = str(bring(store, number).digest)
            store.tag(str(number) + ":1", bring(store, number))
            assert names(root) == wanted  # another reader, at once
        store.untag(full(3))
        store.tag("4:1", bring(store, 5))
        wanted.pop(full(3))
        wanted[full(4)] = wanted[full(5)]
        wanted |= {"": ""}  # documents that lost their name
        found = names(root)
        assert {name: digest for name, digest in found.items() if name} == {k: v for k, v in wanted.items() if k}
        assert len([1 for name, _ in Store.open(str(root)).names() if not name]) == 2
        assert (root / "index.json").stat().st_ino == before or in_index(root) <= set(wanted)
    assert in_index(root) == {name for name in wanted if name} | {""}
    assert (root / "index.json.log").stat().st_size == len(b"lamina names 1 ") + 33
    assert [one.what for one in fsck(Store.open(str(root)))] == []


def test_index_json_is_current_soon_after_the_last_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "SOON", 0.05)
    store = opened(tmp_path)
    folded = threading.Event()
    before = refs.Refs.fold

    def written(self: refs.Refs) -> bool:
        done = before(self)
        folded.set()
        return done

    monkeypatch.setattr(refs.Refs, "fold", written)
    with store.refs.logging():
        store.tag("a:1", bring(store, 1))
        assert folded.wait(60)
        assert in_index(tmp_path / "s") == {full("a")}


def test_many_changes_of_a_library_are_in_index_json_when_it_ends(tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from test_name_log import *
from lamina.store import refs
refs.SMALL = 0
store = Store.open(sys.argv[1])
store.blobs.write(the_config(), CONFIG)
for number in range(20):
    store.tag(f"{number}:1", bring(store, number))
print(len(in_index(sys.argv[1])))
"""
    done = python(code, tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20  # they were in the log
    assert in_index(tmp_path / "s") == {full(number) for number in range(20)}


def python(code: str, root: Path, *words: str, fault: str = "") -> subprocess.CompletedProcess[bytes]:
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-c", code, str(root), str(Path(__file__).parent), *words],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "LAMINA_FAULT": fault},
    )


SERVES = """
import sys
from test_name_log import *
store = Store.open(sys.argv[1])
if sys.argv[3] == "first":
    store.blobs.write(the_config(), CONFIG)
with store.refs.logging():
    for number in range(3):
        store.tag(f"{sys.argv[3]}{number}:1", bring(store, number))
        print(number, flush=True)
"""


@pytest.mark.parametrize("point", [*NAME_POINTS, "refs.locked", "refs.written", "refs.renamed"])
@pytest.mark.parametrize("after", ["a server", "a command", "a gc"])
def test_a_kill_loses_no_acknowledged_name(tmp_path: Path, point: str, after: str) -> None:
    root = tmp_path / "s"
    # the log exists already, unless it is the point to make it
    if point != "names.log-made":
        assert python(SERVES, root, "first").returncode == 0
    before = names(root) if root.exists() else {}
    done = python(SERVES, root, "first" if not before else "next", fault=point)
    assert done.returncode == -signal.SIGKILL, done.stderr
    said = [line.decode() for line in done.stdout.split()]
    prefix = "next" if before else "first"
    wanted = {
        **before,
        **{full(f"{prefix}{number}"): str(Descriptor.of(TYPE, document(int(number))).digest) for number in said},
    }
    found = names(root)
    assert found.items() >= wanted.items()
    assert set(found) - set(wanted) <= {full(f"{prefix}{len(said)}")}  # what was not acknowledged, but is whole
    store = Store.open(str(root))
    if after == "a server":
        with store.refs.logging():
            store.tag("last:1", bring(store, 9))
    elif after == "a command":
        store.tag("last:1", bring(store, 9))
    else:
        collect(store, grace=0)
        store.refs.fold()
    assert names(root).items() >= wanted.items()
    assert in_index(root) == set(names(root))
    assert [one.what for one in fsck(Store.open(str(root))) if one.severity == "error"] == []


def test_two_servers_and_commands_lose_no_update(tmp_path: Path) -> None:
    root = tmp_path / "s"
    code = """
import sys
from test_name_log import *
store = Store.open(sys.argv[1])
with store.refs.logging() if sys.argv[3] != "c" else contextlib.nullcontext():
    for number in range(150):
        store.tag(f"{sys.argv[3]}{number}:1", bring(store, number))
        if number % 5 == 0:
            store.untag(f"docker.io/library/{sys.argv[3]}{number}:1")
        if number % 50 == 7:
            store.refs.fold()
"""
    code = "import contextlib\n" + code
    opened(tmp_path)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(root), "", which],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
        )
        for which in "abc"
    ]
    reader = Store.open(str(root))
    while any(one.poll() is None for one in running):
        list(reader.names())
    for one in running:
        assert one.wait() == 0, one.communicate()
        one.communicate()
    wanted = {full(f"{which}{number}") for which in "abc" for number in range(150) if number % 5}
    assert {name for name, _ in reader.names() if name} == wanted
    assert {name for name in in_index(root) if name} == wanted
    assert [one.what for one in fsck(Store.open(str(root)))] == []


def test_threads_of_one_process_read_and_write_at_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    failed: list[BaseException] = []

    def write(which: str) -> None:
        try:
            for number in range(60):
                store.tag(f"{which}{number}:1", bring(store, number))
                assert store.refs.get(full(f"{which}{number}")).digest == Descriptor.of(TYPE, document(number)).digest
        except BaseException as error:
            failed.append(error)

    with store.refs.logging():
        threads = [threading.Thread(target=write, args=(which,)) for which in "abcd"]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert failed == []
    assert in_index(tmp_path / "s") == {full(f"{which}{number}") for which in "abcd" for number in range(60)}


def test_a_reader_parses_again_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    monkeypatch.setattr(refs, "SOON", 300)
    monkeypatch.setattr(refs, "_LATEST", 300)
    with store.refs.logging():
        store.tag("a:1", bring(store, 1))
        reader = Store.open(str(tmp_path / "s"))
        with reader.refs.logging():
            assert reader.refs.get(full("a"))
            with monkeypatch.context() as patch:
                patch.setattr(name_files, "parse", None)
                for number in range(20):
                    store.tag(f"{number}:1", bring(store, number))
                    assert reader.refs.get(full(number)).digest == Descriptor.of(TYPE, document(number)).digest


@pytest.fixture
def with_log(tmp_path: Path) -> tuple[Path, bytes]:
    """A store whose log has three records, because the server was killed."""
    root = tmp_path / "s"
    assert python(SERVES, root, "first").returncode == 0
    done = python(SERVES, root, "next", fault="refs.written")
    assert done.returncode == -signal.SIGKILL
    assert len(names(root)) == 6
    return root, (root / "index.json.log").read_bytes()


def test_fsck_repairs_an_interrupted_append(with_log: tuple[Path, bytes]) -> None:
    root, log = with_log
    (root / "index.json.log").write_bytes(log[:-5])
    assert set(names(root)) == {full(f"{a}{n}") for a in ("first", "next") for n in range(3)} - {full("next2")}
    (found,) = fsck(Store.open(str(root)))
    assert found.severity == "leftover"
    assert "interrupted" in found.what
    assert [one.repaired for one in fsck(Store.open(str(root)), repair=True)] == [True]
    assert fsck(Store.open(str(root))) == []
    assert in_index(root) == set(names(root))
    assert len(in_index(root)) == 5


@pytest.mark.parametrize("damage", ["record", "head", "empty", "garbage"])
def test_a_damaged_log_is_reported_and_repaired_with_the_names_that_can_be_read(
    with_log: tuple[Path, bytes], damage: str
) -> None:
    root, log = with_log
    damaged = {
        "record": log.replace(b"next0", b"nexT0"),
        "head": b"L" + log[1:],
        "empty": b"",
        "garbage": os.urandom(300),
    }[damage]
    (root / "index.json.log").write_bytes(damaged)
    with pytest.raises(StoreDamaged) as raised:
        names(root)
    assert "fsck --repair" in str(raised.value.hint)
    with pytest.raises(StoreDamaged):
        Store.open(str(root)).tag("x", bring(Store.open(str(root)), 0))
    found = fsck(Store.open(str(root)), repair=True)
    assert [one.severity for one in found if one.repaired] == ["error"]
    kept = {full(f"first{number}") for number in range(3)}
    assert set(names(root)) == (kept | {full("next1"), full("next2")} if damage == "record" else kept)
    assert (root / "ingest/lost+found/index.json.log").read_bytes() == damaged
    Store.open(str(root)).tag("x:1", bring(Store.open(str(root)), 0))
    assert full("x") in names(root)


def test_a_log_that_a_power_cut_brings_back_changes_nothing(with_log: tuple[Path, bytes]) -> None:
    """index.json is on the disk; that the log was emptied is not."""
    root, log = with_log
    store = Store.open(str(root))
    store.refs.fold()
    store.untag(full("next0"))
    store.tag("next1:1", bring(store, 9))
    (root / "index.json.log").write_bytes(log)
    found = names(root)
    assert full("next0") not in found
    assert found[full("next1")] == str(bring(store, 9).digest)
    store = Store.open(str(root))
    with store.refs.logging():
        store.tag("after:1", bring(store, 1))
        assert full("after") in names(root)
        assert full("next0") not in names(root)
    assert full("after") in names(root)


def test_another_tool_may_write_index_json_while_a_log_exists(with_log: tuple[Path, bytes]) -> None:
    root, _ = with_log
    store = Store.open(str(root))
    store.refs.fold()
    value = json.loads((root / "index.json").read_bytes())
    del value["annotations"]
    value["manifests"] = value["manifests"][:2]
    (root / "new").write_text(json.dumps(value))
    os.replace(root / "new", root / "index.json")
    assert len(list(store.names())) == 2
    with store.refs.logging():
        store.tag("own:1", bring(store, 1))
    assert len(names(root)) == 3


def test_a_failed_append_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    with store.refs.logging():
        store.tag("a:1", bring(store, 1))
        size = (tmp_path / "s/index.json.log").stat().st_size
        calls = []

        def fails(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 1:
                raise OSError(5, "Input/output error")

        monkeypatch.setattr(refs, "sync", fails)
        reader = Store.open(str(tmp_path / "s"))
        with pytest.raises(SystemFailure):
            store.tag("b:1", bring(store, 2))
        monkeypatch.undo()
        assert (tmp_path / "s/index.json.log").stat().st_size == size
        assert {name for name, _ in reader.names()} == {full("a")}
        store.tag("c:1", bring(store, 2))
        assert {name for name, _ in reader.names()} == {name for name, _ in store.names()} == {full("a"), full("c")}


def test_a_reader_that_saw_a_record_which_was_cut_off_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reader = opened(tmp_path), Store.open(str(tmp_path / "s"))
    with store.refs.logging(), reader.refs.logging():
        store.tag("a:1", bring(store, 1))
        calls = []

        def fails(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 1:
                assert reader.refs.get(full("b"))
                raise OSError(5, "Input/output error")

        monkeypatch.setattr(refs, "sync", fails)
        with pytest.raises(SystemFailure):
            store.tag("b:1", bring(store, 2))
        store.tag("c:1", bring(store, 2))  # as long as the other one
        assert {name for name, _ in reader.names()} == {full("a"), full("c")}


def test_a_reader_that_saw_a_record_which_was_cut_off_reads_the_index_that_contains_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reader = opened(tmp_path), Store.open(str(tmp_path / "s"))
    with store.refs.logging(), reader.refs.logging():
        store.tag("a:1", bring(store, 1))
        calls = []

        def fails(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 1:
                assert reader.refs.get(full("b"))
                raise OSError(5, "Input/output error")

        monkeypatch.setattr(refs, "sync", fails)
        with pytest.raises(SystemFailure):
            store.tag("b:1", bring(store, 2))
        store.tag("c:1", bring(store, 2))  # with the serial number of the other one
        assert store.refs.fold()
        assert {name for name, _ in reader.names()} == {full("a"), full("c")}
        reader.tag("d:1", bring(store, 3))
    assert set(names(tmp_path / "s")) == {full("a"), full("c"), full("d")}


def test_find_sees_names_of_the_log(tmp_path: Path) -> None:
    from lamina.spec.platform import Platform

    store = opened(tmp_path)
    with store.refs.logging():
        layer_map(store.reader, Platform.host())
        state = store.refs.state()
        store.tag("a:1", bring(store, 1))
        assert store.refs.state() != state


def test_gc_keeps_what_only_the_log_names(with_log: tuple[Path, bytes]) -> None:
    root, _ = with_log
    store = Store.open(str(root))
    collect(store, grace=0)
    assert all(store.blobs.has(entry) for _, entry in store.names())
    assert len(list(store.names())) == 6


def test_a_lamina_that_does_not_know_the_log_refuses_the_store(
    with_log: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.store import paths

    root, _ = with_log
    monkeypatch.setattr(paths, "FORMAT", 2)
    with pytest.raises(Unsupported):
        Store.open(str(root))


def test_a_store_of_the_format_before_is_raised(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "s/format").write_text("2\n")
    opened(tmp_path)
    assert (tmp_path / "s/format").read_text() == "3\n"


def test_skopeo_reads_the_names_at_rest(tmp_path: Path) -> None:
    from support import require_tool, store_with, write_layout

    require_tool("skopeo")
    write_layout(tmp_path / "l", "app", [[("a", b"hello")]])
    store = store_with(tmp_path / "l", tmp_path / "s", "app")
    with store.refs.logging():
        store.tag("own:2", store.resolve("app"))
    for name in ("docker.io/library/app:latest", "docker.io/library/own:2"):
        subprocess.run(["skopeo", "inspect", f"oci:{tmp_path}/s:{name}"], check=True, capture_output=True)


def test_names_change_on_a_full_disk(tmp_path: Path) -> None:
    from support import require_root

    require_root()
    with small_disk(tmp_path / "disk") as disk:
        store = Store.open(str(disk / "s"))
        store.blobs.write(the_config(), CONFIG)
        with store.refs.logging():
            store.tag("a:1", bring(store, 1))
            top = bring(store, 2)
            with pytest.raises(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(65536))
            try:
                for number in range(500):
                    store.tag(f"{number}:1", top)
                    store.untag(full(number))
            except DiskFull:
                assert number > 1  # the reserve has space for changes
            found = names(disk / "s")
            assert full("a") in found
            (disk / "filler").unlink()
        assert in_index(disk / "s") == set(names(disk / "s"))
        del store


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_store_with_a_log_is_read(with_log: tuple[Path, bytes], tmp_path: Path) -> None:
    from support import require_root

    require_root()
    root, _ = with_log
    place = tmp_path / "ro"
    place.mkdir()
    subprocess.run(["mount", "--bind", str(root), str(place)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        assert len(list(Store.open(str(place), create=False).names())) == 6
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_copies_of_a_store_keep_the_names_of_the_log(with_log: tuple[Path, bytes], tmp_path: Path) -> None:
    root, _ = with_log
    shutil.copytree(root, tmp_path / "copy")
    assert names(tmp_path / "copy") == names(root)


def test_a_name_of_another_form_is_kept(tmp_path: Path) -> None:
    """Another tool has written an index.json with names that are not references, and the same name twice."""
    store = opened(tmp_path)
    tops = [bring(store, number) for number in range(3)]
    odd = [replace(top, annotations={"org.opencontainers.image.ref.name": "Not A Name"}) for top in tops[:2]]
    value = {"schemaVersion": 2, "manifests": [one.to_json() for one in (*odd, tops[2])]}
    (tmp_path / "s/index.json").write_text(json.dumps(value))
    with store.refs.logging():
        store.tag("a:1", tops[2])
        store.tag("b:1", tops[0])
    assert sorted(names(tmp_path / "s")) == ["Not A Name", full("a"), full("b")]
    assert len(list(store.names())) == 4
