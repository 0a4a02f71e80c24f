"""Readers of package databases: their results, and hostile input."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from lamina.errors import InvalidContent
from lamina.insight.package_binaries import _rpm_paths, go_build, program, rpm_database, rpm_header, sections
from lamina.insight.package_programs import MAX_READ, is_meant, programs
from lamina.insight.package_texts import (
    NamedPackage,
    apk_files,
    apk_installed,
    composer_installed,
    dpkg_list,
    dpkg_status,
    dpkg_sums,
    erlang_release,
    gem_specification,
    go_modules,
    named_package,
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


def test_dpkg_shows_which_packages_have_files() -> None:
    assert list(dpkg_status(STATUS)) == [
        NamedPackage("deb", "libc6", "2.36-9+deb12u4", "amd64", "glibc"),
        NamedPackage("deb", "half", "2:1.0", "all"),
    ]
    assert list(dpkg_status(b"Package: base-files\nVersion: 12\r\n")) == [NamedPackage("deb", "base-files", "12")]


def test_apk_python_npm_and_os_release() -> None:
    apk = b"C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\no:musl\nF:lib\nR:ld.so\n\nP:zlib\nV:1.3-r0\nA:x86_64\n"
    assert [(one.name, one.version, one.source) for one in apk_installed(apk)] == [
        ("musl", "1.2.4-r2", "musl"),
        ("zlib", "1.3-r0", ""),
    ]
    metadata = b"Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.0\n\nName: not this\nVersion: 2\n"
    assert list(python_metadata(metadata)) == [NamedPackage("pypi", "Foo_Bar", "1.0")]
    assert list(npm_package(b'{"name": "@a/b", "version": "1.0.0"}')) == [NamedPackage("npm", "@a/b", "1.0.0")]
    for bad in (b"", b"[]", b'{"name": 3}', b'{"name": "x"}', b"[" * 100_000, b"\xff", b'{"version":' + b"9" * 9999):
        assert list(npm_package(bad)) == []
    assert os_release(b'ID=debian\nVERSION_ID="12"\n# x\nbad line\n') == {"ID": "debian", "VERSION_ID": "12"}


GEMSPEC = b"""# -*- encoding: utf-8 -*-
# stub: rake 13.0.6 ruby lib

Gem::Specification.new do |s|
  s.name = "rake".freeze
  s.version = "13.0.6"
  s.required_ruby_version = Gem::Requirement.new(">= 2.2".freeze)
  s.metadata = { "name" => "other" } if s.respond_to? :metadata=
  s.rubygems_version = "3.3.7".freeze
end
"""


def test_gems_and_erlang() -> None:
    assert list(gem_specification(GEMSPEC)) == [NamedPackage("gem", "rake", "13.0.6")]
    assert list(gem_specification(GEMSPEC.replace(b"s.version = ", b"s.version = Rake::VERSION #"))) == []
    assert list(erlang_release(b"25.2.3\n")) == [NamedPackage("binary", "erlang", "25.2.3")]
    assert list(erlang_release(b"27.0-rc1")) == [NamedPackage("binary", "erlang", "27.0-rc1")]
    for bad in (b"", b"25.2.3**\n", b"latest", b"25\n26"):
        assert list(erlang_release(bad)) == []


def test_composer_lists_what_it_installed() -> None:
    both = b'[{"name": "Asm89/stack-cors", "version": "1.3.0"}, {"name": "behat/mink", "version": "v1.8.1"}]'
    expected = [
        NamedPackage("composer", "Asm89/stack-cors", "1.3.0"),
        NamedPackage("composer", "behat/mink", "v1.8.1"),
    ]
    assert list(composer_installed(both)) == expected  # composer 1
    assert list(composer_installed(b'{"packages": ' + both + b', "dev": true}')) == expected
    assert purl_of(expected[0]) == "pkg:composer/asm89/stack-cors@1.3.0"
    for bad in (b"", b"{}", b"3", b'[3, {"name": "x"}]', b'{"packages": 3}', b"[" * 100_000):
        assert list(composer_installed(bad)) == []


def test_package_managers_know_the_files_of_their_packages() -> None:
    assert dpkg_list(b"/.\n/usr\n/usr/bin/a b\n") == {b".", b"usr", b"usr/bin/a b"}
    assert dpkg_sums(b"d41d8cd98f00b204e9800998ecf8427e  usr/bin/a b\nbad\n") == {b"usr/bin/a b", b""}
    installed = b"P:x\nF:\nR:top\nF:usr/bin\nM:0:0:1777\nR:x\nR:y\n\nP:z\nF:usr/lib\nR:x\n"
    assert apk_files(installed, {b"top", b"usr/bin/y", b"usr/lib/y", b"y"}) == {b"top", b"usr/bin/y"}


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
        NamedPackage("rpm", "bash", "5.2-1.fc40", "x86_64", "bash-5.2-1.fc40.src.rpm"),
        NamedPackage("rpm", "dbus", "1:1.14-3", "x86_64"),
    ]


def computed(path: Path) -> bytes:
    """A database that claims a column larger than the file."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE Packages (x, blob AS (zeroblob(900000000)))")
        connection.execute("INSERT INTO Packages (x) VALUES (1)")
    connection.close()
    return path.read_bytes()


