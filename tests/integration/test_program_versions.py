"""Versions that are read from programs of this host, compared with what these programs print."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.insight.package_binaries import program as program_modules
from lamina.insight.package_programs import programs
from support import require_tool

# the program, what asks it for its version, what it is called, and what of its answer is the version
ASKED = [
    ("bash", "--version", "bash", r"version (\d+\.\d+\.\d+)"),
    ("busybox", "--help", "busybox", r"BusyBox v(\d+\.\d+\.\d+)"),
    ("curl", "--version", "curl", r"^curl (\S+)"),
    ("getopt", "--version", "util-linux", r"util-linux (\S+)"),
    ("gcc", "-dumpfullversion", "gcc", r"(\S+)"),
    ("gzip", "--version", "gzip", r"^gzip (\S+)"),
    ("haproxy", "-v", "haproxy", r"version (\d+\.\d+\.\d+)"),
    ("java", "-version", "openjdk", r"Environment.*\(build (\d[0-9._]*(?:\+\d+|-b\d+)?)"),
    ("jq", "--version", "jq", r"^jq-(\S+)"),
    ("mariadb", "--version", "mariadb", r"(\d+\.\d+\.\d+)-MariaDB"),
    ("memcached", "--version", "memcached", r"^memcached (\S+)"),
    ("nginx", "-v", "nginx", r"nginx/(\d+\.\d+\.\d+)"),
    ("node", "--version", "node", r"^v(\S+)"),
    ("openssl", "version", "openssl", r"^OpenSSL (\S+)"),
    ("perl", "-e print$^V", "perl", r"^v(\S+)"),
    ("php", "--version", "php", r"^PHP (\d+\.\d+\.\d+)"),
    ("psql", "--version", "postgresql", r"PostgreSQL\) (\S+)"),
    ("python3", "--version", "python", r"^Python (\S+)"),
    ("redis-server", "--version", "redis", r"v=(\d+\.\d+\.\d+)"),
    ("xz", "--version", "xz", r"XZ Utils\) (\S+)"),
    ("zstd", "--version", "zstd", r"v(\d+\.\d+\.\d+)"),
]

LIBRARIES = {"node": b"libnode.so", "perl": b"libperl.so", "python3": b"libpython3."}
"""What such a program may be a small front of."""

LARGE = ("gcc", "java", "node", "psql")
"""Programs that nobody installs for this test: where they are missing it does not ask them."""


def where(program: str) -> str | None:
    """The system's own program; of PostgreSQL's not the script that chooses a version."""
    real = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(real[-1]) if real else shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")


ASKED = [one for one in ASKED if one[0] not in LARGE or where(one[0])]


@pytest.mark.parametrize(("program", "question", "name", "answer"), ASKED, ids=[one[0] for one in ASKED])
def test_the_version_of_a_program_is_the_one_that_it_prints(
    program: str, question: str, name: str, answer: str
) -> None:
    found = where(program)
    if found is None:
        require_tool(program)
        pytest.skip(f"{program} is not the system's own here")
    path = Path(found).resolve()
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            pytest.skip(f"{path} is not an ELF program")
        stream.seek(0)
        said = [(one.kind, one.name, one.version) for one in programs(path.name.encode(), stream.read)]
    run = subprocess.run([found, question], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"})
    version = re.search(answer, run.stdout + run.stderr)
    assert version, run
    if not said and program in LIBRARIES and LIBRARIES[program] in path.read_bytes():
        pytest.skip(f"{path} has its version in a library")
    assert said == [("binary", name, version[1])]


@pytest.mark.parametrize("name", ["go", "skopeo", "podman"])
def test_modules_are_those_that_go_itself_reads(name: str) -> None:
    go, found = shutil.which("go"), shutil.which(name)
    if go is None or found is None:
        pytest.skip(f"no go or no {name} here")
    if name == "go":
        root = subprocess.run([go, "env", "GOROOT"], capture_output=True, text=True, check=True).stdout.strip()
        found = f"{root}/bin/go"  # what is on PATH may be a script
    answer = subprocess.run([go, "version", "-m", found], capture_output=True, text=True, check=True).stdout
    told = re.match(r"\S+: go(\d\S*)", answer)
    assert told, answer
    lines = [line.split("\t") for line in answer.splitlines()[1:]]
    modules = [(words[2], words[3]) for words in lines if words[1] in ("mod", "dep") and len(words) > 3]
    with Path(found).open("rb") as stream:

        def read(at: int, size: int) -> bytes:
            stream.seek(at)
            return stream.read(size)

        said = [(one.kind, one.name, one.version) for one in program_modules(read)]
    expected = [("golang", "stdlib", f"go{told[1]}")]
    expected += [("binary", "go", told[1])] if name == "go" else []
    assert said == expected + [("golang", *module) for module in modules]
