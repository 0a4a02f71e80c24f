"""`packages`: each with the layer that brought it in this version; bills of materials that their validators take."""

from __future__ import annotations

import json
import sys
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
    assert b"warning: /var/lib/rpm/Packages: this form of rpm's database is not read" in done.stderr
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
    assert lamina("packages", "app", "--kind", "gem", root=root).returncode == 2


def test_programs_are_looked_at_up_to_a_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each file alone there is one too, but an image may have any number of them."""
    stack = library.open("app", root=root).stack
    monkeypatch.setattr("lamina.insight.packages.MAX_PROGRAMS", 1 << 20)
    found = packages(stack)
    assert not any(one.kind == "binary" for one in found.packages)
    assert [note for note in found.notes if "programs" in note] == [
        "of more than 1048576 bytes of programs the rest is not looked at"
    ]
