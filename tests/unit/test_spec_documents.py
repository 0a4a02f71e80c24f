"""References, names, platforms, digests and documents: tables of valid and invalid ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import (
    DigestMismatch,
    InvalidDocument,
    LaminaError,
    NotFound,
    SizeMismatch,
    Unsupported,
    UsageError,
)
from lamina.settings import Settings, parse_size
from lamina.spec import json as spec_json
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import History, ImageConfig, chain_ids
from lamina.spec.json import MAX_DEPTH, load, nests_deeper, read_own
from lamina.spec.manifest import Index, Manifest, build_index, build_manifest, parse, select
from lamina.spec.name import parse_name
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference, familiar

HEX = "a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
D = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "domain", "path", "tag", "digest"),
    [
        ("debian", "docker.io", "library/debian", None, None),
        ("debian:12", "docker.io", "library/debian", "12", None),
        ("docker.io/debian", "docker.io", "library/debian", None, None),
        ("index.docker.io/library/debian", "docker.io", "library/debian", None, None),
        ("foo/bar", "docker.io", "foo/bar", None, None),
        ("test.com/repo:tag", "test.com", "repo", "tag", None),
        ("test:5000/repo", "test:5000", "repo", None, None),
        (f"test:5000/repo:tag@{D}", "test:5000", "repo", "tag", D),
        (f"test:5000/repo@{D}", "test:5000", "repo", None, D),
        ("localhost/foo", "localhost", "foo", None, None),
        ("localhost:5000/a/b/c:x", "localhost:5000", "a/b/c", "x", None),
        ("lowercase:Uppercase", "docker.io", "library/lowercase", "Uppercase", None),
        ("Uppercase/lowercase", "Uppercase", "lowercase", None, None),
        ("domain/" + "a" * 248, "docker.io", "domain/" + "a" * 248, None, None),
        ("sub-dom1.foo.com/bar/baz/quux:some-long-tag", "sub-dom1.foo.com", "bar/baz/quux", "some-long-tag", None),
        ("b.gcr.io/test.example.com/my-app:x", "b.gcr.io", "test.example.com/my-app", "x", None),
        ("foo_bar.com:8080", "docker.io", "library/foo_bar.com", "8080", None),
        ("foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", "8080", None),
        ("192.168.1.1:8080/debian", "192.168.1.1:8080", "debian", None, None),
        ("[2001:db8::1]:5000/repo:tag", "[2001:db8::1]:5000", "repo", "tag", None),
        ("[fc00::1]/repo", "[fc00::1]", "repo", None, None),
        ("xn--n3h.com/myimage:x", "xn--n3h.com", "myimage", "x", None),
        ("docker/docker__x", "docker.io", "docker/docker__x", None, None),
        ("docker/a---b", "docker.io", "docker/a---b", None, None),
        ("a", "docker.io", "library/a", None, None),
    ],
)
def test_references(text: str, domain: str, path: str, tag: str | None, digest: str | None) -> None:
    found = Reference.parse(text)
    assert (found.domain, found.path, found.tag, found.digest and str(found.digest)) == (domain, path, tag, digest)
    assert Reference.parse(str(found)) == found
    assert Reference.parse(found.familiar) == found


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("docker.io/library/app:1", "app:1"),
        ("app:1", "app:1"),
        ("docker.io/me/app:1@sha256:" + "a" * 64, "me/app:1@sha256:" + "a" * 64),
        ("host:5000/app", "host:5000/app"),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
        ("a" * 64, "a" * 64),
        ("Not a name", "Not a name"),
        ("<none>@1a2b", "<none>@1a2b"),
        ("app@sha0:" + "a" * 64, "app@sha0:" + "a" * 64),
        ("", ""),
    ],
)
def test_names_are_shown_as_people_type_them(name: str, shown: str) -> None:
    assert familiar(name) == shown


@pytest.mark.parametrize(
    "text",
    [
        "", ":justtag", "@" + D, "repo@sha256:ffff", "Uppercase:tag", "aa/asdf$$^/aa", "a/" * 128 + "a:tag",
        "repo:" + "t" * 129, "repo:-x", HEX, "foo//bar", "/foo", "foo/", "-foo/bar", "foo.-bar/x",
        "[fe80::1%eth0]:5000/repo", "https://github.com/x/y", "a b", "repo:tag\n", "docker/a..b", "foo_/bar", "a\x1b",
    ],
)  # fmt: skip
def test_bad_references_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Reference.parse(text)


def test_names_with_transports_and_ranges() -> None:
    name = parse_name("oci:/a/b:tag~2:3")
    assert (name.transport, name.location, name.name, name.low, name.high) == ("oci", "/a/b", "tag", 2, 3)
    assert parse_name("app:1~2").high == 2
    assert parse_name("docker-archive:x.tar").whole
    for text in ("app:1~2", "oci:/a/b:tag~2:3", "oci-archive:f", "docker://a/b"):
        assert str(parse_name(text)) == text
    for bad in ("app~3:2", "app~0:1", "", "oci:", "a\0b"):
        with pytest.raises(UsageError):
            parse_name(bad)
    for elsewhere in ("docker-daemon:x", "containers-storage:x", "ostree:/x"):
        with pytest.raises(Unsupported):
            parse_name(elsewhere)


def test_digests() -> None:
    assert str(Digest.of(b"")) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Digest.parse("blake3:abc").supported is False
    for bad in ("sha256:abc", "sha256:" + "A" * 64, "nothing", "sha256:" + "g" * 64, ":x", "a" * 600 + ":b"):
        with pytest.raises(UsageError):
            Digest.parse(bad)
    with pytest.raises(Unsupported):
        Digest.parse("blake3:abc").hasher()
    descriptor = Descriptor.of("x/y", b"hello")
    with pytest.raises(SizeMismatch):
        descriptor.check(b"hell")
    with pytest.raises(DigestMismatch):
        descriptor.check(b"hellO")


def doc(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


def descriptor(media: str = mediatype.OCI_CONFIG) -> dict[str, Any]:
    return {"mediaType": media, "digest": D, "size": 3}


@pytest.mark.parametrize(
    ("raw", "media_type", "word"),
    [
        (doc(config=descriptor(), layers=[], manifests=[]), None, "both"),
        (doc(config=descriptor(), layers=[]), mediatype.OCI_INDEX, "has config"),
        (doc(manifests=[]), mediatype.OCI_MANIFEST, "has manifests"),
        (doc(mediaType=mediatype.OCI_INDEX, config=descriptor(), layers=[]), mediatype.OCI_MANIFEST, "announced"),
        (b'{"schemaVersion":2,"config":{},"config":{},"layers":[]}', None, "twice"),
        (b'{"schemaVersion":2,"Config":{},"layers":[]}', None, "Config"),
        (doc(config={**descriptor(), "Digest": D}, layers=[]), None, "Digest"),
        (doc(config={**descriptor(), "size": -1}, layers=[]), None, "size"),
        (doc(config={**descriptor(), "size": "3"}, layers=[]), None, "size"),
        (doc(config={**descriptor(), "digest": "sha256:x"}, layers=[]), None, "digest"),
        (doc(config=descriptor(), layers={}), None, "layers"),
        (b"[" * 5000, None, ""),
        (b'{"a":' * 100 + b"1" + b"}" * 100, None, "deep"),
        (b'{"a":"\xff"}', None, "UTF-8"),
        (b"\xff\xfe{}", None, "byte order"),
        (b'{"schemaVersion":NaN}', None, "NaN"),
        (b'{"a":"\\ud800"}', None, "surrogate"),
        (b'{"schemaVersion":' + b"9" * 400 + b"}", None, ""),
        (b"<html>", None, "not a valid document"),
        (doc(config=descriptor(), layers=[]) + b" x", None, ""),
        (b"{" + b" " * (5 << 20) + b"}", None, "bytes"),
        (b'{"schemaVersion":1,"fsLayers":[]}', None, "schema 1"),
    ],
)
def test_inconsistent_documents_are_refused(raw: bytes, media_type: str | None, word: str) -> None:
    with pytest.raises(LaminaError) as caught:
        parse(raw, media_type, "manifest of x")
    assert isinstance(caught.value, (InvalidDocument, Unsupported)) or caught.value.exit_code == 4
    assert "manifest of x" in str(caught.value)
    assert word.lower() in str(caught.value).lower()


@pytest.mark.parametrize("inner", [{}, []])
def test_documents_are_nested_32_levels_deep_at_most(inner: Any) -> None:
    value = inner
    for number in range(MAX_DEPTH - 1):
        value = {"a": value} if number % 2 or number == MAX_DEPTH - 2 else [value]
    assert load(json.dumps(value).encode(), "it") == value
    with pytest.raises(InvalidDocument, match="nested deeper than 32 levels"):
        load(json.dumps({"one": 1, "more": value}).encode(), "it")


def depth(value: Any) -> int:
    """Levels of lists and objects, as a person counts them."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


