"""The verb build as people of docker and podman type it: what it makes, prints and refuses."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.test_bad_input import is_plain, on_a_terminal
from e2e.test_completion import candidates
from lamina.cli import run
from lamina.host import mountinfo
from lamina.image import open as open_image
from lamina.serve.server import RegistryServer
from lamina.spec.platform import Platform
from lamina.store.store import Store
from support import (
    busybox,
    lamina,
    loaded,
    made_once,
    manifest_of,
    plain_user,
    require_root,
    running,
    store_with,
    write_layout,
)

APPLETS = "sh cat echo sleep touch true false wc"
COPY_ONLY = """\
# syntax=docker/dockerfile:1
# GREETING What it says
ARG GREETING=hello
# base The files alone
FROM scratch AS base
COPY app /app
# dev For tests
FROM base AS dev
COPY app/main.py /dev.py
FROM base
ARG GREETING
LABEL greeting=$GREETING
CMD ["/app/main.py"]
"""


def made(top: Path) -> None:
    """A store with "base", which has a shell; a context."""
    layer: list[Any] = [("bin/", None), ("bin/busybox", busybox(), {"mode": 0o755})]
    layer += [(f"bin/{name}", "-> busybox") for name in APPLETS.split()]
    layer += [("etc/", None), ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), ("tmp/", None, {"mode": 0o1777})]
    write_layout(top / "l", "base", [layer], config={"config": {"Env": ["PATH=/bin"]}})
    store_with(top / "l", top / "s", "base")
    (top / "c/app").mkdir(parents=True)
    (top / "c/app/main.py").write_text("print('hello')\n")
    (top / "c/Dockerfile").write_text(COPY_ONLY)
    (top / "c/docker").mkdir()
    (top / "c/docker/Dockerfile.prod").write_text("FROM scratch\nCOPY app/main.py /prod.py\n")


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made_once(made, tmp_path)
    monkeypatch.chdir(tmp_path / "c")
    for name in ("BUILDKIT_PROGRESS", "DOCKER_DEFAULT_PLATFORM", "SOURCE_DATE_EPOCH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def call(top: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process."""

    def call(*words: str) -> Said:
        capfd.readouterr()
        code = run(["--root", str(top / "s"), *words])
        sys.stdout.flush()
        return Said(code, *capfd.readouterr())

    return call


def store_of(top: Path) -> Store:
    return Store.open(str(top / "s"))


def names(top: Path) -> set[str]:
    return {name.removeprefix("docker.io/library/") for name, _ in store_of(top).names()} - {"base:latest"}


def files(top: Path, name: str) -> set[str]:
    tree = open_image(name, root=top / "s").fs
    return {path.lstrip("/") for path in tree.find("/")}


WHOLE = {"app/main.py"}


