"""The basis of measurements with real images: a separate journaled file system, a registry on loopback, and the least
work that gets the layers of an image. Nothing of lamina is imported here, so that the measuring process stays small.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LAMINA = [sys.executable, "-m", "lamina"]
IMAGE_BYTES = 24 << 30
WARM_BYTES = 6 << 30
_ESCAPED = re.compile(r"\\([0-7]{3})")


@contextmanager
def file_system() -> Iterator[Path]:
    """A directory on an ext4 with a journal, in a loop image below LAMINA_BENCH_DIR (or /var/tmp), for root; for
    others a temporary directory there. It is gone afterwards, whatever ended the work in it."""
    top = Path(tempfile.mkdtemp(prefix="lamina-bench-", dir=os.environ.get("LAMINA_BENCH_DIR", "/var/tmp")))
    try:
        if os.geteuid() == 0:
            with _loop(top / "image") as place:
                yield place
        else:
            print(f"not root: on the file system of {top}, whatever that is")
            yield top
    finally:
        with undisturbed():
            shutil.rmtree(top, ignore_errors=True)


@contextmanager
def _loop(image: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="lamina-bench-", dir="/run"))  # podman 4 wants short names
    try:
        place.chmod(0o755)  # a plain user's store is below it
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        quiet("mkfs.ext4", "-q", "-F", str(image))
        # direct I/O: the file below is not cached a second time
        device = text("losetup", "--direct-io=on", "--find", "--show", str(image)).strip()
        try:
            quiet("mount", device, str(place))
            warm(place)
            yield place
        finally:
            with undisturbed():
                unmount_below(place)
                if place.is_mount():
                    unmount(place)
                quiet("losetup", "--detach", device)
    finally:
        with undisturbed():
            place.rmdir()


def warm(place: Path) -> None:
    """Allocate the blocks of the loop image, so that the first engine does not pay for them."""
    block = b"\1" * (1 << 20)
    with (place / "warm").open("wb") as file:
        for _ in range(WARM_BYTES >> 20):
            file.write(block)
    (place / "warm").unlink()
    os.sync()


@contextmanager
def slow_disk(place: Path, rate: int) -> Iterator[str]:
    """The disk of ``place`` takes ``rate`` bytes a second while the block runs, from us and from all that is started
    meanwhile (daemons too), written around the page cache or through it; how that is done. Raises OSError where there
    is no cgroup for it. Root."""
    number = place.stat().st_dev
    disk = f"{os.major(number)}:{os.minor(number)}"
    legacy, unified = Path("/sys/fs/cgroup/blkio"), Path("/sys/fs/cgroup")
    limit = legacy / "blkio.throttle.write_bps_device"
    if limit.exists():
        # each group has a limit of its own, and the kernel writes the page cache out as the topmost one: all go there
        (legacy / "cgroup.procs").write_text(str(os.getpid()))
        limit.write_text(f"{disk} {rate}")
        try:
            yield f"cgroup v1, blkio.throttle.write_bps_device {rate}"
        finally:
            limit.write_text(f"{disk} 0")
        return
    before = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    # io and memory: then writes through the page cache count for the group that wrote
    (unified / "cgroup.subtree_control").write_text("+io +memory")
    group = unified / f"lamina-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / "io.max").write_text(f"{disk} wbps={rate}")
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield f"cgroup v2, io.max wbps={rate}"
    finally:
        with undisturbed():
            for pid in (group / "cgroup.procs").read_text().split():
                (unified / before / "cgroup.procs").write_text(pid)
            group.rmdir()


def mounts_below(directory: Path) -> list[Path]:
    """What is mounted below the directory, the last mounted first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            target = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), line.split()[4])
            if target.startswith(f"{directory.resolve()}{os.sep}"):
                found.append(Path(target))
    return found[::-1]


def unmount_below(directory: Path) -> None:
    for target in mounts_below(directory):
        unmount(target)


def unmount(target: Path) -> None:
    """Unmount, at the latest when no process uses it any more."""
    for _ in range(20):
        if subprocess.run(["umount", str(target)], check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    subprocess.run(["umount", "-l", str(target)], check=False, capture_output=True)


def clear(directory: Path) -> None:
    """Mounts below it are taken away first, and never deleted through."""
    unmount_below(directory)
    subprocess.run(["rm", "-rf", "--one-file-system", str(directory)], check=False, capture_output=True)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Clean up to the end: Ctrl-C and SIGTERM wait until then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def registry_program() -> str:
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        raise SystemExit("neither docker-registry nor registry is installed")
    return program


@contextmanager
def registry(directory: Path) -> Iterator[str]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    directory.mkdir(parents=True)
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
    )
    # in its own session: Ctrl-C reaches only this process, which then ends the registry
    process = subprocess.Popen([registry_program(), "serve", str(config)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("the registry did not start") from None
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def push(layout: Path, ref: str, host: str) -> str:
    """The image's name in the registry."""
    name = f"{host}/fx/{ref}:1"
    quiet("skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false",
          f"oci:{layout}:{ref}", f"docker://{name}")  # fmt: skip
    return name


def pipeline(host: str, ref: str, digests: list[str], target: Path) -> str:
    """A script: all layers in parallel, each fetched, hashed, inflated, hashed, and written as a tar. It ends with
    an error if a layer did not come. It writes no blob and no index, and syncs nothing to the disk."""
    lines = ["set -o pipefail"]
    for digest in digests:
        out = target / digest[7:19]
        url = f"http://{host}/v2/fx/{ref}/blobs/{digest}"
        lines.append(
            f"(curl -sf {url} | tee >(sha256sum >{out}.1) | igzip -d -c | tee >(sha256sum >{out}.2) >{out}.tar) &"
        )
        lines.append('all="$all $!"')
    return "\n".join([*lines, "for one in $all; do wait $one || exit 1; done"]) + "\n"


def quiet(*words: str) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def text(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