TRICKY = st.text(alphabet='[]{}"\\a,:', max_size=8)
JSON = st.recursive(
    st.integers() | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=12,
)


@given(JSON, st.integers(0, 6))
def test_the_depth_of_a_document_is_known_before_it_is_decoded(value: Any, limit: int) -> None:
    assert nests_deeper(json.dumps(value).encode(), limit) is (depth(value) > limit)


@pytest.mark.parametrize(
    "start",
    [b"[", b'{"a":', b'{"]":[', b'["]","\\\\",', b'["\\"]",', b'{"a":[[],"}"],"b":', b'["[]",{"]":"["},'],
)
@pytest.mark.parametrize("closed", [False, True])
def test_deep_documents_are_refused_before_the_decoder_recurses(
    start: bytes, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = start * 5000 + b"1"
    if closed:
        ends = [{"{": "}", "[": "]"}[mark] for mark in _left_open(start.decode())]
        raw += "".join(reversed(ends)).encode() * 5000

    def decoded(*_: object) -> None:
        raise AssertionError("the decoder was given a deep document")

    monkeypatch.setattr(spec_json, "_decoded", decoded)
    with pytest.raises(InvalidDocument, match="nested deeper than 32 levels"):
        load(raw, "it")
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        read_own(raw)


def _left_open(text: str) -> list[str]:
    """The brackets of a piece of JSON that it does not close itself."""
    found: list[str] = []
    in_string = escaped = False
    for letter in text:
        if escaped or not in_string:
            escaped = False
            if not in_string and letter in "[{":
                found.append(letter)
            elif not in_string and letter in "]}":
                found.pop()
            elif not in_string and letter == '"':
                in_string = True
        elif letter == '"':
            in_string = False
        else:
            escaped = letter == "\\"
    return found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_other_programs_wrote_is_read_in_any_encoding(encoding: str) -> None:
    assert read_own('{"auths": {"\u00e9": {}}}'.encode(encoding)) == {"auths": {"\u00e9": {}}}


@pytest.mark.parametrize(
    ("asked", "offered", "taken"),
    [
        ("10.0.17763", "10.0.17763", True),
        ("10.0.17763", "10.0.17763.1", True),
        ("10.0.1776", "10.0.17763.1", False),
        ("10.0.17763.1", "10.0.17763.10", False),
        ("10.0.17763.1", "10.0.17763", False),
        ("10.0.17763", "", False),
        ("", "10.0.17763", True),
    ],
)
def test_a_version_that_is_asked_for_is_met_number_by_number(asked: str, offered: str, taken: bool) -> None:
    wanted, other = (Platform("windows", "amd64", os_version=version) for version in (asked, offered))
    assert wanted.accepts(other) is taken


@pytest.mark.parametrize(
    ("asked", "offered", "taken"),
    [
        (("win32k",), ("win32k",), True),
        (("win32k",), (), True),
        (("win32k",), ("win32k", "other"), False),
        (("win32k", "other"), ("other",), True),
        ((), ("win32k",), True),
    ],
)
def test_features_that_are_offered_must_all_be_asked_for(
    asked: tuple[str, ...], offered: tuple[str, ...], taken: bool
) -> None:
    wanted, other = (Platform("windows", "amd64", os_features=features) for features in (asked, offered))
    assert wanted.accepts(other) is taken


def test_null_is_absent_and_unknown_fields_survive() -> None:
    found = parse(
        doc(config={**descriptor(), "x": [1]}, layers=None, annotations=None, subject=None, future={"y": 1})
    )
    assert isinstance(found, Manifest)
    assert found.layers == ()
    assert found.json["future"] == {"y": 1}
    assert found.config.to_json()["x"] == [1]


def test_platform_selection_takes_the_first_that_fits_and_skips_attestations() -> None:
    def entry(platform: str, tail: str, **annotations: str) -> Descriptor:
        return Descriptor(mediatype.OCI_MANIFEST, Digest.of(tail.encode()), 1, annotations, Platform.parse(platform))

    entries = [
        entry("linux/amd64", "a"),
        entry("linux/amd64", "b"),
        entry("linux/arm/v6", "c"),
        entry("linux/arm64", "d"),
        entry("unknown/unknown", "e", **{"vnd.docker.reference.type": "attestation-manifest"}),
    ]
    index = build_index(entries)
    assert isinstance(parse(index.raw), Index)
    for asked, wanted in (
        ("linux/amd64", "a"),
        ("linux/arm/v7", "c"),
        ("linux/arm64/v8", "d"),
        ("linux/amd64/v3", "a"),
    ):
        assert select(index, Platform.parse(asked)).digest == Digest.of(wanted.encode())
    with pytest.raises(NotFound, match="linux/arm64"):
        select(index, Platform.parse("linux/s390x"))


def test_config_edits_keep_what_they_do_not_know() -> None:
    raw = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Healthcheck": {"Test": ["NONE"]}, "Env": None, "OnBuild": ["RUN x"]},
            "rootfs": {"type": "layers", "diff_ids": [D]},
            "history": [{"created_by": "a", "empty_layer": True}, {"created_by": "b"}, {"created_by": "c"}],
            "moby.buildkit": 1,
        }
    ).encode()
    config = ImageConfig.parse(raw)
    assert config.raw == raw
    assert [step and step.created_by for step in config.steps()] == ["b"]
    edited = config.with_(env=["A=b"], cmd=["x"]).add_layer(Digest.of(b"n"), History(created_by="new"))
    assert edited.json["config"]["Healthcheck"] == {"Test": ["NONE"]}
    assert edited.json["moby.buildkit"] == 1
    assert [step and step.created_by for step in edited.steps()] == ["b", "new"]
    assert edited.keep_layers(1).diff_ids == config.diff_ids
    with pytest.raises(InvalidDocument, match="diff_ids"):
        config.check_layers(2)