@pytest.mark.parametrize(
    ("line", "tags", "has"),
    [
        ("build -t app:1 .", {"app:1"}, WHOLE),
        ("build . -t app:1 -t app:latest", {"app:1", "app:latest"}, WHOLE),
        ("build -t app:1", {"app:1"}, WHOLE),
        ("build .", {""}, WHOLE),
        ("build --tag app:1 --file Dockerfile .", {"app:1"}, WHOLE),
        ("build -t app:1 -f docker/Dockerfile.prod .", {"app:1"}, {"prod.py"}),
        ("build -t app:1 -f {top}/c/docker/Dockerfile.prod {top}/c", {"app:1"}, {"prod.py"}),
        ("build -t app:1 --target dev .", {"app:1"}, {"app/main.py", "dev.py"}),
        ("build -t app:1 --target 0 .", {"app:1"}, WHOLE),
        ("build --no-cache --pull=false --rm --force-rm=false --compress -t app:1 .", {"app:1"}, WHOLE),
        ("build --build-arg GREETING=hi --build-arg HTTP_PROXY --label a=b -t app:1 .", {"app:1"}, WHOLE),
        (
            "build --network none --add-host db:10.0.0.5 --shm-size 64m --ulimit nofile=9:9 -t app:1 .",
            {"app:1"},
            WHOLE,
        ),
        ("build --progress=plain --provenance=false --sbom=false -t app:1 .", {"app:1"}, WHOLE),
        ("build --cache-from app:0,app:1 -t app:1 .", {"app:1"}, WHOLE),
        ("build --load -t app:1 .", {"app:1"}, WHOLE),
        ("build --output type=image,name=app:2 -t app:1 .", {"app:1", "app:2"}, WHOLE),
        ("build -o type=docker -t app:1 .", {"app:1"}, WHOLE),
        ("build --platform linux/arm64 -t app:1 .", {"app:1"}, WHOLE),
        ("build --platform linux/amd64,linux/arm64 -t app:1 .", {"app:1"}, WHOLE),
        ("buildx build -t app:1 .", {"app:1"}, WHOLE),
        ("buildx b --load -t app:1 .", {"app:1"}, WHOLE),
        ("image build -t app:1 .", {"app:1"}, WHOLE),
        ("builder build -t app:1 .", {"app:1"}, WHOLE),
        ("bud -t app:1 .", {"app:1"}, WHOLE),
        ("build --layers --isolation chroot --format docker --jobs 2 -t app:1", {"app:1"}, WHOLE),
        ("build --layers=false --timestamp 0 --arch arm64 --os linux -t app:1 .", {"app:1"}, WHOLE),
        ("build --manifest app:1 --tls-verify=false --userns host .", {"app:1"}, WHOLE),
        ("build --squash -t app:1 .", {"app:1"}, WHOLE),
        ("build -t app:1 --build-context extra=app .", {"app:1"}, WHOLE),
        ("build --allow network.host,security.insecure --jobs 0 -t app:1 .", {"app:1"}, WHOLE),
    ],
)
def test_lines_of_docker_and_podman_build_an_image(
    top: Path, call: Call, line: str, tags: set[str], has: set[str]
) -> None:
    said = call(*line.format(top=top).split())
    assert said.code == 0, said
    assert said.out == ""
    assert names(top) == tags
    store = store_of(top)
    platform = Platform("linux", "arm64") if "arm64" in line else Platform.host()
    for name, descriptor in store.names():
        if "base" not in name:
            stack = store.stack_at(descriptor, platform, "x")
            assert {path for path in has if stack.leads_to(path.encode())} == has


def test_the_image_has_what_the_line_asks_for(top: Path, call: Call) -> None:
    line = "build -q -t app:1 --build-arg GREETING=hi --label a=b --annotation org.x=y ."
    said = call(*line.split())
    image = open_image("app:1", root=top / "s")
    assert said == Said(0, f"{image.id}\n", "")
    assert dict(image.config.labels) == {"greeting": "hi", "a": "b"}
    assert dict(image.stack.manifest.annotations) == {"org.x": "y"}
    assert image.config.cmd == ("/app/main.py",)


def test_plain_progress_has_the_lines_of_buildkit(top: Path, call: Call) -> None:
    said = call("build", "-t", "app:1", ".")
    lines = said.err.splitlines()
    (number,) = [line.partition(" ")[0] for line in lines if "COPY app /app" in line]
    assert f"{number} DONE 0." in said.err
    assert any(line.endswith("naming to docker.io/library/app:1 done") for line in lines)
    assert any("docker/dockerfile:1" in line for line in lines)
    again = call("build", "-t", "app:1", ".")
    (number,) = [line.partition(" ")[0] for line in again.err.splitlines() if "COPY app /app" in line]
    assert f"{number} CACHED" in again.err.splitlines()


