"""The command lines of ``habits.ROWS`` give the expected results, with real images, a registry and containers."""

from __future__ import annotations

import base64
import gzip
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from habits import CRANE, DOCKER, ROWS, SKOPEO, Row
from lamina.archive.docker import DockerArchiveWriter
from lamina.archive.layout import LayoutReader
from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.view.upper_check import refusal
from support import busybox, lamina, require_root, require_tool, write_layout
from unruly import Answer, Seen, Unruly

APPLETS = (
    "sh cat echo ls touch rm mkdir id env pwd sleep mount test chmod hostname head grep kill wc df tty "
    "uname whoami true"
)
BASE: list[Any] = [
    ("bin/", None),
    *((f"bin/{name}", "-> busybox") for name in APPLETS.split()),
    ("etc/", None),
    ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
    ("etc/group", b"root:x:0:\nvideo:x:44:\nnobody:x:65534:\n"),
    ("root/", None),
    ("srv/", None),
    ("tmp/", None, {"mode": 0o1777}),
]
SERVER = b"""#!/bin/sh
trap 'exit 0' TERM QUIT INT
trap 'echo reloaded' HUP
echo ready
while :; do sleep 0.05; done
"""
ENV = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
CONF = """
[[registry]]
prefix = "docker.io/library"
location = "{host}"
insecure = true
"""
SYNC = """
{host}:
  images:
    team/app: ["1"]
"""
FILES = {
    "compose.yaml": """\
services:
  site:
    image: alpine
    command: sh -c "echo up; sleep 1000"
    network_mode: none
    stop_signal: SIGKILL
""",
    "app.py": "print('app')\n",
    "page.html": "<p>page</p>\n",
    "site/index.html": "<p>site</p>\n",
    "env.list": "# colours\nCOLOR=blue\n",
    "script.sh": "echo from a script\n",
    "Dockerfile": """\
FROM alpine AS base
COPY app.py /app.py
FROM base
ARG VERSION=1
RUN echo $VERSION > /version
CMD ["cat", "/version"]
""",
    "docker/prod.Dockerfile": 'FROM alpine\nCMD ["echo", "prod"]\n',
    "docker/copy.Dockerfile": "FROM scratch\nCOPY app.py /app.py\n",
    "docker/broken.Dockerfile": "FROM alpine\nRUN exit 3\n",
    "docker/secret.Dockerfile": """\
FROM alpine
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size
""",
}


def release(version: str) -> list[Any]:
    return [("etc/os-release", f'NAME="Alpine Linux"\nID=alpine\nVERSION_ID={version}\n'.encode())]


def images(layout: Path) -> None:
    base = [("bin/busybox", busybox(), {"mode": 0o755}), *BASE]
    alpine = [base, release("3.20")]
    server = [
        ("docker-entrypoint.sh", b'#!/bin/sh\nexec "$@"\n', {"mode": 0o755}),
        ("usr/sbin/nginx", SERVER, {"mode": 0o755}),
    ]
    nginx = {
        "Entrypoint": ["/docker-entrypoint.sh"],
        "Cmd": ["nginx"],
        "Env": [*ENV, "NGINX_VERSION=1.27.0"],
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"maintainer": "a maintainer"},
        "StopSignal": "SIGQUIT",
    }
    steps = [{"created_by": words, "created": "2024-01-01T00:00:00Z"} for words in ("ADD rootfs /", "ADD release /")]
    plain = {"Cmd": ["/bin/sh"], "Env": ENV}

    def write(name: str, layers: list[Any], config: dict[str, Any], *more: str, **fields: Any) -> None:
        history = [*steps, *({"created_by": words, "created": "2024-01-02T00:00:00Z"} for words in more)]
        fields = {"config": config, "history": history[: len(layers)], "created": "2024-01-02T00:00:00Z", **fields}
        write_layout(layout, name, layers, config=fields)

    write("alpine:3.20", alpine, plain)
    write("alpine:3.21", [base, release("3.21")], plain)
    write("nginx:1.27", [*alpine, server], nginx, "COPY site /")
    write("hello-world", [base, [("message", b"Hello from a registry\n")]], {"Cmd": ["cat", "/message"], "Env": ENV})
    for version in ("0", "1", "2"):
        app = [("app/", None), ("app/version", f"{version}\n".encode())]
        config = {**plain, "WorkingDir": "/app", "Labels": {"stage": "prod"}, "Env": [*ENV, "DEBUG=0"]}
        write(f"app:{version}", [*alpine, app], config, "COPY app /app")
    for arch in ("amd64", "arm64"):
        write(f"multi:{arch}", [[("arch", f"{arch}\n".encode())]], {"Cmd": ["x"]}, architecture=arch)