def test_chain_ids() -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")
    assert chain_ids([one, two]) == (one, Digest.of(f"{one} {two}".encode()))


def test_built_documents_parse_to_the_same_values() -> None:
    config = ImageConfig.build(Platform.parse("linux/arm64/v8"), diff_ids=[Digest.of(b"")])
    layer = Descriptor.of(mediatype.OCI_LAYER_GZIP, b"x")
    for docker in (False, True):
        manifest = build_manifest(config.descriptor, [layer], docker=docker)
        again = parse(manifest.raw, manifest.media_type)
        assert again == manifest
        assert mediatype.is_docker(again.media_type) == docker
    with pytest.raises(Unsupported):
        build_manifest(config.descriptor, [Descriptor.of(mediatype.OCI_LAYER_ZSTD, b"x")], docker=True)


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4, alphabet="abcd"), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=4, alphabet="abc"), values, max_size=4))
def test_json_round_trip(value: dict[str, Any]) -> None:
    assert spec_json.load(spec_json.dump(value), "x") == value


def test_settings_say_where_they_come_from(tmp_path: Any) -> None:
    system, user = tmp_path / "system.toml", tmp_path / "config/lamina/config.toml"
    user.parent.mkdir(parents=True)
    system.write_text('root = "/a"\nmax_layer = "1GiB"\ncompression = "zstd"\n')
    user.write_text('root = "/b"\nmax_layer = "2GiB"\n')
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "LAMINA_ROOT": "/c"}
    found = Settings.load(environ=environ, system_file=str(system), flags={"platform": "linux/arm64"})
    assert {n: (s.value, s.origin) for n, s in found.values.items()} == {
        "root": ("/c", "LAMINA_ROOT"),
        "platform": ("linux/arm64", "flag"),
        "max_layer": (2 << 30, str(user)),
        "compression": ("zstd", str(system)),
        "compression_level": (None, "default"),
        "tls_verify": (None, "default"),
        "authfile": ("", "default"),
        "cert_dir": ("", "default"),
        "keep": ("blob+tar", "default"),
        "log_driver": ("local", "default"),
        "login_hosts": ("", "default"),
        "publish_address": ("", "default"),
        "upper_dir": ("", "default"),
        "view": ("", "default"),
        "runtime": ("", "default"),
    }
    for text, word in (
        ("nonsense = 1", "nonsense"),
        ("root = 5", "root"),
        ("= x", "TOML"),
        ('compression = "lzma"', "lzma"),
        ('keep = "nothing"', "nothing"),
        ('view = "sideways"', "sideways"),
    ):
        user.write_text(text)
        with pytest.raises(UsageError, match=word) as caught:
            Settings.load(environ=environ, system_file=str(system))
        assert str(user) in str(caught.value)
    assert parse_size("64GiB") == 64 << 30
    assert parse_size("5MB") == 5_000_000
