"""The pure parts of run: users, options, capabilities, seccomp, the runtime spec."""

from __future__ import annotations

from typing import Any

import pytest

from lamina.errors import InvalidContent, InvalidDocument, NotFound, UsageError
from lamina.run.bubblewrap.command_line import packed
from lamina.run.capability import ALL, DEFAULT, capabilities
from lamina.run.network import Resolver, hosts_file, resolver
from lamina.run.options import (
    ContainerOptions,
    Mount,
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
from lamina.run.spec import HostResources, check_words, environment, runtime_spec
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


def test_a_nul_in_an_argument_of_bubblewrap_is_refused() -> None:
    assert packed(["--setenv", "A", "\udcff b"]) == b"--setenv\0A\0\xff b\0"
    with pytest.raises(UsageError, match="NUL"):
        packed(["--setenv", "A", "a\0--bind\0/\0/machine"])
    check_words("app", ["", "A=\n"])
    with pytest.raises(InvalidContent, match="config of app holds a NUL"):
        check_words("app", ["A=1", "A=\0"])


def test_options() -> None:
    assert parse_volume("/a:/b:ro") == Mount("bind", "/a", "/b", ("ro",))
    assert parse_volume("./a:/b") == Mount("bind", "./a", "/b")
    assert parse_volume("name:/b:z") == Mount("volume", "name", "/b")
    assert parse_volume("/b") == Mount("volume", "", "/b")
    for bad in ("", "a:b", "/a:/b:ro:x", "/a:/b:execute", "/a:/", "/a:/x/../y", "na me:/b"):
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
        (ContainerOptions(), ("e", "c")),
        (ContainerOptions(command=("x",)), ("e", "x")),
        (ContainerOptions(entrypoint="y"), ("y",)),
        (ContainerOptions(entrypoint="y", command=("x",)), ("y", "x")),
        (ContainerOptions(entrypoint="", command=("x",)), ("x",)),
    ],
)
def test_command_and_entrypoint_are_combined_as_in_docker(
    wanted: ContainerOptions, expected: tuple[str, ...]
) -> None:
    assert argv(wanted, ("e",), ("c",)) == expected


def test_without_a_command_nothing_runs() -> None:
    with pytest.raises(NotFound):
        argv(
            ContainerOptions(entrypoint=""), ("e",), ("c",)
        )  # it drops the image's command, as with docker and podman
    with pytest.raises(NotFound):
        argv(ContainerOptions(), (), ())


def test_environment_in_dockers_order() -> None:
    found = environment(
        ContainerOptions(env=(("B", "2"), ("HOSTNAME", "mine")), tty=True), ["A=1", "B=1"], "/h", "host"
    )
    assert found[1:] == ["HOSTNAME=mine", "TERM=xterm", "A=1", "B=2", "HOME=/h"]


@pytest.mark.parametrize(
    ("image", "given", "expected"),
    [
        ([], (), "/home/web"),
        (["HOME=/image"], (), "/image"),
        ([], (("HOME", "/given"),), "/given"),
        (["HOME=/image"], (("HOME", "/given"),), "/given"),
        (["HOME="], (), ""),  # said, and empty
    ],
)
def test_home_is_the_users_unless_a_variable_is_given(
    image: list[str], given: tuple[tuple[str, str], ...], expected: str
) -> None:
    found = environment(ContainerOptions(env=given), image, "/home/web", "host")
    assert [item for item in found if item.startswith("HOME=")] == [f"HOME={expected}"]


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


PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_BPF", "CAP_X"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["sync_file_range2"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "comment": "not for the runtime",
            "args": [
                {"index": 0, "value": 2114060288, "valueTwo": 17, "op": "SCMP_CMP_MASKED_EQ"},
                {"index": 1, "value": 5, "op": "SCMP_CMP_EQ", "comment": "no"},
            ],
        },
    ],
}


