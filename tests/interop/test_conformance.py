"""The OCI conformance program against `lamina serve --writable`: nothing fails."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lamina.serve.server import RegistryServer
from lamina.store.store import Store
from support import peer

pytestmark = pytest.mark.peer
OPTIONAL = ("BLOBS_DIGEST_HEADER", "BLOBS_UPLOAD_CANCEL", "MANIFESTS_DIGEST_HEADER", "MANIFESTS_TAG_PARAM")


def test_no_failure_in_push_pull_discovery_and_management(tmp_path: Path) -> None:
    program = peer("conformance")
    with RegistryServer(Store.open(str(tmp_path / "s")), writable=True) as server:
        env = {
            **os.environ,
            "OCI_REGISTRY": server.name,
            "OCI_TLS": "disabled",
            "OCI_VERSION": "1.1",
            "OCI_RESULTS_DIR": str(tmp_path / "results"),
            **{f"OCI_API_{name}": "true" for name in OPTIONAL},
        }
        done = subprocess.run([program], env=env, capture_output=True, check=False, cwd=tmp_path, timeout=250)
    suites = ET.parse(tmp_path / "results/junit.xml").getroot()
    failed = [case.get("name") for case in suites.iter("testcase") if case.find("failure") is not None]
    assert failed == []
    assert done.returncode == 0, done.stdout[-2000:]
    assert len(list(suites.iter("testcase"))) > 700
