"""The OCI conformance program against a fresh `lamina serve --writable`: all four categories, and its report.

    python tests/conformance.py PROGRAM DIRECTORY

`make conformance` calls it. DIRECTORY gets report.html, results.yaml and junit.xml.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from server_process import serving

OPTIONAL = ("BLOBS_DIGEST_HEADER", "BLOBS_UPLOAD_CANCEL", "MANIFESTS_DIGEST_HEADER", "MANIFESTS_TAG_PARAM")
"""What the specification leaves to a registry, and lamina does: it is tested too."""
_PATIENCE = 280  # seconds


@dataclass(frozen=True)
class Outcome:
    """``failed``: names of the cases that failed. ``code``: the program's exit code; ``told``: what it printed."""

    cases: int
    failed: tuple[str, ...]
    skipped: tuple[str, ...]
    code: int
    told: str

    @property
    def passed(self) -> bool:
        return self.code == 0 and not self.failed and self.cases > 0


def run_conformance(program: str, server: str, results: Path, **settings: str) -> Outcome:
    """Run the program against the registry at ``server`` (host:port). ``results`` gets its reports; ``settings``
    are further OCI_ variables."""
    results.mkdir(parents=True, exist_ok=True)
    environment: Mapping[str, str] = {
        **os.environ,
        "OCI_REGISTRY": server,
        "OCI_TLS": "disabled",
        "OCI_VERSION": "1.1",
        "OCI_RESULTS_DIR": str(results),
        **{f"OCI_API_{name}": "true" for name in OPTIONAL},
        **settings,
    }
    done = subprocess.run(
        [program], env=environment, capture_output=True, text=True, check=False, cwd=results, timeout=_PATIENCE
    )
    try:
        cases = list(ET.parse(results / "junit.xml").getroot().iter("testcase"))
    except FileNotFoundError:
        cases = []
    named = {outcome: [] for outcome in ("failure", "error", "skipped")}
    for case in cases:
        for outcome, names in named.items():
            if case.find(outcome) is not None:
                names.append(str(case.get("name")))
    return Outcome(
        len(cases),
        (*named["failure"], *named["error"]),
        tuple(named["skipped"]),
        done.returncode,
        f"{done.stdout}{done.stderr}",
    )


def main(program: str, directory: str) -> int:
    results = Path(directory).absolute()
    with tempfile.TemporaryDirectory(prefix="lamina-conformance-") as scratch:
        with serving(f"{scratch}/store", "--writable", log=Path(scratch, "log")) as server:
            outcome = run_conformance(program, server.name, results)
    _, found, summary = outcome.told.partition("API conformance")
    print(f"{found}{summary}" if found else outcome.told)
    for name in outcome.failed:
        print(f"failed: {name}")
    print(f"{outcome.cases} cases, {len(outcome.failed)} failed, {len(outcome.skipped)} skipped; report: {results}")
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
