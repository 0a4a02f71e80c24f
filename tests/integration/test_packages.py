"""`packages`: each package with the layer that brought its version; valid bills of materials."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import lamina as library
from lamina.insight.packages import packages
from lamina.insight.sbom import bill
from support import lamina, write_layout

OLD = b"Package: libc6\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\nPackage: tar\nVersion: 1\n"
NEW = b"Package: libc6\nStatus: install ok installed\nVersion: 2\nArchitecture: amd64\n\nPackage: tar\nVersion: 1\n"
LAYERS = [
    [
        ("etc/os-release", b"ID=debian\nVERSION_ID=12\n"),
        ("var/lib/dpkg/status", OLD),
        ("usr/lib/python3/dist-packages/foo-1.dist-info/METADATA", b"Name: foo\nVersion: 1\n\n"),
        ("srv/node_modules/@a/b/package.json", b'{"name": "@a/b", "version": "1.0.0"}'),
        ("srv/node_modules/gone/package.json", b'{"name": "gone", "version": "1.0.0"}'),
        ("var/lib/rpm/Packages", b"old"),
        ("usr/share/nodejs/semver/package.json", b'{"name": "semver", "version": "7.5.4"}'),
        ("srv/app/package.json", b'{"private": true}'),
        ("opt/node/bin/node", b"\x7fELF" + bytes(3 << 20) + b"node.js/v18.20.4\0", {"mode": 0o755}),
    ],
    [("var/lib/dpkg/status", NEW), ("srv/node_modules/.wh.gone", b"")],
    [
        ("var/lib/dpkg/status", NEW + b"\nPackage: curl\nVersion: 8\n"),
        ("usr/lib/python3/dist-packages/foo-1.dist-info/METADATA", b"Name: foo\nVersion: 1\nSummary: more\n\n"),
        ("var/lib/dpkg/status.d/tzdata", b"Package: tzdata\nVersion: 2024a\n"),
    ],
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "app", LAYERS)
    assert lamina("load", "-i", str(tmp_path / "layout"), root=tmp_path / "store").returncode == 0
    return tmp_path / "store"


def test_each_package_has_the_layer_that_brought_its_version(root: Path) -> None:
    done = lamina("packages", "app", "--format", "json", root=root)
    assert done.returncode == 0, done.stderr
    assert b"warning: /var/lib/rpm/Packages: this form of rpm's database is not supported" in done.stderr
    found = [(one["kind"], one["name"], one["version"], one["layer"]) for one in json.loads(done.stdout)]
    assert found == [
        ("deb", "curl", "8", 3),
        ("deb", "libc6", "2", 2),
        ("deb", "tar", "1", 1),
        ("deb", "tzdata", "2024a", 3),
        ("pypi", "foo", "1", 1),
        ("npm", "@a/b", "1.0.0", 1),
        ("npm", "semver", "7.5.4", 1),
        ("binary", "node", "18.20.4", 1),
    ]
    libc = json.loads(done.stdout)[1]
    assert libc["purl"] == "pkg:deb/debian/libc6@2?arch=amd64&distro=debian-12"
    assert libc["step"] == "step 2"
    lower = json.loads(lamina("packages", "app~1", "--kind", "deb", "--format", "json", root=root).stdout)
    assert [(one["name"], one["version"]) for one in lower] == [("libc6", "1"), ("tar", "1")]
    table = lamina("packages", "app", "--kind", "npm", root=root).stdout.split()
    assert table == [b"NAME", b"VERSION", b"KIND", b"LAYER", b"PATH", b"@a/b", b"1.0.0", b"npm", b"1",
                     b"/srv/node_modules/@a/b/package.json", b"semver", b"7.5.4", b"npm", b"1",
                     b"/usr/share/nodejs/semver/package.json"]  # fmt: skip
    assert b"node" not in lamina("packages", "app", "--no-programs", "--kind", "binary", root=root).stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bills_of_materials_are_valid_and_repeat(root: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    stack = library.open("app", root=root).stack
    found = packages(stack)
    bom, spdx = bill(stack, found, "cyclonedx"), bill(stack, found, "spdx")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None
    assert validate_full_spdx_document(JsonLikeDictParser().parse(json.loads(spdx))) == []
    assert (bill(stack, found, "cyclonedx"), bill(stack, found, "spdx")) == (bom, spdx)
    urls = {one.purl for one in found.packages}
    assert {one["purl"] for one in json.loads(bom)["components"]} == urls
    references = [one["externalRefs"][0] for one in json.loads(spdx)["packages"] if "externalRefs" in one]
    assert {one["referenceLocator"] for one in references} == urls


@pytest.mark.parametrize(("format", "missing"), [("spdx", "spdx_tools"), ("cyclonedx", "cyclonedx")])
def test_a_missing_extra_is_named(root: Path, format: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    blocked: Any = None
    monkeypatch.setitem(sys.modules, missing, blocked)
    stack = library.open("app", root=root).stack
    with pytest.raises(library.LaminaError, match=r"lamina\[sbom\]") as caught:
        bill(stack, packages(stack), format)
    assert caught.value.exit_code == 7


def test_an_unknown_image_or_kind_is_said(root: Path) -> None:
    assert lamina("packages", "none", root=root).returncode == 3
    assert lamina("packages", "app", "--kind", "egg", root=root).returncode == 2


def test_programs_are_looked_at_up_to_a_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each file alone there is one too, but an image may have any number of them."""
    stack = library.open("app", root=root).stack
    monkeypatch.setattr("lamina.insight.packages.MAX_PROGRAMS", 1 << 20)
    found = packages(stack)
    assert not any(one.kind == "binary" for one in found.packages)
    assert [note for note in found.notes if "programs" in note] == [
        "programs have more than 1048576 bytes: the rest was not searched"
    ]


