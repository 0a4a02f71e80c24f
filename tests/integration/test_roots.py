"""Root files: which process holds them, damaged ones, and those of mounts."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import UsageError
from lamina.host import mountinfo
from lamina.host.process_identity import boot_id, start_time
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store import roots
from lamina.store.prune import prune
from lamina.store.roots import Root
from lamina.store.store import Store

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "s"))


def written(store: Store, head: bytes, name: str = "1-a") -> Root:
    """A root with this first line, written by another program."""
    path = Path(store.paths.roots, name)
    path.write_bytes(head + f"\n{ONE}\n{TWO}\nsha256:torn".encode())
    (found,) = [root for root in store.roots if root.name == name]
    path.unlink()
    return found


def head(**changes: Any) -> bytes:
    told = {
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
        "boot": boot_id(),
        "purpose": "work",
        "held": True,
    }
    return json.dumps({**told, **changes}).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"{}",
        b'{"pid": "one", "started": "1", "boot": "", "purpose": "work"}',
        b'{"pid": null, "started": "1", "boot": "", "purpose": "work"}',
        b'{"pid": [], "started": "1", "boot": "", "purpose": "work"}',
        b"[" * 100_000,
    ],
    ids=range(10),
)
def test_a_root_whose_first_line_is_damaged_protects_what_it_lists(store: Store, line: bytes) -> None:
    root = written(store, line)
    assert (root.pid, root.purpose, root.alive, root.mount) == (0, "unreadable", False, "")
    assert root.digests == {ONE, TWO}
    Path(store.paths.roots, "1-a").write_bytes(line + f"\n{ONE}\n".encode())
    assert store.roots.protected() == {ONE}


def test_a_root_without_a_lock_has_ended_even_if_its_pid_exists(store: Store) -> None:
    assert not written(store, head()).alive
    assert written(store, head()).pid == os.getpid()


def test_a_root_of_an_older_lamina_is_alive_while_its_process_is(store: Store) -> None:
    assert written(store, head(held=False)).alive
    assert not written(store, head(held=False, started="1")).alive
    assert not written(store, head(held=False, boot="another")).alive


def test_a_root_of_a_mount_lives_as_long_as_that_and_this_boot(store: Store) -> None:
    space = mountinfo.namespace()
    assert written(store, head(mount="/proc", namespace=space)).alive
    assert not written(store, head(mount="/proc", namespace=space, boot="another")).alive
    assert not written(store, head(mount="/nowhere", namespace=space)).alive
    # a mount in the namespace of its holder ends with the holder
    assert not written(store, head(mount=f"/proc/{os.getpid()}/root/proc", namespace=space)).alive


def test_what_is_mounted_while_the_roots_are_read_is_alive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first root makes the mounts be read; the second one's mount is made and let go of after that."""
    there = [mountinfo.Mount("0:1", "/", "/one", "tmpfs", "none", "rw")]
    monkeypatch.setattr(mountinfo, "mounts", lambda process="self": list(there))
    for name, mount in (("1-a", "/one"), ("2-b", "/two")):
        Path(store.paths.roots, name).write_bytes(head(mount=mount, namespace=mountinfo.namespace()) + b"\n")
    reading = iter(store.roots)
    assert next(reading).alive
    there.append(mountinfo.Mount("0:2", "/", "/two", "tmpfs", "none", "rw"))
    assert next(reading).alive


def test_a_root_is_effective_while_locked_and_for_the_grace_time(store: Store) -> None:
    name = store.roots.create("work")
    store.roots.extend(name, [ONE])
    other = store.roots.create("other")
    store.roots.extend(other, [TWO])
    assert store.roots.protected(grace=0) == {ONE, TWO}
    store.roots.release(other)
    assert store.roots.protected(grace=0) == {ONE}
    assert store.roots.protected() == {ONE, TWO}
    assert [root.name for root in store.roots.ended(grace=0)] == [other]
    assert store.roots.ended() == []
    assert store.roots.remove_ended(grace=0) == 1
    assert [root.name for root in store.roots] == [name]
    assert store.roots.remove_ended(grace=0) == 0
    store.roots.remove(name)
    assert os.listdir(store.paths.roots) == []


