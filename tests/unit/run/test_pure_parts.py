"""The pure parts of run: users, options, capabilities, seccomp, the runtime spec."""

from __future__ import annotations

from typing import Any

import pytest

from lamina.errors import InvalidDocument, NotFound, UsageError
from lamina.run.capability import ALL, DEFAULT, capabilities
from lamina.run.network import hosts_file, resolv_file
from lamina.run.options import (
    Mount,
    Wanted,
    argv,
    parse_cpus,
    parse_env,
    parse_env_file,
    parse_host,
    parse_hostname,
    parse_pids,
    parse_size,
    parse_volume,
    parse_workdir,
)
from lamina.run.seccomp import default_profile, seccomp
from lamina.run.spec import Place, environment, runtime_spec
from lamina.run.user import User
from lamina.view.owners import Owners


def test_capabilities() -> None:
    assert capabilities() == tuple(sorted(DEFAULT))
    assert capabilities(["all"]) == tuple(sorted(ALL))
    assert capabilities(["net_admin"], ["ALL"]) == ("CAP_NET_ADMIN",)
    assert capabilities(["ALL"], ["CAP_SYS_ADMIN"]) == tuple(sorted(set(ALL) - {"CAP_SYS_ADMIN"}))
    without = sum(1 << bit for bit, name in enumerate(ALL) if name not in ("CAP_SYS_RESOURCE", "CAP_CHOWN"))
    assert capabilities(here=without) == tuple(sorted(set(DEFAULT) - {"CAP_CHOWN"}))
    assert capabilities(["ALL"], here=without) == tuple(sorted(set(ALL) - {"CAP_CHOWN", "CAP_SYS_RESOURCE"}))
    assert "CAP_CHOWN" in capabilities(["CHOWN"], here=without)  # the runtime says why it can't be had
    assert (ALL.index("CAP_SYS_ADMIN"), ALL.index("CAP_CHECKPOINT_RESTORE")) == (21, 40)  # linux/capability.h
    with pytest.raises(UsageError, match="FLY"):
        capabilities(["FLY"])


def test_options() -> None:
    assert parse_volume("/a:/b:ro") == Mount("bind", "/a", "/b", ("ro",))
    assert parse_volume("./a:/b") == Mount("bind", "./a", "/b")
    assert parse_volume("name:/b:z") == Mount("volume", "name", "/b")
    assert parse_volume("/b") == Mount("volume", "", "/b")
    for bad in ("", "a:b", "/a:/b:ro:x", "/a:/b:exec", "/a:/", "/a:/x/../y", "na me:/b"):
        with pytest.raises(UsageError):
            parse_volume(bad)
    assert [parse_size(word) for word in ("7", "1k", "1.5G", "2mb")] == [7, 1024, 3 << 29, 2 << 20]
    assert parse_env(["A=1=2", "H", "GONE", "E="], {"H": "host"}) == [("A", "1=2"), ("H", "host"), ("E", "")]
    assert parse_env_file("# no\n\n A=1\nH\n", {"H": "h"}) == [("A", "1"), ("H", "h")]
    assert parse_env_file("A=1\x85\x1c2\r\nB=\u2028", {}) == [("A", "1\x85\x1c2"), ("B", "\u2028")]  # as docker
    with pytest.raises(UsageError):
        parse_env(["A=\0"], {})
    assert parse_host("db:::1") == ("db", "::1")
    assert (parse_workdir(""), parse_workdir("/a"), parse_hostname("a.b-c")) == ("", "/a", "a.b-c")
    assert [parse_cpus(number) for number in (None, 0, 0.01, 2.5)] == [None, None, 0.01, 2.5]
    assert [parse_pids(number) for number in (None, 0, -1, 7)] == [None, None, None, 7]
    for parse, bad in [
        (parse_host, "db:nowhere"),
        (parse_workdir, "a"),
        *((parse_hostname, name) for name in ("a b", "a\n1.2.3.4 b", "-a", "a" * 65)),
        *((parse_cpus, number) for number in (-1.0, 0.001, float("nan"), float("inf"), 1e300)),
        *((parse_pids, number) for number in (-2, 1 << 40)),
    ]:
        with pytest.raises(UsageError):
            parse(bad)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), ("e", "c")),
        (Wanted(command=("x",)), ("e", "x")),
        (Wanted(entrypoint="y"), ("y",)),
        (Wanted(entrypoint="y", command=("x",)), ("y", "x")),
        (Wanted(entrypoint="", command=("x",)), ("x",)),
    ],
)
def test_what_is_run(wanted: Wanted, expected: tuple[str, ...]) -> None:
    assert argv(wanted, ("e",), ("c",)) == expected