def program(name: str, version: str = "5.2.15") -> bytes:
    """An ELF file that tells its version as bash does."""
    return b"\x7fELF" + bytes(100) + f"@(#)Bash version {version}(1) release".encode() + name.encode() + bytes(10)


def own(tmp_path: Path, layers: list[list[Any]]) -> list[tuple[str, str, int]]:
    """The programs by their own version: path, version, layer."""
    write_layout(tmp_path / "layout", "app", layers)
    done = lamina("packages", f"oci:{tmp_path / 'layout'}:app", "--kind", "binary", "--format", "json", root=tmp_path)
    assert done.returncode == 0, done.stderr
    return [(one["path"], one["version"], one["layer"]) for one in json.loads(done.stdout)]


def test_a_program_of_a_package_is_listed_once_unless_it_was_replaced(tmp_path: Path) -> None:
    listed = b"/.\n/bin\n/bin/bash\n/usr/bin/bash-other\n"
    layers: list[list[Any]] = [
        [
            ("bin", "-> usr/bin"),
            ("usr/bin/bash", program("dpkg's, as /bin/bash"), {"mode": 0o755}),
            ("opt/bash", program("nobody's", "4.4.1"), {"mode": 0o755}),
            ("var/lib/dpkg/info/bash.list", listed),
        ],
        [("usr/local/bin/bash", program("nobody's either"), {"mode": 0o755})],
    ]
    assert own(tmp_path / "kept", layers) == [
        ("/opt/bash", "4.4.1", 1),
        ("/usr/local/bin/bash", "5.2.15", 2),
    ]
    replaced = [("usr/bin/bash", program("built by hand", "5.3.0"), {"mode": 0o755})]
    assert ("/usr/bin/bash", "5.3.0", 3) in own(tmp_path / "replaced", [*layers, replaced])
    upgraded = [*replaced, ("var/lib/dpkg/info/bash.list", listed)]
    assert len(own(tmp_path / "upgraded", [*layers, upgraded])) == 2


def test_a_directory_that_dpkg_lists_elsewhere_is_not_a_second_name(tmp_path: Path) -> None:
    """/bin/bash and /usr/bin/bash are two files where /bin is a directory."""
    layers = [
        [
            ("bin/bash", program("dpkg's"), {"mode": 0o755}),
            ("usr/bin/bash", program("nobody's"), {"mode": 0o755}),
            ("var/lib/dpkg/info/bash.list", b"/bin/bash\n"),
        ]
    ]
    assert own(tmp_path, layers) == [("/usr/bin/bash", "5.2.15", 1)]


