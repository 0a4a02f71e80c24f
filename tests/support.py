"""What many tests need: small layers and images, the command line in this process, other tools."""

from __future__ import annotations

import atexit
import functools
import gzip
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.image import Image
from lamina.image import open as open_image
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tar import TarParser
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import History, ImageConfig
from lamina.spec.manifest import Manifest, build_index, build_manifest, parse
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy

Member = tuple[Any, ...]
THOROUGH = bool(os.environ.get("LAMINA_TEST_THOROUGH"))
"""Whether tests of chance look as often as they can (`.ci/run` does), or as often as somebody wants to wait."""


def rounds(number: int, else_: int = 0) -> int:
    """How many examples or rounds a test of chance takes: ``number`` in a thorough run, else ``else_`` or a fifth."""
    return number if THOROUGH else else_ or max(number // 5, 10)


def make_tar(members: Sequence[Member], format: int = tarfile.PAX_FORMAT) -> bytes:
    """Members as (name, content): bytes a file, None a directory, "-> x" a symlink, "= x" a hardlink, "c 1 3" a
    device, "fifo"; a third item is a dict of TarInfo attributes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as tar:
        for name, content, *more in members:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o644, 1_700_000_000
            data = None
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, bytes):
                info.size, data = len(content), io.BytesIO(content)
            elif content.startswith("-> "):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, content[3:], 0o777
            elif content.startswith("= "):
                info.type, info.linkname = tarfile.LNKTYPE, content[2:]
            elif content == "fifo":
                info.type = tarfile.FIFOTYPE
            elif content.startswith("c "):
                info.type = tarfile.CHRTYPE
                info.devmajor, info.devminor = map(int, content[2:].split())
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            tar.addfile(info, data)
    return out.getvalue()


def tar_header(
    name: str,
    flag: bytes = b"0",
    size: int = 0,
    *,
    signed: bool = False,
    form: int = tarfile.USTAR_FORMAT,
    **at: bytes,
) -> bytes:
    """One header block; ``at345``: bytes to put at 345."""
    block = bytearray(tarfile.TarInfo(name).tobuf(form, "utf-8", "surrogateescape"))
    block[156:157] = flag
    block[124:136] = b"%011o\0" % size
    for key, value in at.items():
        place = int(key.removeprefix("at"))
        block[place : place + len(value)] = value
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def pax_record(key: bytes, value: bytes) -> bytes:
    """A PAX record that states its own length."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(b"%d" % length) + len(rest):
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def tar_extension(flag: bytes, payload: bytes) -> bytes:
    """An extension header with its payload."""
    return tar_header("x", flag, len(payload)) + payload + bytes(-len(payload) % 512)


def index_of(tar: bytes, chunk: int = 1 << 20) -> LayerIndex:
    builder = IndexBuilder()
    parser = TarParser(builder)
    for at in range(0, len(tar), chunk):
        parser.feed(tar[at : at + chunk])
    parser.finish()
    return builder.finish(parser.position)


def layer_index(*members: Member) -> LayerIndex:
    return index_of(make_tar(members))


def write_layout(
    directory: Path | str,
    name: str,
    layers: Sequence[Sequence[Member] | bytes],
    *,
    config: dict[str, Any] | None = None,
    compress: bool = True,
) -> Descriptor:
    """An image in an OCI layout; its manifest's descriptor."""
    writer = LayoutWriter(str(directory))
    descriptors, diff_ids = [], []
    with writer.session("test") as session:
        for layer in layers:
            tar = layer if isinstance(layer, bytes) else make_tar(layer)
            blob = gzip.compress(tar, 1, mtime=0) if compress else tar
            kind = mediatype.OCI_LAYER_GZIP if compress else mediatype.OCI_LAYER
            descriptor = Descriptor.of(kind, blob)
            session.put_blob(descriptor, BytesBlob(descriptor, blob))
            descriptors.append(descriptor)
            diff_ids.append(Digest.of(tar))
        steps = [History(created="2024-01-01T00:00:00Z", created_by=f"step {n + 1}") for n in range(len(layers))]
        image = ImageConfig.build(Platform.host(), diff_ids=diff_ids, history=steps, cmd=["/bin/sh"])
        raw = json.dumps({**image.json, **(config or {})}).encode()
        config_descriptor = Descriptor.of(mediatype.OCI_CONFIG, raw)
        session.put_blob(config_descriptor, BytesBlob(config_descriptor, raw))
        manifest = build_manifest(config_descriptor, descriptors)
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag(name, manifest.descriptor)
    return manifest.descriptor


def write_index(directory: Path, name: str, entries: Sequence[Descriptor]) -> LayoutReader:
    """An index of images that an OCI layout has; a reader of the layout."""
    index = build_index(entries)
    writer = LayoutWriter(str(directory))
    with writer.session("test") as session:
        session.put_manifest(index.descriptor, index.raw)
        session.tag(name, index.descriptor)
    return LayoutReader(str(directory))


def lamina(
    *words: str, root: Path | str, input: bytes | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command line as a user runs it."""
    env = {**os.environ, "LAMINA_ROOT": str(root), "PYTHONWARNINGS": "error", **environment}
    command = [sys.executable, "-m", "lamina", *words]
    return subprocess.run(command, capture_output=True, input=input, env=env, check=False, timeout=120)


@functools.cache
def _original(make: Callable[[Path], object]) -> Path:
    place = tempfile.mkdtemp(prefix="lamina-made-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    make(Path(place))
    return Path(place)


def made_once(make: Callable[[Path], object], target: Path) -> None:
    """What ``make`` makes in a directory it is given: made once in this process, and copied to ``target``, which must
    be there. For stores that many tests begin with: to copy one takes no process, no hashing and no disk's time."""
    subprocess.run(["cp", "-a", f"{_original(make)}/.", target], check=True)


def opened_from(place: str, top: Path, layers: Sequence[Sequence[Member] | bytes]) -> Image:
    """The image "app" of these layers, out of a "layout" or a "store" below ``top``."""
    write_layout(top / "l", "app", layers)
    if place == "layout":
        return open_image(f"oci:{top}/l:app", root=top / "none")
    assert lamina("load", "-i", str(top / "l"), root=top / "s").returncode == 0
    return open_image("app", root=top / "s")


def loaded(root: Path | str, *words: str) -> set[str]:
    """The modules that a command loads, over those that bare Python has. It must succeed."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from lamina.cli import run\n"
        f"assert run({list(words)!r}) == 0\n"
        "print(*set(sys.modules) - before, file=sys.stderr)"
    )
    env = {**os.environ, "LAMINA_ROOT": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    return set(done.stderr.split())


@contextmanager
def running(*words: str, root: Path | str, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The command line under way; killed at the end. Ctrl-C reaches it as it does a user's: a shell's background jobs
    ignore it, and hand that on to their children."""
    command = [sys.executable, "-m", "lamina", "--root", str(root), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
    attend = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=attend, **pipes) as process:  # noqa: PLW1509
        try:
            yield process
        finally:
            process.kill()


def require_tool(*names: str) -> None:
    """Skip where a tool is missing; fail where CI says that nothing may be missing."""
    for name in names:
        if shutil.which(name) is None:
            if os.environ.get("LAMINA_TEST_REQUIRE"):
                pytest.fail(f"{name} is not installed")
            pytest.skip(f"{name} is not installed")


def store_with(layout: Path, root: Path, *names: str) -> Store:
    """A store with these images of a layout."""
    store = Store.open(str(root))
    copy(LayoutReader(str(layout)), store, [(name, name) for name in names])
    return store


def manifest_of(store: Store, name: str) -> Manifest:
    document = parse(store.manifest(store.resolve(name)))
    assert isinstance(document, Manifest)
    return document


def busybox() -> bytes:
    """A shell and more in one static program. Missing as ``require_tool``."""
    require_tool("busybox")
    return Path(shutil.which("busybox") or "").read_bytes()


@contextmanager
def podman_command(driver: str = "vfs") -> Iterator[list[str]]:
    """podman with a storage of its own, gone afterwards. It wants a short path."""
    require_tool("podman")
    require_root()
    with tempfile.TemporaryDirectory(prefix="lp-", ignore_cleanup_errors=True) as top:
        command = ["podman", "--root", f"{top}/r", "--runroot", f"{top}/x", "--storage-driver", driver]
        try:
            yield command
        finally:
            subprocess.run([*command, "image", "umount", "--all", "--force"], capture_output=True, check=False)


def require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def peer(name: str) -> str:
    """A tool that `tests/peers.sh` builds: from $LAMINA_PEERS, the cache, or PATH. Missing as ``require_tool``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamina-peers"
    for directory in (os.environ.get("LAMINA_PEERS", ""), str(cache)):
        path = os.path.join(directory, "bin", name)
        if directory and os.access(path, os.X_OK):
            return path
    require_tool(name)
    return name


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def real_registry(
    program: str, directory: Path, *, users: str = "", certificate: Path | None = None, client_ca: Path | None = None
) -> Iterator[str]:
    """distribution's registry on loopback, Debian's ("docker-registry") or the newest ("registry"); its host:port.
    ``users``: lines of an htpasswd file. ``certificate``: PEM, with its key beside it as .key.
    ``client_ca``: only clients with a certificate of it are let in."""
    command = peer(program) if program == "registry" else program
    if program != "registry":
        require_tool(program)
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        "version: 0.1",
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}",
        "log: {level: error, accesslog: {disabled: true}}",
        "http:",
        f"  addr: 127.0.0.1:{port}",
    ]
    if certificate is not None:
        clients = f", clientcas: [{client_ca}]" if client_ca is not None else ""
        lines.append(f"  tls: {{certificate: {certificate}, key: {certificate.with_suffix('.key')}{clients}}}")
    if users:
        (directory / "htpasswd").write_text(users)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}")
    (directory / "config.yml").write_text("\n".join(lines) + "\n")
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen([command, "serve", str(directory / "config.yml")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{program} did not start: {(directory / 'log').read_text()[-500:]}")
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


PLAIN_USER = "lamina-test"
"""A user with further ids in /etc/subuid and /etc/subgid, for tests of what needs no root (`useradd` makes both)."""


@functools.cache
def plain_python() -> tuple[str, str]:
    """A Python that every user may run, and a PYTHONPATH with lamina and what it needs where every user may read."""
    import importlib.util

    place = tempfile.mkdtemp(prefix="lamina-plain-", dir="/var/tmp")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    names = ("click", "isal", "urllib3", "yaml", "backports", "fsspec", "elftools", "lamina", "mfusepy")
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        if spec.submodule_search_locations:
            shutil.copytree(next(iter(spec.submodule_search_locations)), f"{place}/{name}", dirs_exist_ok=True)
        elif spec.origin:
            shutil.copy(spec.origin, place)
    os.chmod(place, 0o755)
    for program in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        done = subprocess.run(
            [*_dropped(59999, 59999), program, "-c", "import sys; print(sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.stdout.strip() == str(tuple(sys.version_info[:2])):
            return program, place
    pytest.skip(f"no Python {sys.version_info[:2]} that a plain user may run")


def _dropped(uid: int, gid: int) -> list[str]:
    """env: what setpriv itself runs is still found with root's rights."""
    return ["setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", "env"]


class PlainUser:
    """The command line as another user runs it, with the store in a directory of theirs."""

    def __init__(self, uid: int, gid: int, top: str) -> None:
        self.python, self.path = plain_python()
        self.drop = _dropped(uid, gid)
        self.top = top

    def __call__(
        self, *words: str, before: Sequence[str] = (), **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """``before``: what the command line is run through."""
        return subprocess.run(
            [*self.drop, *before, self.python, "-W", "ignore", "-m", "lamina", *words],
            capture_output=True,
            env=self.environment | environment,
            check=False,
            timeout=120,
            cwd=self.top,
        )

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [*self.drop, self.python, "-W", "ignore", "-m", "lamina", *words]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment, cwd=self.top
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @property
    def environment(self) -> dict[str, str]:
        own = {"HOME": self.top, "PYTHONPATH": self.path, "LAMINA_ROOT": f"{self.top}/store"}
        if os.environ.get("LAMINA_TEST_UPPER"):  # the store can't hold what they write
            own["LAMINA_UPPER_DIR"] = os.environ["LAMINA_TEST_UPPER"]
        return {**os.environ, **own}


def unmount_memory(root: Path) -> None:
    """Unmount what containers of this store, which may be damaged, have in memory: on an overlayfs their upper
    directories are there."""
    for memory in root.glob("containers/*/memory"):
        subprocess.run(["umount", memory], check=True)


@contextmanager
def plain_user(name: str) -> Iterator[tuple[Path, PlainUser]]:
    """A directory of the user ``name`` (or with this number), and the command line run as that user."""
    import pwd

    require_root()
    require_tool("setpriv")
    try:
        entry = pwd.getpwnam(name)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not name.isdigit():
            if os.environ.get("LAMINA_TEST_REQUIRE"):
                pytest.fail(f"there is no user {name}")
            pytest.skip(f"there is no user {name}")
        uid = gid = int(name)
    where = os.environ.get("LAMINA_TEST_PLAIN", "/var/tmp")  # every user may go there
    with tempfile.TemporaryDirectory(prefix="lamina-u-", dir=where, ignore_cleanup_errors=True) as top:
        os.chown(top, uid, gid)
        os.chmod(top, 0o755)
        yield Path(top), PlainUser(uid, gid, top)


class Calls:
    """What is asked of the disk, in order: ("sync", inode) and ("name", path, inode), ("remove", path)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, str, int]] = []
        for name, record in (("fsync", self._sync), ("replace", self._name), ("unlink", self._remove)):
            monkeypatch.setattr(os, name, self._recorded(getattr(os, name), record))

    def _recorded(self, call: Callable[..., Any], record: Callable[..., None]) -> Callable[..., Any]:
        def recorded(*words: Any, **more: Any) -> Any:
            record(*words)
            return call(*words, **more)

        return recorded

    def _sync(self, descriptor: int) -> None:
        self.seen.append(("sync", "", os.fstat(descriptor).st_ino))

    def _name(self, source: str, target: str) -> None:
        self.seen.append(("name", os.fspath(target), os.stat(source).st_ino))

    def _remove(self, path: str) -> None:
        self.seen.append(("remove", os.fspath(path), 0))

    def named(self, path: str) -> int:
        (found,) = [at for at, (what, name, _) in enumerate(self.seen) if (what, name) == ("name", path)]
        return found

    def removed(self, path: str) -> int:
        return max(at for at, (what, name, _) in enumerate(self.seen) if (what, name) == ("remove", path))

    def synced(self, inode: int) -> list[int]:
        return [at for at, (what, _, one) in enumerate(self.seen) if (what, one) == ("sync", inode)]

    def inode(self, at: int) -> int:
        return self.seen[at][2]