def sharing(path: Path) -> bytes:
    """A database in which all packages share the same pages."""
    data = database(path, [bytes([number]) * 57_772 for number in range(1, 6)])
    # a value that does not fit beside the key is on an overflow page, whose number follows its first bytes
    for number in range(1, 6):
        start = re.search(b"%c{20,}" % number, data)
        assert start is not None
        if number == 1:
            page = data[start.end() : start.end() + 4]
        data = data[: start.end()] + page + data[start.end() + 4 :]
    pages = 20  # the table's and the first package's: the others need none
    data = data[:28] + pages.to_bytes(4, "big") + data[32 : pages * 4096]
    with sqlite3.connect(":memory:") as connection:
        connection.deserialize(data[:18] + b"\1\1" + data[20:])
        assert [len(blob) for (blob,) in connection.execute("SELECT blob FROM Packages")] == [57_772] * 5
    connection.close()
    return data


def test_an_rpm_package_that_claims_more_files_than_it_has_is_skipped() -> None:
    """A list of empty names costs a hostile database nothing."""
    rows = [(1116, 4, 0, 1 << 30), (1117, 8, 0, 1 << 30), (1118, 8, 0, 1 << 30)]
    size = 1 << 23
    blob = struct.pack(">II", len(rows), size) + b"".join(struct.pack(">IIII", *row) for row in rows) + bytes(size)
    tracemalloc.start()
    try:
        assert list(_rpm_paths(blob, {b"x"})) == []
        assert tracemalloc.get_traced_memory()[1] < 3 * size
    finally:
        tracemalloc.stop()


def test_hostile_databases_are_refused(tmp_path: Path) -> None:
    endless = "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob + 1 FROM n) SELECT blob FROM n WHERE blob < 0"  # noqa: E501
    whole = database(tmp_path / "whole", [header(name="a", version="1", release="1")] * 200)
    with pytest.raises(InvalidContent, match="larger than the database"):
        list(rpm_database(sharing(tmp_path / "sharing")))
    for data in (
        b"",
        b"\0\x06\x15\x61" * 1000,
        database(tmp_path / "endless", [], schema=endless),
        database(tmp_path / "other", [], schema="CREATE TABLE Other (x)"),
        database(tmp_path / "made up", [], schema="CREATE VIEW Packages AS SELECT zeroblob(900000000) AS blob"),
        computed(tmp_path / "computed"),
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
def test_modules_compiled_into_programs_are_found(wide: bool, order: str) -> None:
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


def test_the_go_command_is_listed_as_a_program() -> None:
    lines = b"0" * 16 + b"path\tcmd/go\nbuild\t-compiler=gc\n" + b"1" * 16
    info = b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16) + varint(b"go1.22.3") + varint(lines)
    data = elf({b".go.buildinfo": info})
    assert list(program(lambda at, size: data[at : at + size])) == [
        NamedPackage("golang", "stdlib", "go1.22.3"),
        NamedPackage("binary", "go", "1.22.3"),
    ]


