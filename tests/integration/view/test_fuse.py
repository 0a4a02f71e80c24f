"""The FUSE view: for plain users, for images that are in no store, and how its server lives and ends. What it
shows is compared with the tree in test_mount.py, as every view is."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lamina as library
from lamina.archive.layout import LayoutReader
from lamina.errors import SystemFailure, Unsupported
from lamina.host.mountinfo import is_mount
from lamina.spec.platform import Platform
from lamina.store.gc import collect
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.view.fuse import fuse_mount
from lamina.view.overlay.mount import Top, mount, mount_union, mounts, unmount
from support import lamina, require_root, require_tool, write_layout

NOBODY = 65534
TESTS = Path(__file__).parents[2]
SOURCE = Path(library.__file__).parents[1]


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()
    require_tool("fusermount3")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter; FUSE mounts in it are taken away."""
    with tempfile.TemporaryDirectory(prefix="lamina-fuse-", ignore_cleanup_errors=True) as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if f" {name}/" in line:
                subprocess.run(["umount", "-l", line.split()[4]], check=False)


@pytest.fixture
def target(place: Path) -> Path:
    return place / "mnt"


def loaded(where: Path, layers: list[list[tuple[str, bytes]]]) -> Store:
    write_layout(where / "l", "app", layers)
    store = Store.open(str(where / "s"))
    copy(LayoutReader(str(where / "l")), store, [("app", "app")])
    return store


def mounted(store: Store, target: Path) -> None:
    assert mount(store, store.stack("app", Platform.host()), str(target), name="app", view="fuse").view == "fuse"


def servers() -> list[int]:
    """Processes that have /dev/fuse open."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("counts the machine's FUSE servers: .ci/run runs this file alone as well")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if "/dev/fuse" in links:
            found.append(int(pid))
    return found


def server_of(before: list[int]) -> int:
    (pid,) = set(servers()) - set(before)
    return pid


def test_many_readers_at_once(place: Path, target: Path) -> None:
    random.seed(3)
    contents = {f"f{number}": random.randbytes(random.randrange(300_000)) for number in range(40)}
    names = list(contents)
    store = loaded(place, [[(name, contents[name]) for name in names[start::4]] for start in range(4)])
    mounted(store, target)

    def read(name: str) -> str:
        data, whole = contents[name], hashlib.sha256((target / name).read_bytes()).hexdigest()
        with (target / name).open("rb", buffering=0) as file:
            for at in (len(data) // 2, 0, len(data) - 1, len(data) + 5):
                assert os.pread(file.fileno(), 7000, max(0, at)) == data[max(0, at) : max(0, at) + 7000]
        return whole

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, names * 3))
    assert found == [hashlib.sha256(contents[name]).hexdigest() for name in names * 3]
    unmount(store, str(target))


def test_an_open_file_can_be_read_after_umount(place: Path, target: Path) -> None:
    before = servers()
    big = bytes(range(256)) * 4096
    store = loaded(place, [[("a", big)]])
    mounted(store, target)
    server = server_of(before)
    with (target / "a").open("rb", buffering=0) as file:
        assert file.read(10) == big[:10]
        unmount(store, str(target))
        assert os.listdir(target) == []
        assert os.pread(file.fileno(), 1000, 900_000) == big[900_000:901_000]
        assert server in servers()
    assert ended(server)


def ended(pid: int) -> bool:
    """Wait until the process is gone."""
    try:
        waiting = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        import select

        return bool(select.select([waiting], [], [], 20)[0])
    finally:
        os.close(waiting)


@pytest.mark.parametrize("words", [["--all"], []])
def test_a_killed_server_is_listed_as_dead_and_unmounted(place: Path, target: Path, words: list[str]) -> None:
    before = servers()
    store = loaded(place, [[("a", b"1")]])
    mounted(store, target)
    server = server_of(before)
    os.kill(server, signal.SIGKILL)
    assert ended(server)
    with pytest.raises(OSError) as caught:
        os.listdir(target)
    assert caught.value.errno == errno.ENOTCONN
    (found,) = mounts(store)
    assert (found.target, found.view, found.dead) == (str(target), "fuse", True)
    listed = lamina("mounts", root=place / "s").stdout.decode()
    assert "dead" in listed
    assert lamina("mount", "app", str(target), root=place / "s").returncode == 5
    collect(store, grace=0)
    assert lamina("umount", *(words or [str(target)]), root=place / "s").returncode == 0
    assert mounts(store) == []
    assert os.listdir(store.paths.roots) == []
    assert os.listdir(target) == []


def test_terminated_server_takes_its_mount_along(place: Path, target: Path) -> None:
    before = servers()
    store = loaded(place, [[("a", b"1")]])
    mounted(store, target)
    server = server_of(before)
    os.kill(server, signal.SIGTERM)
    assert ended(server)
    assert os.listdir(target) == []
    assert mounts(store) == []


def test_the_server_holds_no_files_of_its_caller(place: Path, target: Path) -> None:
    """A shell's $(lamina mount ...) waits until its pipes are closed."""
    loaded(place, [[("a", b"1")]])
    ours, theirs = os.pipe()
    command = [
        sys.executable,
        "-m",
        "lamina",
        "--root",
        str(place / "s"),
        "mount",
        "--view",
        "fuse",
        "app",
        str(target),
    ]
    done = subprocess.run(command, capture_output=True, pass_fds=[theirs], check=True, timeout=60)
    assert done.stdout.decode() == f"{target}\n"
    os.close(theirs)
    with open(ours, "rb") as pipe:
        assert pipe.read() == b""  # the server does not have the other end
    assert lamina("umount", "--all", root=place / "s").returncode == 0


