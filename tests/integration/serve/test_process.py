"""`lamina serve` as a process: signals, several processes, sockets of systemd, a full disk, many clients at once."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_engine import die_with_us
from lamina.spec.digest import Digest
from lamina.store.store import Store
from server_process import ServerProcess, serving
from support import lamina, require_root

CONTENT = random.Random(8).randbytes(2 << 20)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


def connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def ask(port: int, method: str, target: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    one = connection(port)
    try:
        one.request(method, target, body)
        answer = one.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        one.close()


def push(port: int, content: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    assert ask(port, "POST", f"/v2/app/blobs/uploads/?digest={digest}", content)[0] == 201
    return digest


def half_sent(port: int) -> tuple[socket.socket, str]:
    """An upload of which a part has reached the server's disk, and that goes on."""
    location = ask(port, "POST", "/v2/app/blobs/uploads/")[1]["location"]
    one = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
    one.sendall(head.encode() + CONTENT[: 1 << 20])
    deadline = time.monotonic() + 30
    while received(port, location) < 1 << 19:
        assert time.monotonic() < deadline
    return one, location


def received(port: int, location: str) -> int:
    status, headers, _ = ask(port, "GET", location)
    assert status == 204
    return int(headers["range"].rpartition("-")[2]) + 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path / "store", "--writable", log=tmp_path / "log") as found:
        yield found


def test_sigterm_lets_a_running_upload_end(server: ServerProcess) -> None:
    sending, location = half_sent(server.port)
    os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while True:  # new connections are refused
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
        except OSError:
            break
        assert time.monotonic() < deadline
    sending.sendall(CONTENT[1 << 20 :])
    assert sending.recv(1000).startswith(b"HTTP/1.1 202 ")
    sending.close()
    while server.running():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.stop() == 0
    server.start()
    assert ask(server.port, "PUT", f"{location}?digest={DIGEST}")[0] == 201
    assert ask(server.port, "GET", f"/v2/app/blobs/{DIGEST}")[2] == CONTENT


def test_the_second_signal_ends_at_once(server: ServerProcess) -> None:
    sending, location = half_sent(server.port)
    os.kill(server.pid, signal.SIGTERM)
    time.sleep(0.3)  # two signals at once are one
    server.stop()
    with sending:
        try:
            assert sending.recv(1000) == b""
        except ConnectionResetError:
            pass
    server.start()
    assert received(server.port, location) >= 1 << 19


def test_the_grace_period_ends(tmp_path: Path) -> None:
    with serving(tmp_path / "store", "--writable", "--grace-period", "1", log=tmp_path / "log") as server:
        sending, location = half_sent(server.port)
        assert server.stop() == 0
        sending.close()
        server.start()
        assert received(server.port, location) >= 1 << 19
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_an_upload_goes_on_after_kill_9(server: ServerProcess) -> None:
    sending, location = half_sent(server.port)
    server.kill()
    sending.close()
    server.start()
    kept = received(server.port, location)
    assert 1 << 19 <= kept <= len(CONTENT)
    status, _, _ = ask(server.port, "PUT", f"{location}?digest={DIGEST}", CONTENT[kept:])
    assert status == 201
    assert ask(server.port, "GET", f"/v2/app/blobs/{DIGEST}")[2] == CONTENT


