"""Builders of images: BuildKit, buildah, docker's old builder, lamina. What they make of a case is in a form that can
be compared."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corpus.adding import SERVED
from corpus.bases import IMAGES, write_bases
from corpus.case import OLD, Case, lay
from docker_engine import Docker, die_with_us
from lamina.cli import run
from lamina.image import Image
from lamina.image import open as open_image
from lamina.layer.entry import Kind
from support import free_port, lamina, peer, require_root, require_tool

NEW = 1_750_000_000
"""Seconds. Files of the corpus are older; what a builder makes itself is newer."""
_UNDEFINED = {"new", 0, 1_700_000_000}  # of the base
_LONG = 100


@dataclass
class Made:
    """An image, in plain values that JSON could hold. ``files``: by path, what can be seen of each."""

    files: dict[str, dict[str, Any]]
    config: dict[str, Any]
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class Refused:
    """``why``: what the builder said last."""

    why: str


class Bench:
    """Where cases are laid out, with the servers that they need. One for each process."""

    def __init__(self, top: Path, http: str, git: str, agent: str) -> None:
        self.top, self.http, self.git, self.agent = top, http, git, agent
        self.bases = write_bases(top / "bases")
        self.numbers = itertools.count()

    @contextmanager
    def laid(self, case: Case) -> Iterator[Place]:
        """The case in a directory of its own."""
        with tempfile.TemporaryDirectory(dir=self.top, prefix="case-") as name:
            place = Place(Path(name), self, case)
            files = {"Dockerfile": place.filled(place.text), **case.files}
            lay(files, place.context, place.time)
            lay(case.beside, place.top / "beside", place.time)
            for context, files in case.contexts.items():
                lay(files, place.top / context, place.time)
            yield place


class Place:
    """One case on disk."""

    def __init__(self, top: Path, bench: Bench, case: Case) -> None:
        self.top, self.bench, self.case = top, bench, case
        self.context = top / "context"
        self.text = case.dockerfile.encode() if isinstance(case.dockerfile, str) else case.dockerfile
        # no two cases have the same: BuildKit takes a file of the same name, size and time for one that it has
        self.time = OLD + next(bench.numbers)
        self.values = {
            "{d}": str(top),
            "{http}": bench.http,
            "{git}": bench.git,
            "{agent}": bench.agent,
            "{unique}": f"u{uuid.uuid4().hex}",
        }

    def filled(self, text: bytes) -> bytes:
        for name, value in self.values.items():
            text = text.replace(name.encode(), value.encode())
        return text

    @property
    def flags(self) -> list[str]:
        given = [self.filled(flag.encode()).decode() for flag in self.case.flags]
        for name in self.case.contexts:
            given += ["--build-context", f"{name}={self.top / name}"]
        return given

    def made(self, image: Image) -> Made:
        """What is in the image, with the values of this place as their names again."""
        found = _made(image)
        text = json.dumps([found.files, found.config, found.history])
        for name, value in self.values.items():
            text = text.replace(json.dumps(value)[1:-1], name)
        return Made(*json.loads(text))


def _made(image: Image) -> Made:
    tree = image.tree
    names: dict[int, list[str]] = {}
    files: dict[str, dict[str, Any]] = {}
    for node in tree.walk():
        entry = tree.entry(node)
        path = "/" + entry.path.decode(errors="backslashreplace")
        seconds = entry.mtime // 1_000_000_000
        one: dict[str, Any] = {"kind": entry.kind.name.lower(), "owner": f"{entry.uid}:{entry.gid}"}
        one["time"] = "old" if OLD <= seconds < NEW else "new" if seconds >= NEW else seconds
        if entry.kind == Kind.SYMLINK:
            one["target"] = entry.link.decode(errors="backslashreplace")
        else:
            one["mode"] = f"{entry.mode:o}"
        if entry.kind in (Kind.CHAR, Kind.BLOCK):
            one["device"] = list(entry.rdev)
        if entry.kind == Kind.FILE:
            with image.stack.open_stored(tree.stored(node)) as stream:
                data = stream.read()
            one["content"] = repr(data) if len(data) <= _LONG else hashlib.sha256(data).hexdigest()
        if entry.xattrs:
            one["xattrs"] = {name.decode(): repr(value) for name, value in sorted(entry.xattrs.items())}
        if entry.kind != Kind.DIRECTORY:
            names.setdefault(tree.inode(node), []).append(path)
        files[path] = one
    for paths in names.values():
        if len(paths) > 1:
            for path in paths:
                files[path]["names"] = sorted(paths)
    raw = image.config.json
    config = {key: raw[key] for key in ("os", "architecture", "author", "variant") if raw.get(key)}
    config |= {"created": "new" if str(raw.get("created", "")) > "2026" else raw.get("created")}
    config |= {
        key: value for key, value in (raw.get("config") or {}).items() if value not in (None, "", [], {}, False)
    }
    layers = iter(image.layers)
    history = []
    for step in raw.get("history") or []:
        known = {key: value for key, value in step.items() if value not in (None, "", False)}
        if "created" in known:
            known["created"] = "new" if known["created"] > "2026" else known["created"]
        # some write a layer without entries where others write none
        if not known.get("empty_layer") and len(next(layers)) == 0:
            known["empty_layer"] = True
        history.append(known)
    return Made(files, config, history)


def _comparable(ours: dict[str, Any], theirs: dict[str, Any] | None) -> dict[str, Any]:
    """Ours, with their time where that is not defined: of what was built, and of directories that were there."""
    times = {ours["time"], theirs["time"]} if theirs else set()
    if theirs and (theirs["time"] == "new" or (ours["kind"] == theirs["kind"] == "directory" and times & _UNDEFINED)):
        return ours | {"time": theirs["time"]}
    return ours


def differences(one: Made, other: Made) -> list[str]:
    """Each difference as a line: its name and its two values. Without a history in ``other``, none is compared."""
    found = []
    files = {path: _comparable(file, other.files.get(path)) for path, file in one.files.items()}
    one = Made(files, one.config, one.history)
    for what, left, right in (("file", one.files, other.files), ("config", one.config, other.config)):
        for key in sorted(left.keys() | right.keys()):
            a, b = left.get(key), right.get(key)
            if a == b:
                continue
            if what == "file" and a and b:
                parts = [f"{name} {a.get(name)!r} {b.get(name)!r}" for name in sorted(a.keys() | b.keys())
                         if a.get(name) != b.get(name)]  # fmt: skip
                found.append(f"file {key}: {', '.join(parts)}")
            else:
                found.append(f"{what} {key}: {a!r} {b!r}")
    for number in range(max(len(one.history), len(other.history)) if other.history else 0):
        step, its = (steps[number] if number < len(steps) else None for steps in (one.history, other.history))
        if step != its:
            found.append(f"history {number}: {step!r} {its!r}")
    return found


def outline(made: Made | Refused) -> Made | Refused:
    """The image without what is each builder's own: history, times of building, notes in the config, the order of
    variables."""
    if isinstance(made, Refused):
        return made
    config = {
        name: value
        for name, value in made.config.items()
        if name not in ("created", "ArgsEscaped", "Hostname", "Image")
    }
    if config.get("WorkingDir") == "/":
        del config["WorkingDir"]
    if "Env" in config:
        config["Env"] = sorted(config["Env"])
    return Made(made.files, config, [])


class BuildKit:
    """buildkitd of our own, and its client."""

    def __init__(self, address: str, layout: Path, bases: Mapping[str, Any]) -> None:
        self.command = [peer("buildctl"), "--addr", address]
        self.layout, self.bases = layout, bases

    def build(self, place: Place) -> Made | Refused:
        with tempfile.TemporaryDirectory(dir=place.top, prefix="buildkit-") as out:
            words = [*self.command, "build", "--frontend", "dockerfile.v0", "--progress", "plain"]
            words += ["--opt", "cmdline=none"]  # a syntax directive would pull another frontend
            words += ["--local", f"context={place.context}", "--local", f"dockerfile={place.context}"]
            words += ["--oci-layout", f"bases={self.layout}"]
            for name, descriptor in self.bases.items():
                words += ["--opt", f"context:{name}=oci-layout://bases@{descriptor.digest}"]
            words += self._words(place)
            words += [
                "--output",
                f"type=oci,dest={out}/made,tar=false,rewrite-timestamp=true",
            ]  # if there is an epoch
            done = subprocess.run(words, capture_output=True, check=False, timeout=120)
            if done.returncode:
                return Refused(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
            return place.made(open_image(f"oci:{out}/made"))

    def _words(self, place: Place) -> Iterator[str]:
        """The options of `docker build` as this client has them."""
        given = iter(place.flags)
        for flag in given:
            value = next(given)
            match flag:
                case "--build-arg":
                    yield from ("--opt", f"build-arg:{value}")
                case "--label":
                    yield from ("--opt", f"label:{value}")
                case "--target" | "--platform" | "--shm-size" | "--ulimit":
                    known = {"--shm-size": "33554432"}.get(flag, value)
                    yield from ("--opt", f"{flag[2:]}={known}")
                case "--network":
                    yield from ("--opt", f"force-network-mode={value}")
                case "--add-host":
                    yield from ("--opt", f"add-hosts={value.replace(':', '=', 1)}")
                case "-f":
                    yield from ("--opt", f"filename={value}")
                case "--build-context":
                    name, _, path = value.partition("=")
                    yield from ("--local", f"{name}={path}", "--opt", f"context:{name}=local:{name}")
                case "--secret" | "--ssh" | "--allow":
                    yield from (flag, value)
                case _:
                    raise AssertionError(flag)


@contextmanager
def buildkit_daemon(bench: Bench) -> Iterator[BuildKit]:
    with buildkit_process() as address:
        yield BuildKit(address, bench.top / "bases", bench.bases)


@contextmanager
def buildkit_process() -> Iterator[str]:
    """buildkitd of our own; its address. It lives in its own PID and mount namespaces: when this process dies,
    nothing of it is left."""
    require_root()
    require_tool("unshare", "runc")
    program = peer("buildkitd")
    peer("buildctl")
    with tempfile.TemporaryDirectory(prefix="lb-", ignore_cleanup_errors=True) as top:
        address = f"{top}/socket"
        command = [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(program, "--root", f"{top}/root", "--addr", f"unix://{address}", "--config", "/dev/null"),
            *("--oci-worker=true", "--containerd-worker=false", "--oci-worker-binary", "runc"),
            *("--oci-worker-net", "host", "--allow-insecure-entitlement", "network.host"),
        ]
        with open(f"{top}/log", "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_us,  # noqa: PLW1509
            )
        try:
            _await_socket(process, address, Path(top, "log"))
            yield f"unix://{address}"
        finally:
            process.kill()
            process.wait()


def _await_socket(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with socket.socket(socket.AF_UNIX) as one:
            try:
                one.connect(address)
                return
            except OSError:
                pass
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"buildkitd did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _file_named(place: Place) -> list[str]:
    """The flags, with the Dockerfile as a path of this machine: the corpus names it as seen from the context."""
    flags = place.flags
    if "-f" in flags:
        at = flags.index("-f") + 1
        flags[at] = str(place.context / flags[at])
    return flags


class Lamina:
    """The command line, with a store that has the bases."""

    def __init__(self, bench: Bench) -> None:
        self.root = bench.top / "store"
        for name in IMAGES:
            done = lamina("copy", "-q", f"oci:{bench.top / 'bases'}:{name}", name, root=self.root)
            assert done.returncode == 0, done.stderr

    def build(self, place: Place) -> Made | Refused:
        note = place.top / "id"
        words = ["--root", str(self.root), "build", "--iidfile", str(note), "--progress", "plain"]
        words += [*_file_named(place), str(place.context)]
        told = io.StringIO()
        # in this process: its start would take longer than most builds
        with redirect_stdout(told), redirect_stderr(told):
            code = run(words)
        if code:
            return Refused(told.getvalue().strip().rpartition("\n")[2])
        return place.made(open_image(note.read_text().strip(), root=self.root))


@contextmanager
def lamina_store(bench: Bench) -> Iterator[Lamina]:
    made = Lamina(bench)
    try:
        yield made
    finally:
        lamina("umount", "--all", root=made.root)


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, bench: Bench, top: Path) -> None:
        settings = top / "containers.conf"
        settings.write_text('[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        (top / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (top / "registries.conf").write_text("")
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(settings),
            "CONTAINERS_REGISTRIES_CONF": str(top / "registries.conf"),
            "BUILDAH_ISOLATION": "oci",
            "BUILDAH_RUNTIME": "runc",
        }
        self.policy = ["--signature-policy", str(top / "policy.json")]
        self.command = ["buildah", "--root", f"{top}/r", "--runroot", f"{top}/x", "--storage-driver", "overlay"]
        for name in IMAGES:
            made = self("pull", "-q", *self.policy, f"oci:{bench.top / 'bases'}:{name}").stdout.decode().split()[-1]
            self("tag", made, f"localhost/{name}:latest")

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*self.command, *words], capture_output=True, env=self.environment, check=False, timeout=120
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def build(self, place: Place) -> Made | Refused:
        note = place.top / "id"
        words = ["bud", *self.policy, "--format", "docker", "--pull-never", "--iidfile", str(note), "--layers=false"]
        done = self(*words, *_file_named(place), str(place.context), check=False)
        if done.returncode:
            return Refused(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        out = place.top / "buildah-made"
        image = note.read_text().strip()
        self("push", "-q", *self.policy, image, f"docker-archive:{out}")
        made = place.made(open_image(f"docker-archive:{out}"))
        for path in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/.containerenv"):
            if made.files.get(path, {}).get("content") == "b''":  # it leaves what it mounted on
                del made.files[path]
        labels = made.config.pop("Labels", {})
        labels.pop("io.buildah.version", None)
        if labels:
            made.config["Labels"] = labels
        return made


@contextmanager
def buildah_storage(bench: Bench) -> Iterator[Buildah]:
    require_root()
    require_tool("buildah", "runc")
    with tempfile.TemporaryDirectory(prefix="lh-", ignore_cleanup_errors=True) as top:
        made = Buildah(bench, Path(top))
        try:
            yield made
        finally:
            made("umount", "--all", check=False)
            subprocess.run(["umount", f"{top}/r/overlay"], capture_output=True, check=False)


class OldDocker:
    """docker's builder before BuildKit."""

    def __init__(self, docker: Docker, bench: Bench) -> None:
        self.docker = docker
        for name in IMAGES:
            archive = bench.top / f"{name}.tar"
            source, target = f"oci:{bench.top / 'bases'}:{name}", f"docker-archive:{archive}:{name}:latest"
            done = lamina("copy", "-q", source, target, root=bench.top / "nothing")
            assert done.returncode == 0, done.stderr
            docker.ok("load", "-q", "-i", str(archive))

    def build(self, place: Place) -> Made | Refused:
        note, out = place.top / "id", place.top / "docker-made.tar"
        words = ["build", "-q", "--iidfile", str(note), *_file_named(place), str(place.context)]
        done = self.docker(*words, DOCKER_BUILDKIT="0")
        if done.returncode:
            return Refused(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        image = note.read_text().strip()
        self.docker.ok("save", "-o", str(out), image)
        return place.made(open_image(f"docker-archive:{out}"))


@contextmanager
def bench_of(top: Path) -> Iterator[Bench]:
    """The servers of one process, and the bases."""
    with ExitStack() as open_:
        lay(SERVED, top / "served")
        http_at = open_.enter_context(_files_served(top / "served"))
        git_at = open_.enter_context(_repository_served(top))
        agent = open_.enter_context(socket.socket(socket.AF_UNIX))
        agent.bind(str(top / "agent"))
        agent.listen()
        yield Bench(top, http_at, git_at, str(top / "agent"))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _files_served(directory: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _repository_served(top: Path) -> Iterator[str]:
    require_tool("git")
    work, served = top / "repo", top / "git"
    lay({name: content for name, content in SERVED.items() if not name.endswith(".tar")}, work)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "HOME": str(top),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        **{f"GIT_{who}_DATE": "1700000000 +0000" for who in ("AUTHOR", "COMMITTER")},
    }
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "."),
        ("commit", "-q", "-m", "files"),
        ("tag", "v1"),
        ("clone", "-q", "--bare", str(work), str(served / "repo.git")),
    ):
        subprocess.run(["git", "-C", str(work), *words], check=True, env=environment)
    port = free_port()
    command = ["git", "daemon", f"--base-path={served}", "--export-all", "--reuseaddr", "--listen=127.0.0.1",
               f"--port={port}", str(served)]  # fmt: skip
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_us,  # noqa: PLW1509
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("git daemon did not start")
                time.sleep(0.02)
        yield f"git://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
