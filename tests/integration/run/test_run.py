"""Containers with a real runtime: their view of the system, what stays in the store, how they end."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lamina as lamina_library
from lamina.archive.layout import LayoutReader
from lamina.host import privileges
from lamina.layer.entry import Kind
from lamina.run.capability import EVERY
from lamina.run.container import ending
from lamina.run.container.ending import settle
from lamina.run.rootfs import Inside
from lamina.store.containers import Container
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.view.upper_check import refusal
from support import busybox, lamina, loaded, made_once, require_root, require_tool, running, write_layout

APPLETS = (
    "sh cat echo ls touch rm mkdir id env pwd sleep mount test chmod ln hostname stat head true grep mknod kill wc"
)
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv/web:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:44:\nextra:x:55:other,web\n"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def members(*more: Any) -> list[Any]:
    return [
        ("bin/", None),
        ("bin/busybox", busybox(), {"mode": 0o755}),
        *((f"bin/{name}", "-> busybox") for name in APPLETS.split()),
        ("etc/", None),
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("tmp/", None, {"mode": 0o1777}),
        *more,
    ]


LOWER = b"of the lower layer\n"


def make_store(where: Path, layers: list[list[Any]], **config: Any) -> Path:
    write_layout(where / "layout", "app", layers, config={"config": {"Cmd": ["/bin/sh"], **config}})
    copy(LayoutReader(str(where / "layout")), Store.open(str(where / "store")), [("app", "app")])
    return where / "store"


def make(top: Path) -> None:
    make_store(
        top,
        [members(("data/", None), ("data/file", LOWER)), [("srv/app", b"#!/bin/sh\necho app $1\n", {"mode": 0o755})]],
        Env=["A=image", "B=image"],
        Volumes={"/data/volume": {}},
    )


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    store = tmp_path / "store"
    yield store
    lamina("rm", "--all", "--force", root=store)
    assert mounts_of(store) == []


def mounts_of(root: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [line for line in lines if str(root) in line]


def upper(root: Path) -> Path:
    """The upper directory of the only container."""
    (found,) = [*root.glob("containers/*/upper"), *root.glob("containers/*/memory/upper")]
    return found


def run(root: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return lamina("run", "--network", "none", *words, root=root, **more)


def out(root: Path, *words: str) -> str:
    done = run(root, "--rm", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("app", "true"), 0),
        (("app", "sh", "-c", "exit 7"), 7),
        (("app", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137),
        (("app", "nothing-here"), 127),
        (("app", "/etc/passwd"), 126),
        (("app", "/bin"), 126),
        (("--no-such-option", "app", "true"), 125),
        (("-w", "/etc/passwd", "app", "true"), 125),
    ],
)
def test_exit_codes(root: Path, words: tuple[str, ...], code: int) -> None:
    done = run(root, "--rm", *words)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert lamina("ps", "-aq", root=root).stdout == b""


HEAVY = {"click", "re", "typing", "dataclasses", "inspect", "json", "enum", "hashlib", "shutil", "subprocess"}


def test_a_plain_start_loads_little(root: Path) -> None:
    if refusal(str(root)):
        pytest.skip("a container's writable layer is made elsewhere here, which loads more")
    for _ in range(2):  # first the images of the layers are made, then they are checked
        out(root, "app", "true")
    found = loaded(root, "run", "--rm", "--network", "none", "-e", "A=1", "app", "true")
    assert found & HEAVY == set()
    assert len(found) < 136  # a module for each family of options; and six because the image has a VOLUME
    assert loaded(root, "run", "--rm", "app", "true") & HEAVY == set()  # with the network that is there


def test_what_is_refused_makes_no_container(root: Path) -> None:
    for words in [
        ("missing", "true"),
        ("--mount", "type=bind,src=/nowhere/at/all,dst=/x", "app", "true"),
        ("-u", "nobody-here", "app", "true"),
        ("--cap-add", "FLY", "app", "true"),
        ("-m", "much", "app", "true"),
        ("-v", "a:b", "app", "true"),
        ("--name", "/", "app", "true"),
        ("--network", "moon", "app", "true"),
        ("-it", "app", "true"),
        ("-w", "bin", "app", "true"),
        ("--hostname", "a b", "app", "true"),
        ("--cpus", "nan", "app", "true"),
        ("--cpus", "many", "app", "true"),
        ("--pids-limit", "-7", "app", "true"),
        ("--no-such-option", "app", "true"),
    ]:
        done = run(root, "--rm", "--pull", "never", *words)
        assert done.returncode == (1 if words[0] == "-it" else 125), (words, done.stderr)
        said = [line for line in done.stderr.splitlines() if not line.startswith(b"lamina: warning: ")]
        assert [line.partition(b" ")[0] for line in said] == [b"lamina:"]
    assert lamina("ps", "-aq", root=root).stdout == b""
    assert mounts_of(root) == []


def test_environment_user_and_working_directory(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\nC=file\nB=file\n")
    words = ["-e", "B=given", "-e", "TAKEN", "-e", "NOT_THERE", "--env-file", str(file), "-w", "/made/here"]
    done = run(root, "--rm", *words, "-u", "web", "app", "sh", "-c", "env; pwd; id", TAKEN="host")
    lines = done.stdout.decode().splitlines()
    assert {"A=image", "B=given", "C=file", "TAKEN=host", "HOME=/srv/web", "/made/here"} <= set(lines)
    assert not any(line.startswith("NOT_THERE") for line in lines)
    assert lines[-1] == "uid=33(web) gid=44(web) groups=44(web),55(extra)"
    assert out(root, "-u", "1234:5678", "app", "id").split()[:2] == ["uid=1234", "gid=5678"]


def test_an_init_that_needs_libraries_is_passed_over(root: Path, tmp_path: Path) -> None:
    """Debian's tini is dynamic, and an image has other libraries or none."""
    (tmp_path / "bin").mkdir()
    shutil.copy(sys.executable, tmp_path / "bin/tini")
    init = tmp_path / "bin/docker-init"
    init.write_text('#!/bin/sh\nshift\necho init $$\nexec "$@"\n')
    init.chmod(0o755)
    done = run(root, "--rm", "--init", "app", "sh", "-c", "exit 6", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (6, b"init 1\n"), done.stderr


def test_entrypoint_and_command(tmp_path: Path) -> None:
    store = make_store(tmp_path, [members()], Entrypoint=["/bin/echo", "entry"], Cmd=["image"])
    assert out(store, "app") == "entry image\n"
    assert out(store, "app", "given") == "entry given\n"
    assert out(store, "--entrypoint", "/bin/echo", "app", "-n", "alone") == "alone"
    assert run(store, "--rm", "--entrypoint", "/bin/echo", "app").stdout == b"\n"
    assert run(store, "--rm", "--entrypoint", "", "app").returncode == 125


def test_defaults_are_dockers(root: Path) -> None:
    shown = out(root, "app", "sh", "-c", "cat /proc/self/status; cat /proc/mounts; cat /etc/hosts; hostname")
    assert "CapEff:\t00000000a80425fb" in shown
    assert "Seccomp:\t2" in shown
    assert "\t".join(("127.0.0.1", "localhost")) in shown
    shm = next(line for line in shown.splitlines() if line.split()[1:2] == ["/dev/shm"])
    assert "size=65536k" in shm
    assert out(root, "app", "sh", "-c", "cat /proc/kcore /proc/keys /proc/sysrq-trigger | wc -c").strip() == "0"
    assert run(root, "--rm", "app", "mount", "-t", "tmpfs", "x", "/tmp").returncode != 0
    dropped = out(root, "--cap-drop", "all", "--cap-add", "NET_ADMIN", "app", "grep", "Eff", "/proc/self/status")
    assert dropped == "CapEff:\t0000000000001000\n"
    assert "1" in out(root, "--security-opt", "no-new-privileges", "app", "grep", "NoNew", "/proc/self/status")
    assert "\t0" in out(root, "--security-opt", "seccomp=unconfined", "app", "grep", "Seccomp:", "/proc/self/status")


def test_networks(root: Path) -> None:
    assert out(root, "app", "ls", "/sys/class/net").split() == ["lo"]
    seen = lamina("run", "--rm", "--network", "host", "app", "cat", "/proc/net/dev", root=root).stdout.decode()
    names = {line.split(":")[0].strip() for line in seen.splitlines()[2:]}
    assert names == set(os.listdir("/sys/class/net"))


def test_pasta_reaches_a_server_of_the_host(root: Path) -> None:
    require_tool("pasta")
    done = lamina("run", "--rm", "--network", "pasta", "app", "ls", "/sys/class/net", root=root)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 1


def test_pasta_works_in_a_store_whose_path_has_a_comma(tmp_path: Path) -> None:
    require_tool("pasta")
    store = make_store(tmp_path / "a,b", [members()])
    done = lamina("run", "--rm", "--network", "pasta", "app", "ls", "/sys/class/net", root=store)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 1
    assert mounts_of(store) == []


def test_pasta_does_not_reach_loopback_servers_of_the_host(root: Path) -> None:
    require_tool("pasta")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = lamina(
            "run", "--rm", "--network", "pasta", "app", "busybox", "nc", "-w", "1", "127.0.0.1", port, root=root
        )
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (done.returncode, done.stdout) == (1, b""), done.stderr


def test_volumes_and_tmpfs(root: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "in").write_text("from the host")
    words = ["-v", f"{tmp_path}/shared:/mnt/x", "-v", f"{tmp_path}/shared:/ro:ro", "--tmpfs", "/mem:size=1m"]
    script = "cat /mnt/x/in; echo out > /mnt/x/out; touch /ro/no 2>/dev/null || echo refused; stat -f -c %T /mem"
    assert out(root, *words, "app", "sh", "-c", script) == "from the hostrefused\ntmpfs\n"
    assert (tmp_path / "shared" / "out").read_text() == "out\n"
    # a named volume begins with what the image has there, and stays
    assert out(root, "-v", "kept:/data", "app", "sh", "-c", "cat /data/file; echo 1 >> /data/file").encode() == LOWER
    assert out(root, "-v", "kept:/srv/other", "app", "cat", "/srv/other/file").encode() == LOWER + b"1\n"
    assert out(root, "app", "cat", "/data/file").encode() == LOWER


def test_a_tmpfs_is_open_to_all_unless_the_image_has_the_directory(root: Path) -> None:
    script = "stat -c %a /new /data /mine"
    words = ("--tmpfs", "/new", "--tmpfs", "/data", "--tmpfs", "/mine:mode=700", "app", "sh", "-c", script)
    assert out(root, *words).split() == ["1777", "755", "700"]


def test_cap_add_all_adds_the_capabilities_of_this_process(root: Path) -> None:
    held = out(root, "--cap-add", "ALL", "app", "grep", "CapBnd", "/proc/self/status").split()[1]
    assert int(held, 16) == privileges.capabilities("CapBnd") & EVERY


def test_read_only(root: Path) -> None:
    hosts = "for one in hosts hostname resolv.conf; do echo >> /etc/$one; done 2>/dev/null; wc -l < /etc/hostname"
    assert out(root, "--read-only", "app", "sh", "-c", hosts).split() == ["1"]
    script = "touch /x 2>/dev/null || echo refused; touch /tmp/y && echo tmp; touch /data/volume/z && echo volume"
    assert out(root, "--read-only", "--tmpfs", "/tmp", "app", "sh", "-c", script).split() == [
        "refused",
        "tmp",
        "volume",
    ]


def test_copy_up_keeps_the_layer_and_diff_shows_the_change(root: Path) -> None:
    tars = {path: hashlib.sha256(path.read_bytes()).digest() for path in root.glob("layers/*/*/tar")}
    script = "echo more >> /data/file; rm /srv/app; mkdir -p /new/deep; echo x > /new/deep/f; chmod 700 /etc"
    assert run(root, "--name", "c", "app", "sh", "-c", script).returncode == 0
    assert lamina("diff", "c", root=root).stdout.decode().splitlines() == [
        "C /data",
        "C /data/file",
        "C /etc",
        "A /new",
        "A /new/deep",
        "A /new/deep/f",
        "C /srv",
        "D /srv/app",
    ]
    assert (upper(root) / "data/file").read_bytes() == LOWER + b"more\n"
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in tars} == tars
    kinds = json.loads(lamina("diff", "c", "--format", "json", root=root).stdout)
    assert kinds[0] == {"kind": "C", "path": "/data"}