def test_workers_share_a_port_and_are_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "store", "--writable", "--workers", "3", log=tmp_path / "log") as server:
        digest = push(server.port, CONTENT)
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        first = children.read_text().split()
        assert len(first) == 3
        for child in first[:2]:
            os.kill(int(child), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(now := children.read_text().split()) < 3 or set(now) & set(first[:2]):
            assert time.monotonic() < deadline
            assert ask(server.port, "GET", f"/v2/app/blobs/{digest}")[2] == CONTENT  # the third one answers
            time.sleep(0.05)
        push(server.port, b"another")
        deadline = time.monotonic() + 60
        while b'kind="uploads"' not in ask(server.port, "GET", "/metrics")[2]:
            assert time.monotonic() < deadline  # what one process counts, all show
        assert server.stop() == 0
    assert Store.open(str(tmp_path / "store")).blobs.size(Digest.parse(digest)) == len(CONTENT)


def test_a_worker_that_cannot_begin_ends_all(tmp_path: Path) -> None:
    log = tmp_path / "directory"
    log.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lamina", "--root", str(tmp_path / "s"), "serve", "--writable", "-p", "0"),
            *("--workers", "2", "--access-log", str(log)),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode not in (0, -9)
    assert b"Traceback" not in done.stderr
    assert str(log).encode() in done.stderr


def test_killing_the_parent_ends_its_workers(tmp_path: Path) -> None:
    with serving(tmp_path / "store", "--writable", "--workers", "2", log=tmp_path / "log") as server:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        server.kill()
        deadline = time.monotonic() + 30
        while any(_runs(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_unix_socket_is_taken_over_only_from_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    command = [sys.executable, "-m", "lamina", "--root", str(tmp_path / "store"), "serve", "--writable"]
    command += ["--listen", f"unix:{path}"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=die_with_us)  # noqa: PLW1509
    try:
        assert first.stdout is not None
        assert f"unix:{path}".encode() in first.stdout.readline()
        assert path.stat().st_mode & 0o777 == 0o660
        second = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert (second.returncode, b"another server" in second.stderr) == (5, True)
    finally:
        first.kill()
        first.communicate()
    third = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=die_with_us)  # noqa: PLW1509
    try:
        assert third.stdout is not None
        assert b"serving" in third.stdout.readline()
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
            one.sendall(b"GET /v2/ HTTP/1.1\r\nHost: anything.example\r\n\r\n")
            assert one.recv(1000).startswith(b"HTTP/1.1 200 ")
        third.send_signal(signal.SIGTERM)
        assert third.wait(30) == 0
        assert not path.exists()
    finally:
        third.kill()
        third.communicate()


@contextmanager
def by_systemd(root: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server that gets its socket as systemd gives it: descriptor 3, LISTEN_PID and LISTEN_FDS. Gives its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
            "os.execv(sys.executable, [sys.executable, '-m', 'lamina', *sys.argv[2:]])"
        )
        words = [sys.executable, "-c", program, str(listener.fileno()), "--root", str(root), "serve", "--writable"]
        process = subprocess.Popen(
            [*words, *options],
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env={**os.environ, **environment},
            preexec_fn=die_with_us,  # noqa: PLW1509
        )
        try:
            yield process, listener.getsockname()[1]
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_systemd_gives_the_socket_and_is_told_the_state(tmp_path: Path, workers: str) -> None:
    notified = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(notified))
        systemd.settimeout(60)
        with by_systemd(
            tmp_path / "store", "--workers", workers, NOTIFY_SOCKET=str(notified), WATCHDOG_USEC="2000000"
        ) as (process, port):
            told = {systemd.recv(100), systemd.recv(100)}
            assert told == {b"READY=1", b"WATCHDOG=1"}
            assert ask(port, "GET", "/v2/")[0] == 200
            process.send_signal(signal.SIGTERM)
            while (told := systemd.recv(100)) == b"WATCHDOG=1":
                pass
            assert told == b"STOPPING=1"
            assert process.wait(60) == 0
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)  # from another process it would be an error in the journal


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "--plain-http"),
        (["--listen", "192.0.2.1:5000"], "--plain-http"),
        (["--host", "0.0.0.0", "--plain-http"], "--anonymous-push"),
        (["--listen", "nonsense:x"], "HOST:PORT"),
        (["--trusted-proxy", "nonsense"], "10.0.0.0/8"),
    ],
)
def test_where_a_server_may_not_listen(tmp_path: Path, options: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lamina", "--root", str(tmp_path), "serve", "--writable", "-p", "0", *options],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_the_access_log_has_no_secrets_and_is_reopened(tmp_path: Path) -> None:
    log = tmp_path / "access.json"
    options = ["--writable", "--access-log", str(log)]
    with serving(tmp_path / "store", *options, log=tmp_path / "log") as server:
        one = connection(server.port)
        secrets = {"Authorization": "Basic c2VjcmV0OnNlY3JldA==", "User-Agent": "evil\x85\xff"}
        one.request("GET", "/v2/app/tags/list?token=secret-token&n=5", headers=secrets)
        one.getresponse().read()
        deadline = time.monotonic() + 30
        while not log.read_text():
            assert time.monotonic() < deadline
        os.rename(log, tmp_path / "old.json")
        os.kill(server.pid, signal.SIGHUP)
        while not log.exists():
            assert time.monotonic() < deadline
        one.request("GET", "/v2/")
        one.getresponse().read()
        while not log.read_text():
            assert time.monotonic() < deadline
        one.close()
        server.stop()
    first = json.loads((tmp_path / "old.json").read_text())
    assert (first["method"], first["status"], first["address"]) == ("GET", 404, "127.0.0.1")
    assert first["target"] == "/v2/app/tags/list?token=...&n=5"
    assert json.loads(log.read_text())["target"] == "/v2/"
    for text in ((tmp_path / "old.json").read_text(), log.read_text()):
        assert "secret" not in text
        assert text.isascii()


def test_a_full_disk_gives_507_and_leaves_nothing(tmp_path: Path) -> None:
    require_root()
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)], check=True)
    try:
        with serving(place / "store", "--writable", log=tmp_path / "log") as server:
            small = push(server.port, b"before")
            free = os.statvfs(place).f_bavail
            content = random.Random(9).randbytes(40 << 20)
            digest = "sha256:" + hashlib.sha256(content).hexdigest()
            status, _, body = ask(server.port, "POST", f"/v2/app/blobs/uploads/?digest={digest}", content)
            assert status == 507, body
            assert json.loads(body)["errors"][0]["code"]
            assert ask(server.port, "GET", f"/v2/app/blobs/{digest}")[0] == 404
            assert ask(server.port, "GET", f"/v2/app/blobs/{small}")[2] == b"before"
            assert abs(os.statvfs(place).f_bavail - free) < 64  # what could not be taken is not kept
            push(server.port, CONTENT)
            server.stop()
        assert lamina("fsck", root=place / "store").returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_64_clients_push_and_pull_at_once(server: ServerProcess) -> None:
    failures: list[BaseException] = []
    shared = push(server.port, CONTENT)

    def work(number: int) -> None:
        try:
            content = CONTENT[number * 1000 :]
            one = connection(server.port)
            for _ in range(2):
                one.request("GET", f"/v2/app/blobs/{shared}")
                assert one.getresponse().read() == CONTENT
                digest = "sha256:" + hashlib.sha256(content).hexdigest()
                one.request("POST", f"/v2/app/blobs/uploads/?digest={digest}", content)
                answer = one.getresponse()
                assert (answer.status, answer.read()) == (201, b"")
                one.request("GET", f"/v2/app/blobs/{digest}", headers={"Range": "bytes=5-99"})
                assert one.getresponse().read() == content[5:100]
            one.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert server.memory() < 150 << 20


def test_without_the_extra_the_small_server_runs_and_says_so(tmp_path: Path) -> None:
    """`-m lamina` in a process that can't import uvicorn."""
    program = (
        "import sys, importlib.util; real = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name, *more: None if name == 'uvicorn' else real(name, *more);"
        "from lamina.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", program, "--root", str(tmp_path), "serve", "--writable", "-p", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die_with_us)  # noqa: PLW1509
    try:
        assert process.stdout is not None
        port = int(re.search(rb":(\d+) ", process.stdout.readline())[1])  # type: ignore[index]
        assert ask(port, "GET", "/v2/")[2] == b"{}"
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0
        assert b"pip install 'lamina[serve]'" in told
    finally:
        process.kill()
        process.communicate()
    refused = subprocess.run([*words, "--workers", "2"], capture_output=True, timeout=60, check=False)
    assert (refused.returncode, b"--workers" in refused.stderr) == (2, True)