def test_a_new_root_in_place_of_another_lists_only_what_it_is_given(store: Store) -> None:
    name = store.roots.create("serve")
    store.roots.extend(name, [ONE, TWO])
    new = store.roots.renew(name, "serve", [TWO])
    assert [(root.name, root.digests, root.alive) for root in store.roots] == [(new, {TWO}, True)]


@pytest.mark.parametrize("step", ["create", "extend"])
def test_a_root_that_cant_be_written_leaves_nothing_and_no_lock(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    name = store.roots.create("serve")
    store.roots.extend(name, [ONE])
    before = len(os.listdir("/proc/self/fd"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(*((roots, "write_all", full) if step == "create" else (store.roots, "_append", full)))
    with pytest.raises(OSError, match="full"):
        store.roots.renew(name, "serve", [TWO])
    with pytest.raises(OSError, match="full"), store.roots.mounting("mount", [TWO], mount="/nowhere"):
        pass
    assert os.listdir(store.paths.roots) == [name]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_root_that_is_being_written_is_skipped(store: Store) -> None:
    for name in ("0.0123456789ab.tmp", "1.held"):
        Path(store.paths.roots, name).write_bytes(b"")
    os.mkdir(Path(store.paths.roots, "2"))
    name = store.roots.create("work")
    assert [root.name for root in store.roots] == [name]


def test_digests_after_a_view_line_or_a_torn_line_are_read(store: Store) -> None:
    path = Path(store.paths.roots, "1-a")
    path.write_bytes(head() + f"\nview erofs\n{ONE}\nsha256:torn\n{TWO}\n".encode())
    assert [(root.view, root.digests) for root in store.roots] == [("erofs", {ONE, TWO})]


def test_a_root_that_is_removed_during_the_listing_is_skipped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    name = store.roots.create("work")
    before = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: ["0-gone", *before(path)])
    assert [root.name for root in store.roots] == [name]


@pytest.mark.parametrize("own", [True, False])
def test_the_root_of_a_mount_stays_locked_only_if_the_mount_ends_with_the_process(store: Store, own: bool) -> None:
    mount = f"/proc/{os.getpid()}/root/nowhere" if own else "/nowhere"
    with store.roots.mounting("mount of x", [ONE], mount=mount) as name:
        assert [root.alive for root in store.roots] == [True]
        store.roots.note_view(name, "erofs")
    (root,) = store.roots
    assert (root.alive, root.view, root.mount, root.digests) == (own, "erofs", mount, {ONE})
    with pytest.raises(ZeroDivisionError), store.roots.mounting("mount of y", [TWO], mount=mount):
        raise ZeroDivisionError
    assert [one.name for one in store.roots] == [name]
    if own:  # also where the process runs another program, as a holder does
        assert os.get_inheritable(store.roots._held[name].descriptor)


PINNED = """
import sys
from lamina.spec.digest import Digest
from lamina.store.store import Store
Store.open(sys.argv[1]).roots.pin("step-1", "build cache", [Digest.parse(sys.argv[2])], lasts=float(sys.argv[3]))
"""
DAY = 86_400.0


def test_a_pin_keeps_its_objects_without_a_process_until_it_is_removed(store: Store) -> None:
    data = b"the result of a build step"
    descriptor = Descriptor.of("application/octet-stream", data)
    store.blobs.write(descriptor, data)
    words = [sys.executable, "-c", PINNED, store.paths.root, str(descriptor.digest), str(DAY)]
    subprocess.run(words, check=True)
    (pin,) = store.roots.pins("build cache")
    assert (pin.pin, pin.purpose, pin.alive, pin.lasts) == ("step-1", "build cache", True, DAY)
    assert pin.digests == {descriptor.digest}
    assert store.roots.pins("another purpose") == []
    prune(store, all=True)
    assert store.blobs.has(descriptor)
    assert store.roots.unpin("step-1")
    assert not store.roots.unpin("step-1")
    prune(store, all=True)
    assert not store.blobs.has(descriptor)


@pytest.mark.parametrize(
    ("lasts", "age", "used", "counts"),
    [
        (DAY, DAY / 2, False, True),
        (DAY, 2 * DAY, False, False),
        (DAY, 2 * DAY, True, True),
        (60.0, 120.0, False, False),  # no hour more, as an interrupted pull has
        (None, 1000 * DAY, False, True),
    ],
)
def test_a_pin_is_effective_while_it_is_used_in_time(
    store: Store, lasts: float | None, age: float, used: bool, counts: bool
) -> None:
    store.roots.pin("cache", "build cache", [ONE], lasts=lasts)
    path = Path(store.paths.roots, "pin-cache")
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    if used:
        assert store.roots.use("cache")
    assert bool(store.roots.protected()) == counts
    assert [root.alive for root in store.roots] == [counts]
    assert store.roots.remove_ended() == (not counts)
    assert path.exists() == counts
    assert store.roots.use("cache") == counts


def test_a_pin_that_is_made_again_lists_only_what_it_is_given(store: Store) -> None:
    store.roots.pin("cache", "build cache", [ONE])
    store.roots.pin("cache", "another purpose", [TWO])
    (root,) = store.roots
    assert (root.purpose, root.digests) == ("another purpose", {TWO})


@pytest.mark.parametrize("name", ["", "../x", "A", "a.b", "-a", "a/b", "x" * 101])
def test_an_invalid_name_for_a_pin_is_refused(store: Store, name: str) -> None:
    for ask in (store.roots.use, store.roots.unpin, lambda name: store.roots.pin(name, "test", [])):
        with pytest.raises(UsageError, match="name for a pin"):
            ask(name)
    assert list(store.roots) == []


def test_a_pin_whose_file_has_another_name_is_not_a_pin(store: Store) -> None:
    root = written(store, head(pid=0, held=False, pin="cache"))
    assert (root.pin, root.alive) == ("", False)


def test_a_start_time_identifies_a_process_and_is_unknown_after_its_end() -> None:
    code = "import os, sys; os.write(1, b'x'); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.read(1)
        assert start_time(child.pid) == start_time(child.pid) is not None
        assert (start_time(child.pid) or "").isdigit()
        assert int(start_time(child.pid) or 0) >= int(start_time(os.getpid()) or 0)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(child.pid) is None  # nobody has asked yet how it ended
    assert start_time(child.pid) is None
    assert start_time(2**22 + 1) is None


@pytest.mark.parametrize(("place", "noted"), [("s/unions/x", "unions/x"), ("s2/x", None), ("s", None), ("m", None)])
def test_only_mounts_in_the_store_are_noted_relative_to_it(
    store: Store, tmp_path: Path, place: str, noted: str | None
) -> None:
    """A path that begins with the same characters is another place."""
    mount = str(tmp_path / place)
    name = store.roots.create("work", mount=mount)
    head = json.loads(Path(store.paths.roots, name).read_text().partition("\n")[0])
    assert head["mount"] == (noted or mount)
    (root,) = store.roots
    assert root.mount == mount
    store.roots.remove(name)


def test_started_is_the_kernels_time_whatever_a_process_is_called() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "open('/proc/self/comm', 'w').write('a) Z 1 (b'); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        # this process loaded pytest since it started, which takes longer than a tick of the clock
        assert 0 < int(start_time(os.getpid()) or 0) < int(start_time(child.pid) or 0)
    finally:
        child.communicate(b"\n")
    assert child.returncode == 0
