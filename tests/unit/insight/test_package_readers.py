"""Readers of package databases: what they say, and that nothing from outside breaks them."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from lamina.errors import InvalidContent
from lamina.insight.package_binaries import go_build, program, rpm_database, rpm_header, sections
from lamina.insight.package_programs import MAX_READ, is_meant, programs
from lamina.insight.package_texts import (
    Named,
    apk_installed,
    dpkg_status,
    go_modules,
    named,
    npm_package,
    os_release,
    python_metadata,
)
from lamina.insight.packages import purl_of
from support import rounds

STATUS = b"""Package: libc6
Status: install ok installed
Source: glibc (2.36-9)
Version: 2.36-9+deb12u4
Architecture: amd64
Description: the C library
 Version: 99 of a text that goes on

Package: gone
Status: deinstall ok config-files
Version: 1

Package: half
Status: install ok unpacked
Version: 2:1.0
Architecture: all
Version: 3

Package: evil\x1b[31m
Version: 1
"""


def test_dpkg_tells_what_has_files() -> None:
    assert list(dpkg_status(STATUS)) == [
        Named("deb", "libc6", "2.36-9+deb12u4", "amd64", "glibc"),
        Named("deb", "half", "2:1.0", "all"),
    ]
    assert list(dpkg_status(b"Package: base-files\nVersion: 12\r\n")) == [Named("deb", "base-files", "12")]


def test_apk_python_npm_and_os_release() -> None:
    apk = b"C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\no:musl\nF:lib\nR:ld.so\n\nP:zlib\nV:1.3-r0\nA:x86_64\n"
    assert [(one.name, one.version, one.source) for one in apk_installed(apk)] == [
        ("musl", "1.2.4-r2", "musl"),
        ("zlib", "1.3-r0", ""),
    ]
    metadata = b"Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.0\n\nName: not this\nVersion: 2\n"
    assert list(python_metadata(metadata)) == [Named("pypi", "Foo_Bar", "1.0")]
    assert list(npm_package(b'{"name": "@a/b", "version": "1.0.0"}')) == [Named("npm", "@a/b", "1.0.0")]
    for bad in (b"", b"[]", b'{"name": 3}', b'{"name": "x"}', b"[" * 100_000, b"\xff", b'{"version":' + b"9" * 9999):
        assert list(npm_package(bad)) == []
    assert os_release(b'ID=debian\nVERSION_ID="12"\n# x\nbad line\n') == {"ID": "debian", "VERSION_ID": "12"}


def header(**fields: object) -> bytes:
    tags = {"name": 1000, "version": 1001, "release": 1002, "epoch": 1003, "arch": 1022, "source": 1044}
    rows, store = [], b""
    for key, value in fields.items():
        if isinstance(value, int):
            rows.append(struct.pack(">IIII", tags[key], 4, len(store), 1))
            store += struct.pack(">i", value)
        else:
            rows.append(struct.pack(">IIII", tags[key], 6, len(store), 1))
            store += str(value).encode() + b"\0"
    return struct.pack(">II", len(rows), len(store)) + b"".join(rows) + store


def database(path: Path, blobs: list[bytes], *, schema: str = "") -> bytes:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(schema or "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
        if not schema:
            connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,) for blob in blobs])
    connection.close()
    return path.read_bytes()


def test_rpm_s_database_is_read_though_it_has_a_log(tmp_path: Path) -> None:
    blobs = [
        header(name="bash", version="5.2", release="1.fc40", arch="x86_64", source="bash-5.2-1.fc40.src.rpm"),
        header(name="dbus", epoch=1, version="1.14", release="3", arch="x86_64"),
        header(name="gpg-pubkey", version="a15b79cc", release="63d04c2c"),
        b"short",
        header(name="x", version="1", release="1")[:-2],
    ]
    data = database(tmp_path / "rpmdb.sqlite", blobs)
    assert data[18:20] == b"\2\2"  # a write-ahead log
    assert list(rpm_database(data)) == [
        Named("rpm", "bash", "5.2-1.fc40", "x86_64", "bash-5.2-1.fc40.src.rpm"),
        Named("rpm", "dbus", "1:1.14-3", "x86_64"),
    ]


def test_hostile_databases_are_refused(tmp_path: Path) -> None:
    endless = "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob + 1 FROM n) SELECT blob FROM n WHERE blob < 0"  # noqa: E501
    whole = database(tmp_path / "whole", [header(name="a", version="1", release="1")] * 200)
    for data in (
        b"",
        b"\0\x06\x15\x61" * 1000,
        database(tmp_path / "endless", [], schema=endless),
        database(tmp_path / "other", [], schema="CREATE TABLE Other (x)"),
        whole[:4096] + b"\xff" * (len(whole) - 4096),
    ):
        with pytest.raises(InvalidContent):
            list(rpm_database(data))


def elf(parts: dict[bytes, bytes], *, wide: bool = True, order: str = "<") -> bytes:
    names = b"\0" + b"".join(name + b"\0" for name in parts) + b".shstrtab\0"
    head = 64 if wide else 52
    body, rows = b"", [(0, 0, 0)]
    for name, data in [*parts.items(), (b".shstrtab", names)]:
        rows.append((names.index(name + b"\0"), head + len(body), len(data)))
        body += data
    row = struct.Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
    table = b"".join(row.pack(at, 1, 0, 0, start, size, 0, 0, 0, 0) for at, start, size in rows)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    where = "QQQ" if wide else "III"
    numbers = (2, 62, 1, 0, 0, head + len(body), 0, head, 0, 0, row.size, len(rows), len(rows) - 1)
    rest = struct.pack(f"{order}HHI{where}IHHHHHH", *numbers)
    return ident + rest + body + table


def varint(text: bytes) -> bytes:
    out, length = b"", len(text)
    while length >= 0x80:
        out += bytes([length & 0x7F | 0x80])
        length >>= 7
    return out + bytes([length]) + text


CRATES = json.dumps(
    {
        "packages": [
            {"name": "adler", "version": "1.0.2", "source": "registry"},
            {"name": "cc", "version": "1.0", "kind": "build"},
            {"name": "app", "version": "0.1.0", "root": True},
        ]
    }
).encode()
MODULES = (
    b"0" * 16
    + b"path\texample.com/cmd\nmod\texample.com/cmd\tv1.2.0\th1:x=\ndep\tgolang.org/x/sys\tv0.1.0\th1:y=\n"
    + b"dep\told.example/a\tv1.0.0\n=>\tnew.example/A\tv2.0.0\th1:z=\n"
    + b"1" * 16
)
BUILDINFO = b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16) + varint(b"go1.22") + varint(MODULES)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_programs_say_what_they_were_made_of(wide: bool, order: str) -> None:
    data = elf(
        {b".text": b"x" * 100, b".dep-v0": zlib.compress(CRATES), b".go.buildinfo": BUILDINFO}, wide=wide, order=order
    )
    assert [(one.kind, one.name, one.version) for one in program(lambda at, size: data[at : at + size])] == [
        ("cargo", "adler", "1.0.2"),
        ("cargo", "app", "0.1.0"),
        ("golang", "stdlib", "go1.22"),
        ("golang", "example.com/cmd", "v1.2.0"),
        ("golang", "golang.org/x/sys", "v0.1.0"),
        ("golang", "new.example/A", "v2.0.0"),
    ]
    for cut in range(0, len(data), 7):
        short = data[:cut]
        list(program(lambda at, size: short[at : at + size]))  # noqa: B023


def test_inflated_crates_are_bounded() -> None:
    data = elf({b".dep-v0": zlib.compress(b" " * (64 << 20))})
    assert list(program(lambda at, size: data[at : at + size])) == []


def test_sections_of_one_name_are_read_once() -> None:
    """Thousands of them may stand for the same eight MiB."""
    row = struct.Struct("<IIQQQQIIQQ")
    names = b"\0.dep-v0\0"
    rows = [(0, 64, len(names))] + [(1, 64, 1 << 20)] * 4000
    table = b"".join(row.pack(at, 1, 0, 0, start, size, 0, 0, 0, 0) for at, start, size in rows)
    numbers = (2, 62, 1, 0, 0, 64 + len(names), 0, 64, 0, 0, row.size, len(rows), 0)
    data = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", *numbers) + names + table
    asked: list[int] = []

    def read(at: int, size: int) -> bytes:
        asked.append(at)
        return data[at : at + size]

    assert list(sections(read, (b".dep-v0",))) == [b".dep-v0"]
    assert len(asked) == 4


@settings(max_examples=rounds(400), deadline=None)
@given(st.binary(max_size=300), st.integers(0, 120), st.binary(max_size=8))
def test_readers_take_anything(noise: bytes, at: int, change: bytes) -> None:
    for reader in (dpkg_status, apk_installed, python_metadata, npm_package):
        list(reader(noise))
        list(reader(STATUS[:at] + noise))
    rpm_header(noise)
    rpm_header(struct.pack(">II", 2, 8) + noise)
    list(go_modules(go_build(BUILDINFO[:at] + change + BUILDINFO[at + len(change) :])[1]))
    whole = elf({b".dep-v0": zlib.compress(CRATES), b".go.buildinfo": BUILDINFO})
    broken = whole[:at] + change + whole[at + len(change) :]
    list(program(lambda start, size: broken[start : start + size]))
    assert sections(lambda start, size: noise[start : start + size], (b".x",)) == {}


@settings(max_examples=rounds(200), deadline=None)
@given(
    st.sampled_from(["deb", "apk", "rpm", "pypi", "npm", "cargo", "golang"]),
    st.text(st.sampled_from("abZ09._-+~%é"), min_size=1, max_size=12),
    st.text(st.sampled_from("0123.:+~-a%"), min_size=1, max_size=10),
)
def test_package_urls_are_those_of_the_library(kind: str, name: str, version: str) -> None:
    one = named(kind, name, version, "amd64" if kind in ("deb", "apk", "rpm") else "")
    if one is None or (kind == "rpm" and ":" in version):  # an epoch is told apart from the version
        return
    written = purl_of(one, ("debian", "12"))
    read = PackageURL.from_string(written)
    assert read.to_string().lower() == written.lower()
    assert read.type == kind
    assert read.version == version
    assert read.name.lower() == name.lower().replace("_", "-" if kind == "pypi" else "_")


def test_package_urls_by_example() -> None:
    for one, url in (
        (Named("deb", "libc6", "1:2.36", "amd64"), "pkg:deb/debian/libc6@1:2.36?arch=amd64&distro=debian-12"),
        (Named("npm", "@babel/core", "7.0.0"), "pkg:npm/%40babel/core@7.0.0"),
        (Named("pypi", "Foo_Bar", "1.0"), "pkg:pypi/foo-bar@1.0"),
        (Named("golang", "stdlib", "go1.22.3"), "pkg:golang/stdlib@1.22.3"),
        (Named("binary", "node", "18.20.4"), "pkg:generic/node@18.20.4"),
        (Named("golang", "golang.org/x/sys", "v0.1.0"), "pkg:golang/golang.org/x/sys@v0.1.0"),
        (
            Named("rpm", "dbus", "1:1.14-3", "x86_64"),
            "pkg:rpm/debian/dbus@1.14-3?arch=x86_64&distro=debian-12&epoch=1",
        ),
    ):
        assert purl_of(one, ("debian", "12")) == url


def told(name: str, data: bytes) -> list[tuple[str, str, str]]:
    stream = io.BytesIO(data)
    return [(one.kind, one.name, one.version) for one in programs(name.encode(), stream.read)]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("node", b"https://x/release/v18.20.4/node-v18.20.4-headers.tar.gz", ("node", "18.20.4")),
        ("libnode.so.108", b"node.js/v18.20.4", ("node", "18.20.4")),
        ("openssl", b"OpenSSL 3.0.22 2 Jun 2026", ("openssl", "3.0.22")),
        ("libcrypto.so.1.1", b"OpenSSL 1.1.1w  11 Sep 2023", ("openssl", "1.1.1w")),
        ("libssl-3.so", b"OpenSSL 3.2.0-beta1 26 Oct 2023", ("openssl", "3.2.0-beta1")),
        ("busybox", b"BusyBox v1.36.1 (2024-01-01)", ("busybox", "1.36.1")),
        ("bash", b"@(#)Bash version 5.2.15(1) release", ("bash", "5.2.15")),
        ("nginx", b"nginx version: nginx/1.25.3\0", ("nginx", "1.25.3")),
        ("php8.2", b"X-Powered-By: PHP/8.2.10\0", ("php", "8.2.10")),
        ("postgres", b"\0PostgreSQL 15.20 (Debian)", ("postgresql", "15.20")),
        ("python3.12", b"\x003.45.1\x003.12.3\x00", ("python", "3.12.3")),
        ("libpython3.13.so.1.0", b"\x003.13.0rc2\x00", ("python", "3.13.0rc2")),
        ("python3", b"\x003.45.1\x003.12.3\x00/lib/python3.12\x00", ("python", "3.12.3")),
    ],
)
def test_programs_tell_their_own_version(name: str, text: bytes, found: tuple[str, str]) -> None:
    assert is_meant(name.encode())
    expected = [("binary", *found)]
    assert told(name, b"\x7fELF" + bytes(100) + text + bytes(100)) == expected
    for start in range((1 << 20) - len(text) - 2, (1 << 20) + 2, 3):  # across the border of two pieces
        assert told(name, b"\x7fELF".ljust(start, b"\0") + text + b"\0") == expected
    assert told(name, bytes(100) + text) == []  # no program
    assert told(f"lib-{name}-x", b"\x7fELF" + text) == []


def test_what_tells_no_version_is_no_program() -> None:
    assert told("python3.12", b"\x7fELF\x003.11.2\x00") == []
    assert told("openssl", b"\x7fELFOpenSSL 3.0.22") == []  # also what a library says of what it wants
    assert not is_meant(b"nodemon")
    assert not is_meant(b"python-config")


def test_programs_are_read_in_pieces_and_not_for_ever() -> None:
    asked: list[int] = []

    def read(size: int) -> bytes:
        asked.append(size)
        return b"\x7fELF" + bytes(size - 4)

    assert list(programs(b"node", read)) == []
    assert max(asked) <= 1 << 20
    assert sum(asked) == MAX_READ
