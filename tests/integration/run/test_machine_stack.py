"""Kernel, operating system, runtime, application: one image of four layers, as a container and as a machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.run.test_machine import digests, eventually, machines
from integration.run.test_run import APPLETS, GROUP, PASSWD, make_store, mounts_of
from kernel_package import kernel_path, kernel_tree
from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from support import busybox, lamina, made_once, require_root

SYSTEM = [  # with one /usr, as Debian's: /lib is a symlink
    ("usr/bin/", None),
    ("usr/bin/busybox", busybox(), {"mode": 0o755}),
    *((f"usr/bin/{name}", "-> busybox") for name in APPLETS.split()),
    *((name, f"-> usr/{name}") for name in ("bin", "lib", "lib64")),
    ("etc/passwd", PASSWD),
    ("etc/group", GROUP),
    ("boot/", None),
]
APPLICATION = (
    "print qq(application $^V\\n); open F, '>/etc/new'; print F qq(new\\n); close F; sleep 600 if @ARGV; exit 7"
)
KERNEL_STEP = "lamina pack --kernel "


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    kernel_tree()


def ok(root: Path, *words: str) -> str:
    done = lamina(*words, root=root, SOURCE_DATE_EPOCH="1000000000")
    assert done.returncode == 0, done
    return done.stdout.decode()


def make(top: Path) -> None:
    root = make_store(top, [SYSTEM])
    (top / "app.pl").write_text(APPLICATION)
    (top / "motd").write_text("another application\n")
    ok(root, "pack", "--kernel", str(kernel_path()), "-t", "kernel")
    ok(root, "rebase", "app", "--old-base", "scratch", "--onto", "kernel", "-t", "system")
    ok(root, "pack", "perl", "--base", "system", "-t", "runtime")
    ok(root, "append", "runtime", f"{top}/app.pl:/srv/app.pl", "--cmd", "perl /srv/app.pl", "-t", "one")
    ok(root, "append", "system", f"{top}/motd:/etc/motd", "--cmd", "sleep 600", "-t", "two")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    root = tmp_path / "store"
    yield root
    lamina("rm", "--all", "--force", root=root)
    assert mounts_of(root) == []
    eventually(lambda: not machines(root))


def test_the_image_boots_and_runs(root: Path) -> None:
    release = kernel_path().name.removeprefix("vmlinuz-")
    steps = [row["step"] for row in json.loads(ok(root, "layers", "one", "--format", "json"))]
    assert (len(steps), steps[0]) == (4, KERNEL_STEP + release)
    blamed = json.loads(ok(root, "blame", "one", f"/boot/vmlinuz-{release}", "--format", "json"))
    assert KERNEL_STEP in json.dumps(blamed)
    assert ok(root, "ls", "one", "/lib/modules") == f"{release}\n"

    before = digests(root)
    done = lamina("boot", "-q", "--name", "vm", "one", root=root)
    assert (done.returncode, done.stdout[:14], done.stderr) == (7, b"application v5", b""), done
    assert "A /etc/new" in ok(root, "diff", "vm").splitlines()
    assert lamina("cat", "one", "/etc/new", root=root).returncode != 0
    assert digests(root) == before

    container = lamina("run", "--rm", "one", root=root)  # on the kernel of this host
    assert (container.returncode, container.stdout) == (7, done.stdout), container


def test_two_images_at_once_share_kernel_and_system(root: Path) -> None:
    ok(root, "boot", "-d", "--name", "a", "one", "perl", "/srv/app.pl", "stay")
    ok(root, "boot", "-d", "--name", "b", "two")
    opened = [{os.readlink(one.path) for one in os.scandir(f"/proc/{pid}/fd")} for pid in machines(root)]
    tars = sorted(({path for path in one if path.endswith("/tar")} for one in opened), key=len)
    assert [len(one) for one in tars] == [3, 4]
    assert len(tars[0] & tars[1]) == 2


def test_a_pull_of_the_second_image_fetches_neither_kernel_nor_system(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with RegistryServer(Store.open(str(root))) as server:
        one, two = (f"127.0.0.1:{server.port}/{name}" for name in ("one", "two"))
        ok(other, "pull", one)
        plan = json.loads(ok(other, "plan", "pull", two, "--format", "json"))
        done = json.loads(ok(other, "pull", two, "--format", "json"))
    layers = [row["digest"] for row in json.loads(ok(root, "layers", "two", "--format", "json"))]
    for moved in (
        {blob["digest"] for blob in plan["blobs"] if blob["state"] == "to fetch"},
        {blob["digest"] for blob in done[0]["blobs"] if not blob["reused"]},
    ):
        assert moved & set(layers) == {layers[2]}
    assert plan["here"] > 10 << 20 > plan["fetch"]