def rules_of(name: str, held: tuple[str, ...], architecture: str = "amd64") -> list[tuple[str, int | None]]:
    found = seccomp(PROFILE, held, architecture)["syscalls"]
    return [(rule["action"], rule.get("errnoRet")) for rule in found if name in rule["names"]]


def test_rules_of_a_profile_depend_on_the_kernel_and_capabilities() -> None:
    allow, refuse = ("SCMP_ACT_ALLOW", None), ("SCMP_ACT_ERRNO", 1)
    assert rules_of("bpf", ()) == [refuse]
    assert rules_of("bpf", ("CAP_SYS_ADMIN",)) == [refuse]
    assert rules_of("bpf", ("CAP_BPF",)) == []  # one of the excluded is enough, all of the included are needed
    assert rules_of("bpf", ("CAP_X",)) == []
    assert rules_of("bpf", ("CAP_BPF", "CAP_SYS_ADMIN")) == [allow]
    assert rules_of("arch_prctl", ()) == [allow]
    assert rules_of("arch_prctl", (), "arm64") == []
    assert rules_of("sync_file_range2", ()) == []
    assert rules_of("sync_file_range2", (), "arm64") == [allow]
    assert rules_of("read", ()) == [allow]


def test_arguments_of_seccomp_rules_reach_the_runtime() -> None:
    (clone,) = (rule for rule in seccomp(PROFILE, (), "arm64")["syscalls"] if "clone" in rule["names"])
    assert clone == {
        "names": ["clone"],
        "action": "SCMP_ACT_ALLOW",
        "args": [
            {"index": 0, "value": 2114060288, "valueTwo": 17, "op": "SCMP_CMP_MASKED_EQ"},
            {"index": 1, "value": 5, "op": "SCMP_CMP_EQ"},
        ],
    }


