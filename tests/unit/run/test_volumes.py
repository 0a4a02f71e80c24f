"""Volumes and mounts, as far as they are pure: syntax, filters, records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import Conflict, LaminaError, StoreDamaged, Unsupported, UsageError
from lamina.host.files import make_directory
from lamina.light import replace
from lamina.run.mount_option import parse_mount
from lamina.run.options import Mount, parse_tmpfs, parse_volume
from lamina.run.volumes.chown import check_chown
from lamina.run.volumes.driver import check_options
from lamina.run.volumes.listing import LISTED, PRUNED, Filters
from lamina.run.volumes.points import described, is_user, names_of, points_of, to_json
from lamina.store.containers import Container
from lamina.store.paths import Paths
from lamina.store.volumes import Volumes, check_name, is_left, is_made_up, is_name, new_name, new_volume

DIGEST = "sha256:" + "a" * 64
NOW = 1_000_000_000.0


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("type=image,source=app:1,target=/i", Mount("image", "app:1", "/i", ("ro",))),
        ("type=image,source=app,target=/i,rw=true", Mount("image", "app", "/i")),
        ("type=image,source=app,target=/i,readonly=false", Mount("image", "app", "/i")),
        ("type=image,source=app,dst=/i,image-subpath=a/./b/", Mount("image", "app", "/i", ("ro",), "a/b")),
        ("type=image,source=app,dst=/i,subpath=a", Mount("image", "app", "/i", ("ro",), "a")),
        ("type=volume,src=v,dst=/v,volume-subpath=a", Mount("volume", "v", "/v", (), "a")),
        ("src=v,dst=/v,volume-label=a=b,volume-label=c", Mount("volume", "v", "/v", labels=(("a", "b"), ("c", "")))),
        (
            'src=v,dst=/v,volume-driver=local,volume-opt=type=tmpfs,"volume-opt=o=a,b"',
            Mount("volume", "v", "/v", driver_options=(("type", "tmpfs"), ("o", "a,b"))),
        ),
        ("type=volume,src=v,dst=/v,U", Mount("volume", "v", "/v", ("U",))),
        ("type=bind,src=/a,dst=/v,chown=true,rw=false", Mount("bind", "/a", "/v", ("ro", "U"))),
        ("type=bind,src=/a,dst=/v,bind-create-src,relabel=shared", Mount("bind", "/a", "/v", ("create",))),
        ("type=tmpfs,dst=/t,tmpcopyup", Mount("tmpfs", "", "/t", ("tmpcopyup",))),
    ],
)
def test_mounts_in_the_words_of_docker_and_podman(word: str, expected: Mount) -> None:
    assert parse_mount(word) == expected


@pytest.mark.parametrize(
    "word",
    [
        "type=image,target=/i",
        "type=image,source=a,target=/i,U",
        "type=image,source=a,target=/i,volume-subpath=x",
        "type=volume,src=v,dst=/v,volume-subpath=../x",
        "type=volume,src=v,dst=/v,volume-subpath=/x",
        "type=volume,src=v,dst=/v,image-subpath=x",
        "type=volume,src=v,dst=/v,volume-label==x",
        "type=volume,src=v,dst=/v,volume-driver=nfs",
        "type=bind,src=/a,dst=/v,subpath=x",
        "type=bind,src=/a,dst=/v,idmap",
        "type=bind,src=/a,dst=/v,bind-recursive=sometimes",
        "type=tmpfs,dst=/v,U",
    ],
)
def test_mounts_that_can_not_be_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--mount"):
        parse_mount(word)


@given(st.text())
def test_any_text_for_a_mount_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_mount, parse_volume, parse_tmpfs):
        try:
            found = parse(text)
        except LaminaError:
            continue
        assert found.target.startswith("/")


def test_options_of_volumes_keep_what_was_given() -> None:
    mount = parse_volume("/a:/b:ro,Z,noexec,rslave")
    assert mount == Mount("bind", "/a", "/b", ("ro", "noexec", "rslave"))
    assert (mount.mode, mount.makes_source) == ("ro,Z,noexec,rslave", True)
    assert parse_volume("v:/b").mode == ""
    assert not parse_mount("type=bind,src=/a,dst=/b").makes_source
    for wrong in ("/a:/b:exec,noexec", "/a:/b:z,Z", "/a:/b:shared,slave", "v:/b:copy,nocopy"):
        with pytest.raises(UsageError, match="has"):
            parse_volume(wrong)
    for later in ("/a:/b:O", "/a:/b:idmap", "/a:/b:idmap=uids=0-1-2", "/a:/b:O,upperdir=/x"):
        with pytest.raises(Unsupported, match="not supported"):
            parse_volume(later)


@pytest.mark.parametrize("wrong", ["foo", "foo=1", "size", "size=much", "exec=1", "uid"])
def test_options_of_a_tmpfs_are_checked(wrong: str) -> None:
    assert parse_tmpfs("/t:size=1m,mode=1777,uid=3,noatime,size=50%").options[0] == "size=1m"
    with pytest.raises(UsageError):
        parse_tmpfs(f"/t:{wrong}")


@pytest.mark.parametrize(
    "options",
    [
        {"type": "none"},
        {"device": "/x"},
        {"type": "none", "device": "x", "o": "bind"},
        {"foo": "1"},
        {"type": "tmpfs", "device": "tmpfs", "size": "1m"},
        {"size": "much"},
    ],
)
def test_options_of_the_local_driver_are_checked(options: dict[str, str]) -> None:
    check_options({})
    check_options({"type": "nfs", "device": ":/x", "o": "addr=10.0.0.1"})
    with pytest.raises((UsageError, Unsupported)):
        check_options(options)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), True),
        (("label=a", "label=c=d"), True),
        (("label=a", "label=c=x"), False),
        (("label!=a",), False),
        (("label!=a=other",), True),
        (("dangling=true",), True),
        (("dangling=0",), False),
        (("anonymous=false", "name=^da"), True),
        (("anonymous=true",), False),
        (("name=x", "name=ata"), True),
        (("driver=local", "driver=other"), True),
        (("scope=global",), False),
        (("until=1h",), True),
        (("until=3h",), False),
        (("until=999992801",), True),
        (("until=999992800",), False),
    ],
)
def test_filters_of_volumes(words: tuple[str, ...], expected: bool) -> None:
    volume = replace(new_volume("data", (("a", "b"), ("c", "d"))), created=NOW - 7200)
    assert Filters.parse(words, LISTED, NOW).accept(volume, is_used=False) is expected


@pytest.mark.parametrize("word", ["", "x", "name", "status=x", "dangling=perhaps", "name=(", "until=soon"])
def test_filters_that_do_not_exist_are_refused(word: str) -> None:
    with pytest.raises(UsageError):
        Filters.parse([word], LISTED, NOW)
    with pytest.raises(UsageError):
        Filters.parse(["dangling=true"], PRUNED, NOW)


@given(st.text())
def test_names_of_volumes(text: str) -> None:
    plain = [character for character in text if character.isascii() and (character.isalnum() or character in "_.-")]
    assert is_name(text) == (plain == list(text) != [] and text[0].isalnum())


def test_names_of_volumes_and_of_what_is_beside_them() -> None:
    assert is_made_up(new_name())
    assert not is_made_up("a" * 63)
    assert not is_left("data.tmp")
    assert is_left(".data.0123456789ab.tmp")
    for wrong in ("", ".x", "a/b", "a b", "é", "a\n", "a" * 201):
        with pytest.raises(UsageError):
            check_name(wrong)


RECORD = Container("c" * 64, "c", "app", DIGEST, "type", 1, (), 0.0)
MOUNTS = (
    Mount("volume", "v", "/v", ("ro",), "sub", (("a", "b"),), mode="z"),
    Mount("volume", "f" * 64, "/a", anonymous=True, mode=""),
    Mount("bind", "/b", "/b", ("rslave",), mode="ro"),
    Mount("image", "app", "/i", ("ro",), image=("type", DIGEST, 5), mode=""),
    Mount("tmpfs", "", "/t", ("size=1m",), mode="size=1m"),
)


def through_json(mounts: object) -> Container:
    return replace(RECORD, mounts=tuple(json.loads(json.dumps(mounts))))


def test_mounts_survive_their_record() -> None:
    found = points_of(through_json(to_json(MOUNTS)))
    assert found == list(MOUNTS)
    assert [one.mode for one in found or ()] == [one.mode for one in MOUNTS]
    assert points_of(RECORD) is None
    assert names_of(MOUNTS) == ("v", "f" * 64, "/b", "/v", "/a", "/i")
    assert [is_user(through_json(to_json(MOUNTS)), name) for name in ("v", "/b", "app", "w")] == [
        True,
        False,
        False,
        False,
    ]
    assert is_user(replace(RECORD, volumes=("old", "/x")), "old")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"kind": "bind"},
        {"kind": 1, "source": "a", "target": "/b"},
        {"kind": "bind", "source": "a", "target": ["/b"]},
        {"kind": "bind", "source": "a", "target": "/b", "options": 5},
        {"kind": "bind", "source": "a", "target": "/b", "options": [1]},
        {"kind": "image", "source": "a", "target": "/b", "image": ["type"]},
        {"kind": "image", "source": "a", "target": "/b", "image": ["type", "no digest", 5]},
    ],
)
def test_a_record_with_malformed_mounts_is_damaged(wrong: object) -> None:
    with pytest.raises(StoreDamaged):
        points_of(through_json([wrong]))


def test_a_mount_as_docker_shows_it() -> None:
    assert described(MOUNTS[0], "/store/volumes/v") == {
        "Type": "volume", "Name": "v", "Source": "/store/volumes/v/sub", "Destination": "/v", "Driver": "local",
        "Mode": "z", "RW": False, "Propagation": "",
    }  # fmt: skip
    assert described(MOUNTS[2], "")["Propagation"] == "rslave"
    assert (described(MOUNTS[4], "")["Source"], described(MOUNTS[4], "")["Mode"]) == ("", "")


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/lib", "/var", "/proc/1", "/dev/shm", "/home"])
def test_directories_of_the_system_are_not_given_away(path: str) -> None:
    check_chown("/srv/data")
    check_chown("/home/user/data")
    with pytest.raises(Conflict):
        check_chown(path)


@given(st.binary(max_size=200))
def test_any_record_of_a_volume_is_read_or_damaged(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as top:
        volumes = Volumes(Paths(top))
        make_directory(str(Path(top, "volumes/v")))
        Path(top, "volumes/.v.json").write_bytes(data)
        found = volumes.get("v")
        assert found.name == "v"
        assert found.damaged or json.loads(data)["name"] == "v"


def test_a_record_keeps_what_only_a_newer_lamina_knows(tmp_path: Path) -> None:
    volumes = Volumes(Paths(str(tmp_path)))
    (tmp_path / "volumes").mkdir()
    volumes.make(new_volume("v", (("a", "\udcff"),)))
    record = tmp_path / "volumes/.v.json"
    assert record.stat().st_mode & 0o777 == 0o600
    record.write_text(json.dumps({**json.loads(record.read_text()), "later": [1]}))
    with volumes.alone():
        volumes.refill(volumes.checked("v"), lambda directory: None)
    value = json.loads(record.read_text())
    assert (value["later"], value["labels"], value["fresh"]) == ([1], [["a", "\udcff"]], False)
    assert "damaged" not in value
