"""The flags of `run`: how they are parsed or refused, and what they put into the runtime spec."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lamina.errors import LaminaError, NotFound, Unsupported, UsageError
from lamina.host import privileges
from lamina.run import supported
from lamina.run.bubblewrap.command_line import arguments
from lamina.run.child import apply_limits
from lamina.run.devices import check_usable, parse_device
from lamina.run.dns import parse_server, parse_word, with_dns
from lamina.run.limits import (
    UNLIMITED,
    check_sysctls,
    parse_cpus_set,
    parse_memory_swap,
    parse_oom_score,
    parse_shares,
    parse_stop_timeout,
    parse_sysctl,
    parse_ulimit,
)
from lamina.run.mount_option import parse_mount
from lamina.run.options import (
    ContainerOptions,
    Device,
    Edits,
    Hook,
    Mount,
    Node,
    Ulimit,
    Userns,
    argv,
    parse_env_file,
    parse_host,
    parse_label_file,
    parse_labels,
    parse_memory,
    parse_namespace,
    parse_port,
    parse_volume,
)
from lamina.run.runtime import Runtime
from lamina.run.spec import (
    MASKED,
    READ_ONLY,
    HostResources,
    capabilities_of,
    environment,
    runtime_spec,
    with_device_guard,
)
from lamina.run.supported import check_flags, check_supported, first_unsupported
from lamina.run.user import User


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("type=bind,source=/a,target=/b", Mount("bind", "/a", "/b")),
        ("type=bind,src=./a,dst=/b,readonly", Mount("bind", "./a", "/b", ("ro",))),
        ("type=bind,src=/a,destination=/b,ro=1,bind-propagation=rslave", Mount("bind", "/a", "/b", ("ro", "rslave"))),
        ("type=bind,src=/a,dst=/b,readonly=false,consistency=cached", Mount("bind", "/a", "/b")),
        ("type=bind,src=/a,dst=/b,bind-recursive=disabled", Mount("bind", "/a", "/b", ("bind",))),
        ("type=bind,src=/a,dst=/b,bind-nonrecursive=true", Mount("bind", "/a", "/b", ("bind",))),
        ('type=bind,"src=/a,b",dst=/c', Mount("bind", "/a,b", "/c")),
        ("type=volume,source=data,target=/d", Mount("volume", "data", "/d")),
        ("source=data,target=/d,volume-nocopy", Mount("volume", "data", "/d", ("nocopy",))),
        ("type=volume,target=/d", Mount("volume", "", "/d")),
        ("type=tmpfs,target=/t", Mount("tmpfs", "", "/t")),
        ("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700", Mount("tmpfs", "", "/t", ("size=1048576", "mode=0700"))),
    ],
)  # fmt: skip
def test_mounts_in_dockers_words(word: str, expected: Mount) -> None:
    assert parse_mount(word) == expected


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("", "no target"),
        ("type=bind,target=/b", "needs a source"),
        ("type=bind,source=/a", "no target"),
        ("type=bind,source=/a,target=b", "is not a path in the container"),
        ("type=bind,source=/a,target=/", "is not a path in the container"),
        ("type=npipe,source=a,target=/b", "unknown type 'npipe'"),
        ("type=tmpfs,source=/a,target=/b", "no source"),
        ("type=tmpfs,target=/b,tmpfs-mode=rw", "mode"),
        ("type=tmpfs,target=/b,bind-propagation=shared", "use it with type=bind"),
        ("type=bind,source=/a,target=/b,bind-propagation=sideways", "sideways"),
        ("type=bind,source=/a,target=/b,readonly=maybe", "neither true nor false"),
        ("type=volume,source=a b,target=/b", "is not a volume name"),
        ("type=volume,source=a,target=/b,volume-driver=nfs", "no drivers"),
        ('type=bind,"source=/a', "--mount"),
        ("type=bind,source=/a\n,target=/b", "--mount"),
        ("type=bind,wrong=1,target=/b", "'wrong'"),
    ],
)
def test_invalid_mounts_are_refused(word: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_mount(word)


def test_options_of_volumes() -> None:
    assert parse_volume("/a:/b:ro,Z") == Mount("bind", "/a", "/b", ("ro",))
    assert parse_volume("/a:/b:rshared,cached").propagation == "rshared"
    assert parse_volume("n:/b:nocopy") == Mount("volume", "n", "/b", ("nocopy",))
    assert parse_volume("/a:/b").propagation == "rprivate"
    with pytest.raises(UsageError, match="both ro and rw"):
        parse_volume("/a:/b:ro,rw")


UNREADABLE: list[tuple[Callable[[str], Any], list[str]]] = [
    (parse_ulimit, ["", "nofile", "nofile=", "nofile=x", "files=1", "nofile=2:1", "nofile=-2", "nofile=1:2:3",
                    "nofile=99999999999999999999999"]),
    (parse_device, ["", "dev/fuse", "/dev/a:x", "/dev/a:/dev/b:rwx", "/dev/a:/dev/b:rr", "/dev/../a", "/",
                    "/dev/a:/b:r:w",
                    "/dev/a:"]),
    (parse_server, ["", "here", "1.2.3", "1.2.3.4\nsearch evil", "fe80::1%a b"]),
    (lambda word: parse_word(word, "--dns-search"), ["", "a b", "a\nnameserver 6.6.6.6", "é"]),
    (parse_sysctl, ["", "net.a", "=1", "net..a=1", "a b.c=1", "../a=1"]),
    (lambda word: parse_cpus_set(word, "--cpuset-cpus"), ["a", "1-", "0,", "0--1", "1 2"]),
    (parse_oom_score, ["", "x", "1001", "-1001", "1.5"]),
    (parse_shares, ["", "1", "-1", "262145", "x"]),
    (parse_stop_timeout, ["", "-2", "1.5", "soon"]),
    (lambda word: parse_memory_swap(word, 1 << 20), ["", "much", "1k", "-2"]),
    (lambda word: parse_memory_swap(word, None), ["1g"]),
    (parse_memory, ["", "-1", "1e30", "8388608t", "9" * 400, "9" * 400 + "t", "٣"]),
    (parse_port, ["", "x", "0", "65536", "80/http", "2-1", "1-2-3"]),
    (lambda word: parse_labels([word]), ["", "=x", "a=\0"]),
    (lambda word: parse_namespace(word, "pid"), ["container:", "ns:", "none", "moon"]),
    (lambda word: parse_namespace(word, "ipc"), ["container:", "moon"]),
    (lambda word: parse_namespace(word, "uts"), ["shareable"]),
    (lambda word: parse_namespace(word, "cgroupns"), ["container:web", "ns:/x"]),
    (parse_host, ["db", "db:", ":1.2.3.4", "d b:1.2.3.4", "#:1.2.3.4", ":host-gateway"]),
    (parse_host, ["db:fe80::1%a\n6.6.6.6 bank", "db:[fe80::1%eth0]", "d\rb:1.2.3.4", "d\vb:1.2.3.4"]),
    (lambda word: parse_host(word, "none"), ["db:host-gateway"]),
]  # fmt: skip


def test_limits_at_their_ends() -> None:
    assert [parse_memory(word) for word in ("0", "0g", "6m", "8388607t")] == [None, None, 6 << 20, (8388607 << 40)]
    with pytest.raises(UsageError, match="'6291455' is too little memory"):
        parse_memory(str((6 << 20) - 1))
    assert parse_memory_swap("0", 1 << 20) is None


def test_no_limit_is_the_kernels_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets them for bubblewrap, and its numbers are signed."""
    resource = pytest.importorskip("resource")
    told: list[tuple[int, ...]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda *words: told.append(words))
    apply_limits({"rlimits": [{"type": "RLIMIT_CORE", "soft": 5, "hard": UNLIMITED}]})
    assert told == [(resource.RLIMIT_CORE, (5, resource.RLIM_INFINITY))]