def test_nothing_to_run() -> None:
    with pytest.raises(NotFound):
        argv(Wanted(), (), ())


def test_environment_in_dockers_order() -> None:
    found = environment(Wanted(env=(("B", "2"), ("HOSTNAME", "mine")), tty=True), ["A=1", "B=1"], "/h", "host")
    assert found[1:] == ["HOSTNAME=mine", "TERM=xterm", "A=1", "B=2", "HOME=/h"]


def names(found: dict[str, Any], action: str = "SCMP_ACT_ALLOW") -> set[str]:
    return {name for rule in found["syscalls"] if rule["action"] == action for name in rule["names"]}


def test_seccomp_follows_the_capabilities() -> None:
    profile = default_profile()
    plain = seccomp(profile, DEFAULT, "amd64")
    assert plain["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert "read" in names(plain)
    assert "bpf" not in names(plain)
    assert "bpf" in names(seccomp(profile, ALL, "amd64"))
    assert "arch_prctl" in names(plain)
    assert "arch_prctl" not in names(seccomp(profile, DEFAULT, "arm64"))
    small = seccomp(profile, DEFAULT, "386")
    assert small["architectures"] == ["SCMP_ARCH_X86"]
    assert "modify_ldt" in names(small)  # the profile calls the architecture x86
    assert "arch_prctl" not in names(small)
    assert {key for rule in plain["syscalls"] for key in rule} <= {"names", "action", "args", "errnoRet"}
    with pytest.raises(InvalidDocument):
        seccomp({"syscalls": [{}]}, (), "amd64")


def made(wanted: Wanted, place: Place, user: User | None = None) -> dict[str, Any]:
    return runtime_spec(wanted, ["x"], [], "/", user or User(0, 0), place)


def test_spec_without_a_device_cgroup_makes_no_devices() -> None:
    guarded = made(Wanted(), Place("/r", "h"))
    assert guarded["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert "CAP_MKNOD" in guarded["process"]["capabilities"]["bounding"]
    bare = made(Wanted(), Place("/r", "h", devices=False, cgroups=False))
    assert "CAP_MKNOD" not in bare["process"]["capabilities"]["bounding"]
    assert "resources" not in bare["linux"]
    assert not any(mount["type"] == "cgroup" for mount in bare["mounts"])


def test_spec_of_a_plain_user_in_the_container() -> None:
    found = made(Wanted(), Place("/r", "h"), User(33, 44))["process"]["capabilities"]
    assert found["effective"] == found["permitted"] == []
    assert found["bounding"]


def test_spec_of_namespaces_and_limits() -> None:
    def kinds(place: Place) -> set[str]:
        return {one["type"] for one in made(Wanted(), place)["linux"]["namespaces"]}

    assert "network" in kinds(Place("/r", "h"))
    assert "network" not in kinds(Place("/r", "h", network="host"))
    assert "user" in kinds(Place("/r", "h", owners=Owners(((0, 1000, 1),), ((0, 1000, 1),))))
    limits = made(Wanted(memory=5, cpus=1.5, pids=7), Place("/r", "h"))["linux"]["resources"]
    assert limits["memory"] == {"limit": 5}
    assert limits["cpu"] == {"period": 100_000, "quota": 150_000}
    assert limits["pids"] == {"limit": 7}


def test_a_mount_that_is_asked_for_takes_the_place_of_ours_and_outer_ones_come_first() -> None:
    mounts = [Mount("bind", "/h", "/etc/hosts"), Mount("bind", "/1", "/a/b"), Mount("bind", "/2", "/a")]
    found = made(Wanted(), Place("/r", "h", files={"/etc/hosts": "/ours"}, mounts=mounts))["mounts"]
    places = [mount["destination"] for mount in found]
    assert places.count("/etc/hosts") == 1
    assert places.index("/a") < places.index("/a/b")


def test_files_of_the_network() -> None:
    assert "127.0.1.1\tbox\n" in hosts_file("box", [("db", "10.0.0.5")])
    assert "10.0.0.5\tdb\n" in hosts_file("box", [("db", "10.0.0.5")])
    text = "search a\nnameserver 127.0.0.53\nnameserver 10.0.0.1\n"
    assert resolv_file(text, "host") == text
    assert resolv_file(text, "none") == ""
    assert resolv_file(text, "pasta") == "search a\nnameserver 10.0.0.1\n"
