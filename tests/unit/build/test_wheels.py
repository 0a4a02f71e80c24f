"""Wheels as layers: which ones a lock file asks for, for which Python, and what is in the layer."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.build.steps import WheelStep
from lamina.build.wheels.layer import wheel_items
from lamina.build.wheels.pins import Pin, WheelFile, choose, read_lock
from lamina.build.wheels.python_target import PythonTarget, find_python
from lamina.errors import (
    DigestMismatch,
    InvalidDocument,
    LaminaError,
    LimitExceeded,
    NotFound,
    Unsupported,
    UsageError,
)
from lamina.layer.build_layer import build_layer
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from support import Member, store_with, write_layout

TARGET = PythonTarget(
    (3, 12), "3.12.4", "/usr/local/bin/python3.12", "/usr/local/lib/python3.12/site-packages", "/usr/local/bin",
    "/usr/local", "x86_64", ("glibc", 2, 36),
)  # fmt: skip
FILES = {
    "demo/__init__.py": b"VERSION = 1\n",
    "demo/data/table.bin": bytes(range(256)) * 40,
    "demo-1.0.data/scripts/old-style": b"#!python\nprint('hello')\n",
    "demo-1.0.data/data/share/demo/note": b"note",
    "demo-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
    "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\ndemo = demo:main\n",
}
SITE = "usr/local/lib/python3.12/site-packages"


def make_wheel(files: Mapping[str, bytes] = FILES) -> bytes:
    out = io.BytesIO()
    rows = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, (2024, 5, 6, 7, 8, 10))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o100755 if "scripts" in name else 0o100644) << 16
            archive.writestr(info, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(content)}")
        archive.writestr("demo-1.0.dist-info/RECORD", "\n".join([*rows, "demo-1.0.dist-info/RECORD,,", ""]))
    return out.getvalue()


def step(wheel: bytes, **changes: Any) -> WheelStep:
    values: dict[str, Any] = {
        "platform": Platform("linux", "amd64"),
        "name": "demo",
        "file": "demo-1.0-py3-none-any.whl",
        "url": "https://example.org/demo-1.0-py3-none-any.whl",
        "sha256": hashlib.sha256(wheel).hexdigest(),
        "size": len(wheel),
        "python": TARGET.full_version,
        "executable": TARGET.executable,
        "site": TARGET.site,
        "scripts": TARGET.scripts,
        "data": TARGET.data,
    }
    return WheelStep(**{**values, **changes})


def layer_of(wheel: bytes, **changes: Any) -> bytes:
    out = io.BytesIO()
    with wheel_items(step(wheel, **changes), lambda: io.BytesIO(wheel), limit=1 << 20) as items:
        build_layer(items, out, compression="none")
    return out.getvalue()


def test_the_layer_has_the_files_where_pip_puts_them(tmp_path: Path) -> None:
    wheel = make_wheel()
    (tmp_path / "demo-1.0-py3-none-any.whl").write_bytes(wheel)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with tarfile.open(fileobj=io.BytesIO(layer_of(wheel))) as tar:
        tar.extractall(ours, filter="fully_trusted")
    words = ["--quiet", "--no-deps", "--no-compile", "--no-index", "--ignore-installed", "--root", str(theirs)]
    pip = [sys.executable, "-m", "pip", "install", *words, "--prefix", "/usr/local", "demo-1.0-py3-none-any.whl"]
    subprocess.run(pip, cwd=tmp_path, check=True)
    here = f"usr/local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

    def files(top: Path, site: str) -> dict[str, tuple[int, bytes]]:
        found = {}
        for directory, _, names in os.walk(top):
            for name in names:
                path = Path(directory, name)
                shown = str(path.relative_to(top)).replace(site, SITE)
                if path.name in ("INSTALLER", "RECORD", "direct_url.json", "REQUESTED", "demo", "old-style"):
                    content = b"differs: who installed, and for which Python"
                else:
                    content = path.read_bytes()
                found[shown] = (path.stat().st_mode & 0o777, content)
        return {name: one for name, one in found.items() if not name.endswith(("direct_url.json", "REQUESTED"))}

    assert files(ours, SITE) == files(theirs, here)
    assert (ours / "usr/local/bin/old-style").read_bytes().startswith(b"#!/usr/local/bin/python3.12\n")
    assert (ours / "usr/local/bin/demo").read_bytes().startswith(b"#!/usr/local/bin/python3.12\n")
    record = (ours / SITE / "demo-1.0.dist-info/RECORD").read_text()
    assert "../../../bin/demo,sha256=" in record
    assert "demo-1.0.dist-info/RECORD,,\n" in record


def test_the_layer_is_the_same_bytes_each_time_and_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    first = layer_of(make_wheel())
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert layer_of(make_wheel(), url="https://elsewhere.org/x", below=None) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        member = tar.getmember(f"{SITE}/demo/__init__.py")
        assert (member.mtime, member.uid, member.mode) == (1714979290, 0, 0o644)
        names = tar.getnames()
    assert f"{SITE}/demo" in names
    assert SITE not in names  # the image has it: its attributes are the image's


def test_only_the_bytes_of_the_lock_file_are_taken() -> None:
    wheel = make_wheel()
    with pytest.raises(DigestMismatch, match="has the digest sha256:"):
        layer_of(wheel, sha256="0" * 64)
    with pytest.raises(LimitExceeded, match="more than 100 bytes"):
        layer_of(wheel, size=100)
    bomb = make_wheel({**FILES, "demo/zeros": bytes(2 << 20)})
    with pytest.raises(LimitExceeded, match="its files have more than"):
        layer_of(bomb)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({**FILES, "../../etc/passwd": b"x"}, r"\.\."),
        ({**FILES, "demo-1.0.data/data/../../../etc/passwd": b"x"}, r"\.\."),
        ({**FILES, "demo-1.0.data/unknown/x": b"x"}, "not a valid wheel"),
        ({"demo/__init__.py": b""}, "not a valid wheel"),
        ({**FILES, "other-2.0.dist-info/METADATA": b""}, "not a valid wheel"),
        ({**FILES, "demo-1.0.data/purelib/demo/__init__.py": b"again"}, "two files at"),
        ({**FILES, "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\n../../x = demo:main\n"}, r"\.\."),
    ],
)
def test_hostile_wheels_are_one_clear_error(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(LaminaError, match=message):
        layer_of(make_wheel(files))


def test_the_metadata_of_a_wheel_is_not_read_into_memory_if_it_is_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.build.wheels.layer._MAX_IN_MEMORY", 1000)
    layer_of(make_wheel({**FILES, "demo/large": bytes(1001)}))
    with pytest.raises(LimitExceeded, match=r"demo-1\.0\.dist-info/METADATA' has 1001 bytes, more than 1000"):
        layer_of(make_wheel({**FILES, "demo-1.0.dist-info/METADATA": bytes(1001)}))


def test_a_file_that_is_not_a_zip_is_reported() -> None:
    with pytest.raises(InvalidDocument, match="not a valid wheel"):
        layer_of(b"this is not a zip")


LIBC = b"\0\0GNU C Library (Debian GLIBC 2.36-9+deb12u8) stable release version 2.36.\nCopyright\0"
OFFICIAL: list[Member] = [
    ("usr/local/bin/python3.12", b"elf", {"mode": 0o755}),
    ("usr/local/bin/python3", "-> python3.12"),
    ("lib", "-> usr/lib"),
    ("usr/lib/x86_64-linux-gnu/libc.so.6", LIBC),
]
DEBIAN: list[Member] = [
    ("usr/bin/python3.11", b"elf", {"mode": 0o755}),
    ("usr/bin/python3", "-> python3.11"),
    ("usr/lib/python3/dist-packages/x.py", b""),
    ("lib/x86_64-linux-gnu/libc.so.6", LIBC),
]
VENV: list[Member] = [
    *OFFICIAL,
    ("app/venv/pyvenv.cfg", b"home = /usr/local/bin\n"),
    ("app/venv/bin/python3", "-> /usr/local/bin/python3"),
]
ALPINE: list[Member] = [
    ("usr/bin/python3.12", b"elf", {"mode": 0o755}),
    ("usr/bin/python3", "-> python3.12"),
    ("lib/ld-musl-x86_64.so.1", b"musl libc\0x\0" + b"1.2.5\0 and more"),
]


def stack_of(directory: Path, members: Sequence[Member], env: list[str]) -> Stack:
    config = {"config": {"Env": env}, "architecture": "amd64", "os": "linux"}
    write_layout(directory, "app", [members], config=config)
    return store_with(directory, directory / "store", "app").stack("app", Platform("linux", "amd64"))


@pytest.mark.parametrize(
    ("members", "env", "expected"),
    [
        (OFFICIAL, ["PYTHON_VERSION=3.12.4"], TARGET),
        (
            DEBIAN, [],
            PythonTarget((3, 11), "3.11.0", "/usr/bin/python3.11", "/usr/local/lib/python3.11/dist-packages",
                         "/usr/local/bin", "/usr/local", "x86_64", ("glibc", 2, 36)),
        ),
        (
            VENV, ["PATH=/app/venv/bin:/usr/local/bin"],
            PythonTarget((3, 12), "3.12.0", "/app/venv/bin/python3", "/app/venv/lib/python3.12/site-packages",
                         "/app/venv/bin", "/app/venv", "x86_64", ("glibc", 2, 36)),
        ),
        (
            ALPINE, [],
            PythonTarget((3, 12), "3.12.0", "/usr/bin/python3.12", "/usr/lib/python3.12/site-packages",
                         "/usr/bin", "/usr", "x86_64", ("musl", 1, 2)),
        ),
    ],
    ids=["official", "debian", "venv", "alpine"],
)  # fmt: skip
def test_the_python_of_an_image_is_found(
    tmp_path: Path, members: list[Member], env: list[str], expected: PythonTarget
) -> None:
    assert find_python(stack_of(tmp_path, members, env), Platform("linux", "amd64")) == expected


def test_an_image_without_python_is_said(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, [("bin/sh", b"")], [])
    with pytest.raises(NotFound, match="no python3 on its PATH"):
        find_python(stack, Platform("linux", "amd64"))


def file(name: str, digit: str = "a") -> WheelFile:
    return WheelFile(name, f"https://example.org/{name}", digit * 64)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x-1-py3-none-any.whl", "x-1-cp312-cp312-manylinux_2_17_x86_64.whl"], 1),
        (["x-1-cp312-cp312-manylinux_2_17_x86_64.whl", "x-1-cp312-cp312-manylinux_2_34_x86_64.whl"], 1),
        (["x-1-cp312-cp312-manylinux2014_x86_64.whl", "x-1-cp312-cp312-manylinux_2_39_x86_64.whl"], 0),
        (["x-1-cp312-cp312-musllinux_1_2_x86_64.whl", "x-1-cp39-abi3-manylinux_2_17_x86_64.whl"], 1),
        (["x-1-cp312-cp312-win_amd64.whl", "x-1-py2.py3-none-any.whl", "broken.whl"], 1),
    ],
)
def test_the_wheel_that_fits_best_is_chosen(names: list[str], expected: int) -> None:
    ranks = {tag: rank for rank, tag in enumerate(TARGET.tags())}
    chosen = choose(Pin("x", "1", tuple(map(file, names))), TARGET, ranks)
    assert chosen.name == names[expected]


def test_a_package_without_a_fitting_wheel_is_said() -> None:
    ranks = {tag: rank for rank, tag in enumerate(TARGET.tags())}
    with pytest.raises(NotFound, match=r"x 1 has no wheel for .*: it has only a source"):
        choose(Pin("x", "1", ()), TARGET, ranks)
    with pytest.raises(NotFound, match="its wheels are for others"):
        choose(Pin("x", "1", (file("x-1-cp311-cp311-win32.whl"),)), TARGET, ranks)


UV = b"""
version = 1
[[package]]
name = "app"
version = "0.1"
source = { virtual = "." }
dependencies = [
  { name = "web", extra = ["tls"] },
  { name = "num", version = "1.0", marker = "python_full_version < '3.12'" },
  { name = "num", version = "2.0", marker = "python_full_version >= '3.12'" },
]
[package.dev-dependencies]
dev = [{ name = "testing" }]
[[package]]
name = "web"
version = "3"
source = { registry = "https://pypi.org/simple" }
dependencies = [{ name = "win", marker = "sys_platform == 'win32'" }, { name = "web" }]
wheels = [{ url = "https://example.org/web-3-py3-none-any.whl", hash = "sha256:%(a)s", size = 5 }]
[package.optional-dependencies]
tls = [{ name = "crypto" }]
[[package]]
name = "crypto"
version = "1"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "num"
version = "1.0"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "num"
version = "2.0"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "win"
version = "1"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "testing"
version = "1"
source = { registry = "https://pypi.org/simple" }
""" % {b"a": b"a" * 64}


def pins(data: bytes, name: str, pages: Mapping[str, Any] | None = None, **files: bytes) -> list[Pin]:
    return read_lock(data, name, TARGET, include=lambda path: files[path], page=lambda url: (pages or {})[url])


def test_uv_lock_gives_what_the_project_needs_at_run_time() -> None:
    found = pins(UV, "dir/uv.lock")
    assert [(pin.name, pin.version) for pin in found] == [("crypto", "1"), ("num", "2.0"), ("web", "3")]
    assert found[2].files == (
        WheelFile("web-3-py3-none-any.whl", "https://example.org/web-3-py3-none-any.whl", "a" * 64, 5),
    )


def test_pylock_gives_what_fits() -> None:
    text = f"""