@pytest.mark.parametrize("kind", ["distroless", "apk", "rpm"])
def test_every_manager_says_which_files_are_its_own(tmp_path: Path, kind: str) -> None:
    files: dict[str, list[Any]] = {
        "distroless": [
            ("var/lib/dpkg/status.d/bash", b"Package: bash\nVersion: 5.2\n"),
            ("var/lib/dpkg/status.d/bash.md5sums", b"d41d8cd98f00b204e9800998ecf8427e  usr/bin/bash\n"),
        ],
        "apk": [("lib/apk/db/installed", b"P:bash\nV:5.2-r0\nF:usr\nF:usr/bin\nR:bash\na:0:0:755\nR:sh\n\n")],
        "rpm": [("var/lib/rpm/rpmdb.sqlite", rpm_database(tmp_path / "db", "/etc/", "/usr/bin/"))],
    }
    theirs = [
        ("usr/bin/bash", program("theirs"), {"mode": 0o755}),
        ("opt/bin/bash", program("nobody's"), {"mode": 0o755}),
    ]
    assert own(tmp_path, [[*theirs, *files[kind]]]) == [("/opt/bin/bash", "5.2.15", 1)]


def rpm_database(path: Path, *directories: str) -> bytes:
    """One package with the file ``bash`` in the last of these directories."""
    fields: list[tuple[int, int, int, bytes]] = [
        (1000, 6, 1, b"bash\0"),
        (1001, 6, 1, b"5.2\0"),
        (1002, 6, 1, b"1\0\0"),
        (1116, 4, 2, struct.pack(">II", 0, len(directories) - 1)),
        (1117, 8, 2, b"bashrc\0bash\0"),
        (1118, 8, len(directories), b"".join(name.encode() + b"\0" for name in directories)),
    ]
    rows, store = b"", b""
    for tag, form, count, data in fields:
        rows += struct.pack(">IIII", tag, form, len(store), count)
        store += data
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
        blob = struct.pack(">II", len(fields), len(store)) + rows + store
        connection.execute("INSERT INTO Packages (blob) VALUES (?)", (blob,))
    connection.close()
    return path.read_bytes()


def test_of_a_file_with_several_names_the_one_of_a_program_counts(tmp_path: Path) -> None:
    layers: list[list[Any]] = [
        [
            ("bin/a-link", program("b"), {"mode": 0o755}),
            ("bin/bash", "= bin/a-link"),
            ("bin/x/bash", "= bin/a-link"),
        ]
    ]
    assert own(tmp_path, layers) == [("/bin/bash", "5.2.15", 1)]


def test_the_version_of_erlang_is_in_a_file_that_dpkg_may_have_installed(tmp_path: Path) -> None:
    layers: list[list[Any]] = [
        [
            ("usr/local/lib/erlang/releases/27/OTP_VERSION", b"27.0-rc1\n"),
            ("usr/lib/erlang/releases/25/OTP_VERSION", b"25.2.3\n"),
            ("var/lib/dpkg/info/erlang-base.list", b"/usr/lib/erlang/releases/25/OTP_VERSION\n"),
        ]
    ]
    assert own(tmp_path, layers) == [("/usr/local/lib/erlang/releases/27/OTP_VERSION", "27.0-rc1", 1)]


def test_java_archives_are_read_in_their_layer(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("META-INF/maven/org.example/core/pom.properties", "groupId=g\nartifactId=a\nversion=1.0\n")
    layers: list[list[Any]] = [[("x", b"")], [("app/a.jar", made.getvalue()), ("app/b.jar", "= app/a.jar")]]
    write_layout(tmp_path / "layout", "app", layers)
    name = f"oci:{tmp_path / 'layout'}:app"
    done = lamina("packages", name, "--no-programs", "--kind", "maven", "--format", "json", root=tmp_path)
    found = [(one["name"], one["version"], one["purl"], one["layer"], one["path"]) for one in json.loads(done.stdout)]
    assert found == [("g:a", "1.0", "pkg:maven/g/a@1.0", 2, "/app/a.jar")]


def test_what_composer_added_later_is_of_the_later_layer(tmp_path: Path) -> None:
    at, one, two = (
        "srv/vendor/composer/installed.json",
        '{"name": "a/b", "version": "1"}',
        '{"name": "a/c", "version": "2"}',
    )
    layers: list[list[Any]] = [
        [(at, f'{{"packages": [{one}]}}'.encode())],
        [(at, f'{{"packages": [{one}, {two}]}}'.encode())],
    ]
    write_layout(tmp_path / "layout", "app", layers)
    done = lamina("packages", f"oci:{tmp_path / 'layout'}:app", "--format", "json", root=tmp_path)
    assert [(one["name"], one["layer"]) for one in json.loads(done.stdout)] == [("a/b", 1), ("a/c", 2)]