def test_a_profiles_architectures() -> None:
    found = seccomp(PROFILE, (), "arm64")
    assert (found["defaultAction"], found["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert found["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert seccomp(PROFILE, (), "amd64")["architectures"] == ["SCMP_ARCH_X86_64"]
    assert "architectures" not in seccomp({"defaultAction": "SCMP_ACT_ALLOW"}, (), "sparc64")
    named = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_MIPS"]}
    assert seccomp(named, (), "amd64")["architectures"] == ["SCMP_ARCH_MIPS"]
    assert "defaultErrnoRet" not in seccomp(named, (), "amd64")


def made(wanted: ContainerOptions, place: HostResources, user: User | None = None) -> dict[str, Any]:
    return runtime_spec(wanted, ["x"], [], "/", user or User(0, 0), place)


def test_spec_without_a_device_cgroup_makes_no_devices() -> None:
    guarded = made(ContainerOptions(), HostResources("/r", "h"))
    assert guarded["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert "CAP_MKNOD" in guarded["process"]["capabilities"]["bounding"]
    bare = made(ContainerOptions(), HostResources("/r", "h", devices=False, cgroups=False))
    assert "CAP_MKNOD" not in bare["process"]["capabilities"]["bounding"]
    assert "resources" not in bare["linux"]
    assert not any(mount["type"] == "cgroup" for mount in bare["mounts"])


def test_spec_of_a_plain_user_in_the_container() -> None:
    found = made(ContainerOptions(), HostResources("/r", "h"), User(33, 44))["process"]["capabilities"]
    assert found["effective"] == found["permitted"] == []
    assert found["bounding"]


def test_spec_of_namespaces_and_limits() -> None:
    def kinds(place: HostResources) -> set[str]:
        return {one["type"] for one in made(ContainerOptions(), place)["linux"]["namespaces"]}

    assert "network" in kinds(HostResources("/r", "h"))
    assert "network" not in kinds(HostResources("/r", "h", network="host"))
    assert "user" in kinds(HostResources("/r", "h", owners=Owners(((0, 1000, 1),), ((0, 1000, 1),))))
    limits = made(ContainerOptions(memory=5, cpus=1.5, pids=7), HostResources("/r", "h"))["linux"]["resources"]
    assert limits["memory"] == {"limit": 5, "swap": 10}  # docker's default
    without = made(ContainerOptions(memory=5), HostResources("/r", "h", swap=False))["linux"]["resources"]
    assert without["memory"] == {"limit": 5}
    assert limits["cpu"] == {"period": 100_000, "quota": 150_000}
    assert limits["pids"] == {"limit": 7}


def test_mounts_of_the_caller_replace_ours_and_outer_mounts_come_first() -> None:
    mounts = [Mount("bind", "/h", "/etc/hosts"), Mount("bind", "/1", "/a/b"), Mount("bind", "/2", "/a")]
    found = made(ContainerOptions(), HostResources("/r", "h", files={"/etc/hosts": "/ours"}, mounts=mounts))["mounts"]
    places = [mount["destination"] for mount in found]
    assert places.count("/etc/hosts") == 1
    assert places.index("/a") < places.index("/a/b")


def test_a_tmpfs_is_noexec_nosuid_nodev_by_default() -> None:
    mounts = [Mount("tmpfs", "", "/t", ("size=1m", "exec")), Mount("bind", "/h", "/b", ("ro",))]
    found = {
        mount["destination"]: mount
        for mount in made(ContainerOptions(), HostResources("/r", "h", mounts=mounts))["mounts"]
    }
    assert found["/t"]["options"] == ["nosuid", "nodev", "size=1m"]
    assert found["/b"]["options"] == ["rbind", "rprivate", "ro"]
    for place in ("/proc", "/dev/shm", "/dev/mqueue", "/sys"):
        assert {"nosuid", "noexec", "nodev"} <= set(found[place]["options"]), place
    assert {"nosuid", "noexec"} <= set(found["/dev/pts"]["options"])
    assert "nosuid" in found["/dev"]["options"]
    assert "ro" in found["/sys"]["options"]


def test_a_volume_has_no_devices_where_nothing_guards_them() -> None:
    def options(place: HostResources) -> list[str]:
        (found,) = (mount for mount in made(ContainerOptions(), place)["mounts"] if mount["destination"] == "/b")
        given: list[str] = found["options"]
        return given

    bind = [Mount("bind", "/h", "/b")]
    assert options(HostResources("/r", "h", mounts=bind, devices=False)) == ["rbind", "rprivate", "rw", "nodev"]
    assert options(HostResources("/r", "h", mounts=bind, devices=False, plain=True)) == ["rbind", "rprivate", "rw"]


def test_hosts_file_has_the_given_names() -> None:
    assert "127.0.1.1\tbox\n" in hosts_file("box", [("db", "10.0.0.5")])
    assert "10.0.0.5\tdb\n" in hosts_file("box", [("db", "10.0.0.5")])


LOCAL, BOTH = "search a\nnameserver 127.0.0.53\n", "search a\nnameserver 127.0.0.53\nnameserver 10.0.0.1\n"


@pytest.mark.parametrize(
    ("text", "upstream", "network", "found"),
    [
        (BOTH, "", "host", Resolver(BOTH)),
        (BOTH, "", "none", Resolver("")),
        (BOTH, "nameserver 10.0.0.2\n", "pasta", Resolver("search a\nnameserver 10.0.0.1\n")),
        (LOCAL, "nameserver 10.0.0.2\nsearch b\n", "pasta", Resolver("nameserver 10.0.0.2\nsearch b\n")),
        (LOCAL, "nameserver ::1\n", "pasta", Resolver("search a\nnameserver 169.254.1.1\n", ("127.0.0.53",))),
        ("nameserver ::1\n", "", "pasta", Resolver("nameserver 169.254.1.1\n", ("::1",))),
        ("search a\n", "nameserver 10.0.0.2\n", "pasta", Resolver("search a\n")),
        ("", "", "pasta", Resolver("")),
    ],
)
def test_name_servers_on_loopback_addresses_are_left_out(
    text: str, upstream: str, network: str, found: Resolver
) -> None:
    assert resolver(text, upstream, network) == found
