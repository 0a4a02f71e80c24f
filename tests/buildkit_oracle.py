"""The program ``tests/oracle``, made of BuildKit's packages: how they read Dockerfiles, words and ignore files."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support import peer


class Oracle:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def __call__(self, kind: str, *, data: bytes = b"", **request: Any) -> dict[str, Any]:
        """One question. ``error`` in the answer: BuildKit refuses."""
        line = json.dumps({"Kind": kind, "Data": base64.b64encode(data).decode(), **request})
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert not str(answer.get("error", "")).startswith("panic"), answer
        return answer


@contextmanager
def running_oracle() -> Iterator[Oracle]:
    with subprocess.Popen(
        [peer("oracle")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield Oracle(process)
        finally:
            process.kill()
