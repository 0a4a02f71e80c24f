"""The image of deploy/container, built by `lamina build`, run by `lamina run`, and pushed to itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployed import await_answer, ok
from support import free_port, lamina

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]


def test_the_image_serves_itself_and_keeps_its_store_in_a_volume(server_image: Path, tmp_path: Path) -> None:
    root, port = server_image, free_port()
    host = f"127.0.0.1:{port}"
    options = ("-d", "--name", "registry", "-p", f"{host}:5000", "-v", "registry:/var/lib/lamina")
    serve = ("lamina", "serve", "--host", "0.0.0.0", "--plain-http", "--writable", "--anonymous-push")
    try:
        ok("run", *options, *serve, root=root)
        await_answer(f"http://{host}/v2/")
        ok("push", "-q", "lamina", f"{host}/tools/lamina:1", root=root)
        ok("wait", "--condition", "healthy", "registry", root=root)
        ok("stop", "registry", root=root)
        (state,) = json.loads(ok("inspect", "registry", root=root))
        assert state["State"]["ExitCode"] == 0
        ok("rm", "registry", root=root)
        ok("run", *options, *serve, root=root)
        await_answer(f"http://{host}/v2/")
        pulled = ok("pull", "-q", f"{host}/tools/lamina:1", root=tmp_path / "other")
        assert pulled == ok("images", "lamina", "--digests", "--format", "{{.Digest}}", root=root)
        # it runs as a user who may write nothing but the store
        told = ok("exec", "registry", "sh", "-c", "echo x >/x || echo refused", root=root)
        assert told.endswith("refused")
    finally:
        lamina("rm", "-f", "registry", root=root)
        lamina("volume", "rm", "registry", root=root)
