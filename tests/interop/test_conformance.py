"""The OCI conformance program against `lamina serve --writable`: nothing fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import Outcome, run_conformance
from lamina.serve.access.htpasswd import hashed_password
from object_storage import KINDS, s3_server
from server_process import serving
from support import peer

pytestmark = pytest.mark.peer


def assert_all_passed(outcome: Outcome) -> None:
    assert outcome.failed == ()
    assert outcome.code == 0, outcome.told[-2000:]
    assert outcome.cases > 700


def test_no_failure_in_push_pull_discovery_and_management(tmp_path: Path) -> None:
    program = peer("conformance")
    with serving(tmp_path / "s", "--writable", log=tmp_path / "log") as server:
        assert_all_passed(run_conformance(program, server.name, tmp_path / "results"))


def test_no_failure_with_users_and_tokens(tmp_path: Path) -> None:
    program = peer("conformance")
    (tmp_path / "users").write_text(f"tester:{hashed_password('secret', 4)}\n")
    words = ("--writable", "--htpasswd", str(tmp_path / "users"), "--audit-log", str(tmp_path / "audit"))
    with serving(tmp_path / "s", *words, log=tmp_path / "log") as server:
        login = {"OCI_USERNAME": "tester", "OCI_PASSWORD": "secret"}
        assert_all_passed(run_conformance(program, server.name, tmp_path / "results", **login))
    assert '"user":"tester"' in (tmp_path / "audit").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_no_failure_on_object_storage(tmp_path: Path, kind: str) -> None:
    program = peer("conformance")
    with (
        s3_server(kind, tmp_path / "s3") as storage,
        serving(
            tmp_path / "none",
            "--storage",
            storage.url,
            "--writable",
            log=tmp_path / "log",
            environment=dict(storage.environment),
        ) as server,
    ):
        assert_all_passed(run_conformance(program, server.name, tmp_path / "results"))


def test_no_failure_with_two_processes(tmp_path: Path) -> None:
    program = peer("conformance")
    with serving(tmp_path / "s", "--writable", "--workers", "2", log=tmp_path / "log") as server:
        assert_all_passed(run_conformance(program, server.name, tmp_path / "results"))
