"""deploy/compose, brought up as docs/serve.md says: two servers behind a balancer lose nothing when one is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest

from deployed import DEPLOY, await_answer, make_other_images, ok
from support import free_port, lamina, require_tool, write_layout

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]
NETAVARK = "/usr/lib/podman:/usr/libexec/podman"
PATIENCE = 90


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images") / "layout"
    chance = random.Random(3)
    for name in ("one", "two", "three"):
        write_layout(place, name, [[("shared", b"x" * 100_000)], [(name, chance.randbytes(12_000_000))]])
    return place


class Project:
    """deploy/compose, run by `lamina compose`."""

    def __init__(self, root: Path, top: Path) -> None:
        self.root, self.port = root, free_port()
        shutil.copytree(DEPLOY / "compose", top)
        settings = {
            "S3_ACCESS_KEY": "registry",
            "S3_SECRET_KEY": random.Random().randbytes(16).hex(),
            "PUBLISH": f"127.0.0.1:{self.port}",
            "LAMINA_IMAGE": "lamina",
            "HAPROXY_IMAGE": "haproxy",
            "VERSITYGW_IMAGE": "versitygw",
        }
        (top / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.directory = top

    def compose(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lamina", "compose", *words],
            cwd=self.directory,
            env={**os.environ, "LAMINA_ROOT": str(self.root), "PYTHONWARNINGS": "default"},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout

    def name(self, service: str) -> str:
        rows = json.loads(ok("ps", "-a", "--format", "json", root=self.root))
        (found,) = (row["Names"][0] for row in rows if row["Names"][0].endswith(f"_{service}_1"))
        return str(found)


@pytest.fixture
def project(server_image: Path, tmp_path: Path) -> Iterator[Project]:
    if not shutil.which("netavark", path=NETAVARK):
        require_tool("netavark")
    pytest.importorskip("podman_compose")
    make_other_images(server_image)
    made = Project(server_image, tmp_path / "compose")
    try:
        made.compose("up", "-d")
        await_answer(f"http://127.0.0.1:{made.port}/v2/")
        yield made
    except BaseException:
        for service in ("one", "two", "balancer", "storage"):
            print(service, lamina("logs", made.name(service), root=server_image))
        raise
    finally:
        made.compose("down", "-v", "-t", "0")


def test_two_servers_behind_a_balancer_lose_nothing_when_one_is_killed(
    project: Project, layout: Path, tmp_path: Path
) -> None:
    host = f"127.0.0.1:{project.port}"
    root = tmp_path / "client"

    def push(name: str) -> str:
        ok("copy", f"oci:{layout}:{name}", f"docker://{host}/team/{name}:1", root=root)
        return ok("digest", f"docker://{host}/team/{name}:1", root=root)

    def check(name: str, digest: str, place: str) -> None:
        assert ok("pull", "-q", f"{host}/team/{name}:1", root=tmp_path / place) == digest

    digests = {"one": push("one")}
    for killed in ("one", "two"):
        name = project.name(killed)
        pid = json.loads(ok("inspect", name, root=project.root))[0]["State"]["Pid"]
        ok("stop", "-t", "0", name, root=project.root)  # SIGKILL; `restart: always` does not start it again
        assert not Path(f"/proc/{pid}").exists()
        pushed = "two" if killed == "one" else "three"
        digests[pushed] = push(pushed)  # the other one takes it
        for image, digest in digests.items():
            check(image, digest, f"without-{killed}")
        ok("start", name, root=project.root)
        project.compose("exec", "-T", killed, *_READY)
    for image, digest in digests.items():
        check(image, digest, "in-the-end")
    with pytest.raises(URLError, match="403"):
        urllib.request.urlopen(f"http://{host}/metrics", timeout=30)


_READY = ("python3", "-c", """
import time, urllib.request as r
for _ in range(300):
    try:
        r.urlopen('http://127.0.0.1:5000/readyz', timeout=5); break
    except OSError:
        time.sleep(0.1)
else:
    raise SystemExit('not ready')
""")  # fmt: skip
