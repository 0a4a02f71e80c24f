"""podman-compose, a client of podman that others wrote, with lamina in podman's place: a project of three services.

A web server that is built, PostgreSQL with a named volume and a health check, and a worker that waits for it, on a
network of their own. PostgreSQL and busybox come from this host, by `lamina pack`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from integration.run.test_run import mounts_of
from support import PLAIN_USER, plain_user, require_root, require_tool

pytestmark = pytest.mark.peer
PATIENCE = 120  # seconds, until a command is given up
COMMAND = [sys.executable, "-m", "lamina"]
NETAVARK = "/usr/lib/podman:/usr/libexec/podman"
SERVICES = """
services:
  web:
    build: {context: web, args: {GREETING: hello}}
    ports: ["127.0.0.1:%(port)s:8080"]
    env_file: web.env
    environment: {A: "1"}
    networks: [front]
    restart: unless-stopped
    stop_grace_period: 1s
  db:
    build: {context: db}
    volumes: ["data:/data"]
    networks: {front: {aliases: [database]}}
    healthcheck:
      test: ["CMD-SHELL", "%(bin)s/pg_isready -q -h 127.0.0.1"]
      interval: 200ms
      timeout: 5s
      retries: 50
    restart: always
  worker:
    image: pg
    entrypoint: ["sh", "-c"]
    command: ["echo begun; psql -h database -U postgres -Atc 'select 40 + 2'; exec busybox sleep 1000"]
    environment: {PATH: "%(bin)s:/bin:/usr/bin"}
    networks: [front]
    depends_on: {db: {condition: service_healthy}, web: {condition: service_started}}
    labels: {kind: worker}
    stop_grace_period: 0s
networks: {front: {}}
volumes: {data: {}}
"""
WEB = """
FROM pg
ARG GREETING
RUN busybox mkdir /srv && echo $GREETING >/srv/index.html
EXPOSE 8080
CMD ["busybox", "httpd", "-f", "-p", "8080", "-h", "/srv"]
"""
DB = """
FROM pg
COPY --chown=65534:65534 --chmod=700 empty /data
COPY start.sh /start.sh
USER 65534:65534
EXPOSE 5432
CMD ["sh", "/start.sh"]
"""
START = """
set -e
if [ ! -s /data/PG_VERSION ]; then
  %(bin)s/initdb -U postgres -D /data -A trust --no-sync --no-instructions >/dev/null
  echo "host all all all trust" >>/data/pg_hba.conf
