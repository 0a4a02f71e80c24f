"""`lamina serve --storage` beside docker-registry on the same S3 server: blobs pulled and pushed, small manifests,
memory with many clients.

    python bench/serve_s3.py [--storage versitygw,minio] [--rounds 5] [--only pull,push,small,memory] [--clients 8]
                             [--https]

With --https both reach the storage by TLS (with a CA made for this); clients still reach both by http. The S3
server's data is on a journaled ext4 of its own, in a loop image (root only). The registries take turns, and
docker-registry sends blobs itself, as lamina does (no redirects). The processor time of the S3 server is not counted.

Needs: versitygw, minio and registry of `tests/peers.sh` ($LAMINA_PEERS/bin or PATH), ab (apache2-utils); with --https
cryptography.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import ssl
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
    parser.add_argument("--https", action="store_true")
    options = parser.parse_args()
    print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    for kind in options.storage.split(","):
        with file_system() as place, ExitStack() as stack:
            trust = trusting(certificates(place / "certificates")) if options.https else {}
            endpoint = stack.enter_context(storage(kind, place, trust))
            print(f"\non {kind}, {endpoint.partition(':')[0]}")
            blob = place / "blob"
            digest = serve.write_blob(blob, serve.BLOB)
            servers = [
                stack.enter_context(lamina(place, endpoint, trust)),
                stack.enter_context(docker_registry(place / "registry", endpoint, trust)),
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


def trusting(ca: str) -> dict[str, str]:
    """What obstore and Amazon's library for Go read."""
    return {"SSL_CERT_FILE": ca, "AWS_CA_BUNDLE": ca}


def certificates(directory: Path) -> str:
    """Make the files that both S3 servers look for; the CA's file."""
    from lamina.serve.self_signed import SelfSigned

    made = SelfSigned(str(directory), ("127.0.0.1",))
    made.renew()
    shutil.copy(made.certificate, directory / "public.crt")
    shutil.copy(made.key, directory / "private.key")
    return made.ca


@contextmanager
def storage(kind: str, place: Path, trust: dict[str, str]) -> Iterator[str]:
    """An S3 server with an empty bucket, by https if there is something to trust; its address."""
    data = place / "s3"
    (data / BUCKET).mkdir(parents=True)
    port = serve.free_port()
    if kind == "versitygw":
        words = [program(kind), "--port", f"127.0.0.1:{port}", "--quiet", "posix", str(data)]
        if trust:
            words[1:1] = [f"--cert={place}/certificates/server.crt", f"--key={place}/certificates/server.key"]
        env = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    else:
        words = [program(kind), "server", str(data), "--address", f"127.0.0.1:{port}", "--quiet"]
        if trust:
            words += ["--certs-dir", str(place / "certificates")]
        env = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off", "HOME": str(place)}
    with serve.process(kind, words, port, place / "s3.log", pushes=True, **env):
        endpoint = f"{'https' if trust else 'http'}://127.0.0.1:{port}"
        context = ssl.create_default_context(cafile=trust["SSL_CERT_FILE"]) if trust else None
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{endpoint}/{BUCKET}", timeout=5, context=context).close()
            except urllib.error.HTTPError as error:
                if error.code == 403:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        yield endpoint


@contextmanager
def lamina(place: Path, endpoint: str, trust: dict[str, str]) -> Iterator[serve.Server]:
    port = serve.free_port()
    words = [*LAMINA, "--root", str(place / "none"), "serve", "--storage", f"s3://{BUCKET}/lamina", "--writable"]
    env = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        **trust,
    }
    with serve.process(
        "lamina", [*words, "--port", str(port)], port, place / "lamina.log", pushes=True, **env
    ) as server:
        yield server


@contextmanager
def docker_registry(top: Path, endpoint: str, trust: dict[str, str]) -> Iterator[serve.Server]:
    top.mkdir()
    port = serve.free_port()
    config = top / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "storage:\n"
        f"  s3: {{accesskey: {KEY}, secretkey: {SECRET}, region: us-east-1, regionendpoint: '{endpoint}',\n"
        f"    forcepathstyle: true, bucket: {BUCKET}, rootdirectory: /registry,\n"
        f"    secure: {str(bool(trust)).lower()}}}\n"
        "  redirect: {disable: true}\n"
        "  delete: {enabled: true}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
        "log: {level: error, accesslog: {disabled: true}}\n"
    )
    words = [program("registry"), "serve", str(config)]
    env = {"OTEL_TRACES_EXPORTER": "none", **trust}
    with serve.process("docker-registry", words, port, top / "log", pushes=True, **env) as server:
        yield server


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error}: {error.stderr}") from None
