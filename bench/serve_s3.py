"""`lamina serve --storage` beside docker-registry on the same S3 server: blobs pulled and pushed, small manifests,
memory with many clients.

    python bench/serve_s3.py [--storage versitygw,minio] [--rounds 5] [--only pull,push,small,memory] [--clients 8]

The S3 server's data is on a journaled ext4 of its own, in a loop image (root only). The registries take turns, and
docker-registry sends blobs itself, as lamina does (no redirects). The processor time of the S3 server is not counted.

Needs: versitygw, minio and registry of `tests/peers.sh` ($LAMINA_PEERS/bin or PATH), ab (apache2-utils).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import serve
from ground import LAMINA, file_system

KEY, SECRET, BUCKET = "benchmark", "secret-of-the-benchmark", "images"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--only", default="pull,push,small,memory")
    parser.add_argument("--storage", default="versitygw,minio")
    options = parser.parse_args()
    print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    for kind in options.storage.split(","):
        with file_system() as place, ExitStack() as stack:
            endpoint = stack.enter_context(storage(kind, place))
            print(f"\non {kind}")
            blob = place / "blob"
            digest = serve.write_blob(blob, serve.BLOB)
            servers = [
                stack.enter_context(lamina(place, endpoint)),
                stack.enter_context(docker_registry(place / "registry", endpoint)),
            ]
            for server in servers:
                serve.push_blob(server.port, "app", blob, digest)
                serve.push_manifest(server.port, "app", "1", digest, serve.BLOB)
            for what in options.only.split(","):
                print(f"\n{serve.MEASURES[what].__doc__}".rstrip())
                serve.MEASURES[what](servers, options, place, digest)
    return 0


def program(name: str) -> str:
    peers = os.environ.get("LAMINA_PEERS", str(Path.home() / ".cache/lamina-peers")) + "/bin"
    found = shutil.which(name, path=f"{peers}:{Path.home() / '.cache/lamina-peers/bin'}:{os.environ['PATH']}")
    if found is None:
        raise SystemExit(f"{name} is not installed: tests/peers.sh DIRECTORY {name}")
    return found


@contextmanager
def storage(kind: str, place: Path) -> Iterator[str]:
    """An S3 server with an empty bucket; its address."""
    data = place / "s3"
    (data / BUCKET).mkdir(parents=True)
    port = serve.free_port()
    if kind == "versitygw":
        words = [program(kind), "--port", f"127.0.0.1:{port}", "--quiet", "posix", str(data)]
        env = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    else:
        words = [program(kind), "server", str(data), "--address", f"127.0.0.1:{port}", "--quiet"]
        env = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off", "HOME": str(place)}
    with serve.process(kind, words, port, place / "s3.log", pushes=True, **env):
        endpoint = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{endpoint}/{BUCKET}", timeout=5).close()
            except urllib.error.HTTPError as error:
                if error.code == 403:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        yield endpoint


@contextmanager
def lamina(place: Path, endpoint: str) -> Iterator[serve.Server]:
    port = serve.free_port()
    words = [*LAMINA, "--root", str(place / "none"), "serve", "--storage", f"s3://{BUCKET}/lamina", "--writable"]
    env = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
    }
    with serve.process(
        "lamina", [*words, "--port", str(port)], port, place / "lamina.log", pushes=True, **env
    ) as server:
        yield server


@contextmanager
def docker_registry(top: Path, endpoint: str) -> Iterator[serve.Server]:
    top.mkdir()
    port = serve.free_port()
    config = top / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "storage:\n"
        f"  s3: {{accesskey: {KEY}, secretkey: {SECRET}, region: us-east-1, regionendpoint: '{endpoint}',\n"
        f"    forcepathstyle: true, bucket: {BUCKET}, rootdirectory: /registry, secure: false}}\n"
        "  redirect: {disable: true}\n"
        "  delete: {enabled: true}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
        "log: {level: error, accesslog: {disabled: true}}\n"
    )
    words = [program("registry"), "serve", str(config)]
    with serve.process("docker-registry", words, port, top / "log", OTEL_TRACES_EXPORTER="none") as server:
        yield server


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error}: {error.stderr}") from None