def test_image_that_is_in_no_store(place: Path, target: Path) -> None:
    write_layout(place / "l", "app", [[("a", b"1"), ("b", b"below")], [("a", b"2")]])
    root = place / "s"
    assert lamina("mount", f"oci:{place}/l:app", str(target), root=root).returncode == 0
    assert lamina("mount", "--view", "erofs", f"oci:{place}/l:app", root=root).returncode == 2
    shutil.rmtree(place / "l")
    assert (target / "a").read_bytes() == b"2"
    assert (target / "b").read_bytes() == b"below"
    collect(Store.open(str(root)), grace=0)
    assert lamina("mounts", "--format", "{{.View}} {{.State}}", root=root).stdout == b"fuse mounted\n"
    assert lamina("umount", str(target), root=root).returncode == 0


def test_gc_keeps_a_mounted_image(place: Path, target: Path) -> None:
    store = loaded(place, [[("a", b"content")]])
    mounted(store, target)
    assert lamina("rmi", "app", root=place / "s").returncode == 0
    collect(store, grace=0)
    assert (target / "a").read_bytes() == b"content"
    unmount(store, str(target))
    collect(store, grace=0)
    assert store.layers.diff_ids() == []


def test_a_tar_that_was_cut_is_an_error_of_that_file_alone(place: Path, target: Path) -> None:
    store = loaded(place, [[("a", b"1" * 5000), ("b", b"2" * 5000)]])
    stack = store.stack("app", Platform.host())
    mounted(store, target)
    os.truncate(store.paths.tar(stack.diff_ids[0]), 4096)
    with pytest.raises(OSError) as caught:
        (target / "b").read_bytes()
    assert caught.value.errno == errno.EIO
    assert (target / "a").stat().st_size == 5000
    unmount(store, str(target))


def test_writing_is_refused(place: Path, target: Path) -> None:
    store = loaded(place, [[("a", b"1")]])
    mounted(store, target)
    with pytest.raises(OSError) as caught:
        (target / "new").touch()
    assert caught.value.errno == errno.EROFS
    assert os.statvfs(target).f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV) == 7
    unmount(store, str(target))
    for name in ("mnt", "upper", "work"):
        (place / name).mkdir(exist_ok=True)
    with pytest.raises(Unsupported, match="read-only"):
        mount_union(
            store,
            store.stack("app", Platform.host()),
            str(target),
            view="fuse",
            top=Top(str(place / "upper"), str(place / "work")),
        )


