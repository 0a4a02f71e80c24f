"""A real S3 server on loopback for tests: versitygw or MinIO (`tests/peers.sh DIRECTORY versitygw minio`)."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from docker_engine import die_with_us
from lamina.serve.self_signed import SelfSigned
from support import free_port, peer

KINDS = ("versitygw", "minio")
KEY, SECRET, BUCKET = "lamina-test", "secret-of-the-test", "images"


class S3Server:
    """A server over ``directory``. It can be killed and started again on its port. ``https``: by TLS, with a CA of
    its own."""

    def __init__(self, kind: str, directory: Path, *, https: bool = False) -> None:
        self.kind = kind
        self.directory = directory
        self.port = free_port()
        self.program = peer(kind)
        (directory / "data" / BUCKET).mkdir(parents=True)  # a directory is a bucket for both
        self._process: subprocess.Popen[bytes] | None = None
        self._certificates = _certificates(directory / "certificates") if https else None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._certificates else 'http'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/registry"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a client needs."""
        trusted = {"SSL_CERT_FILE": self._certificates.ca} if self._certificates else {}
        return trusted | {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> Self:
        data = str(self.directory / "data")
        if self.kind == "versitygw":
            command = [self.program, "--port", f"127.0.0.1:{self.port}", "--quiet", "posix", data]
            if self._certificates:
                command[1:1] = ["--cert", self._certificates.certificate, "--key", self._certificates.key]
            own = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
        else:
            command = [self.program, "server", data, "--address", f"127.0.0.1:{self.port}", "--quiet"]
            if self._certificates:
                command += ["--certs-dir", self._certificates.directory]
            own = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off"}
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(self.directory), **own},
                preexec_fn=die_with_us,  # noqa: PLW1509
            )
        self._await(self._process)
        return self

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it answers as a server that is ready does."""
        deadline = time.monotonic() + 60
        context = ssl.create_default_context(cafile=self._certificates.ca) if self._certificates else None
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/{BUCKET}", timeout=5, context=context).close()
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 403:  # it wants a signature: the bucket is there
                    return
            except (TimeoutError, OSError):
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.kind} did not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


def _certificates(directory: Path) -> SelfSigned:
    made = SelfSigned(str(directory), ("127.0.0.1",))
    made.renew()
    shutil.copy(made.certificate, directory / "public.crt")  # MinIO's names
    shutil.copy(made.key, directory / "private.key")
    return made


@contextmanager
def s3_server(kind: str, directory: Path, *, https: bool = False) -> Iterator[S3Server]:
    server = S3Server(kind, directory, https=https)
    try:
        yield server.start()
    finally:
        server.close()