@pytest.mark.parametrize(
    ("environment", "words", "has", "lacks"),
    [
        ({"BUILDKIT_PROGRESS": "quiet"}, (), "", "#1"),
        ({"BUILDKIT_PROGRESS": "rawjson"}, (), '{"vertexes": ', "#1"),
        ({"BUILDKIT_PROGRESS": "rawjson"}, ("--progress", "plain"), "#1 ", "vertexes"),
        ({"BUILDKIT_PROGRESS": "plain"}, ("-q",), "", "#1"),
        ({}, ("--progress", "json"), '{"vertexes": ', "#1"),
        ({}, ("--progress", "none"), "", "#1"),
    ],
)
def test_the_progress_can_be_chosen(
    call: Call,
    environment: dict[str, str],
    words: tuple[str, ...],
    has: str,
    lacks: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = call("build", *words, ".")
    assert said.code == 0
    assert has in said.err
    assert lacks not in said.err
    if "vertexes" in has:
        assert all(json.loads(line) for line in said.err.splitlines())


def test_a_terminal_gets_live_lines(top: Path) -> None:
    code, got = on_a_terminal(top / "s", "build", "-t", "app:1", ".")
    assert code == 0
    assert b"[+] Building" in got
    assert b" FINISHED" in got
    last = got.decode().rpartition("[+] Building")[2]
    assert "COPY app /app" in last
    assert "#1 " not in last


def test_files_about_the_image(top: Path, call: Call) -> None:
    (top / "id").write_text("stale")
    line = f"build --iidfile {top}/id --metadata-file {top}/m.json -t app:1 -t app:2 ."
    assert call(*line.split()).code == 0
    image = open_image("app:1", root=top / "s")
    assert (top / "id").read_text() == str(image.id)
    assert json.loads((top / "m.json").read_text()) == {
        "containerimage.config.digest": str(image.id),
        "containerimage.descriptor": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": str(image.digest),
            "size": image.stack.manifest.descriptor.size,
        },
        "containerimage.digest": str(image.digest),
        "image.name": "docker.io/library/app:1,docker.io/library/app:2",
    }
    assert call("build", "--iidfile", f"{top}/id", "-f", "nowhere", ".").code == 3
    assert not (top / "id").exists()


def test_a_device_that_is_named_as_a_file_stays(top: Path, call: Call) -> None:
    require_root()
    device = top / "null"  # of our own: never the host's
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert call("build", "-q", "--iidfile", str(device), "--metadata-file", str(device), ".").code == 0
    assert call("build", "-q", "--iidfile", str(device), "-f", "nowhere", ".").code == 3
    for kind in ("tar", "oci", "docker"):
        said = call("build", "-q", "-o", f"type={kind},dest={device}", ".")
        assert said.code == 5, said
        assert "not a regular file" in said.err
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert device.stat().st_rdev == os.makedev(1, 3)


@pytest.mark.parametrize(("option", "path", "code"), [("--iidfile", "app", 5), ("--metadata-file", "nowhere/m", 3)])
def test_files_about_the_image_are_checked_before_the_build(call: Call, option: str, path: str, code: int) -> None:
    said = call("build", option, path, ".")
    assert said.code == code
    assert said.err.count("\n") == 1


def test_the_files_go_to_a_directory_and_no_image_stays(top: Path, call: Call) -> None:
    assert call("build", "-o", str(top / "out"), ".").code == 0
    assert (top / "out/app/main.py").read_text() == "print('hello')\n"
    assert names(top) == set()
    assert call("build", "-o", str(top / "out"), "--target", "dev", "-t", "app:1", ".").code == 0
    assert (top / "out/dev.py").exists()
    assert names(top) == set()


def test_the_files_go_to_standard_output_as_a_tar(top: Path) -> None:
    done = lamina("build", "-o", "-", ".", root=top / "s")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert "app/main.py" in tar.getnames()


def test_several_outputs_at_once(top: Path, call: Call) -> None:
    outputs = (f"type=oci,dest={top}/o.tar", f"type=docker,dest={top}/d.tar", f"type=local,dest={top}/out")
    words = [word for one in outputs for word in ("-o", one)]
    said = call("build", "-t", "app:1", *words, "--load", ".")
    assert said.code == 0, said
    assert f"exporting to oci archive {top}/o.tar" in said.err
    image = open_image("app:1", root=top / "s")
    assert open_image(f"oci-archive:{top}/o.tar", root=top / "s").digest == image.digest
    assert open_image(f"docker-archive:{top}/d.tar", root=top / "s").id == image.id
    assert (top / "out/app/main.py").exists()


