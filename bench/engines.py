"""The engines that are measured, lamina and others: each pulls an image into a form that can be read."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ground import LAMINA, pipeline, unmount_below
from meter import Bill, Clock, Failed, Runner, daemon, note, run, spent

Check = Callable[[], None]
Pull = Callable[[Bill], Check]
MKFS = (1, 8)  # the first mkfs.erofs that does what containerd asks of it
UNPACKS = 3
CONTAINERD = """version = 4
root = 'STORE/root'
state = 'STORE/state'
imports = []
disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri',
  'io.containerd.podsandbox.controller.v1.podsandbox', 'io.containerd.nri.v1.nri']
[plugins.'io.containerd.server.v1.grpc']
  address = 'STORE/containerd.sock'
[plugins.'io.containerd.server.v1.ttrpc']
  address = 'STORE/containerd.sock.ttrpc'
[plugins.'io.containerd.differ.v1.erofs']
  mkfs_options = ['-T0', '--mkfs-time', '--sort=none']
  enable_tar_index = false
[plugins.'io.containerd.service.v1.diff-service']
  default = ['erofs', 'walking']
[plugins.'io.containerd.transfer.v1.local']
  max_concurrent_downloads = 3
  max_concurrent_unpacks = UNPACKS
  [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
    platform = 'linux/amd64'
    snapshotter = 'overlayfs'
    differ = 'walking'
  [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
    platform = 'linux/amd64'
    snapshotter = 'erofs'
    differ = 'erofs'
"""


@dataclass(frozen=True)
class Peers:
    """Which programs there are: the machine's own, and newer ones below ``directory``/bin."""

    directory: Path | None

    @property
    def path(self) -> str:
        own = os.environ.get("PATH", os.defpath)
        return f"{self.directory / 'bin'}{os.pathsep}{own}" if self.directory else own

    def newer(self, name: str) -> str | None:
        return shutil.which(name, path=str(self.directory / "bin")) if self.directory else None

    def all(self, name: str) -> list[str]:
        """The machine's, then the newer one; "" for one that is not there."""
        return [shutil.which(name) or "", self.newer(name) or ""]

    def any(self, name: str) -> str | None:
        return shutil.which(name, path=self.path)


def version(program: str) -> str:
    """The number that a program gives for itself."""
    for word in ("--version", "version"):
        done = subprocess.run([program, word], capture_output=True, text=True, check=False)
        told = done.stdout + done.stderr
        found = re.search(r"\d+\.\d+[\w.+~-]*", told)
        # an older mkfs.erofs names itself, and then doesn't know the option
        if found and (done.returncode == 0 or told.startswith(f"{os.path.basename(program)} {found[0]}\n")):
            return found[0]
    return "?"


def environment(store: Path, user: str = "", path: str = "") -> dict[str, str]:
    """A home and temporary files inside the store, so that nothing is written elsewhere."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LAMINA_"))}
    for name, directory in (("HOME", "home"), ("XDG_RUNTIME_DIR", "run"), ("TMPDIR", "tmp")):
        (store / directory).mkdir(mode=0o700, exist_ok=True)
        if user:
            entry = pwd.getpwnam(user)
            os.chown(store / directory, entry.pw_uid, entry.pw_gid)
        env[name] = str(store / directory)
    if user:
        env |= {"USER": user, "LOGNAME": user}
    if path:
        env["PATH"] = path
    return env


def puller(name: str, detail: str, open_: Callable[[Path], object], missing: str = "") -> Runner:
    """A runner of the pull that ``open_`` prepares in a store. Its clock runs until the tree exists."""

    def turn(store: Path, clock: Clock) -> None:
        with open_(store) as pull:  # type: ignore[attr-defined]
            bill = clock.start()
            check = pull(bill)
            clock.stop()
            check()

    return Runner(name, detail, turn, missing)


def tidy(words: list[str], env: dict[str, str] | None = None, user: str = "") -> None:
    """Clean up. A failure here is printed, and does not replace an earlier error."""
    try:
        run(words, env=env, user=user)
    except Failed as error:
        note(f"afterwards: {error}")


def there(tree: str) -> Check:
    """A check that the result is not an empty directory."""

    def check() -> None:
        if not os.path.lexists(os.path.join(tree, "etc/passwd")):
            raise Failed(f"no etc/passwd in {tree!r}")

    return check


def lamina(
    image: str,
    *,
    view: str = "",
    name: str = "lamina",
    mount: bool = True,
    before: str = "",
    first: Sequence[str] = (),
) -> Runner:
    """``mount``: not only pull; ``before``: an image that is there already; ``first``: a program that is run in a
    container of it, instead of the mount."""

    @contextmanager
    def open_(store: Path) -> Iterator[Pull]:
        words = [*LAMINA, "--root", str(store / "lamina")]
        env = environment(store) | ({"LAMINA_VIEW": view} if view else {})
        unpack = ["--unpack"] if view == "overlay" else []

        def pull(bill: Bill) -> Check:
            bill.run([*words, "pull", "-q", *unpack, image], env=env)
            if first:
                bill.run([*words, "run", "--rm", "--network", "none", image, *first], env=env)
                return lambda: None
            if not mount:
                return lambda: None
            return there(bill.run([*words, "mount", image], env=env).strip())

        if before:
            run([*words, "pull", "-q", before], env=env)
        try:
            yield pull
        finally:
            if mount and not first:
                tidy([*words, "umount", "--all"])

    pulled = f"`lamina pull{' --unpack' if view == 'overlay' else ''}`"
    then = ran("lamina run --rm", first) if first else f" and `lamina mount`{', LAMINA_VIEW=' + view if view else ''}"
    detail = pulled + (then if mount else "")
    return puller(name, detail + (" of it, after another image" if before else ""), open_)


def lamina_for_user(image: str, user: str) -> Runner:
    words, more, told = users_lamina(user)

    @contextmanager
    def open_(store: Path) -> Iterator[Pull]:
        env = environment(store, user) | more
        call = [*words, "--root", str(store / "home/lamina")]

        def pull(bill: Bill) -> Check:
            bill.run([*call, "pull", "-q", "--unpack", image], env=env, user=user)
            tree = bill.run([*call, "mount", image], env=env, user=user).strip()
            return lambda: _seen(["test", "-e", f"{tree}/etc/passwd"], env, user)

        try:
            yield pull
        finally:
            tidy([*call, "umount", "--all"], env, user)

    return puller("lamina", f"`lamina pull --unpack` and `lamina mount`, {told}", open_)


def users_lamina(user: str) -> tuple[list[str], dict[str, str], str]:
    """How the user can run lamina: by this Python if the user may execute it, else by another of the same version
    with the packages of this one."""
    try:
        run([sys.executable, "-c", "import lamina"], user=user)
        return LAMINA, {}, "by the same Python"
    except (Failed, OSError):
        python = shutil.which(
            f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin"
        )
        if python is None:
            return LAMINA, {}, "by a Python that this user may not execute"
        found = importlib.util.find_spec("lamina")
        source = [os.path.dirname(one) for one in found.submodule_search_locations or []] if found else []
        path = os.pathsep.join([*source, *(one for one in sys.path if one.endswith("-packages"))])
        return [python, "-m", "lamina"], {"PYTHONPATH": path}, f"by {python} with the same packages"


def _seen(words: list[str], env: dict[str, str], user: str) -> None:
    run(words, env=env, user=user)


def ran(how: str, first: Sequence[str]) -> str:
    return f" and `{how} --network none IMAGE {' '.join(first)}`"


def podman(program: str, image: str, user: str = "", first: Sequence[str] = ()) -> Runner:
    @contextmanager
    def open_(store: Path) -> Iterator[Pull]:
        settings = store / "containers.conf"
        settings.write_text('[engine]\nlock_type = "file"\n')  # else in /dev/shm, where they stay
        env = environment(store, user) | {"CONTAINERS_CONF": str(settings)}
        home = Path(env["HOME"])
        words = [program, "--root", str(home / "storage"), "--runroot", str(Path(env["XDG_RUNTIME_DIR"], "storage")),
                 "--tmpdir", str(Path(env["XDG_RUNTIME_DIR"], "libpod")), "--storage-driver", "overlay"]  # fmt: skip
        within = [*words, "unshare"] if user else []

        def pull(bill: Bill) -> Check:
            bill.run([*words, "pull", "-q", "--tls-verify=false", image], env=env, user=user)
            if first:
                runtime = ["--runtime", "runc"] if shutil.which("runc") else []  # the machine's crun may be too old
                run_ = [*words, *runtime, "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024"]
                bill.run([*run_, "--ulimit", "nproc=1024:1024", image, *first], env=env, user=user)
                return lambda: None
            tree = bill.run([*within, *words, "image", "mount", image], env=env, user=user).strip()
            return lambda: _seen([*within, "test", "-e", f"{tree}/etc/passwd"], env, user)

        try:
            yield pull
        finally:
            if not first:
                tidy([*within, *words, "image", "umount", "--all"], env, user)

    detail = "`podman pull`, `podman image mount`, overlay" + (", in `podman unshare`" if user else "")
    if first:
        detail = "`podman pull`" + ran("podman run --rm", first)
    return puller(f"podman {version(program)}", detail, open_)


def skopeo_umoci(skopeo: str, umoci: str, image: str) -> Runner:
    @contextmanager
    def open_(store: Path) -> Iterator[Pull]:
        env = environment(store)
        layout, bundle = f"oci:{store}/oci:x", store / "bundle"

        def pull(bill: Bill) -> Check:
            source = f"docker://{image}"
            bill.run([skopeo, "copy", "-q", "--insecure-policy", "--src-tls-verify=false", source, layout], env=env)
            bill.run([umoci, "unpack", "--image", layout.removeprefix("oci:"), str(bundle)], env=env)
            return there(str(bundle / "rootfs"))

        yield pull

    name = f"skopeo {version(skopeo)} + umoci {version(umoci)}"
    return puller(name, "`skopeo copy` to an OCI layout, `umoci unpack`", open_)


def containerd(peers: Peers, snapshotter: str, image: str, first: Sequence[str] = ()) -> Runner:
    server, client = peers.any("containerd"), peers.any("ctr")
    name = f"containerd {version(server) if server else ''} {snapshotter}"
    missing = "" if server and client else "not here"
    mkfs = peers.any("mkfs.erofs")
    if not missing and snapshotter == "erofs":
        number = re.findall(r"\d+", version(mkfs)) if mkfs else []
        if tuple(map(int, number[:2])) < MKFS:
            missing = f"not here: needs mkfs.erofs {'.'.join(map(str, MKFS))} or later"

    @contextmanager
    def open_(store: Path) -> Iterator[Pull]:
        assert server
        assert client
        env = environment(store, path=peers.path)
        config, tree = store / "config.toml", store / "tree"
        config.write_text(CONTAINERD.replace("STORE", str(store)).replace("UNPACKS", str(UNPACKS)))
        tree.mkdir()
        call = [client, "--address", f"{store}/containerd.sock"]
        with daemon([server, "--config", str(config)], env, store / "log") as pid:
            _ready([*call, "plugins", "ls"], env, store / "log")
            before, _ = spent(pid)

            def pull(bill: Bill) -> Check:
                bill.run([*call, "images", "pull", "--plain-http", "--snapshotter", snapshotter, image], env=env)
                if first:
                    bill.run([*call, "run", "--rm", "--snapshotter", snapshotter, image, "bench", *first], env=env)
                else:
                    bill.run([*call, "images", "mount", "--snapshotter", snapshotter, image, str(tree)], env=env)
                cpu, peak = spent(pid)
                bill.cpu += cpu - before
                bill.peak = max(bill.peak, peak)
                return (lambda: None) if first else there(str(tree))

            try:
                yield pull
            finally:
                unmount_below(store)

    then = f"`ctr run --rm IMAGE bench {' '.join(first)}`" if first else "`ctr images mount`"
    detail = f"`ctr images pull`, {then}, {UNPACKS} layers unpacked at once (default 1), {inflater(peers)}"
    if snapshotter == "erofs" and mkfs:
        detail += f", mkfs.erofs {version(mkfs)}"
    return puller(name, detail + "; its start does not count", open_, missing)


def inflater(peers: Peers) -> str:
    """What containerd decompresses gzip with."""
    for name in ("igzip", "unpigz"):
        if peers.any(name):
            return f"gzip by {name}"
    return "gzip by Go"


def _ready(words: list[str], env: dict[str, str], log: Path) -> None:
    for _ in range(200):
        try:
            run(words, env=env)
            return
        except Failed:
            time.sleep(0.05)
    raise Failed(f"containerd does not start: {(log.read_text(errors='replace').splitlines() or [''])[-1]:.300}")


def shell(host: str, ref: str, digests: list[str]) -> Runner:
    @contextmanager
    def open_(store: Path) -> Iterator[Pull]:
        script = pipeline(host, ref, digests, store)

        def pull(bill: Bill) -> Check:
            bill.run(["bash", "-c", script])
            return check

        def check() -> None:
            for digest in digests:
                told = (store / f"{digest[7:19]}.1").read_text().split()[0]
                if f"sha256:{told}" != digest:
                    raise Failed(f"{digest} came as {told}")

        yield pull

    missing = [name for name in ("curl", "igzip") if shutil.which(name) is None]
    detail = (
        "`curl | sha256sum | igzip -d | sha256sum > tar`, layers in parallel: no blob, no index, no mount, no sync"
    )
    return puller("pipeline", detail, open_, f"not here: {', '.join(missing)}" if missing else "")


def layer_digests(name: str) -> list[str]:
    raw = subprocess.run([*LAMINA, "manifest", name], capture_output=True, check=True).stdout
    return [layer["digest"] for layer in json.loads(raw)["layers"]]