fi
exec %(bin)s/postgres -D /data -c "listen_addresses=*" -c unix_socket_directories=/tmp -c fsync=off
"""


def postgres() -> Path:
    """The directory of PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        if os.environ.get("LAMINA_TEST_REQUIRE"):
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    return found[-1].parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Project:
    """A compose file in a directory, and a store. ``command``: the command line of lamina."""

    def __init__(self, top: Path, command: Sequence[str] = COMMAND, env: Mapping[str, str] | None = None) -> None:
        self.root = top / "store"
        self.directory = top / "site"
        self.command = command
        self.port = free_port()
        self.env = {**os.environ, "LAMINA_ROOT": str(self.root), "PYTHONWARNINGS": "error", **(env or {})}

    def lamina(self, *words: str) -> str:
        done = subprocess.run(
            [*self.command, *words],
            cwd=self.root.parent,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def compose(self, *words: str, code: int = 0) -> str:
        """What `lamina compose` prints."""
        done = subprocess.run(
            [*self.command, "compose", *words],
            cwd=self.directory,
            env={**self.env, "PYTHONWARNINGS": "default"},  # those of podman-compose are not ours
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def page(self) -> str:
        """What the web server says at its published port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
        return text

    def sql(self, text: str) -> str:
        return self.compose("exec", "-T", "worker", "psql", "-h", "db", "-U", "postgres", "-Atc", text).strip()

    def names(self, *words: str) -> set[str]:
        return set(self.lamina("ps", "--format", "{{.Names}}", *words).split())

    def states(self) -> dict[str, str]:
        rows = json.loads(self.lamina("ps", "-a", "--format", "json"))
        return {row["Names"][0].split("_")[1]: row["State"] for row in rows}


def fill(project: Project) -> None:
    """Make the image of PostgreSQL and the files of the project."""
    programs = postgres()
    version = programs.parent.name
    words = [f"{programs}/{name}" for name in ("postgres", "initdb", "pg_isready", "psql")]
    library = programs.parent / "lib"
    files = [f"/usr/share/postgresql/{version}", "/usr/share/postgresql-common"]
    files += [str(library / name) for name in ("plpgsql.so", "dict_snowball.so")]
    project.lamina("pack", *words, "sh", "busybox", *(f"--file={file}" for file in files), "-q", "-t", "pg")
    values = {"port": project.port, "bin": programs}
    for path, text in {
        "compose.yaml": SERVICES % values,
        "web.env": "MODE=test\n",
        "web/Dockerfile": WEB,
        "db/Dockerfile": DB,
        "db/start.sh": START % values,
    }.items():
        place = project.directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (project.directory / "db/empty").mkdir()


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")
    if not shutil.which("netavark", path=NETAVARK):
        require_tool("netavark")
    pytest.importorskip("podman_compose")
    postgres()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("compose"))
    fill(made)
    made.compose("build")
    return made


@pytest.fixture
def project(made: Project) -> Iterator[Project]:
    """The project, with all its services up."""
    made.compose("up", "-d")
    yield made
    made.compose("down", "-v", "-t", "0", "--remove-orphans")
    assert made.lamina("ps", "-aq") == ""
    assert made.lamina("volume", "ls", "-q") == ""
    assert made.lamina("pod", "ls", "-q") == ""
    assert "site_front" not in made.lamina("network", "ls")
    assert mounts_of(made.root) == []


def test_services_come_up_in_order_and_reach_each_other_by_name(project: Project) -> None:
    assert project.states() == {"web": "running", "db": "running", "worker": "running"}
    assert project.page() == "hello\n"
    said = project.compose("logs", "--no-log-prefix", "worker")
    assert said.split() == ["begun", "42"]  # PostgreSQL was ready before it began
    assert project.compose("exec", "-T", "worker", "busybox", "wget", "-qO-", "http://web:8080/") == "hello\n"
    assert project.compose("exec", "-T", "web", "sh", "-c", "echo $MODE $A") == "test 1\n"
    assert project.compose("exec", "-T", "web", "sh", "-c", "exit 7", code=7) == ""
    shown = project.compose("ps")
    assert re.search(r"\(healthy\).*site_db_1", shown)
    assert f"127.0.0.1:{project.port}->8080/tcp" in shown
    assert project.compose("port", "web", "8080") == f"{project.port}\n"
    assert len(project.compose("ps", "-q").split()) == 3
    assert [line.split()[0] for line in project.compose("images").splitlines()[1:]] == [
        "site_web_1",
        "site_db_1",
        "site_worker_1",
    ]
    assert "site_worker_1" in project.compose("stats", "--no-stream")
    assert project.names("--filter", "label=kind=worker") == {"site_worker_1"}


def test_a_volume_survives_down_and_up(project: Project) -> None:
    project.sql("create table visits (id int); insert into visits values (7)")
    project.compose("down", "-t", "1")
    assert project.states() == {}
    assert project.lamina("volume", "ls", "-q").split() == ["site_data"]
    project.compose("up", "-d")
    assert project.sql("select id from visits") == "7"


def test_services_are_stopped_started_and_changed_one_by_one(project: Project) -> None:
    project.compose("stop", "worker")
    assert project.states()["worker"] == "exited"
    project.compose("start", "worker")
    project.compose("restart", "-t", "0", "worker")
    assert project.states()["worker"] == "running"
    project.compose("pause", "web")
    assert project.states()["web"] == "paused"
    project.compose("unpause", "web")
    assert project.page() == "hello\n"
    project.compose("kill", "worker")
    assert project.lamina("wait", "site_worker_1") == "137\n"
    before = project.lamina("ps", "-q", "--no-trunc", "--filter", "name=site_db_1")
    project.compose("up", "-d", "--wait")  # what runs stays, what does not is started
    assert project.states() == {"web": "running", "db": "running", "worker": "running"}
    assert project.lamina("ps", "-q", "--no-trunc", "--filter", "name=site_db_1") == before
    assert project.compose("run", "--rm", "-T", "worker", "echo $0 once").endswith("\nsh once\n")
    assert project.compose("run", "--rm", "-T", "--no-deps", "worker", "exit 5", code=5) == ""
    file = project.directory / "compose.yaml"
    text = file.read_text()
    try:
        file.write_text(text.replace('A: "1"', 'A: "2"'))
        project.compose("up", "-d")
        assert project.compose("exec", "-T", "web", "sh", "-c", "echo $A") == "2\n"
    finally:
        file.write_text(text)


def test_logs_are_followed_to_the_end(project: Project) -> None:
    command = [*COMMAND, "compose", "logs", "-f", "worker"]
    with subprocess.Popen(command, cwd=project.directory, env=project.env, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert "begun" in one.stdout.readline()
        assert "42" in one.stdout.readline()
        project.compose("kill", "worker")
        assert one.stdout.read() == ""
        assert one.wait(PATIENCE) == 0


ONCE = """
services:
  once:
    image: pg
    command: ["sh", "-c", "echo once; exit 3"]
  other:
    image: pg
    command: ["sh", "-c", "echo other; exec busybox sleep 1000"]
    stop_grace_period: 0s
"""


@pytest.mark.parametrize("pods", ["true", "false"])
def test_a_project_in_the_foreground_ends_with_a_service(made: Project, tmp_path: Path, pods: str) -> None:
    file = tmp_path / "once.yaml"
    file.write_text(ONCE)
    words = ("-p", "once", "--in-pod", pods, "-f", str(file))
    try:
        said = made.compose(*words, "up", "--abort-on-container-exit", "--exit-code-from", "once", code=3)
        assert made.lamina("pod", "ls", "--format", "{{.Name}}").split() == ["pod_once"] * (pods == "true")
    finally:
        made.compose(*words, "down", "-v", "-t", "0")
    assert {word for word in ("once", "other") if re.search(rf"\[{word}\].* {word}$", said, re.MULTILINE)} == {
        "once",
        "other",
    }
    assert made.lamina("ps", "-aq") == ""


def test_a_plain_user_has_projects_too() -> None:
    with plain_user(PLAIN_USER) as (top, user):
        (top / "bin").mkdir()
        for name, module in (("lamina", "lamina"), ("podman-compose", "podman_compose")):
            program = top / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {user.python} -W ignore -m {module} "$@"\n')
            program.chmod(0o755)
        for module in ("podman_compose", "dotenv"):
            found = Path(str(importlib.import_module(module).__file__))
            copied = found.parent if found.name == "__init__.py" else found
            shutil.copytree(copied, top / module) if copied.is_dir() else shutil.copy(copied, top)
        own = {**user.environment, "PYTHONWARNINGS": "ignore"}
        own["PYTHONPATH"] += f":{top}"
        path = f"{top}/bin:{os.environ['PATH']}"
        project = Project(top, [*user.drop, f"PATH={path}", f"{top}/bin/lamina"], own)
        project.directory.mkdir()
        os.chown(project.directory, *(int(word) for word in user.drop if word.isdigit()))
        fill(project)
        try:
            project.compose("up", "-d")
            assert project.page() == "hello\n"
            assert project.compose("logs", "--no-log-prefix", "worker").split() == ["begun", "42"]
        finally:
            project.compose("down", "-v", "-t", "0")
        assert project.lamina("ps", "-aq") + project.lamina("volume", "ls", "-q") == ""


MORE = """
services:
  all:
    build: {context: ctx, target: two, args: {X: "1"}, secrets: [key], labels: {q: w}, tags: ["more:extra"]}
    entrypoint: ["sh", "-c"]
    command:
      - |
        busybox cat /built /two /run/secrets/key /in/file
        echo $$FOO; busybox hostname; ulimit -n; busybox pwd
        busybox mount | busybox grep -c ' /scratch.* tmpfs'
        busybox grep there /etc/hosts; busybox grep example /etc/resolv.conf
        exec busybox sleep 1000
    environment: ["FOO=bar baz"]
    secrets: [key]
    volumes: ["./data:/in:ro", {type: tmpfs, target: /scratch, tmpfs: {size: 1m}}]
    tmpfs: ["/scratch2:size=1m"]
    hostname: ahost
    user: "65534"
    working_dir: /tmp
    cap_drop: [ALL]
    cap_add: [CHOWN]
    security_opt: ["no-new-privileges:true"]
    read_only: true
    ulimits: {nofile: {soft: 200, hard: 300}}
    sysctls: {net.ipv4.ip_unprivileged_port_start: "80"}
    mem_limit: 100m
    pids_limit: 50
    shm_size: 10m
    extra_hosts: ["there:10.1.2.3"]
    dns_search: [example.com]
    expose: ["81"]
    stop_signal: SIGINT
    annotations: {x: y}
    logging: {driver: json-file, options: {max-size: 1m, max-file: "2"}}
    networks: {one: {aliases: [aa]}, two: {}}
  guest:
    image: pg
    network_mode: "service:all"
    command: ["busybox", "sleep", "1000"]
  alone:
    image: pg
    network_mode: none
    command: ["sh", "-c", "echo alone"]
  job:
    image: pg
    command: ["sh", "-c", "exit 0"]
  after:
    image: pg
    command: ["sh", "-c", "echo after"]
    depends_on: {job: {condition: service_completed_successfully}}
networks: {one: {labels: {a: b}}, two: {internal: true}}
secrets: {key: {file: ./key}}
"""


def test_options_of_services_reach_their_containers(made: Project, tmp_path: Path) -> None:
    for path, text in {
        "compose.yaml": MORE,
        "key": "s3cret\n",
        "data/file": "hi\n",
        "ctx/Dockerfile": (
            "FROM pg AS one\nARG X\n"
            'RUN --mount=type=secret,id=key echo "$X $(busybox cat /run/secrets/key)" >/built\n'
            "FROM one AS two\nRUN echo two >/two\n"
        ),
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    words = ("-p", "more", "-f", str(tmp_path / "compose.yaml"))
    try:
        made.compose(*words, "up", "-d")
        lines = made.compose(*words, "logs", "--no-log-prefix", "all").splitlines()
        assert lines[:9] == ["1 s3cret", "two", "s3cret", "hi", "bar baz", "ahost", "200", "/tmp", "2"]
        assert lines[9].split() == ["10.1.2.3", "there"]
        assert "example.com" in lines[10]
        assert "after" in made.compose(*words, "logs", "--no-log-prefix", "after")
        first, guest = (
            made.lamina("exec", f"more_{name}_1", "busybox", "ip", "-4", "addr") for name in ("all", "guest")
        )
        assert first == guest
        assert first.count("inet ") == 3  # lo and two networks
        (shown,) = json.loads(made.lamina("inspect", "more_all_1"))
        host = shown["HostConfig"]
        assert (host["Memory"], host["PidsLimit"], host["ShmSize"]) == (100 << 20, 50, 10 << 20)
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "2", "max-size": "1m"}}
        assert (host["ReadonlyRootfs"], host["Annotations"]) == (True, {"x": "y"})
        assert shown["Config"]["StopSignal"] == "SIGINT"
        assert set(shown["NetworkSettings"]["Networks"]) == {"more_one", "more_two"}
    finally:
        made.compose(*words, "down", "-v", "-t", "0")
    assert made.lamina("ps", "-aq") == ""
    assert "more_" not in made.lamina("network", "ls")


def test_the_project_of_the_documentation_is_read(made: Project, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/compose.md").read_text(encoding="utf-8")
    (tmp_path / "compose.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "db.env").write_text("POSTGRES_PASSWORD=x\n")
    assert made.compose("-f", str(tmp_path / "compose.yaml"), "config", "--services") == "web\ndb\n"