def test_push_sends_the_image(top: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Store.open(str(top / "served"))
    with RegistryServer(served, writable=True) as registry:
        name = f"{registry.name}/team/app:1"
        said = call("build", "--push", "-t", name, ".")
        assert said.code == 0, said
        assert f"pushing {name}" in said.err
        many = f"{registry.name}/team/many:1"
        assert call("build", "--platform", "linux/amd64,linux/arm64", "-t", many, "--push", ".").code == 0
    assert {name.partition("/")[2] for name, _ in served.names() if name} >= {"team/app:1", "team/many:1"}
    assert served.stack("team/many:1", Platform("linux", "arm64")).leads_to(b"app/main.py")


def test_a_failed_push_is_an_error_and_the_image_stays(top: Path, call: Call) -> None:
    said = call("build", "--push", "-t", "127.0.0.1:1/app:1", "--retry-times", "0", ".")
    assert said.code == 8
    assert said.err.splitlines()[-1].startswith("lamina: ")
    assert names(top) == {"127.0.0.1:1/app:1"}


@pytest.mark.parametrize(
    ("line", "input"),
    [
        ("build -q -", b"FROM scratch\nCMD x\n"),
        ("build -q -f - .", b"FROM scratch\nCOPY app /x\n"),
        ("build -q -", "tar"),
        ("build -q -f docker/Dockerfile.prod -", "tar"),
        ("build -q -", "tar.gz"),
    ],
)
def test_standard_input_is_a_dockerfile_or_a_context(top: Path, line: str, input: bytes | str) -> None:
    data = input if isinstance(input, bytes) else packed(top / "c", input)
    done = lamina(*line.split(), root=top / "s", input=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"sha256:")
    assert done.stderr == b""


def packed(directory: Path, kind: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if kind.endswith("gz") else "w") as tar:
        tar.add(directory, ".")
    return out.getvalue()


def test_the_same_context_gives_the_same_image_anywhere(top: Path, call: Call, tmp_path: Path) -> None:
    first = call("build", "-q", "--timestamp", "1700000000", ".").out
    subprocess.run(["cp", "-r", top / "c", top / "again"], check=True)
    os.utime(top / "again/app/main.py", (1_800_000_000, 1_800_000_000))
    done = lamina("build", "-q", str(top / "again"), root=top / "other", SOURCE_DATE_EPOCH="1700000000")
    assert done.returncode == 0, done.stderr
    config = open_image(first.strip(), root=top / "s").config
    assert config.created == "2023-11-14T22:13:20Z"
    assert done.stdout.decode() != ""
    (digest,) = {str(descriptor.digest) for _, descriptor in Store.open(str(top / "other")).names()}
    assert digest in {str(descriptor.digest) for _, descriptor in store_of(top).names()}


def test_checks_are_those_of_buildx(top: Path, call: Call) -> None:
    assert call("build", "--check", ".") == Said(0, "Check complete, no warnings found.\n", "")
    Path("Dockerfile").write_text("FROM scratch as a\nCOPY app /app\nCMD x\n")
    said = call("build", "--check", ".")
    assert said.code == 1
    assert said.err == ""
    assert said.out.startswith("Check complete, 2 warnings have been found!\n\nWARNING: FromAsCasing\n")
    assert "\nDockerfile:3\n" in said.out
    assert "\n   3 | >>> CMD x\n" in said.out
    assert call("build", "--call", "check,ignorestatus=true", ".").code == 0
    found = json.loads(call("build", "--call", "check,format=json", ".").out)
    assert [one["ruleName"] for one in found["warnings"]] == ["FromAsCasing", "JSONArgsRecommended"]
    assert found["warnings"][1]["location"]["ranges"][0]["start"]["line"] == 3
    assert base64.b64decode(found["sources"][0]["data"]) == Path("Dockerfile").read_bytes()
    assert names(top) == set()
    built = call("build", ".")
    assert built.code == 0
    assert " 2 warnings found (see `lamina build --check`):\n - FromAsCasing: " in built.err


def test_the_checks_know_the_variables_of_bases_in_the_store(call: Call) -> None:
    Path("Dockerfile").write_text("FROM base\nENV A=$HOSTNAMES B=$PATH\nFROM not-here\nENV A=$X\n")
    said = call("build", "--check", ".")
    assert said.code == 1
    assert said.out.count("WARNING: ") == 1
    assert "Usage of undefined variable '$HOSTNAMES'" in said.out
    assert call("build", "--check", "--build-context", "base=app", ".").code == 0


def test_the_ignore_file_counts_for_the_checks(call: Call) -> None:
    Path(".dockerignore").write_text("app\n")
    said = call("build", "--check", ".")
    assert said.code == 1
    assert "WARNING: CopyIgnoredFile\n" in said.out


def test_the_ignore_file_can_be_named(top: Path, call: Call) -> None:
    (top / "ignore").write_text("app/main.py\n")
    Path(".dockerignore").write_text("docker\n")
    Path("Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    assert call("build", "--ignorefile", f"{top}/ignore", "-t", "app:1", ".").code == 0
    assert "docker/Dockerfile.prod" in files(top, "app:1")
    assert "app/main.py" not in files(top, "app:1")
    assert call("build", "-t", "app:2", ".").code == 0
    assert "docker/Dockerfile.prod" not in files(top, "app:2")
    assert call("build", "--ignorefile", "nowhere", ".").code == 3


def test_findings_can_be_errors(call: Call) -> None:
    Path("Dockerfile").write_text("# check=error=true\nFROM scratch\nCOPY app /app\nCMD x\n")
    said = call("build", ".")
    assert said.code == 2
    assert "the checks of the Dockerfile failed: JSONArgsRecommended" in said.err.splitlines()[-1]
    assert "   4 | >>> CMD x" in said.err.splitlines()


def test_targets_and_outline_are_printed(call: Call) -> None:
    assert call("build", "--call", "targets", ".").out == (
        "TARGET    DESCRIPTION\nbase      The files alone\ndev       For tests\n(default)\n"
    )
    assert call("build", "--call", "outline", "--build-arg", "GREETING=hi", ".").out == (
        "BUILD ARG   VALUE   DESCRIPTION\nGREETING    hi      What it says\n\n"
    )
    found = json.loads(call("build", "--call", "targets,format=json", ".").out)
    assert [one.get("name", "") for one in found["targets"]] == ["base", "dev", ""]
    assert json.loads(call("build", "--call", "outline,format=json", "--target", "dev", ".").out)["name"] == "dev"
    said = call("build", "--call", "outline", "--target", "dve", ".")
    assert said.code == 3
    assert "did you mean dev?" in said.err


def test_why_names_what_differs(call: Call) -> None:
    assert call("build", ".").code == 0
    assert "every step was in the cache" in call("build", "--why", ".").err
    Path("app/main.py").write_text("print('other')\n")
    said = call("build", "--why", ".")
    why = said.err.rpartition("COPY app /app (Dockerfile:6)\n")[2]
    assert "sha256:" in why
    assert " -> " in why


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("lamina build --target ", ["base ", "dev "]),
        ("lamina build -f docker/two --target l", ["last "]),
        ("lamina build -f nowhere --target ", []),
        ("lamina build --progress t", ["tty "]),
        ("lamina buildx build --network ", ["default ", "host ", "none "]),
        ("lamina build -o type=l", ["local "]),
        ("lamina build --call o", ["outline "]),
        ("lamina build -f ", ["#file"]),
        ("lamina build ", ["#dir"]),
    ],
)
def test_completion_knows_the_values_of_options(top: Path, line: str, wanted: list[str]) -> None:
    Path("docker/two").write_text("FROM scratch AS first\nFROM first AS last\n")
    assert candidates(top / "s", line) == wanted