def test_what_is_missing_is_said(place: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = loaded(place, [[("a", b"1")]])
    stack = store.stack("app", Platform.host())
    for change, words in (
        ((sys.modules, "mfusepy", None), "mfusepy is not installed"),
        ((fuse_mount, "_LIBRARIES", ("libnothing.so",)), "libfuse3 is not installed"),
        ((fuse_mount, "DEVICE", "/dev/nothing"), "/dev/nothing does not exist"),
    ):
        with monkeypatch.context() as patch:
            (patch.setitem if isinstance(change[0], dict) else patch.setattr)(*change)  # type: ignore[operator]
            with pytest.raises(Unsupported, match=words):
                mount(store, stack, str(target), view="fuse")
    assert os.listdir(store.paths.roots) == []


def test_refusal_of_the_mount_is_one_line_and_leaves_nothing(place: Path) -> None:
    before = servers()
    store = loaded(place, [[("a", b"1")]])
    stack = store.stack("app", Platform.host())
    with pytest.raises(SystemFailure) as caught:
        fuse_mount.mount(stack, str(place / "not there"))
    assert "not there" in caught.value.message
    assert "\n" not in caught.value.message
    assert servers() == before


@pytest.fixture
def device_for_all() -> Iterator[None]:
    """As udev has it; not every virtual machine has udev."""
    mode = stat.S_IMODE(os.stat(fuse_mount.DEVICE).st_mode)
    os.chmod(fuse_mount.DEVICE, 0o666)
    yield
    os.chmod(fuse_mount.DEVICE, mode)


def as_nobody(*command: str) -> subprocess.CompletedProcess[bytes]:
    """Run it as a plain user, who may only read what this interpreter may (it can be in root's home)."""
    require_tool("setpriv", "fusermount3")
    one = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    caps = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS / 'integration' / 'view'}:{SOURCE}", "HOME": "/"}
    return subprocess.run([*one, *caps, *command], capture_output=True, check=False, timeout=120, env=environment)


def as_user(place: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return as_nobody(sys.executable, "-m", "lamina", "--root", str(place / "s"), *words)


IN_PYTHON = """
import sys
from pathlib import Path
import test_mount
where = Path(sys.argv[1])
members = [
    ("etc/", None, {"mode": 0o700, "uid": 3_000_000_000, "gid": 70_000}),
    ("etc/shadow", b"secret", {"mode": 0o600}),
    ("link", "= etc/shadow"), ("soft", "-> etc"), ("fifo", "fifo"), ("char", "c 1 3"),
    ("suid", b"#!", {"mode": 0o4755}),
    ("caf\\udce9", b"x", {"pax_headers": {"SCHILY.xattr.user.note": "text"}}),
]
store = test_mount.loaded(where, [members, [("etc/.wh.shadow", b""), ("etc/new", b"n")]])
print(test_mount.check_view(store, where / "mnt", "fuse", test_mount.stack_of(store)))
"""


NO_NAMESPACES = """
import sys
from lamina.host import privileges
from lamina.cli import main
from lamina.errors import SystemFailure

def refuse(*_, **__):
    raise SystemFailure("no user namespaces here")

privileges.as_root = refuse
main(sys.argv[1:])
"""


@pytest.mark.usefixtures("device_for_all")
def test_a_plain_user_sees_the_union(place: Path) -> None:
    done = as_nobody(sys.executable, "-c", IN_PYTHON, str(place))
    assert (done.stdout, done.returncode) == (b"9\n", 0), done.stderr.decode()


@pytest.mark.usefixtures("device_for_all")
def test_a_plain_user_gets_fuse_if_nothing_else_works(place: Path, target: Path) -> None:
    loaded(place, [[("a", b"1", {"mode": 0o600, "uid": 0})]])  # type: ignore[list-item]
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", place / "s"], check=True)
    words = ["--root", str(place / "s"), "mount", "app", str(target)]
    made = as_nobody(sys.executable, "-c", NO_NAMESPACES, *words)
    assert (made.returncode, made.stdout) == (0, f"{target}\n".encode()), made.stderr
    assert as_nobody("cat", str(target / "a")).stdout == b"1"
    assert as_user(place, "mounts", "--format", "{{.View}}").stdout == b"fuse\n"
    # root may not look in, and must not think it gone
    assert is_mount(str(target))
    assert as_user(place, "prune").returncode == 0
    assert len(os.listdir(place / "s" / "roots")) == 1
    assert as_user(place, "umount", "--all").returncode == 0
    assert not is_mount(str(target))
    assert os.listdir(place / "s" / "roots") == []


@pytest.mark.usefixtures("device_for_all")
def test_a_plain_user_is_told_what_was_refused(place: Path) -> None:
    loaded(place, [[("a", b"1")]])
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", place / "s"], check=True)
    roots_own = place / "own"
    roots_own.mkdir()
    done = as_user(place, "mount", "--view", "fuse", "app", str(roots_own))
    assert done.returncode == 6
    assert done.stderr.count(b"\n") == 1
    assert b"no write access to mountpoint" in done.stderr
    assert os.listdir(place / "s" / "roots") == []
    os.chmod(fuse_mount.DEVICE, 0o600)
    done = as_nobody(
        sys.executable, "-c", NO_NAMESPACES, "--root", str(place / "s"), "mount", "app", str(place / "mnt")
    )
    assert done.returncode == 7
    assert b"no user namespaces here; fuse: /dev/fuse is not for this user" in done.stderr