def test_inflated_crates_are_bounded() -> None:
    data = elf({b".dep-v0": zlib.compress(b" " * (64 << 20))})
    assert list(program(lambda at, size: data[at : at + size])) == []


def test_sections_of_one_name_are_read_once() -> None:
    """Thousands of sections may share the same eight MiB."""
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
def test_package_readers_accept_any_bytes(noise: bytes, at: int, change: bytes) -> None:
    for reader in (
        dpkg_status,
        apk_installed,
        python_metadata,
        npm_package,
        gem_specification,
        erlang_release,
        composer_installed,
    ):
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
    st.sampled_from(["deb", "apk", "rpm", "pypi", "npm", "gem", "composer", "cargo", "golang"]),
    st.text(st.sampled_from("abZ09._-+~%é"), min_size=1, max_size=12),
    st.text(st.sampled_from("0123.:+~-a%"), min_size=1, max_size=10),
)
def test_package_urls_are_those_of_the_library(kind: str, name: str, version: str) -> None:
    one = named_package(kind, name, version, "amd64" if kind in ("deb", "apk", "rpm") else "")
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
        (NamedPackage("deb", "libc6", "1:2.36", "amd64"), "pkg:deb/debian/libc6@1:2.36?arch=amd64&distro=debian-12"),
        (NamedPackage("npm", "@babel/core", "7.0.0"), "pkg:npm/%40babel/core@7.0.0"),
        (NamedPackage("pypi", "Foo_Bar", "1.0"), "pkg:pypi/foo-bar@1.0"),
        (NamedPackage("golang", "stdlib", "go1.22.3"), "pkg:golang/stdlib@1.22.3"),
        (NamedPackage("binary", "node", "18.20.4"), "pkg:generic/node@18.20.4"),
        (NamedPackage("binary", "openjdk", "17.0.21+2"), "pkg:generic/openjdk@17.0.21%2B2"),
        (NamedPackage("gem", "rake", "13.0.6"), "pkg:gem/rake@13.0.6"),
        (NamedPackage("maven", "org.slf4j:slf4j-api", "1.7.32"), "pkg:maven/org.slf4j/slf4j-api@1.7.32"),
        (NamedPackage("golang", "example.com/cmd", "(devel)"), "pkg:golang/example.com/cmd"),
        (NamedPackage("golang", "golang.org/x/sys", "v0.1.0"), "pkg:golang/golang.org/x/sys@v0.1.0"),
        (
            NamedPackage("rpm", "dbus", "1:1.14-3", "x86_64"),
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
        ("gzip", b"\0BusyBox v1.37.0 (2024-01-01)\0001.0\0", ("busybox", "1.37.0")),  # a copy, under an applet's name
        ("nginx", b"nginx version: nginx/1.25.3\n\0", ("nginx", "1.25.3")),
        ("nginx", b"nginx version: openresty/1.21.4.3\n\0", ("openresty", "1.21.4.3")),
        ("httpd", b"mailto:\0Apache/2.4.54\0 Server at", ("httpd", "2.4.54")),
        ("php8.2", b"X-Powered-By: PHP/8.2.10\0", ("php", "8.2.10")),
        ("php-fpm", b"X-Powered-By: PHP/8.3.1\0", ("php", "8.3.1")),
        ("php-fpm8.2", b"X-Powered-By: PHP/8.2.10\0", ("php", "8.2.10")),
        ("libphp.so", b"X-Powered-By: PHP/8.2.1\0", ("php", "8.2.1")),
        (
            "postgres",
            b"\0PostgreSQL 15.20 (Debian 15.20-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc",
            ("postgresql", "15.20"),
        ),
        ("postgres", b"?PostgreSQL 9.5alpha1 on x86_64-unknown-linux-gnu, compiled by ", ("postgresql", "9.5alpha1")),
        ("psql", b"\0PostgreSQL 17.2 on aarch64-unknown-linux-musl, compiled by gcc", ("postgresql", "17.2")),
        ("redis-server", b"A7.0.151790282056000000000\0%llx", ("redis", "7.0.15")),  # no host: two numbers touch
        (
            "redis-server",
            b"]%lld\0004.0.11841ce7054bd9-1542359302000000000\0",
            ("redis", "4.0.11"),
        ),  # a host of digits
        ("redis-server", b"X@7.2.3buildkitsandbox-1703068688000000000\0", ("redis", "7.2.3")),
        (
            "redis-sentinel",
            b"\0006.2.14912196-d8565-1701469167040305114\0x\0006.2.14\0c11-builtin\0",
            ("redis", "6.2.14"),
        ),
        ("redis-check-rdb", b"Server started, Redis version 2.8.23\0", ("redis", "2.8.23")),
        ("valkey-server", b"\0valkey9.0.0buildkitsandbox-1764887574000000000\0", ("valkey", "9.0.0")),
        ("ruby", b"\0ruby 3.1.2p20 (2022-04-12 revision 4491bb740a) [x86_64-linux-gnu]\0", ("ruby", "3.1.2")),
        ("libruby.so.3.4", b"\0ruby 3.4.0preview1 (2024-05-16 master 9d69619623)", ("ruby", "3.4.0preview1")),
        ("perl", b"RAND_SEED\0v5.36.0\0panic: sysconf", ("perl", "5.36.0")),
        ("perl5.20.0", b"/usr/local/lib/perl5/5.20.0\0-e\0", ("perl", "5.20.0")),
        ("haproxy", b" version 2.6.12-1+deb12u4, released 2026/10/17\0", ("haproxy", "2.6.12")),
        ("haproxy", b"HA-Proxy version 1.5.14 2015/07/02\0", ("haproxy", "1.5.14")),
        ("haproxy", b"\0003.1-dev0-1eb0f22\0\0\0HAProxy version follows\0", ("haproxy", "3.1-dev0")),
        ("memcached", b"\0memcached 1.6.18\0memcached 1.6.18\n\0", ("memcached", "1.6.18")),
        ("mariadbd", b"-0+deb12u1\00010.11.19-MariaDB\0x86_64", ("mariadb", "10.11.19")),
        ("mysql", b"\00010.6.15-MariaDB\0readline", ("mariadb", "10.6.15")),
        ("mongod", b"outputConfig\0006.0.27\0tcmalloc\0", ("mongodb", "6.0.27")),
        (
            "libjvm.so",
            b"\0OpenJDK 64-Bit Server VM (25.392-b08) for linux-amd64 JRE (1.8.0_392-b08), built on",
            ("openjdk", "1.8.0_392-b08"),
        ),
        ("java", b"\0openjdk\0java\0000.0\00017.0.21.1+2-1-deb12u1-Debian\0-J-ms8m\0", ("openjdk", "17.0.21.1+2")),
        ("java", b"0.0\0\00011.0.22+7\0\0\0openjdk\0java\0-J-ms8m", ("openjdk", "11.0.22+7")),
        (
            "libstd-f6f9eec1635e636a.so",
            b"LLVM (rustc version 1.97.0-nightly (e50a 2026-05-19))",
            ("rust", "1.97.0-nightly"),
        ),
        ("curl", b"\0curl 7.88.1 (x86_64-pc-linux-gnu) %s\n\0", ("curl", "7.88.1")),
        ("libcurl.so.4.8.0", b"\0libcurl/7.88.1\0zlib/%s", ("curl", "7.88.1")),
        ("deno", b"Exporter-Deno/0.82.0grpc-2.9.8+fe7ed01Deno/2.9.8Deno/2.9.8+fe7ed01", ("deno", "2.9.8")),
        ("dart", b'\0003.5.2 (stable) (Wed Aug 28 10:01:20 2024 +0000) on "linux_x64"\0', ("dart", "3.5.2")),
        ("fluent-bit", b"\0002.2.1\0\0\0Fluent Bit v%s\n\0", ("fluent-bit", "2.2.1")),
        ("ffmpeg", b"\0%s version 5.1.9-0+deb12u1\0%sbuilt with", ("ffmpeg", "5.1.9")),
        ("libavcodec.so.59.37.100", b"\0FFmpeg version 5.1.9-0+deb12u1\0", ("ffmpeg", "5.1.9")),
        ("lighttpd", b"\0lighttpd/1.4.69\0server", ("lighttpd", "1.4.69")),
        ("proftpd", b"\0ProFTPD Version 1.3.8b\0LANG", ("proftpd", "1.3.8b")),
        ("libkrb5.so.3.3", b"\0KRB5_BRAND: krb5-1.20.1-final 1.20.1 20221111\0", ("krb5", "1.20.1")),
        ("ldapsearch", b"@(#) $OpenLDAP: ldapsearch 2.5.13+dfsg-5 (Feb  8 2023", ("openldap", "2.5.13")),
        ("getopt", b"\0util-linux 2.38.1\0", ("util-linux", "2.38.1")),
        ("xz", b"\0xz (XZ Utils) 5.4.1\0", ("xz", "5.4.1")),
        (
            "x86_64-linux-gnu-gcc-12",
            b"\00012.2.0\0(Debian 12.2.0-14+deb12u1) \0gcc version %s %s\n",
            ("gcc", "12.2.0"),
        ),
        ("openssl", b"OpenSSL 1.1.1 (compatible; AWS-LC 1.69.0)\0", ("aws-lc", "1.69.0")),
        ("zstd", b"\0v1.5.4\0Zstandard CLI\0", ("zstd", "1.5.4")),
        ("python3.12", b"\x003.45.1\x003.12.3\x00", ("python", "3.12.3")),
        ("libpython3.13.so.1.0", b"\x003.13.0rc2\x00", ("python", "3.13.0rc2")),
        ("python3", b"\x003.45.1\x003.12.3\x00/lib/python3.12\x00", ("python", "3.12.3")),
    ],
)
def test_programs_tell_their_own_version(
    name: str, text: bytes, found: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_meant(name.encode())
    expected = [("binary", *found)]
    assert told(name, b"\x7fELF" + bytes(100) + text + bytes(100)) == expected
    assert told(name, bytes(100) + text) == []  # no program
    assert told(f"lib-{name}-x", b"\x7fELF" + text) == []
    monkeypatch.setattr("lamina.insight.package_programs._PIECE", 2048)
    for start in range(2048 - len(text) - 2, 2048 + 2):  # across the border of two pieces
        assert told(name, b"\x7fELF".ljust(start, b"\0") + text + b"\0") == expected


def test_programs_without_a_version_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told("python3.12", b"\x7fELF\x003.11.2\x00") == []
    assert told("openssl", b"\x7fELFOpenSSL 3.0.22") == []  # also what a library says of what it wants
    assert told("jq", b"\x7fELF\0001.6\0...\0001.6\0") == [("binary", "jq", "1.6")]
    assert told("jq", b"\x7fELF\0001.6\0" + bytes(3 << 20) + b"\0005.4.1\0") == []  # whose is which?
    assert told("mysql", b"\x7fELF\0008.0.34\0mysql_real_escape_string\0") == []
    assert told("gcc", b"\x7fELF\0GCC: (GNU) 12.3.0\0") == []  # the compiler that made it
    valkey = b"\0valkey9.0.0buildkitsandbox-1764887574000000000\0"
    monkeypatch.setattr("lamina.insight.package_programs._PIECE", 2048)
    for start in range(2048 - 600, 2048 + 2):
        assert told("redis-server", b"\x7fELF".ljust(start, b"\0") + valkey) == []
    assert not is_meant(b"nodemon")
    assert not is_meant(b"python-config")


def test_programs_are_read_in_pieces_up_to_a_limit() -> None:
    asked: list[int] = []

    def read(size: int) -> bytes:
        asked.append(size)
        return b"\x7fELF" + bytes(size - 4)

    assert list(programs(b"node", read)) == []
    assert max(asked) <= 1 << 20
    assert sum(asked) == MAX_READ


def test_a_database_of_newlines_takes_no_list_of_them() -> None:
    data = b"\n" * (1 << 20)
    tracemalloc.start()
    try:
        assert list(dpkg_status(data)) == list(apk_installed(data)) == []
        assert apk_files(data, {b"x"}) == set()
        assert tracemalloc.get_traced_memory()[1] < len(data)
    finally:
        tracemalloc.stop()