REFUSED = [
    ("build --no-such .", 2, "option"),
    ("build . .", 2, "argument"),
    ("build -t UPPER .", 2, "lower case"),
    ("build -t a@sha256:{zeros} .", 2, "digest"),
    ("build --platform nonsense/x/y/z .", 2, "platform"),
    ("build --output type=nope .", 2, "'nope'"),
    ("build --output type=oci .", 2, "dest"),
    ("build --output type=oci,dest=app .", 5, "not a file"),
    ("build --push .", 2, "no name"),
    ("build --cache-to type=gha .", 7, "gha"),
    ("build --secret id=x,src=nowhere .", 3, "nowhere"),
    ("build --ssh a=nowhere .", 3, "nowhere"),
    ("build --build-arg =x .", 2, "no name"),
    ("build --build-arg-file nowhere .", 6, "nowhere"),
    ("build --build-context x .", 2, "NAME=PLACE"),
    ("build --annotation x .", 2, "KEY=VALUE"),
    ("build --attest nonsense .", 2, "--attest"),
    ("build --network mine .", 2, "mine"),
    ("build --add-host x .", 2, "NAME:ADDRESS"),
    ("build --shm-size x .", 2, "size"),
    ("build --ulimit x .", 2, "limit"),
    ("build --allow everything .", 2, "everything"),
    ("build --progress fancy .", 2, "fancy"),
    ("build --progress tty .", 2, "terminal"),
    ("build -q --progress plain .", 2, "--quiet"),
    ("build --call x .", 2, "'x'"),
    ("build --no-cache --no-cache-filter a .", 2, "--no-cache-filter"),
    ("build --pull=sometimes .", 2, "sometimes"),
    ("build --timestamp soon .", 2, "soon"),
    ("build --jobs x .", 2, "'x'"),
    ("build --jobs -1 .", 2, "-1"),
    ("build --provenance=often .", 2, "--provenance"),
    ("build --base x .", 2, "--wheels"),
    ("build --wheels uv.lock .", 2, "--base"),
    ("build --memory 1g .", 2, "systemd-run"),
    ("build --cap-add ALL .", 2, "security.insecure"),
    ("build -v /x:/x .", 2, "--mount"),
    ("build --device /dev/kvm .", 2, "--device"),
    ("build --format docker -o type=image,compression=zstd .", 7, "zstd"),
    ("build --from alpine .", 2, "--build-context"),
    ("build --platform linux/arm64 --arch arm64 .", 2, "--platform"),
    ("build -o type=docker,dest=x.tar --platform linux/amd64,linux/arm64 .", 7, "one platform"),
    ("build -o type=image,compression=zstd -o type=image,compression=gzip .", 2, "compression"),
]