class World(NamedTuple):
    """Prepared once: a store to copy, a shared store, registries, archives, and shell variables."""

    top: Path
    store: Path
    shared: Path
    environment: dict[str, str]
    hosts: dict[str, str]
    in_store: bool
    """Whether what containers write is in the store, and copied with it."""

    def located(self, text: str) -> str:
        for name, host in self.hosts.items():
            text = text.replace(name, host)
        return text


def needs_password(server: Unruly, seen: Seen) -> Answer | None:
    wanted = "Basic " + base64.b64encode(b"me:secret").decode()
    if seen.headers.get("authorization", seen.headers.get("Authorization")) != wanted:
        return Answer(401, {"WWW-Authenticate": 'Basic realm="test"'}, b"{}")
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_root()
    require_tool("runc", "busybox", "script")
    top = tmp_path_factory.mktemp("habits")
    images(top / "l")
    layout = LayoutReader(str(top / "l"))
    here = Store.open(str(top / "store"))
    copy(layout, here, [("app:0", "app:1")])
    names = ["alpine:3.20", "alpine:3.21", "nginx:1.27", "app:1", "app:2"]
    copy(layout, here, [*((name, name) for name in names), ("alpine:3.20", "alpine"), ("nginx:1.27", "nginx")])
    there = Store.open(str(top / "there"))
    served = {"alpine:3.20": "alpine", "nginx:1.27": "nginx", "hello-world": "hello-world", "app:1": "team/app:1"}
    pairs = [*served.items(), ("alpine:3.20", "alpine:3.20"), ("app:2", "team/app:2"), ("app:2", "team/app")]
    copy(layout, there, pairs)
    two = [f"oci:{top}/l:multi:{arch}" for arch in ("amd64", "arm64")]
    assert lamina("index", "create", "team/multi:1", *two, root=top / "there").returncode == 0
    (top / "files").mkdir()
    copy(layout, DockerArchiveWriter(str(top / "files/saved.tar")), [("alpine:3.20", "alpine:3.20")])
    saved = (top / "files/saved.tar").read_bytes()
    (top / "files/saved.tar.gz").write_bytes(gzip.compress(saved, 1))
    (top / "files/saved.tar.xz").write_bytes(lzma.compress(saved, preset=0))
    for name, text in FILES.items():
        (top / "files" / name).parent.mkdir(exist_ok=True)
        (top / "files" / name).write_text(text)
    in_store = not refusal(str(top))
    if in_store:
        make_old(top / "store")
    (top / "bin").mkdir()
    (top / "bin/lamina").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -W error -m lamina "$@"\n')
    (top / "bin/lamina").chmod(0o755)
    with ExitStack() as stack:
        registry = stack.enter_context(RegistryServer(there, writable=True))
        locked = stack.enter_context(Unruly(rule=needs_password))
        (top / "registries.conf").write_text(CONF.format(host=registry.name))
        (top / "files/sync.yaml").write_text(SYNC.format(host=registry.name))
        environment = {
            **os.environ,
            "PATH": f"{top}/bin:{os.environ['PATH']}",
            "CONTAINERS_REGISTRIES_CONF": str(top / "registries.conf"),
        }
        for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "LAMINA_CONFIG"):
            environment.pop(name, None)
        copied(top / "store", top / "shared", in_store)
        stack.callback(cleared, top / "shared")
        stack.enter_context(running_web(top / "shared", environment))
        yield World(
            top,
            top / "store",
            top / "shared",
            environment,
            {"localhost:5000": registry.name, "localhost:6000": locked.name},
            in_store,
        )


def make_old(store: Path) -> None:
    words = ["--network=none", "--name", "old", "alpine", "sh", "-c", "echo hello > /root/note; exit 3"]
    made = lamina("run", *words, root=store)
    assert made.returncode == 3, made.stderr


def copied(store: Path, to: Path, in_store: bool) -> None:
    subprocess.run(["cp", "-a", str(store), str(to)], check=True)
    if not in_store:
        make_old(to)