lock-version = "1.0"
[[packages]]
name = "Web_Site"
version = "3"
[[packages.wheels]]
name = "web_site-3-py3-none-any.whl"
url = "https://example.org/w"
hashes = {{ sha256 = "{"b" * 64}" }}
[[packages]]
name = "win"
version = "1"
marker = "sys_platform == 'win32'"
"""
    found = pins(text.encode(), "pylock.toml")
    assert found == [
        Pin("web-site", "3", (WheelFile("web_site-3-py3-none-any.whl", "https://example.org/w", "b" * 64),))
    ]


PAGE = {
    "files": [
        {"filename": "web-3.0-py3-none-any.whl", "url": "../../files/web.whl", "hashes": {"sha256": "a" * 64}},
        {"filename": "web-3.0-cp312-cp312-linux_x86_64.whl", "url": "x", "hashes": {"sha256": "b" * 64}, "size": 7},
        {"filename": "web-2.0-py3-none-any.whl", "url": "x", "hashes": {"sha256": "c" * 64}},
        {"filename": "web-3.0.tar.gz", "url": "x", "hashes": {"sha256": "d" * 64}},
    ]
}


def test_requirements_are_looked_up_in_the_index() -> None:
    text = (
        b"# made by a tool\n--index-url https://index.example/simple\n-r more.txt\n"
        b"Web[tls]==3 ; python_version >= '3' \\\n    --hash=sha256:" + b"a" * 64 + b" \\\n    # via app\n"
        b"win==1 ; sys_platform == 'win32'  # not here\n"
    )
    pages = {"https://index.example/simple/web/": PAGE, "https://pypi.org/simple/more/": {"files": []}}
    pages["https://index.example/simple/more/"] = {"files": []}
    found = pins(text, "requirements.txt", pages, **{"more.txt": b"more==1.5\n"})
    assert found == [
        Pin("more", "1.5", ()),
        Pin("web", "3", (WheelFile("web-3.0-py3-none-any.whl", "https://index.example/files/web.whl", "a" * 64),)),
    ]


@pytest.mark.parametrize(
    ("data", "name", "kind", "message"),
    [
        (b"web>=3\n", "requirements.txt", UsageError, "requirements.txt:1: web has no exact version"),
        (b"\n==\n", "requirements.txt", UsageError, "requirements.txt:2: '==' is not a requirement"),
        (b"-e .\n", "requirements.txt", Unsupported, "requirements.txt:1: the option '-e'"),
        (b"web @ https://x.org/web-1.tar.gz\n", "requirements.txt", Unsupported, "web is not a wheel"),
        (b"web @ https://x.org/web-1-py3-none-any.whl\n", "requirements.txt", UsageError, "has no sha256"),
        (b"web==1 --hash=md5:abc\n", "requirements.txt", Unsupported, "only sha256"),
        (b"-r requirements.txt\n", "requirements.txt", UsageError, "include each other"),
        (b"= [", "uv.lock", UsageError, "uv.lock is not TOML"),
        (b"\xff", "uv.lock", UsageError, "not UTF-8: byte 0"),
        (b"version = 1", "uv.lock", UsageError, "names no project"),
        (b"package = 3", "uv.lock", UsageError, "package should be a list of tables"),
        (UV.replace(b"a" * 64, b"a" * 63), "uv.lock", UsageError, "no address or no sha256"),
        (UV.replace(b"python_full_version < '3.12'", b"nothing < 3"), "uv.lock", UsageError, "can't be evaluated"),
        (UV.replace(b'name = "win"\nversion', b'name = "w"\nversion'), "uv.lock", None, ""),
        (UV.replace(b'name = "crypto"\nversion', b'name = "c"\nversion'), "uv.lock", UsageError, "web needs crypto"),
        (b"", "Pipfile", Unsupported, "is not a lock file"),
        (b"[" * 100_000, "uv.lock", UsageError, "not TOML"),
    ],
)
def test_bad_lock_files_are_one_clear_error(data: bytes, name: str, kind: Any, message: str) -> None:
    files = {"requirements.txt": data}
    if kind is None:
        assert pins(data, name)
        return
    with pytest.raises(kind, match=message):
        pins(data, name, **files)