@pytest.mark.parametrize(("line", "code", "says"), REFUSED)
def test_a_bad_line_is_refused_before_anything_is_done(
    top: Path, call: Call, line: str, code: int, says: str
) -> None:
    before = sorted(os.listdir())
    said = call(*line.format(zeros="0" * 64).split())
    assert said.code == code, said
    assert said.out == ""
    assert says in said.err
    assert said.err.startswith("lamina: ")
    assert said.err.count("\n") == 1
    assert names(top) == set()
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", 2, "Dockerfile:1"),
        (b"FROM scratch\nRUNN x\n", 2, "RUN"),
        (b"\x7fELF\0\xff\x1b[31m" * 9, 2, "Dockerfile:1"),
        (b"FROM scratch\nCOPY nope\x1b]0;x\x07 /x\n", 3, "nope"),
        (b"FROM scratch\nCOPY nope\x1b[1m /x\n", 2, "pattern"),
        (b"FROM scratch\nCOPY ../../etc/passwd /x\n", 3, "etc/passwd"),
        (b"FROM \x1b[31m\n", 2, "Dockerfile:1"),
        (b"FROM 127.0.0.1:1/nothing\n", 8, "127.0.0.1:1"),
        (b"FROM scratch\nENV A=${B?is not set}\n", 2, "is not set"),
        (b"FROM scratch\nCOPY --from=nothing:1\x07 / /\n", 2, "Dockerfile:2"),
    ],
    ids=ascii,
)
def test_a_bad_dockerfile_ends_with_one_line_about_it(
    top: Path, call: Call, content: bytes, code: int, says: str
) -> None:
    Path("Dockerfile").write_bytes(content)
    said = call("build", "-t", "app:1", ".")
    assert said.code == code, said
    last = said.err.splitlines()[-1]
    assert last.startswith("lamina: ")
    assert says in last
    assert is_plain(said.err.encode())
    assert said.out == ""
    assert names(top) == set()


