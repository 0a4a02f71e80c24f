"""Five projects, each built from its Dockerfile below `projects/`, and run. `make demo-projects` runs it, as root.

A Node.js application, a Python application with its wheels, a static Go program, a Java archive, a Debian package.
Their base is Debian, made with mmdebstrap. What else they need comes from Debian's mirror, npm and PyPI while they
are built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from big_debian import SUITE, mirrors, sources
from big_run import Run, expect, fetched, free_port, output, server
from big_shell import LAMINA, Failed, environment, logged, say, timed

PROJECTS = Path(__file__).resolve().parent / "projects"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
EXPECTED = {
    "python": "hello world from Python, version 2, as 65534",
    "go": "hello from Go",
    "java": "hello from Java 17",
    "debian": "hello from a Debian package",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo/projects.py", description="Five projects, built and run.")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory, and say where it is")
    parser.add_argument("names", nargs="*", default=[*EXPECTED, "node"], help="only these projects")
    options = parser.parse_args()
    urls = mirrors() if shutil.which("apt-get") else {}
    if os.geteuid() != 0 or not shutil.which("mmdebstrap") or not urls:
        print("demo-projects needs root, mmdebstrap and a Debian mirror that apt knows", file=sys.stderr)
        return 1
    scratch = Path(tempfile.mkdtemp(prefix="lamina-demo-projects-"))
    start = time.monotonic()
    try:
        show(scratch, sources(urls), options.names)
    except (Failed, subprocess.CalledProcessError, OSError) as error:
        print(f"demo-projects: {error}", file=sys.stderr)
        return 1
    finally:
        subprocess.run([*LAMINA, "umount", "--all"], check=False, env=environment(scratch / "store"))
        if options.keep:
            print(f"kept: {scratch}", flush=True)
        else:
            shutil.rmtree(scratch)
    say(f"Done in {time.monotonic() - start:.0f} seconds")
    return 0


def show(scratch: Path, lines: list[str], names: list[str]) -> None:
    store, log = scratch / "store", scratch / "log"
    say(f"The base: Debian {SUITE}, as debian:12")
    with timed("mmdebstrap"):
        form = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", SUITE, f"{scratch}/base.tar"]
        logged([*form, *lines], log, "mmdebstrap")
    imported = ["import", str(scratch / "base.tar"), "debian:12"]
    logged([*LAMINA, *imported], log, "lamina import", env=environment(store))
    containers = Run(store)
    for name in names:
        say(f"{name}: {(PROJECTS / name / 'Dockerfile').read_text().partition('FROM')[0].strip().replace('# ', '')}")
        words = ["build", "-t", name, str(PROJECTS / name)]
        print("$ lamina", " ".join(words), flush=True)
        words += [
            "--progress",
            "plain",
            "--build-arg",
            "VERSION=2",
            "--secret",
            f"id=certificates,src={CERTIFICATES}",
        ]
        with timed("built"):
            logged([*LAMINA, *words], log, f"the build of {name}", env=environment(store))
        if name == "node":
            port = free_port()
            with server(containers, "demo-node", name, ["node", "server.js", str(port)]):
                expect("the web server", "hello from node", fetched(f"http://127.0.0.1:{port}/"))
        else:
            expect("the program", EXPECTED[name], output(containers, f"demo-{name}", name, []))


if __name__ == "__main__":
    sys.exit(main())
