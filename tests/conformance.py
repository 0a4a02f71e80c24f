"""`make conformance`: the OCI conformance program against a fresh `lamina serve --writable`, and its report."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lamina.serve.server import RegistryServer
from lamina.store.store import Store


def main(program: str) -> int:
    with tempfile.TemporaryDirectory(prefix="lamina-conformance-") as scratch:
        with RegistryServer(Store.open(f"{scratch}/store"), writable=True) as server:
            env = {
                "OCI_REGISTRY": server.name,
                "OCI_TLS": "disabled",
                "OCI_VERSION": "1.1",
                "OCI_RESULTS_DIR": f"{scratch}/results",
            }
            done = subprocess.run([program], env={**os.environ, **env}, capture_output=True, text=True, check=False)
        report = (
            done.stdout[done.stdout.find("API conformance") :] if "API conformance" in done.stdout else done.stdout
        )
        print(report or done.stderr)
        first = (Path(scratch) / "results/junit.xml").read_text().partition("<testsuites")[2].partition(">")[0]
        print(f"junit:{first}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