@pytest.mark.parametrize("context", ["nowhere", "Dockerfile", "caf\udce9", "", "https://127.0.0.1:1/x.tar"])
def test_a_bad_context_ends_with_one_line_about_it(top: Path, call: Call, context: str) -> None:
    said = call("build", "-q", context)
    assert said.code in (2, 3, 8), said
    assert said.err.startswith("lamina: ")
    assert said.err.count("\n") == 1
    assert names(top) == set()


def test_a_failed_step_shows_its_output_and_its_lines(top: Path, call: Call) -> None:
    require_root()
    Path("Dockerfile").write_text("FROM base\nCOPY app /app\nRUN echo before; echo \\\n  trouble >&2; exit 7\n")
    said = call("build", "--network", "none", "-t", "app:1", ".")
    assert said.code == 1
    lines = said.err.splitlines()
    assert lines[-1].startswith("lamina: Dockerfile:3: ")
    assert "did not complete successfully: exit code: 7" in lines[-1]
    assert "   3 | >>> RUN echo before; echo \\" in lines
    assert "   4 | >>>   trouble >&2; exit 7" in lines
    assert "   2 |     COPY app /app" in lines
    head = lines.index("------")
    shown = lines[head : lines.index("------", head + 1)]
    assert shown[1].startswith(" > [3/3] RUN echo before")
    assert [line.partition(" ")[2] for line in shown[2:]] == ["before", "trouble"]
    assert names(top) == set()
    quiet = call("build", "-q", "--network", "none", ".")
    assert quiet.code == 1
    assert quiet.out == ""
    assert "trouble" in quiet.err


def test_output_of_programs_cannot_drive_the_terminal(top: Path, call: Call) -> None:
    require_root()
    Path("Dockerfile").write_text(
        "FROM base\n"
        "RUN printf '\\033[2J\\033]0;title\\007\\tred\\r50%%\\r100%%\\n\\033[31mred\\033[0m \\302\\233\\n'\n"
    )
    said = call("build", "--network", "none", ".")
    assert said.code == 0, said
    assert is_plain(said.err.encode())
    assert any(line.endswith(" 100%") for line in said.err.splitlines())


