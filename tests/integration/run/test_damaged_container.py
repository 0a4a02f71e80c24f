"""A damaged record of a container: it blocks nothing but its own container, and `rm` takes what is left."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_run import make_store, members, mounts_of, run
from lamina.errors import StoreDamaged
from lamina.store.store import Store
from support import lamina, require_root, require_tool

DAMAGE = {
    "empty": b"",
    "cut": b'{"id": "',
    "not JSON": b"\0" * 4096,
    "not an object": b"[]",
    "nested": b"[" * 100_000,
    "another's": None,
    "wrong kinds": None,
    "no digest": None,
    "no time": None,
    "no end of time": None,
    "never written": None,
    "endless": None,
    "a directory": None,
    "missing": None,
}


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    store = make_store(tmp_path, [members()])
    assert run(store, "--name", "bad", "app", "sh", "-c", "echo written > /written").returncode == 0
    assert run(store, "--name", "good", "app", "touch", "/x").returncode == 0
    yield store
    assert mounts_of(store) == []


def container(root: Path, name: str) -> Path:
    (found,) = [
        path.parent for path in root.glob("containers/*/container.json") if f'"name": "{name}"' in path.read_text()
    ]
    return found


def damage(directory: Path, kind: str) -> None:
    record = directory / "container.json"
    value = json.loads(record.read_text())
    changed = {
        "another's": {"id": "0" * 64},
        "wrong kinds": {"layers": 7, "created": "yesterday"},
        "no digest": {"manifest": "sha256:no"},
        "no time": {"created": float("nan")},
        "no end of time": {"created": 1e300},
    }
    record.unlink()
    if kind in ("never written", "endless"):
        os.mkfifo(record) if kind == "never written" else record.symlink_to("/dev/zero")
    elif kind == "a directory":
        record.mkdir()
    elif kind in changed:
        record.write_text(json.dumps(value | changed[kind]))
    elif kind != "missing":
        record.write_bytes(DAMAGE[kind] or b"")


def names(root: Path, *words: str) -> list[str]:
    return lamina("ps", *words, "--format", "{{.Name}} {{.State}}", root=root).stdout.decode().splitlines()


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_blocks_only_its_own_container(root: Path, kind: str) -> None:
    directory = container(root, "bad")
    damage(directory, kind)
    assert names(root) == ["bad damaged"]
    assert names(root, "-a") == ["good exited", "bad damaged"]
    done = lamina("fsck", root=root)
    assert (done.returncode, done.stdout.count(b"container bad")) == (1, 1)
    assert f"`lamina rm {directory.name[:12]}`".encode() in done.stdout
    for words in (("commit", "good", "new"), ("run", "--rm", "--network", "none", "new", "true"), ("prune",)):
        done = lamina(*words, root=root)
        assert (done.returncode, done.stderr) == (0, b""), words
    for words in (("diff", "bad"), ("commit", "bad", "x"), ("cp", "bad:/written", "."), ("export", "bad", "-o", "x")):
        done = lamina(*words, root=root)
        assert (done.returncode, done.stderr.count(b"\n"), b"lamina rm" in done.stderr) == (6, 1, True), done.stderr
    # its needs are known from its first record
    blobs = {path.name for path in (root / "blobs/sha256").iterdir()}
    assert lamina("rmi", "app", "new", root=root).returncode == 0
    assert lamina("rm", "good", root=root).returncode == 0
    assert lamina("prune", "--all", "--force", root=root).returncode == 0
    left = {path.name for path in (root / "blobs/sha256").iterdir()}
    assert len(left) == 3  # a manifest, a config and a layer
    assert left < blobs
    assert (directory / "upper/written").read_text() == "written\n"
    assert lamina("rm", directory.name[:12], root=root).returncode == 0
    assert os.listdir(root / "containers") == []
    assert lamina("prune", root=root).returncode == 0
    assert os.listdir(root / "blobs/sha256") == []
    assert lamina("fsck", root=root).returncode == 0


@pytest.mark.parametrize("lock", ["gone", "cut"])
def test_no_blob_is_deleted_while_the_needs_of_a_container_are_unknown(root: Path, lock: str) -> None:
    directory = container(root, "bad")
    damage(directory, "cut")
    if lock == "gone":
        (directory / "lock").unlink()
    else:
        (directory / "lock").write_bytes(b"{")
    short = directory.name[:12]
    assert names(root) == [f"{short} damaged"]
    before = sorted(os.listdir(root / "blobs/sha256"))
    for words, code in ((("rmi", "--force", "app"), 0), (("prune", "--all", "--force"), 6)):
        done = lamina(*words, root=root)  # rmi removes the name
        said = f"lamina: nothing was deleted: the record of the container {short} is damaged"
        assert (done.returncode, done.stderr.count(b"\n")) == (code, 1), done.stderr
        assert done.stderr.decode().startswith(said)
        assert f"`lamina rm {short}`" in done.stderr.decode()
    assert sorted(os.listdir(root / "blobs/sha256")) == before
    with pytest.raises(StoreDamaged, match=short):
        Store.open(str(root)).containers.digests()
    assert lamina("rm", short, "good", root=root).returncode == 0
    assert lamina("prune", root=root).returncode == 0
    assert os.listdir(root / "blobs/sha256") == []


def test_a_rm_container_after_a_crash_of_the_host_is_a_leftover(root: Path) -> None:
    """The record of a --rm container is not synced: after a crash both files are empty."""
    directory = container(root, "bad")
    for name in ("container.json", "lock"):
        (directory / name).write_bytes(b"")
    assert names(root, "-a") == ["good exited"]
    assert f"containers/{directory.name}".encode() in lamina("fsck", root=root).stdout
    assert lamina("prune", root=root).returncode == 0
    assert os.listdir(root / "containers") == [container(root, "good").name]
    assert lamina("fsck", root=root).stdout.endswith(b"the store is intact\n")


@pytest.mark.parametrize("content", [(), ("container.json.7.tmp",), ("rootfs", "bundle", "volumes", "upper")])
def test_an_empty_container_directory_without_a_record_is_a_leftover(root: Path, content: tuple[str, ...]) -> None:
    directory = root / "containers" / ("ab" * 32)
    directory.mkdir()
    for name in content:
        (directory / name).mkdir()
    assert names(root, "-a") == ["good exited", "bad exited"]
    done = lamina("fsck", root=root)
    assert (done.returncode, done.stdout.count(directory.name.encode())) == (0, 1), done.stdout
    assert lamina("run", "--rm", "--network", "none", "app", "true", root=root).returncode == 0
    assert not directory.exists()


def test_rm_all_continues_and_reports_each_failure(root: Path) -> None:
    assert run(root, "--name", "third", "app", "sh", "-c", "echo x > /x").returncode == 0
    kept = [container(root, "bad") / "upper/written", container(root, "third") / "upper/x"]
    fixed = [path.parent.parent.name[:16] for path in kept]
    subprocess.run(["chattr", "+i", *kept], check=True)
    try:
        done = lamina("rm", "--force", "--all", root=root)
        assert (done.returncode, done.stdout) == (6, b"good\n")
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 2
        assert all(any(name in line for line in lines) for name in fixed)
        assert lamina("run", "--rm", "--network", "none", "app", "true", root=root).returncode == 0
        done = lamina("prune", root=root)
        assert (done.returncode, done.stderr.count(b"\n")) == (6, 1)
    finally:
        for path in root.glob("containers/*/upper/*"):
            subprocess.run(["chattr", "-i", path], check=True)
    assert lamina("prune", root=root).returncode == 0
    assert os.listdir(root / "containers") == []
    done = lamina("rm", "missing", "gone", root=root)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 2)


def test_unknown_files_among_the_containers_are_left_alone(root: Path) -> None:
    (root / "containers/notes").write_text("mine")
    (root / "containers" / ("cd" * 32)).write_text("mine")
    (root / "containers/saved").mkdir()
    assert len(names(root, "-a")) == 2
    done = lamina("fsck", root=root)
    assert (done.returncode, done.stdout.count(b"not a container")) == (0, 3)
    for words in (("prune",), ("umount", "--all"), ("rm", "-fa"), ("df",)):
        done = lamina(*words, root=root)
        assert (done.returncode, done.stderr) == (0, b""), words
    assert sorted(os.listdir(root / "containers")) == ["cd" * 32, "notes", "saved"]


@pytest.mark.parametrize("first", ["kept", "gone"])
def test_changes_in_upper_dir_protect_a_damaged_container(root: Path, tmp_path: Path, first: str) -> None:
    """With upper_dir the container's directory has only a symlink to what it wrote."""
    # on an overlayfs there is a place where containers can write
    upper = Path(os.environ.get("LAMINA_TEST_UPPER", tmp_path)) / f"upper-{first}"
    upper.mkdir()
    command = ("run", "--name", "away", "--network", "none", "app", "sh", "-c", "echo x > /written")
    done = lamina(*command, root=root, LAMINA_UPPER_DIR=str(upper))
    assert (done.returncode, done.stderr) == (0, b"")
    directory = container(root, "away")
    (directory / "container.json").write_bytes(b"")
    if first == "gone":
        (directory / "lock").unlink()
    name = "away" if first == "kept" else directory.name[:12]
    lamina("prune", root=root)
    assert f"{name} damaged" in names(root)
    (written,) = upper.glob("*/upper/written")
    assert written.read_text() == "x\n"
    assert lamina("rm", name, root=root).returncode == 0
    assert not directory.exists()
    assert written.exists() == (first == "gone")  # its owner is unknown then