def cleared(store: Path) -> None:
    """Remove all mounts at the end."""
    if str(store) in Path("/proc/self/mountinfo").read_text():
        lamina("rm", "--all", "--force", root=store)
        lamina("umount", "--all", root=store)
        assert str(store) not in Path("/proc/self/mountinfo").read_text()


@contextmanager
def running_web(store: Path, environment: dict[str, str]) -> Iterator[None]:
    command = [
        sys.executable,
        "-m",
        "lamina",
        "--root",
        str(store),
        "run",
        "--network=none",
        "--name",
        "web",
        "nginx",
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            lamina("rm", "-f", "web", root=store)
            process.kill()


Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


@contextmanager
def shell(world: World, tmp_path: Path, row: Row) -> Iterator[Shell]:
    """Return a function that runs lines one after the other, in a temporary directory."""
    place = tmp_path / "here"
    place.mkdir()
    for file in (world.top / "files").iterdir():
        if file.name.startswith("saved."):
            (place / file.name).symlink_to(file)
        elif file.is_dir():
            shutil.copytree(file, place / file.name)
        else:
            shutil.copy(file, place)
    store = world.shared
    if row.alone:
        store = tmp_path / "store"
        copied(world.store, store, world.in_store)
    environment = {**world.environment, "LAMINA_ROOT": str(store), "HOME": str(place)}

    def run(line: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", world.located(line)]
        return subprocess.run(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    try:
        with running_web(store, environment) if row.web else ExitStack():
            yield run
    finally:
        if row.alone:
            cleared(store)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.xfail(reason=row.todo)] if row.todo else []) for row in ROWS],
    ids=[row.theirs for row in ROWS],
)
def test_line(row: Row, world: World, tmp_path: Path) -> None:
    with shell(world, tmp_path, row) as run:
        before = world.located(row.before) + "\n" if row.before else ""
        done = run(f"set -e\n{before}set +e\n{row.line}")
        assert done.returncode == row.code, done
        assert "Traceback" not in done.stderr
        if row.out is not None:
            assert done.stdout.replace("\r", "").strip() == row.out, done
        for pattern in [row.has] if isinstance(row.has, str) else row.has:
            assert re.search(world.located(pattern), done.stdout, re.MULTILINE), done
        if row.lacks:
            assert not re.search(row.lacks, done.stdout, re.MULTILINE), done
        assert re.search(world.located(row.err), done.stderr), done
        if row.code and not row.out and not row.has:
            assert done.stdout == ""
        line, pattern = row.then
        if line:
            after = run(line)
            assert re.fullmatch(world.located(pattern), after.stdout.strip()), (done, after)
        if row.instead:
            verb = row.theirs.split()[1]
            said = run(f"lamina {verb}")
            assert (said.returncode, said.stdout) == (2, "")
            assert re.search(rf"\b{row.instead}\b", said.stderr), said


def test_enough_lines_of_each_tool() -> None:
    assert len({row.theirs for row in ROWS}) == len(ROWS) - 1
    assert len(DOCKER) >= 150
    assert len(SKOPEO) + len(CRANE) >= 60


PAGE = Path(__file__).parents[2] / "docs/coming-from.md"
SPOKEN = ("lamina serve",)
"""Lines that the page shows shorter than the table runs them."""


def shown() -> tuple[list[str], list[tuple[str, str]]]:
    """Return the lines of the page: those that are the same, and pairs of theirs and ours."""
    text = PAGE.read_text(encoding="utf-8")
    same = [line for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    beside = re.findall(r"^\| `(.+?)` \| `(.+?)` \| ", text, re.MULTILINE)
    return same, [(theirs.replace(r"\|", "|"), ours.replace(r"\|", "|")) for theirs, ours in beside]


def test_every_line_of_the_page_is_in_the_table() -> None:
    works = {(row.theirs, row.line) for row in ROWS if row.instead or not row.todo}
    same, beside = shown()
    assert len(same) > 40
    assert len(beside) > 20
    for line in same:
        words = line.partition(" ")[2]
        assert (line, f"lamina {words}") in works, line
    for theirs, ours in beside:
        if ours in SPOKEN:
            assert any(row.theirs == theirs and ours in row.line for row in ROWS), theirs
        else:
            assert (theirs, ours) in works, (theirs, ours)
    rows = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| `(docker|podman|skopeo|crane|dive) ", line)
    ]
    assert len(rows) == len(beside)  # each was understood