def test_secrets_are_not_shown(top: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    monkeypatch.setenv("TOKEN", "hunter22")
    Path("Dockerfile").write_text("FROM base\nRUN --mount=type=secret,id=TOKEN wc -c < /run/secrets/TOKEN\n")
    said = call("build", "--network", "none", "--secret", "id=TOKEN", "--why", "-t", "app:1", ".")
    assert said.code == 0, said
    assert any(line.endswith(" 8") for line in said.err.splitlines())
    assert "hunter22" not in said.err
    assert "hunter22" not in call("history", "--no-trunc", "app:1").out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_the_build_and_the_next_one_goes_on(top: Path, number: signal.Signals) -> None:
    require_root()
    Path("Dockerfile").write_text("FROM base\nCOPY app /app\nRUN echo ready; touch /tmp/x; sleep 1000\n")
    with running("build", "--network", "none", "-t", "app:1", ".", root=top / "s") as process:
        assert process.stderr is not None
        seen = b""
        while not seen.endswith(b" ready\n"):
            line = process.stderr.readline()
            assert line, seen
            seen += line
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(30) == 130, rest
    lines = rest.decode().splitlines()
    assert lines[-1] == "lamina: interrupted"
    assert any(line.endswith(" CANCELED") for line in lines)
    assert mountinfo.below(str(top / "s")) == []
    assert names(top) == set()
    assert lamina("fsck", root=top / "s").returncode == 0
    Path("Dockerfile").write_text("FROM base\nCOPY app /app\nRUN echo ready\n")
    done = lamina("build", "--network", "none", "-t", "app:1", ".", root=top / "s")
    assert done.returncode == 0, done.stderr
    (number,) = [line.partition(b" ")[0] for line in done.stderr.splitlines() if b"COPY app /app" in line]
    assert number + b" CACHED" in done.stderr.splitlines()


def test_a_built_image_runs(top: Path, call: Call) -> None:
    require_root()
    Path("Dockerfile").write_text('FROM base\nRUN echo made > /made\nCMD ["cat", "/made"]\n')
    assert call("build", "--network", "none", "-t", "app:1", ".").code == 0
    assert call("run", "--rm", "--network", "none", "app:1").out == "made\n"
    assert len(manifest_of(store_of(top), "app:1").layers) == 2


def test_a_plain_user_gets_files_of_their_own() -> None:
    with plain_user("59998") as (place, call):
        made(place)
        subprocess.run(["chown", "-R", "59998:59998", place], check=True)
        done = call("build", "-o", "out", "--iidfile", "id", "--load", "-t", "app:1", "c")
        assert done.returncode == 0, done.stderr
        assert (place / "out/app/main.py").stat().st_uid == 59998
        assert (place / "id").stat().st_uid == 59998
        assert (place / "id").read_text()[7:19] == call("images", "-q", "app:1").stdout.decode().strip()


def test_a_cached_build_loads_nothing_that_does_the_work_of_steps(top: Path) -> None:
    Path("Dockerfile").write_text(
        "FROM scratch AS one\nCOPY app /app\nWORKDIR /w\nFROM scratch\nCOPY --from=one /app /a\n"
    )
    words = ("build", "-q", "-t", "app:1", ".")
    assert lamina(*words, root=top / "s").returncode == 0
    modules = loaded(top / "s", *words)
    unneeded = {
        "lamina.build.files.archives",
        "lamina.build.files.copied_items",
        "lamina.build.solving.join_layers",
        "lamina.build.programs.run_program",
        "lamina.build.solving.shared_cache",
        "lamina.edit.publish",
        "lamina.run.sandbox",
        "lamina.transfer.copy",
        "lamina.view.overlay.mount",
        "tempfile",
    }
    assert modules & unneeded == set()
    assert len(modules) < 220  # the journal of events among them


def test_options_for_run_reach_the_program(top: Path, call: Call) -> None:
    require_root()
    Path("Dockerfile").write_text(
        "FROM base\nARG WORD\nRUN cat /etc/hosts; ulimit -n; echo word=$WORD; cat /proc/mounts; cat /proc/net/dev\n"
    )
    (top / "arguments").write_text("# of the build\nWORD=from-file\n")
    said = call(
        *("build", "--network", "none", "--add-host", "db:10.0.0.5", "--ulimit", "nofile=321:654"),
        *("--shm-size", "3m", "--build-arg-file", f"{top}/arguments", "."),
    )
    assert said.code == 0, said
    printed = [line.split(" ", 2)[-1] for line in said.err.splitlines()]
    assert any(line.split() == ["10.0.0.5", "db"] for line in printed)
    assert "321" in printed
    assert "word=from-file" in printed
    assert any("/dev/shm" in line and "size=3072k" in line for line in printed)
    assert not any(" eth0:" in line for line in printed)
    again = call("build", "--network", "none", "--build-arg", "WORD=given", ".")
    assert any(line.endswith(" word=given") for line in again.err.splitlines())


def test_image_options_reach_the_documents(top: Path, call: Call) -> None:
    assert call("build", "--format", "docker", "-t", "app:1", ".").code == 0
    assert manifest_of(store_of(top), "app:1").media_type == "application/vnd.docker.distribution.manifest.v2+json"
    output = "type=image,compression=zstd,compression-level=3"
    assert call("build", "--no-cache", "-o", output, "-t", "app:3", ".").code == 0
    assert manifest_of(store_of(top), "app:3").layers[0].media_type.endswith(".tar+zstd")
    assert call("build", "--no-cache", "-o", "type=image,compression=uncompressed", "-t", "app:2", ".").code == 0
    assert (
        call(
            "build", "--annotation", "index,manifest:a=b", "--platform", "linux/amd64,linux/arm64", "-t", "many", "."
        ).code
        == 0
    )
    (layer,) = manifest_of(store_of(top), "app:2").layers
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar"
    store = store_of(top)
    index = json.loads(store.manifest(store.resolve("many")))
    assert index["annotations"] == {"a": "b"}
    arm = store.stack("many", Platform("linux", "arm64"))
    assert dict(arm.manifest.annotations) == {"a": "b"}
    assert arm.config.architecture == "arm64"