def test_many_deletions_and_new_directories(root: Path) -> None:
    assert (
        run(root, "--name", "c", "app", "sh", "-c", "rm /srv/app /data/file /etc/group; mkdir /new").returncode == 0
    )
    told = lamina("diff", "c", root=root).stdout.decode().splitlines()
    assert [line for line in told if line[0] != "C"] == ["D /data/file", "D /etc/group", "A /new", "D /srv/app"]
    assert lamina("commit", "c", "new", root=root).returncode == 0
    (layer,) = lamina_library.open("new", root=root).layers[-1:]
    assert sorted((entry.kind.name, entry.path) for entry in layer if entry.kind != Kind.DIRECTORY) == [
        ("WHITEOUT", b"data/file"),
        ("WHITEOUT", b"etc/group"),
        ("WHITEOUT", b"srv/app"),
    ]


def test_a_container_that_changes_nothing_has_no_diff(root: Path) -> None:
    assert run(root, "--name", "c", "-v", "v:/some/where", "app", "cat", "/data/file").returncode == 0
    assert lamina("diff", "c", root=root).stdout == b""


def test_commit_has_the_containers_files_and_is_reproducible(root: Path) -> None:
    script = "echo more >> /data/file; rm -r /srv; mkdir /srv; echo n > /srv/n; ln -s /a /link; ln /srv/n /hard"
    assert run(root, "--name", "c", "app", "sh", "-c", script).returncode == 0
    first, second = (
        lamina("commit", "-m", "why", "--cmd", "cat /data/file", "c", name, root=root, SOURCE_DATE_EPOCH="1700000000")
        for name in ("new:1", "new:2")
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert out(root, "new:1").encode() == LOWER + b"more\n"
    assert out(root, "new:1", "sh", "-c", "ls /srv; cat /hard; stat -c %h /hard").split() == ["n", "n", "2"]
    listed = lamina("ls", "new:1", "/srv", root=root).stdout.decode().split()
    assert listed == ["n"]
    assert lamina("fsck", root=root).returncode == 0


def test_copy_in_and_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("a")
    (tmp_path / "in" / "link").symlink_to("/etc/passwd")
    assert run(root, "--name", "c", "app", "sh", "-c", "ln -s / /up; ln -s /etc/shadow /bad").returncode == 0
    before = sorted(os.listdir("/srv"))
    assert lamina("cp", str(tmp_path / "in"), "c:/srv", root=root).returncode == 0
    assert lamina("cp", str(tmp_path / "in" / "a"), "c:/srv/renamed", root=root).returncode == 0
    assert lamina("cp", "c:/srv/.", str(tmp_path / "new"), root=root).returncode == 0  # made, as docker does
    assert sorted(os.listdir(tmp_path / "new")) == ["app", "in", "renamed"]
    assert lamina("cp", "c:/srv", str(tmp_path / "out"), root=root).returncode == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["app", "in", "renamed"]
    assert (tmp_path / "out" / "in" / "a").read_text() == "a"
    assert os.readlink(tmp_path / "out" / "in" / "link") == "/etc/passwd"
    # symlinks of the container stay inside the container
    assert lamina("cp", "c:/up/../../etc/passwd", str(tmp_path / "passwd"), root=root).returncode == 0
    assert (tmp_path / "passwd").read_bytes() == PASSWD
    assert lamina("cp", "c:/bad", str(tmp_path / "bad"), root=root).returncode == 0
    assert (tmp_path / "bad").is_symlink()
    assert lamina("cp", "c:/nothing", str(tmp_path), root=root).returncode == 3
    assert lamina("cp", str(tmp_path / "in" / "a"), "c:/up/srv/through", root=root).returncode == 0
    assert lamina("cp", str(tmp_path / "in" / "a"), f"c:/up{tmp_path}/out/x", root=root).returncode == 3
    assert sorted(os.listdir("/srv")) == before
    assert lamina("rm", "c", root=root).returncode == 0
    assert mounts_of(root) == []


def test_cp_drops_set_user_id_bits(root: Path, tmp_path: Path) -> None:
    """Any user in the container can create such a file, and outside it belongs to the caller: it must not run as the
    caller."""
    script = "echo x > /tmp/a; chmod 6755 /tmp/a; mkdir /tmp/d; ln /tmp/a /tmp/d/a; chmod 7777 /tmp/d"
    assert run(root, "--name", "c", "-u", "web", "app", "sh", "-c", script).returncode == 0
    for words in (["c:/tmp/a", "a"], ["c:/tmp", "all"], ["c:/tmp/.", "content"]):
        assert lamina("cp", words[0], str(tmp_path / words[1]), root=root).returncode == 0
    for name, mode in (
        ("a", 0o755),
        ("all/d", 0o1777),
        ("all/d/a", 0o755),
        ("content/d", 0o1777),
        ("content/a", 0o755),
    ):
        state = (tmp_path / name).stat()
        assert (state.st_mode & 0o7777, state.st_uid, state.st_gid) == (mode, os.geteuid(), os.getegid()), name
    assert lamina("rm", "c", root=root).returncode == 0


def test_a_container_keeps_its_image(root: Path) -> None:
    assert run(root, "--name", "c", "app", "touch", "/x").returncode == 0
    assert lamina("rmi", "--force", "app", root=root).returncode == 0
    assert lamina("prune", "--all", "--force", root=root).returncode == 0
    assert lamina("commit", "c", "again", root=root).returncode == 0
    assert out(root, "again", "cat", "/data/file").encode() == LOWER


def wait_for(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == word


def test_signals_reach_the_program(root: Path) -> None:
    script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with running("run", "--rm", "--network", "none", "app", "sh", "-c", script, root=root) as process:
        wait_for(process, b"ready\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 9
    assert lamina("ps", "-aq", root=root).stdout == b""


def test_ps_exec_stop(root: Path) -> None:
    script = "echo ready; exec sleep 600"
    with running("run", "--name", "c", "--network", "none", "app", "sh", "-c", script, root=root) as process:
        wait_for(process, b"ready\n")
        (shown,) = json.loads(lamina("ps", "--format", "json", root=root).stdout)
        assert (shown["Names"], shown["State"]) == (["c"], "running")
        done = lamina("exec", "-e", "X=1", "-u", "web", "c", "sh", "-c", "echo $X; id; exit 5", root=root)
        assert done.returncode == 5
        assert done.stdout.startswith(b"1\nuid=33(web)")
        for words, code in ((("nothing-here",), 127), (("/etc/passwd",), 126), (("sh", "-c", "exit 255"), 255)):
            done = lamina("exec", "c", *words, root=root)
            assert (done.returncode, done.stderr.count(b"\n")) == (code, int(code < 128)), done.stderr
        assert lamina("rm", "c", root=root).returncode == 5
        assert run(root, "--name", "c", "app", "true").returncode == 125  # the name is taken
        assert lamina("stop", "--time", "0.2", "c", root=root).returncode == 0
        assert process.wait(30) == 137
    (shown,) = json.loads(lamina("ps", "-a", "--format", "json", root=root).stdout)
    assert (shown["State"], shown["ExitCode"]) == ("exited", 137)
    assert lamina("exec", "c", "true", root=root).returncode == 5


def test_killed_run_leaves_nothing_once_removed(root: Path) -> None:
    script = "echo ready; exec sleep 600"
    with running("run", "--name", "c", "--network", "none", "app", "sh", "-c", script, root=root) as process:
        wait_for(process, b"ready\n")
        (identity,) = os.listdir(root / "containers")
        written = root / "containers" / identity / "bundle" / "pid"
        while not written.exists() or not written.read_text():  # the runtime writes it while the program starts
            time.sleep(0.01)
        pid = int(written.read_text())
        process.kill()
        process.wait(30)
    assert lamina("rm", "--force", "c", root=root).returncode == 0
    assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/cmdline").read_bytes() == b""
    assert os.listdir(root / "containers") == []
    assert mounts_of(root) == []


class Ending:
    """A process that looks after a container whose program has ended already."""

    def __init__(self, root: Path, remove: bool) -> None:
        self.store, self.remove = Store.open(str(root)), remove
        (one,) = self.store.containers
        self.container = replace(self.store.containers.supervise(one), runtime="runc")
        self.store.containers.write(self.container)

    def end(self, *_: object) -> None:
        if self.remove:
            ending.remove(self.store, self.container)
        self.store.containers.stop_supervising(self.container.id)


@pytest.mark.parametrize("removes_itself", [True, False])
def test_rm_force_waits_for_a_container_at_its_end(
    root: Path, monkeypatch: pytest.MonkeyPatch, removes_itself: bool
) -> None:
    assert run(root, "--name", "c", "app", "true").returncode == 0
    store = Store.open(str(root))
    other = Ending(root, removes_itself)
    monkeypatch.setattr(ending.time, "sleep", other.end)
    ending.remove(store, other.container, force=True)  # the runtime has forgotten it: there is nothing to kill
    assert list(store.containers) == []
    assert os.listdir(root / "containers") == []


def test_the_program_has_no_descriptor_of_ours(root: Path) -> None:
    """The runtime inherits the container's lock. A program in the container could release it."""
    assert out(root, "app", "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


def test_two_removals_at_once_both_succeed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(root, "--name", "c", "app", "touch", "/x").returncode == 0
    store = Store.open(str(root))
    (one,) = store.containers
    others: list[subprocess.Popen[bytes]] = []

    def settle_beside_another(store: Store, container: Container) -> None:
        if not others:
            others.append(subprocess.Popen([sys.executable, "-m", "lamina", "--root", str(root), "rm", "c"]))
            with open("/proc/locks", encoding="ascii") as file:
                while others[0].poll() is None and f" -> FLOCK  ADVISORY  WRITE {others[0].pid} " not in file.read():
                    file.seek(0)
        settle(store, container)

    monkeypatch.setattr(ending, "settle", settle_beside_another)
    ending.remove(store, one)
    assert others[0].wait(30) == 0
    assert os.listdir(root / "containers") == []
    ending.remove(store, one)  # once more: nothing is there


def test_no_device_of_the_host_can_be_read(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"secret".ljust(1 << 20, b"\0"))
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr}")
    device = made.stdout.strip()
    try:
        state = os.stat(device)
        numbers = f"{os.major(state.st_rdev)} {os.minor(state.st_rdev)}"
        script = f"mknod /d b {numbers}; head -c 6 /d; echo .; head -c 6 /in-image"
        layer = members(("in-image", f"c {numbers}", {"type": b"4", "mode": 0o666}))
        store = make_store(tmp_path / "hostile", [layer])
        for more in ((), ("--read-only",)):
            done = run(store, "--rm", *more, "app", "sh", "-c", script)
            assert b"secret" not in done.stdout
            assert done.stderr
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_hostile_places_for_mounts_stay_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = [one for one in members() if not one[0].startswith("etc")]
    layer += [("etc", f"-> {outside}"), ("vol", f"-> ../../../..{outside}/v"), ("work", f"-> {outside}/w")]
    store = make_store(tmp_path, [layer], Volumes={"/vol": {}}, WorkingDir="/work/deep")
    done = run(store, "--rm", "app", "sh", "-c", "echo ran")
    assert b"Traceback" not in done.stderr
    assert list(outside.iterdir()) == []
    assert lamina("ps", "-aq", root=store).stdout == b""


def test_reading_inside_follows_no_symlink_out_and_never_blocks(tmp_path: Path) -> None:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    os.mkfifo(tmp_path / "root" / "etc" / "fifo")
    (tmp_path / "root" / "etc" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "etc" / "up").symlink_to("../../../secret")
    (tmp_path / "root" / "etc" / "inner").symlink_to("/file")
    (tmp_path / "root" / "file").write_text("inner")
    with Inside(str(tmp_path / "root")) as inside:
        assert [inside.read(f"/etc/{name}") for name in ("fifo", "link", "up", "missing")] == [b""] * 4
        assert inside.read("/etc/inner") == b"inner"
        assert inside.make("/etc/new/place", directory=True) == ["/etc/new", "/etc/new/place"]
        secret = str(tmp_path / "secret").split("/")[1:]
        assert inside.make("/etc/link", directory=False) == [
            "/" + "/".join(secret[: end + 1]) for end in range(len(secret))
        ]
        assert (tmp_path / "secret").read_text() == "secret"


def test_two_containers_share_the_layers_mounts(root: Path) -> None:
    script = "echo ready; exec sleep 600"
    words = ("--network", "none", "app", "sh", "-c", script)
    with (
        running("run", "--rm", "--name", "a", *words, root=root) as one,
        running("run", "--rm", "--name", "b", *words, root=root) as two,
    ):
        wait_for(one, b"ready\n")
        wait_for(two, b"ready\n")
        kinds = [line.split(" - ")[1].split()[0] for line in mounts_of(root)]
        assert kinds.count("overlay") == 2
        if "erofs" in kinds:
            assert kinds.count("erofs") == 2  # one a layer
        assert lamina("umount", "--all", root=root).returncode == 0  # mounts in use stay
        assert lamina("exec", "a", "cat", "/data/file", root=root).stdout == LOWER
        assert lamina("stop", "-t", "0", "a", "b", root=root).returncode == 0
        assert one.wait(30) == two.wait(30) == 137
    assert mounts_of(root) == []


def test_userns_auto_gives_separate_ids(root: Path, tmp_path: Path) -> None:
    script = "id -u; cat /proc/self/uid_map; cat /data/file; touch /x; chown 33:44 /x; stat -c %u:%g /x /etc/passwd"
    words = ["run", "--name", "c", "--network", "none", "--userns", "auto", "app", "sh", "-c", script]
    done = lamina(*words, root=root)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    inside, outside, count = map(int, lines[1].split())
    assert (lines[0], inside, count, lines[2:]) == ("0", 0, 65536, [LOWER.decode().strip(), "33:44", "0:0"])
    assert outside >= 0x70000000
    (identity,) = os.listdir(root / "containers")
    state = (upper(root) / "x").lstat()
    assert (state.st_uid, state.st_gid) == (outside + 33, outside + 44)
    assert lamina("diff", "c", root=root).stdout == b"A /x\n"
    (tmp_path / "given").write_text("given")
    assert lamina("cp", str(tmp_path / "given"), "c:/data/new", root=root).returncode == 0
    assert lamina("commit", "c", "app:2", root=root).returncode == 0
    stated = json.loads(lamina("stat", "app:2", "/x", "/data/new", "--format", "json", root=root).stdout)
    assert [(one["uid"], one["gid"]) for one in stated] == [(33, 44), (0, 0)]
    assert run(root, "--rm", "--userns", "moon", "app", "true").returncode == 125
    assert not Path("/run/lamina-open").joinpath(identity).exists()


def test_layers_with_other_owners_count_as_used(root: Path) -> None:
    def seen(word: str) -> list[str]:
        return [line.split()[2] for line in mounts_of(root) if word in line.split()[4]]

    words = ["--network", "none", "--userns", "auto", "app", "sh", "-c", "echo up; exec sleep 600"]
    with running("run", "--rm", "--name", "a", *words, root=root) as process:
        wait_for(process, b"up\n")
        parts = seen("/unions/")
        assert out(root, "app", "true") == ""  # at its end it takes away what nobody uses
        assert seen("/unions/") == parts
        if parts:
            assert set(seen("/bundle/")) == set(parts)  # the same devices: their pages are in memory once
        assert lamina("stop", "-t", "0", "a", root=root).returncode == 0
        assert process.wait(30) == 137
    assert mounts_of(root) == []
    with running("run", "--name", "b", *words, root=root) as process:
        wait_for(process, b"up\n")
        assert len(seen("/bundle/")) >= len(parts)
        process.kill()
        process.wait(30)
    assert out(root, "app", "true") == ""
    assert len(seen("/bundle/")) >= len(parts)  # its program still runs
    assert lamina("stop", "-t", "0", "b", root=root).returncode == 0
    assert seen("/bundle/") == seen("/unions/") == []
    assert lamina("rm", "--force", "b", root=root).returncode == 0
    assert mounts_of(root) == []


def test_nobody_else_reaches_the_root_of_a_user_namespace(root: Path) -> None:
    words = ["run", "--rm", "--network", "none", "--userns", "auto", "app", "sh", "-c", "echo up; exec sleep 600"]
    with running(*words, root=root) as process:
        wait_for(process, b"up\n")
        (identity,) = os.listdir(root / "containers")
        place = Path("/run/lamina-open") / identity
        state = place.stat()
        assert (state.st_mode & 0o777, state.st_uid >= 0x70000000) == (0o700, True)
        assert (place / "rootfs/bin/busybox").exists()
        assert lamina("kill", identity, root=root).returncode == 0
        assert process.wait(30) == 137
    assert not place.exists()


def test_export_has_the_containers_files(root: Path) -> None:
    work = "rm /data/file; echo new > /data/new; ln -s new /data/link; mkdir /data/sub; echo x > /data/volume/kept"
    assert run(root, "--name", "web", "app", "sh", "-c", work).returncode == 0
    done = lamina("export", "web", root=root)
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        found = {member.name.strip("/"): member for member in tar}
        content = tar.extractfile(found["data/new"])
        assert content is not None
        assert content.read() == b"new\n"
    below = {name for name in found if name.startswith("data/")}
    assert below == {"data/new", "data/link", "data/sub"}  # neither the volume nor its mount point
    assert found["data/link"].linkname == "new"
    assert found["bin/sh"].issym()
    assert "srv/app" in found
    assert not {"etc/resolv.conf", "etc/hostname", "dev/null"} & found.keys()


def test_exit_codes_are_right_if_the_caller_ignores_sigchld(root: Path) -> None:
    """Programs inherit an ignored SIGCHLD from their supervisor."""
    ignoring = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    code = f"import os, signal, sys; {ignoring}; os.execv(sys.executable, sys.argv[1:])"
    words = [sys.executable, "-m", "lamina", "--root", str(root), "run", "--rm", "--network", "none", "app"]
    command = [sys.executable, "-c", code, *words, "sh", "-c", "echo hi; exit 7"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (7, b"hi\n"), done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith(b"lamina: warning: ")]
    assert said == []  # on an overlayfs where it writes is told


def test_a_killed_exec_leaves_no_file_with_its_environment(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    words = ("--network", "none", "app", "sh", "-c", "echo begun; sleep 60")
    with running("run", "--name", "one", *words, root=root) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == b"begun\n"
        words = ("one", "sh", "-c", "echo $A; sleep 60")
        with running("exec", "-e", "A=a-secret", *words, root=root) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"a-secret\n"
            process.kill()
            process.wait()
            assert lamina("rm", "--force", "one", root=root).returncode == 0
    assert list(scratch.iterdir()) == []
