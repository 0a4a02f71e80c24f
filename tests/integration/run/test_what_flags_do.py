"""Flags of `run`, `ps`, `stop`, `rm`, `cp` and `commit` through real runtimes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import make_store, members, mounts_of, wait_for
from support import lamina, require_root, require_tool, running

RUNTIMES = ("runc", "bwrap")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_root()
    require_tool("runc", "bwrap", "busybox")
    layer = [("data/", None), ("data/one", b"1\n"), ("data/two", "= data/one"), ("data/link", "-> one")]
    yield make_store(tmp_path, [members(*layer)], Env=["A=image"], WorkingDir="/data", Labels={"of": "image"})
    lamina("rm", "--all", "--force", root=tmp_path / "store")
    assert mounts_of(tmp_path / "store") == []


def run(root: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return lamina("run", "--network", "none", *words, root=root, **more)


def out(root: Path, *words: str) -> list[str]:
    done = run(root, "--rm", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()


SHOWN = (
    "id -G; ulimit -n; cat /proc/self/oom_score_adj; hostname; cat /etc/resolv.conf; "
    "stat -c %t:%T /dev/hole; df /dev/shm | tail -1"
)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_flags_have_their_effect_in_the_container(root: Path, runtime: str) -> None:
    words = ["--runtime", runtime, "--group-add", "web", "--group-add", "77", "--ulimit", "nofile=100:200"]
    words += ["--oom-score-adj", "300", "-h", "box", "--dns", "192.0.2.1", "--dns-search", "a.example"]
    words += ["--device", "/dev/null:/dev/hole", "--shm-size", "1m"]
    lines = out(root, *words, "app", "sh", "-c", SHOWN)
    assert lines[:7] == ["0 44 77", "100", "300", "box", "nameserver 192.0.2.1", "search a.example", "1:3"]
    assert lines[7].split()[1] == "1024"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_terminal_where_the_caller_has_none(root: Path, runtime: str) -> None:
    script = "test -t 0 && test -t 1 && test -t 2 && echo all; echo $TERM; exit 5"
    done = run(root, "--rm", "--runtime", runtime, "-t", "app", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (5, b"all\r\nxterm\r\n")
    done = run(root, "--rm", "--runtime", runtime, "-t", "app", "nothing-here")
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_program_ends_when_its_terminal_is_closed(root: Path, runtime: str) -> None:
    words = ("run", "--rm", "--network", "none", "--runtime", runtime, "-t", "app", "sh", "-c")
    with running(*words, "while :; do echo y; done", root=root) as process:
        wait_for(process, b"y\r\n")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 137
    assert lamina("ps", "-aq", root=root).stdout == b""


def test_host_namespaces_are_shared(root: Path) -> None:
    script = "for one in pid ipc uts cgroup; do readlink /proc/self/ns/$one; done"
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "uts", "cgroup")]
    words = ("--pid", "host", "--ipc", "host", "--uts", "host", "--cgroupns", "host")
    assert out(root, "--runtime", "runc", *words, "app", "sh", "-c", script) == ours
    assert set(out(root, "--runtime", "runc", "app", "sh", "-c", script)).isdisjoint(ours)


def test_settings_and_limits_of_a_cgroup(root: Path) -> None:
    script = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/domainname; cat /etc/hosts | busybox tail -1; "
    script += "grep Cpus_allowed_list /proc/self/status"
    words = ("--runtime", "runc", "--sysctl", "net.core.somaxconn=77", "--domainname", "example", "-h", "box")
    lines = out(root, *words, "--cpuset-cpus", "0", "--cpu-shares", "512", "app", "sh", "-c", script)
    assert lines == ["77", "example", "127.0.1.1\tbox.example box", "Cpus_allowed_list:\t0"]


def test_a_privileged_container_says_so_in_one_line(root: Path) -> None:
    done = run(
        root, "--rm", "--runtime", "runc", "--privileged", "app", "sh", "-c", "grep Seccomp: /proc/self/status"
    )
    assert done.stdout.split() == [b"Seccomp:", b"0"]
    (said,) = (line for line in done.stderr.splitlines() if b"--privileged" in line)
    assert said.startswith(b"lamina: warning: --privileged isolates nothing")


def test_annotations_are_given_to_the_runtime(root: Path) -> None:
    words = ("--annotation", "a=b", "--annotation", "org.example.c=d e", "--name", "annotated")
    done = run(root, "-d", *words, "app", "sleep", "600")
    assert done.returncode == 0, done.stderr
    (config,) = root.glob("containers/*/bundle/config.json")
    assert {"a": "b", "org.example.c": "d e"}.items() <= json.loads(config.read_text())["annotations"].items()
    shown = lamina("inspect", "-f", "{{json .HostConfig.Annotations}}", "annotated", root=root)
    assert json.loads(shown.stdout) == {"a": "b", "org.example.c": "d e"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--restart", "always"), "--restart and --rm can't be combined"),
        (("--restart", "sometimes"), "unknown restart policy 'sometimes'"),
        (("--detach-keys", "ctrl-"), "'ctrl-' are not keys"),
        (("-a", "stdoops"), "unknown stream 'stdoops'"),
        (("-p", "80:80:80"), "'80' is not an address"),
        (("-p", "80:70000"), "'70000' is not a port"),
        (("--expose", "x"), "'x' is not a port"),
        (("--pid", "container:x"), "no container 'x'"),
        (("--runtime", "bwrap", "--pid", "container:x"), "bubblewrap can't do --pid container:"),
        (("--net", "container:x", "-p", "80"), "--publish can't be combined with --network container:x"),
        (("--net", "container:x", "-h", "y"), "--hostname can't be combined with --network container:x"),
        (("--net", "container:x", "--dns", "192.0.2.1"), "--dns can't be combined with --network container:x"),
        (("--net", "container:x", "--add-host", "a:192.0.2.1"), "--add-host can't be combined with"),
        (("--ipc", "container:x", "--shm-size", "1m"), "--shm-size can't be combined with --ipc container:x"),
        (("--ipc", "container:"), "unknown value for --ipc"),
        (("--uts", "ns:relative"), "is not an absolute path"),
        (("--pid", "ns:/dev/null"), "this file is not a namespace"),
        (("--network", "ns:/nowhere"), "No such file"),
        (("--volumes-from", "x"), "no container 'x'"),
        (("--ip", "10.0.0.2"), "--ip needs a network with a name"),
        (("--runtime", "bwrap", "--pid", "host"), "bubblewrap can't do --pid host"),
        (("--runtime", "bwrap", "--sysctl", "net.core.somaxconn=1"), "bubblewrap can't do --sysctl"),
        (("--sysctl", "vm.swappiness=1"), "belongs to the host"),
        (("--gpus", "all"), "nvidia.com/gpu=all"),
        (("--device", "vendor.com/class=name"), "vendor.com/class=name"),
        (("--device", "/dev/nothing-here"), "/dev/nothing-here"),
        (("--group-add", "nobody-here"), "nobody-here"),
        (("--mount", "type=bind,source=/a"), "no target"),
        (("--stop-signal", "NONSENSE"), "unknown signal"),
        (("--label-file", "/nowhere"), "/nowhere"),
        (("--security-opt", "what=ever"), "unknown --security-opt"),
        (("--memory-swap", "1g"), "--memory-swap needs --memory"),
    ],
)
def test_unsupported_values_are_one_error_line(root: Path, words: tuple[str, ...], named: str) -> None:
    done = run(root, "--rm", *words, "app", "true")
    said = [line for line in done.stderr.decode().splitlines() if not line.startswith("lamina: warning: ")]
    assert (done.returncode, done.stdout, len(said)) == (125, b"", 1), done.stderr
    assert named in said[0]
    assert lamina("ps", "-aq", root=root).stdout == b""


def test_options_without_effect_are_accepted(root: Path) -> None:
    words = ("--restart", "no", "--sig-proxy=true", "-a", "stdout", "--no-healthcheck", "--expose", "80", "-q")
    assert out(root, *words, "--security-opt", "label=disable", "app", "echo", "hi") == ["hi"]
    done = lamina("run", "--rm", "--network", "host", "-p", "80:80", "app", "echo", "hi", root=root)
    assert (done.returncode, done.stdout) == (0, b"hi\n")
    assert b"--publish has no effect" in done.stderr


def test_cidfile_holds_the_id(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "id"
    assert run(root, "--name", "c", "--cidfile", str(file), "app", "true").returncode == 0
    (shown,) = json.loads(lamina("ps", "-a", "--format", "json", root=root).stdout)
    assert file.read_text() == shown["Id"]
    done = run(root, "--cidfile", str(file), "app", "true")
    assert (done.returncode, b"already exists" in done.stderr) == (125, True)
    assert run(root, "--name", "c", "--cidfile", str(tmp_path / "new"), "app", "true").returncode == 125
    assert not (tmp_path / "new").exists()
    assert lamina("rm", "--cidfile", str(file), root=root).returncode == 0
    assert lamina("ps", "-aq", root=root).stdout == b""
    assert lamina("rm", "--ignore", "--cidfile", str(tmp_path / "new"), root=root).returncode == 0


def test_labels_filters_and_columns(root: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("from=file\nboth=file\n")
    words = ("--label-file", str(tmp_path / "labels"), "-l", "both=given", "-l", "bare", "-v", "vol:/v")
    assert run(root, "--name", "first", *words, "app", "sh", "-c", "echo 12345 > /written; exit 3").returncode == 3
    assert run(root, "--name", "second", "app", "true").returncode == 0
    (first, second) = json.loads(lamina("ps", "-a", "--format", "json", root=root).stdout)[::-1]
    assert first["Labels"] == {"of": "image", "from": "file", "both": "given", "bare": ""}
    for filters, names in [
        (["name=fir"], ["first"]),
        (["name=^second$"], ["second"]),
        (["name=first", "name=second"], ["second", "first"]),
        ([f"id={first['Id'][:8]}"], ["first"]),
        (["label=bare"], ["first"]),
        (["label=both=given", "label=from"], ["first"]),
        (["label=both=file"], []),
        (["label=of=image"], ["second", "first"]),
        (["exited=3"], ["first"]),
        (["exited=0", "name=first"], []),
        (["status=exited"], ["second", "first"]),
        (["status=running"], []),
        (["ancestor=app"], ["second", "first"]),
        (["ancestor=other"], []),
        (["volume=vol"], ["first"]),
        (["volume=/v"], ["first"]),
        (["before=second"], ["first"]),
        (["since=first"], ["second"]),
    ]:
        given = [word for one in filters for word in ("--filter", one)]
        done = lamina("ps", "-a", *given, "--format", "{{.Names}}", root=root)
        assert (done.returncode, done.stdout.decode().split()) == (0, names), (filters, done.stderr)
    for words, names in ((("-l",), ["second"]), (("-n", "1"), ["second"]), (("-n", "5"), ["second", "first"])):
        assert lamina("ps", *words, "--format", "{{.Names}}", root=root).stdout.decode().split() == names
    for bad in ("what=ever", "name", "status=happy", "exited=x", "name=("):
        assert lamina("ps", "--filter", bad, root=root).returncode == 2
    assert lamina("ps", "--filter", "before=nothing", root=root).returncode == 3
    assert lamina("ps", "-aq", root=root).stdout.decode().split() == [second["Id"][:12], first["Id"][:12]]
    assert lamina("ps", "-aq", "--no-trunc", root=root).stdout.decode().split() == [second["Id"], first["Id"]]
    sized = lamina("ps", "-a", "-s", "--format", "{{.Names}} {{.Size}} {{.Status}}", root=root).stdout.decode()
    assert sized.splitlines()[1].startswith("first 6B (virtual ")
    assert "Exited (3) " in sized


STOPPED = 'for n in 2 15 37; do trap "echo got $n; exit 0" $n; done; echo up; while :; do sleep 0.1; done'


@pytest.mark.parametrize(
    ("given", "stop", "number"),
    [
        (("--stop-signal", "SIGRTMIN+3"), (), 37),
        (("--stop-signal", "SIGRTMIN+3"), ("--signal", "INT"), 2),
        ((), (), 15),
    ],
)
def test_stop_sends_the_right_signal(root: Path, given: tuple[str, ...], stop: tuple[str, ...], number: int) -> None:
    words = ("run", "--rm", "--name", "c", "--network", "none", *given, "app", "sh", "-c", STOPPED)
    with running(*words, root=root) as process:
        wait_for(process, b"up\n")
        assert lamina("stop", *stop, "c", root=root).stdout == b"c\n"
        wait_for(process, f"got {number}\n".encode())
        assert process.wait(30) == 0


def test_how_long_a_container_has_to_end(root: Path) -> None:
    words = (
        "run",
        "--name",
        "c",
        "--network",
        "none",
        "--stop-timeout",
        "0",
        "app",
        "sh",
        "-c",
        "echo up; sleep 600",
    )
    with running(*words, root=root) as process:
        wait_for(process, b"up\n")
        assert lamina("stop", "--all", root=root).stdout == b"c\n"  # TERM has no effect on it: killed at once
        assert process.wait(30) == 137
    assert lamina("stop", "c", root=root).returncode == 0  # it does not run any more
    assert lamina("stop", "nothing", root=root).returncode == 3
    assert lamina("stop", "--ignore", "nothing", root=root).returncode == 0
    assert lamina("stop", root=root).returncode == 2
    assert lamina("rm", "-f", "nothing", "c", root=root).stdout == b"c\n"
    assert lamina("rm", "nothing", root=root).returncode == 3
    done = lamina("rm", "-f", "nothing", root=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def names_of(tar: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return {member.name: member for member in opened}


def test_tars_out_of_a_container_and_into_it(root: Path, tmp_path: Path) -> None:
    script = "cd /data; echo x > new; ln new same; chown 33:44 new; mkfifo pipe"
    assert run(root, "--name", "c", "app", "sh", "-c", script).returncode == 0
    found = names_of(lamina("cp", "c:/data", "-", root=root).stdout)
    assert list(found) == [f"data{name}" for name in ("", "/link", "/new", "/one", "/pipe", "/same", "/two")]
    assert (found["data/new"].uid, found["data/new"].gid, found["data/new"].size) == (33, 44, 2)
    assert (found["data/same"].islnk(), found["data/same"].linkname) == (True, "data/new")
    assert (found["data/two"].islnk(), found["data/two"].linkname) == (True, "data/one")
    assert (found["data/link"].issym(), found["data/pipe"].isfifo()) == (True, True)
    assert list(names_of(lamina("cp", "c:/data/.", "-", root=root).stdout)) == [
        "link", "new", "one", "pipe", "same", "two",
    ]  # fmt: skip
    assert list(names_of(lamina("cp", "c:/data/link", "-", root=root).stdout)) == ["link"]
    assert names_of(lamina("cp", "-L", "c:/data/link", "-", root=root).stdout)["one"].isfile()
    done = lamina("cp", "c:/nothing", "-", root=root)
    assert (done.returncode, done.stdout) == (3, b"")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content, uid in (("dir/file", b"new", 33), ("../../escaped", b"no", 0), ("up/inside", b"in", 0)):
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid, member.mode = len(content), uid, uid, 0o640
            tar.addfile(member, io.BytesIO(content))
    assert lamina("cp", "-", "c:/nowhere", root=root, input=out.getvalue()).returncode == 3
    done = lamina("cp", "-", "c:/data", root=root, input=out.getvalue())
    if done.returncode == 0:  # paths that lead out are put inside, or refused
        found = names_of(lamina("cp", "c:/data", "-", root=root).stdout)
        assert (found["data/dir/file"].uid, found["data/dir/file"].mode) == (33, 0o640)
    assert not (tmp_path / "escaped").exists()
    assert lamina("cp", "-", "c:/data", root=root, input=b"no tar").returncode == 4


def test_files_out_of_an_image(root: Path, tmp_path: Path) -> None:
    def cp(source: str, target: str) -> int:
        done = lamina("cp", source, str(tmp_path / target), root=root)
        assert b"Traceback" not in done.stderr
        return done.returncode

    assert cp("app:/data", "new") == 0
    assert sorted(os.listdir(tmp_path / "new")) == ["link", "one", "two"]
    assert (tmp_path / "new/one").samefile(tmp_path / "new/two")
    assert os.readlink(tmp_path / "new/link") == "one"
    assert cp("app:latest:/etc/passwd", "new") == 0
    assert cp("docker.io/library/app:latest:/data/.", "new/below") == 0
    assert sorted(os.listdir(tmp_path / "new/below")) == ["link", "one", "two"]
    assert (tmp_path / "new/passwd").read_bytes().startswith(b"root:")
    assert names_of(lamina("cp", "app:/data/one", "-", root=root).stdout)["one"].size == 2
    assert b"/nothing was not found in the image" in lamina("cp", "app:/nothing", "x", root=root).stderr
    assert (cp("app:/nothing", "x"), cp("nothing:/x", "x"), cp("app:/data", "none/x")) == (3, 3, 6)
    assert lamina("cp", str(tmp_path / "new/one"), "app:/x", root=root).returncode == 2
    assert not (tmp_path / "x").exists()
    assert lamina("ps", "-aq", root=root).stdout == b""


def test_a_new_volume_has_the_hard_links_of_the_image(root: Path) -> None:
    assert out(root, "-v", "vol:/data", "app", "stat", "-c", "%h", "/data/one", "/data/two") == ["2", "2"]
    assert (root / "volumes/vol/one").samefile(root / "volumes/vol/two")
    assert out(root, "-v", "empty:/data:nocopy", "app", "ls", "/data") == []


def test_instructions_of_a_commit(root: Path) -> None:
    assert run(root, "--name", "c", "--entrypoint", "/bin/touch", "app", "/made").returncode == 0
    changes = ["ENV B=new", "WORKDIR below", 'CMD ["pwd"]', "LABEL x=y", "EXPOSE 80", "VOLUME /v", "USER web"]
    changes += ["STOPSIGNAL INT", "ONBUILD RUN true"]
    words = [word for one in changes for word in ("-c", one)]
    assert lamina("commit", *words, "c", "new", root=root).returncode == 0
    config = json.loads(lamina("config", "new", root=root).stdout)["config"]
    assert config == {
        "Env": ["A=image", "B=new"],
        "WorkingDir": "/data/below",
        "Cmd": ["pwd"],
        "Labels": {"of": "image", "x": "y"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/v": {}},
        "User": "web",
        "StopSignal": "INT",
        "OnBuild": ["RUN true"],
    }
    assert lamina("commit", "-c", "ENTRYPOINT /bin/echo", "c", "other", root=root).returncode == 0
    config = json.loads(lamina("config", "other", root=root).stdout)["config"]
    assert (config["Entrypoint"], config.get("Cmd")) == (["/bin/sh", "-c", "/bin/echo"], None)
    assert lamina("commit", "-c", "RUN true", "c", "bad", root=root).returncode == 2


def test_a_container_is_frozen_while_it_is_committed(root: Path) -> None:
    words = (
        "run",
        "--name",
        "c",
        "--network",
        "none",
        "--runtime",
        "runc",
        "app",
        "sh",
        "-c",
        "echo up; cat /dev/zero",
    )
    with running(*words, root=root, stdout=subprocess.PIPE) as process:
        wait_for(process, b"up\n")
        assert lamina("commit", "--pause", "c", "new", root=root).returncode == 0
        assert process.stdout is not None
        assert process.stdout.read(1 << 20) == bytes(1 << 20)  # it still runs
        assert lamina("kill", "c", root=root).returncode == 0
        process.stdout.read()
        assert process.wait(30) == 137


def test_devices_by_cdi(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.cli import run as command
    from lamina.run import cdi

    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi/x.yaml").write_text(
        "cdiVersion: 0.6.0\nkind: vendor.com/thing\ndevices:\n- name: one\n  containerEdits:\n"
        "    env: [GIVEN=cdi]\n    deviceNodes: [{path: /dev/thing, hostPath: /dev/null}]\n"
        f"    mounts: [{{hostPath: {tmp_path}/library, containerPath: /lib/thing.so, options: [ro]}}]\n"
    )
    (tmp_path / "library").write_text("library\n")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(cdi, "DIRECTORIES", (str(tmp_path / "cdi"),))
    monkeypatch.setattr(cdi.edits_of, "__defaults__", ((str(tmp_path / "cdi"),), print))
    monkeypatch.setenv("LAMINA_ROOT", str(root))
    script = "(echo $GIVEN; stat -c %t:%T /dev/thing; cat /lib/thing.so) > /out/$0"
    for runtime in RUNTIMES:
        words = ["--runtime", runtime, "--device", "vendor.com/thing=one", "-v", f"{tmp_path}/out:/out"]
        assert command(["run", "--rm", "--network", "none", *words, "app", "sh", "-c", script, runtime]) == 0
        assert (tmp_path / "out" / runtime).read_text() == "cdi\n1:3\nlibrary\n"