@pytest.mark.parametrize(("parse", "word"), [(parse, word) for parse, words in UNREADABLE for word in words])
def test_invalid_values_are_refused(parse: Callable[[str], Any], word: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(word)
    assert error.value.hint
    assert "\n" not in str(error.value)


def test_valid_values_are_parsed() -> None:
    assert parse_ulimit("nofile=1024") == Ulimit("nofile", 1024, 1024)
    assert parse_ulimit("NPROC=1:-1") == Ulimit("nproc", 1, UNLIMITED)
    assert parse_ulimit("core=unlimited") == Ulimit("core", UNLIMITED, UNLIMITED)
    assert parse_device("/dev/fuse") == Device("/dev/fuse", "/dev/fuse", "rwm")
    assert parse_device("/dev/a:r") == Device("/dev/a", "/dev/a", "r")
    assert parse_device("/dev/a:/dev/b:rw") == Device("/dev/a", "/dev/b", "rw")
    assert parse_server("fe80::1%eth0") == "fe80::1%eth0"
    assert parse_sysctl("net.ipv4.ip_forward=1") == ("net.ipv4.ip_forward", "1")
    assert parse_sysctl("net/ipv4/conf/eth0.100/x=a=b") == ("net/ipv4/conf/eth0.100/x", "a=b")
    assert [parse_shares(word) for word in ("0", "2", "1024")] == [None, 2, 1024]
    assert [parse_memory_swap(word, 1 << 20) for word in ("-1", "1m", "2m")] == [-1, 1 << 20, 2 << 20]
    assert [parse_stop_timeout(word) for word in ("-1", "0", "30")] == [-1, 0, 30]
    assert parse_labels(["a=b=c", "d", "a=e"]) == {"a": "e", "d": ""}
    assert parse_label_file("\ufeffa=1\r\n# no\n\n b=2") == {"a": "1", "b": "2"}
    assert parse_env_file("\ufeffA=1\nB=\ufeff2", {}) == [("A", "1"), ("B", "\ufeff2")]
    words = ("", "private", "shareable", "host", "none", "container:web", "ns:/x")
    assert [parse_namespace(word, "ipc") for word in words] == ["", "", *words[2:]]
    assert parse_host("db=10.0.0.5") == ("db", "10.0.0.5")
    assert parse_host("db=[fd00::1]") == ("db", "fd00::1")
    assert parse_host("here:host-gateway", "host") == ("here", "127.0.0.1")
    assert parse_host("here:host-gateway") == ("here", "host-gateway")


@pytest.mark.parametrize(
    ("entrypoint", "wanted", "expected"),
    [
        ([""], ContainerOptions(), ("c",)),
        ([""], ContainerOptions(command=("x",)), ("x",)),
        (["", ""], ContainerOptions(), ("", "", "c")),
        (["e"], ContainerOptions(), ("e", "c")),
    ],
)
def test_an_entrypoint_of_one_empty_word_means_no_entrypoint(
    entrypoint: list[str], wanted: ContainerOptions, expected: tuple[str, ...]
) -> None:
    assert argv(wanted, entrypoint, ["c"]) == expected


def test_dns_options_replace_lines_of_resolv_conf() -> None:
    text = "search old\nnameserver 10.0.0.1\noptions ndots:1\n# kept\n"
    assert with_dns(text, ["1.1.1.1"], [], []) == "search old\noptions ndots:1\n# kept\nnameserver 1.1.1.1\n"
    assert with_dns(text, [], ["a", "b"], []) == "nameserver 10.0.0.1\noptions ndots:1\n# kept\nsearch a b\n"
    assert with_dns(text, [], ["."], ["rotate"]) == "nameserver 10.0.0.1\n# kept\noptions rotate\n"
    assert with_dns("domain old\n", [], ["a"], []) == "search a\n"
    assert with_dns("", ["::1"], [], []) == "nameserver ::1\n"


FUSE = Node("/dev/fuse", "/dev/fuse", "c", 10, 229, "rw", 0o666, 0, 0)


def made(wanted: ContainerOptions, **place: Any) -> dict[str, Any]:
    return runtime_spec(wanted, ["x"], [], "/", User(0, 0), HostResources("/r", "h", **place))


def mount_at(spec: dict[str, Any], target: str) -> dict[str, Any]:
    (found,) = (mount for mount in spec["mounts"] if mount["destination"] == target)
    return dict(found)


def kinds(spec: dict[str, Any]) -> set[str]:
    return {one["type"] for one in spec["linux"]["namespaces"]}


@pytest.mark.parametrize(
    ("wanted", "path", "expected"),
    [
        (ContainerOptions(ulimits=(Ulimit("nofile", 1, 2), Ulimit("core", 0, 0), Ulimit("nofile", 3, 4))),
         ("process", "rlimits"),
         [{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 4}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
        (ContainerOptions(oom_score=-7), ("process", "oomScoreAdj"), -7),
        (ContainerOptions(apparmor="mine"), ("process", "apparmorProfile"), "mine"),
        (ContainerOptions(sysctls=(("net.core.somaxconn", "7"),)), ("linux", "sysctl"), {"net.core.somaxconn": "7"}),
        (ContainerOptions(domainname="d"), ("linux", "sysctl"), {"kernel.domainname": "d"}),
        (ContainerOptions(memory=5, memory_swap=-1, memory_reservation=3), ("linux", "resources", "memory"),
         {"limit": 5, "swap": -1, "reservation": 3}),
        (ContainerOptions(cpus=1.5, cpu_shares=512, cpuset_cpus="0-1", cpuset_mems="0"),
         ("linux", "resources", "cpu"),
         {"period": 100_000, "quota": 150_000, "shares": 512, "cpus": "0-1", "mems": "0"}),
        (ContainerOptions(cpu_period=50_000, cpu_quota=20_000), ("linux", "resources", "cpu"),
         {"period": 50_000, "quota": 20_000}),
        (ContainerOptions(masked=("/proc/mine",)), ("linux", "maskedPaths"), [*MASKED, "/proc/mine"]),
        (ContainerOptions(unmasked=(MASKED[0],)), ("linux", "maskedPaths"), list(MASKED[1:])),
        (ContainerOptions(unmasked=(READ_ONLY[0],)), ("linux", "readonlyPaths"), list(READ_ONLY[1:])),
        (ContainerOptions(unmask=True, masked=("/proc/mine",)), ("linux", "maskedPaths"), ["/proc/mine"]),
    ],
)  # fmt: skip
def test_each_flag_has_its_place_in_the_spec(wanted: ContainerOptions, path: tuple[str, ...], expected: Any) -> None:
    found: Any = made(wanted)
    for key in path:
        found = found[key]
    assert found == expected


def test_options_that_were_not_given_are_not_in_the_spec() -> None:
    found = made(ContainerOptions())
    assert "rlimits" not in found["process"]
    assert "apparmorProfile" not in found["process"]
    assert found["linux"].keys() == {"namespaces", "resources", "maskedPaths", "readonlyPaths"}
    assert found["linux"]["resources"].keys() == {"devices"}
    assert "hooks" not in found


def test_namespaces_of_the_host() -> None:
    assert kinds(made(ContainerOptions())) == {"pid", "ipc", "uts", "mount", "network", "cgroup"}
    assert "pid" not in kinds(made(ContainerOptions(pid="host")))
    assert "cgroup" not in kinds(made(ContainerOptions(cgroupns="host")))
    uts = made(ContainerOptions(uts="host"))
    assert "uts" not in kinds(uts)
    assert "hostname" not in uts
    ipc = made(ContainerOptions(ipc="host"))
    assert "ipc" not in kinds(ipc)
    for path in ("/dev/shm", "/dev/mqueue"):
        assert (mount_at(ipc, path)["type"], mount_at(ipc, path)["source"]) == ("bind", path)
    assert not any(mount["destination"] == "/dev/shm" for mount in made(ContainerOptions(ipc="none"))["mounts"])
    assert "size=65536k" in mount_at(made(ContainerOptions()), "/dev/shm")["options"]
    assert "size=7" in mount_at(made(ContainerOptions(shm_size=7)), "/dev/shm")["options"]
    assert mount_at(made(ContainerOptions(pid="host")), "/proc")["type"] == "proc"
    assert mount_at(made(ContainerOptions(pid="host"), plain=True), "/proc")["type"] == "bind"


def test_devices_are_made_behind_a_cgroup_and_shown_elsewhere() -> None:
    found = made(ContainerOptions(), nodes=[FUSE])
    assert found["linux"]["devices"] == [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}
    ]
    assert found["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ]
    shown = made(ContainerOptions(), nodes=[FUSE], bind_nodes=True, plain=True, cgroups=False, devices=False)
    assert "devices" not in shown["linux"]
    assert "dev" in mount_at(shown, "/dev/fuse")["options"]
    words = arguments(shown, lambda path: "", {})
    at = words.index("--dev-bind")
    assert words[at : at + 3] == ["--dev-bind", "/dev/fuse", "/dev/fuse"]


@pytest.mark.parametrize(
    ("node", "guarded", "refused"),
    [
        (FUSE, True, ""),
        (FUSE, False, ""),
        (replace(FUSE, path="/srv/fuse"), True, ""),
        (replace(FUSE, path="/srv/fuse"), False, "outside of /dev"),
        (replace(FUSE, access="r"), True, ""),
        (replace(FUSE, access="r"), False, "as r only"),
        (replace(FUSE, access="wm"), False, "as wm only"),
    ],
)  # fmt: skip
def test_devices_that_nothing_guards(node: Node, guarded: bool, refused: str) -> None:
    if not refused:
        check_usable([node], guarded=guarded, plain=False)
        return
    with pytest.raises(Unsupported, match=refused):
        check_usable([node], guarded=guarded, plain=False)


def test_a_privileged_container() -> None:
    wanted = ContainerOptions(privileged=True)
    found = made(wanted)
    assert {"CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SYS_MODULE"} <= set(found["process"]["capabilities"]["effective"])
    assert found["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert not {"maskedPaths", "readonlyPaths"} & found["linux"].keys()
    assert "ro" not in mount_at(found, "/sys")["options"]
    assert "ro" not in mount_at(found, "/sys/fs/cgroup")["options"]
    assert "CAP_MKNOD" in capabilities_of(wanted, devices=False)
    assert "CAP_SYS_ADMIN" not in capabilities_of(replace(wanted, cap_drop=("SYS_ADMIN",)), devices=True)


def test_propagation_of_mounts() -> None:
    def propagation(*words: str) -> Any:
        mounts = [Mount("bind", "/a", f"/m{number}", (word,)) for number, word in enumerate(words)]
        found = made(ContainerOptions(), mounts=mounts)
        assert [word in mount_at(found, f"/m{number}")["options"] for number, word in enumerate(words)] == [
            True for _ in words
        ]
        return found["linux"].get("rootfsPropagation")

    assert propagation("rprivate") is None
    assert propagation("rslave") == "rslave"
    assert propagation("slave", "shared") == "rshared"
    flat = made(ContainerOptions(), mounts=[Mount("bind", "/a", "/b", ("bind", "ro"))])
    assert mount_at(flat, "/b")["options"] == ["bind", "rprivate", "ro"]
    whole = made(ContainerOptions(), mounts=[Mount("bind", "/a", "/b", ("ro", "rro"))])
    assert mount_at(whole, "/b")["options"] == ["rbind", "rprivate", "ro", "rro"]


def test_edits_of_cdi_devices() -> None:
    edits = Edits(env=("A=cdi", "B=cdi"), hooks=(Hook("prestart", "/h", ("h",), ("X=1",), 3), Hook("poststop", "/p")))
    wanted = ContainerOptions(edits=edits, env=(("B", "given"),))
    assert environment(wanted, ["A=image"], "/", "h")[2:] == ["A=cdi", "B=given", "HOME=/"]
    hooks = made(wanted)["hooks"]
    assert hooks == {
        "prestart": [{"path": "/h", "args": ["h"], "env": ["X=1"], "timeout": 3}],
        "poststop": [{"path": "/p"}],
    }
    created = {"createContainer": [{"path": "/first"}]}
    both = with_device_guard(
        {"root": {"readonly": False, "path": "/r"}, "hooks": {**hooks, **created}}, "/bin/sh", "/bin/mount"
    )
    assert both["hooks"]["prestart"] == hooks["prestart"]
    assert [one["path"] for one in both["hooks"]["createContainer"]] == ["/first", "/bin/sh"]


@pytest.mark.parametrize(
    ("wanted", "flag"),
    [
        (ContainerOptions(), ""),
        (
            ContainerOptions(ulimits=(Ulimit("core", 0, 0),), ipc="host", uts="host", devices=(Device("/a", "/a"),)),
            "",
        ),
        (
            ContainerOptions(
                shm_size=1, groups=("1",), oom_score=5, dns=("::1",), labels={"a": "b"}, privileged=True
            ),
            "",
        ),
        (ContainerOptions(pid="host"), "--pid host"),
        (ContainerOptions(sysctls=(("net.a", "1"),)), "--sysctl"),
        (ContainerOptions(domainname="d"), "--domainname"),
        (ContainerOptions(cgroupns="host"), "--cgroupns host"),
        (ContainerOptions(cpu_shares=2), "--cpu-shares"),
        (ContainerOptions(cpuset_cpus="0"), "--cpuset-cpus"),
        (ContainerOptions(memory_swap=-1), "--memory-swap"),
        (ContainerOptions(edits=Edits(hooks=(Hook("prestart", "/h"),))), "hooks"),
        (ContainerOptions(apparmor="x"), "apparmor"),
        (ContainerOptions(mounts=(Mount("bind", "/a", "/b", ("rshared",)),)), "rshared"),
        (ContainerOptions(mounts=(Mount("bind", "/a", "/b", ("bind",)),)), "alone"),
        (ContainerOptions(mounts=(Mount("tmpfs", "", "/b", ("suid",)),)), "suid"),
        (ContainerOptions(mounts=(Mount("volume", "v", "/b", ("noexec",)),)), "noexec for /b"),
        (ContainerOptions(mounts=(Mount("tmpfs", "", "/b", ("rw", "ro", "noexec", "size=1m", "mode=700")),)), ""),
    ],
)  # fmt: skip
def test_options_that_bubblewrap_lacks_are_refused(wanted: ContainerOptions, flag: str) -> None:
    assert flag in first_unsupported(wanted)
    assert bool(first_unsupported(wanted)) == bool(flag)
    if flag:
        with pytest.raises(Unsupported, match="bubblewrap can't do"):
            check_supported(replace(wanted, network="none"), Runtime("/usr/bin/bwrap", True, False))


@pytest.mark.parametrize(
    "wanted",
    [
        ContainerOptions(uts="host", hostname="x"),
        ContainerOptions(uts="host", domainname="x"),
        ContainerOptions(ipc="host", shm_size=1),
        ContainerOptions(ipc="none", shm_size=1),
        ContainerOptions(memory=1, memory_reservation=2),
        ContainerOptions(pid="host", userns=Userns("auto")),
    ],
)
def test_flags_that_contradict_each_other(wanted: ContainerOptions) -> None:
    with pytest.raises(UsageError):
        check_flags(wanted)


@pytest.mark.parametrize(
    ("name", "wanted", "network", "refused"),
    [
        ("net.core.somaxconn", ContainerOptions(), "none", ""),
        ("net/core/somaxconn", ContainerOptions(), "none", ""),
        ("net.core.somaxconn", ContainerOptions(), "host", "--network host"),
        ("kernel.shmmax", ContainerOptions(), "none", ""),
        ("kernel.shmmax", ContainerOptions(ipc="host"), "none", "--ipc host"),
        ("fs.mqueue.msg_max", ContainerOptions(ipc="host"), "none", "--ipc host"),
        ("kernel.domainname", ContainerOptions(), "none", ""),
        ("kernel.domainname", ContainerOptions(uts="host"), "none", "--uts host"),
        ("kernel.hostname", ContainerOptions(), "none", "--hostname"),
        ("vm.swappiness", ContainerOptions(), "none", "belongs to the host"),
        ("kernel.panic", ContainerOptions(), "none", "belongs to the host"),
        ("netfilter.x", ContainerOptions(), "none", "belongs to the host"),
    ],
)
def test_settings_that_are_not_the_containers_own(
    name: str, wanted: ContainerOptions, network: str, refused: str
) -> None:
    asked = replace(wanted, sysctls=((name, "1"),))
    if not refused:
        check_sysctls(asked, network)
        return
    with pytest.raises(UsageError, match=refused):
        check_sysctls(asked, network)


def test_options_that_a_plain_user_may_not_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(privileges, "is_root", lambda: False)
    monkeypatch.setattr(supported, "_own_score", lambda: 100)
    monkeypatch.setattr(resource, "getrlimit", lambda number: (10, 20))
    runc = Runtime("/usr/sbin/runc", False, False)
    for wanted in (
        ContainerOptions(oom_score=100),
        ContainerOptions(ulimits=(Ulimit("nofile", 1, 20),)),
        ContainerOptions(pid="host", ipc="host", privileged=True),
    ):
        check_supported(wanted, runc)
    for wanted, named in (
        (ContainerOptions(oom_score=99), "only root may go below"),
        (ContainerOptions(ulimits=(Ulimit("nofile", 1, 21),)), "only root may go above"),
        (ContainerOptions(memory=1), "can't be limited here"),
        (ContainerOptions(cpuset_cpus="0"), "can't be limited here"),
        (ContainerOptions(cgroupns="host"), "no cgroup"),
    ):
        with pytest.raises(LaminaError, match=named):
            check_supported(wanted, runc)
    monkeypatch.setattr(resource, "getrlimit", lambda number: (10, resource.RLIM_INFINITY))
    check_supported(ContainerOptions(ulimits=(Ulimit("nofile", 1, UNLIMITED),)), runc)


def test_limits_without_their_controller_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runc = Runtime("/usr/sbin/runc", True, True)
    monkeypatch.setattr("lamina.run.cgroups.lacking", lambda asked: sorted({"memory", "cpuset"} & set(asked)))
    for wanted in (ContainerOptions(memory=1 << 30), ContainerOptions(pids=5, cpuset_mems="0")):
        with pytest.raises(Unsupported, match="the cgroups of this host have no controller"):
            check_supported(wanted, runc)
    check_supported(ContainerOptions(cpus=1, pids=5), runc)


def test_a_profile_of_apparmor_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    runc = Runtime("/usr/sbin/runc", True, True)
    monkeypatch.setattr(supported, "_has_apparmor", lambda: False)
    with pytest.raises(Unsupported, match="no AppArmor"):
        check_supported(ContainerOptions(apparmor="docker-default"), runc)
    monkeypatch.setattr(supported, "_has_apparmor", lambda: True)
    check_supported(ContainerOptions(apparmor="docker-default"), runc)


def test_a_device_must_exist_and_be_a_device() -> None:
    from lamina.run.devices import nodes_of

    with pytest.raises(NotFound, match="'/dev/nothing-of-this-name' was not found"):
        nodes_of([Device("/dev/nothing-of-this-name", "/dev/x")])
    with pytest.raises(UsageError, match="is not a device"):
        nodes_of([Device(__file__, "/dev/x")])
    (null,) = nodes_of([Device("/dev/null", "/dev/hole", "r")])
    assert (null.path, null.source, null.kind, null.major, null.minor, null.access) == (
        "/dev/hole", "/dev/null", "c", 1, 3, "r",
    )  # fmt: skip


of_linux = pytest.mark.skipif(sys.platform != "linux", reason="the numbers of devices are Linux's")


@of_linux
@pytest.mark.parametrize("mode", [None, 0o600])
@pytest.mark.parametrize(("kind", "major", "minor"), [("", 0, 0), ("c", 0, 0), ("c", 1, 3), ("", 1, 3)])
def test_a_cdi_file_may_leave_out_what_the_host_knows(kind: str, major: int, minor: int, mode: int | None) -> None:
    """/dev/null is 1:3; numbers are optional, with and without a type."""
    from lamina.run.devices import with_host_numbers

    found = with_host_numbers(Node("/dev/x", "/dev/null", kind, major, minor, "rw", mode))
    assert (found.path, found.kind, found.major, found.minor, found.access) == ("/dev/x", "c", 1, 3, "rw")
    assert found.mode == (os.stat("/dev/null").st_mode & 0o7777 if mode is None else mode)


@of_linux
@pytest.mark.parametrize(("kind", "major", "minor"), [("b", 0, 0), ("c", 1, 5), ("", 1, 5)])
def test_a_cdi_file_whose_device_numbers_differ_from_the_hosts_is_refused(kind: str, major: int, minor: int) -> None:
    from lamina.run.devices import with_host_numbers

    with pytest.raises(LaminaError, match="another device"):
        with_host_numbers(Node("/dev/x", "/dev/null", kind, major, minor))


def test_variables_of_an_image_that_have_no_name_are_left_out() -> None:
    """The runtimes refuse them, or crash."""
    found = environment(ContainerOptions(env=(("B", "caller"),)), ["", "=x", "A", "B=image"], "/root", "box")
    assert found[2:] == ["A=", "B=caller", "HOME=/root"]
