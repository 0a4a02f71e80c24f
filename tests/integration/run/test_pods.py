"""Pods: containers in groups, listed, shown, removed and started together; and options that podman has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.run.test_run import make_store, members, mounts_of
from lamina.errors import NotFound
from lamina.run.container.pods import required, resolved
from lamina.run.options import ContainerOptions
from lamina.store.store import Store
from support import lamina, made_once, require_root, require_tool


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require_root()
    require_tool("runc", "busybox")


def make(top: Path) -> None:
    make_store(top, [members(("etc/hosts", b"of the image\n"))])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made_once(make, tmp_path)
    store = tmp_path / "store"
    yield store
    lamina("rm", "--all", "--force", root=store)
    assert mounts_of(store) == []


def said(root: Path, *words: str) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


def code(root: Path, *words: str) -> int:
    return lamina(*words, root=root).returncode


def run(root: Path, *words: str) -> str:
    """Run a container without a network."""
    return said(root, "run", "--network", "none", *words)


def rows(root: Path, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said(root, *words, "--format", "json"))
    return found


def test_a_pod_has_containers_and_takes_them_along(root: Path) -> None:
    identity = said(root, "pod", "create", "--name=site", "--infra=false", "--share=", "--label", "a=b")
    assert code(root, "pod", "exists", "site") == code(root, "pod", "exists", identity[:5]) == 0
    assert code(root, "pod", "create", "site") == 5
    assert said(root, "pod", "inspect", "site", "--format", "{{.State}} {{.NumContainers}}") == "Created 0"
    for name in ("one", "two"):
        run(root, "--pod=site", "--name", name, "app", "true")
    run(root, "--name", "other", "app", "true")

    (pod,) = rows(root, "pod", "ps")
    assert (pod["Id"], pod["Name"], pod["Status"], pod["Labels"]) == (identity, "site", "Exited", {"a": "b"})
    assert [one["Names"] for one in pod["Containers"]] == ["one", "two"]
    shown = {row["Names"][0]: (row["Pod"], row["PodName"]) for row in rows(root, "ps", "-a")}
    assert shown == {"one": (identity, "site"), "two": (identity, "site"), "other": ("", "")}
    for word in ("site", identity):
        assert said(root, "ps", "-a", "--filter", f"pod={word}", "--format", "{{.Names}}").split() == ["two", "one"]
    lines = said(root, "ps", "-a", "--pod").splitlines()
    assert lines[0].split()[-3:] == ["POD", "ID", "PODNAME"]
    assert lines[1].split()[-1:] == ["other"]
    assert lines[2].split()[-3:] == ["two", identity[:12], "site"]

    assert said(root, "pod", "rm", "site") == identity
    assert code(root, "pod", "exists", "site") == 1
    assert said(root, "ps", "-a", "--format", "{{.Names}}") == "other"


def test_lists_of_pods_are_filtered(root: Path) -> None:
    first = said(root, "pod", "create", "--label", "a=1", "one")
    said(root, "pod", "create", "--label", "a=2", "two")
    for words, expected in {
        (): ["two", "one"],
        ("--filter", "label=a"): ["two", "one"],
        ("--filter", "label=a=1"): ["one"],
        ("--filter", "name=tw"): ["two"],
        ("--filter", f"id={first[:8]}"): ["one"],
        ("--filter", "status=running"): [],
        ("--filter", "status=created", "--filter", "label=a=2"): ["two"],
    }.items():
        assert said(root, "pod", "ls", *words, "--format", "{{.Name}}").split() == expected, words
    assert said(root, "pod", "ls", "-q", "--no-trunc").splitlines()[1] == first
    assert len(said(root, "pod", "ls", "--noheading").splitlines()) == 2
    assert code(root, "pod", "ls", "--filter", "nope=1") == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("pod", "rm", "nope"), 3),
        (("pod", "rm", "--ignore", "nope"), 0),
        (("pod", "rm", "--all"), 0),
        (("pod", "rm"), 2),
        (("pod", "inspect", "nope"), 3),
        (("pod", "create", "a/b"), 2),
        (("pod", "create", "--name", "a", "b"), 2),
        (("pod", "create", "--share", "nope"), 2),
        (("pod", "create", "--share=", "--hostname", "x"), 2),
        (("run", "--pod", "nope", "app"), 125),
        (("run", "--requires", "nope", "app"), 125),
        (("run", "--rootfs", "/"), 125),
        (("run", "--secret", "x", "app"), 125),
        (("run", "--no-hosts", "--add-host", "a:127.0.0.1", "app"), 125),
    ],
)
def test_bad_input_is_one_line(root: Path, words: tuple[str, ...], expected: int) -> None:
    done = lamina(*words, root=root)
    assert (done.returncode, done.stderr.count(b"\n")) == (expected, int(expected > 0)), done
    assert said(root, "pod", "ls", "-q") == ""


def test_the_first_container_makes_the_network_of_a_pod(root: Path) -> None:
    """The others join it, and need it to run."""
    pod = said(root, "pod", "create", "--network", "host", "--hostname", "front", "site")
    store = Store.open(str(root))
    first = resolved(store, ContainerOptions(pod="site"))
    assert (first.pod, first.network, first.hostname, first.requires) == (pod, "host", "front", ())
    said(root, "run", "--pod", "site", "--name", "one", "app", "true")
    one = store.containers.get("one")
    second = resolved(store, ContainerOptions(pod="site", requires=("one",)))
    assert second.network == f"container:{one.id}"
    assert set(second.requires) == {one.id}
    assert code(root, "run", "--pod", "site", "--network", "none", "app", "true") == 125
    said(root, "pod", "rm", "site")


def test_required_containers_come_first(root: Path) -> None:
    run(root, "--name", "a", "app", "true")
    run(root, "--name", "b", "--requires", "a", "app", "true")
    run(root, "--name", "c", "--requires=b,a", "--requires=a", "app", "true")
    store = Store.open(str(root))
    assert [one.name for one in required(store, store.containers.get("c"))] == ["a", "b"]
    said(root, "rm", "a")
    with pytest.raises(NotFound, match="b requires the container"):
        required(store, store.containers.get("c"))


def test_the_hosts_of_the_image_can_stay(root: Path) -> None:
    assert run(root, "--no-hosts", "app", "cat", "/etc/hosts") == "of the image"
    assert "of the image" not in run(root, "app", "cat", "/etc/hosts")


def test_entrypoint_is_a_list_as_in_podman(root: Path) -> None:
    assert run(root, "--entrypoint", '["echo", "one"]', "app", "two") == "one two"


def test_annotations_reach_the_runtime(root: Path) -> None:
    run(root, "--name", "c", "--annotation", "a=b", "--annotation=c", "app", "true")
    assert said(root, "inspect", "-f", "{{json .HostConfig.Annotations}}", "c") == '{"a":"b","c":""}'
    (bundle,) = root.glob("containers/*/bundle/config.json")
    assert json.loads(bundle.read_text())["annotations"] == {"a": "b", "c": ""}


def states(root: Path) -> dict[str, str]:
    return {row["Names"][0]: row["State"] for row in rows(root, "ps", "-a")}


def test_the_containers_of_a_pod_live_together(root: Path) -> None:
    pod = said(root, "pod", "create", "--share=", "site")
    for name in ("one", "two"):
        run(root, "-d", "--pod", "site", "--name", name, "app", "sleep", "1000")
    assert code(root, "pod", "rm", "site") == 5
    for words, expected in (
        (("pause",), "paused"),
        (("unpause",), "running"),
        (("stop", "-t", "0"), "exited"),
        (("start",), "running"),
        (("start",), "running"),
        (("kill",), "exited"),
    ):
        assert said(root, "pod", words[0], *words[1:], "site") == pod
        if words[0] == "kill":
            said(root, "wait", "one", "two")
        assert states(root) == {"one": expected, "two": expected}
    said(root, "start", "one")
    assert said(root, "pod", "inspect", "-f", "{{.State}}", "site") == "Degraded"
    assert said(root, "pod", "prune", "--force") == ""
    said(root, "pod", "rm", "--force", "site")
    assert states(root) == {}


def test_a_pod_shares_one_network(root: Path) -> None:
    require_tool("pasta")
    said(root, "pod", "create", "--hostname", "front", "site")
    said(root, "run", "-d", "--pod", "site", "--name", "one", "app", "sleep", "1000")
    said(root, "run", "-d", "--pod", "site", "--name", "two", "app", "sleep", "1000")
    namespaces = {said(root, "exec", name, "ls", "-l", "/proc/self/ns/net").split()[-1] for name in ("one", "two")}
    assert len(namespaces) == 1
    assert said(root, "exec", "one", "hostname") == "front"
    said(root, "kill", "two")
    said(root, "kill", "one")
    said(root, "wait", "one", "two")
    said(root, "start", "two")
    assert states(root) == {"one": "running", "two": "running"}
    said(root, "pod", "rm", "--force", "site")


@pytest.fixture
def two(root: Path) -> Path:
    """A store with a pod of two running containers, and another container."""
    said(root, "pod", "create", "--name", "site", "--share=")
    for name, script in (("web", "echo page; echo fault >&2"), ("db", "echo ready")):
        run(
            root, "-d", "--pod", "site", "--name", name, "-v", "/anonymous", "app", "sh", "-c", f"{script}; sleep 600"
        )
        said(root, "exec", name, "sh", "-c", "until [ $(pidof sleep) ]; do :; done")
    run(root, "-d", "--name", "other", "app", "sleep", "700")
    return root


def test_a_pod_shows_the_processes_of_all_its_containers(two: Path) -> None:
    shown = said(two, "pod", "top", "site", "pid", "args").splitlines()
    assert shown[0].split() == ["PID", "COMMAND"]
    assert sorted(line.split()[1] for line in shown[1:]) == ["sleep", "sleep"]
    assert "700" not in "".join(shown)
    assert said(two, "pod", "top", "--latest").split()[:8] == [
        *("USER", "PID", "PPID", "%CPU", "ELAPSED", "TTY", "TIME", "COMMAND")
    ]
    assert "PID" in said(two, "pod", "top", "site", "-o", "pid,args").splitlines()[0]
    said(two, "pod", "stop", "-t", "0", "site")
    assert code(two, "pod", "top", "site") == 5


def test_a_pod_shows_what_its_containers_use(two: Path) -> None:
    pod = said(two, "pod", "inspect", "--latest", "--format", "{{.Id}}")[:12]
    for words in (("site",), ("--all",), ("--latest",), ()):
        found = rows(two, "pod", "stats", "--no-stream", *words)
        assert sorted((one["Name"], one["Pod"], one["PIDS"]) for one in found) == [
            ("db", pod, "1"),
            ("web", pod, "1"),
        ]
    assert said(two, "pod", "stats", "--no-stream", "--format", "{{.Name}}", "site").split() == ["db", "web"]
    assert code(two, "pod", "stats", "--all", "site") == 2
    assert code(two, "pod", "stats", "nothing") == 3


def test_a_pod_shows_the_logs_of_its_containers(two: Path) -> None:
    done = lamina("pod", "logs", "--names", "site", root=two)
    assert sorted(done.stdout.splitlines()) == [b"db ready", b"web page"]
    assert done.stderr == b"web fault\n"
    ids = {name: said(two, "inspect", "-f", "{{.Id}}", name)[:12] for name in ("web", "db")}
    assert sorted(said(two, "pod", "logs", "-l").splitlines()) == sorted([f"{ids['web']} page", f"{ids['db']} ready"])
    assert said(two, "pod", "logs", "-c", "db", "--tail", "1", "site") == "ready"
    assert code(two, "pod", "logs", "-c", "other", "site") == 3
    # podman's -n, and docker's
    assert sorted(said(two, "logs", "-n", "web", "db", "--tail", "5").splitlines()) == ["db ready", "web page"]
    assert said(two, "logs", "-n", "0", "db") == ""
    assert said(two, "logs", "-n", "1", "db") == "ready"


def test_anonymous_volumes_go_with_their_pod(two: Path) -> None:
    said(two, "volume", "create", "kept")
    assert len(said(two, "volume", "ls", "-q").split()) == 3
    said(two, "pod", "rm", "--force", "--latest")
    assert said(two, "volume", "ls", "-q").split() == ["kept"]


@pytest.mark.parametrize(
    "verb", ["rm", "start", "stop", "kill", "restart", "pause", "unpause", "inspect", "top", "logs"]
)
def test_a_verb_of_pods_needs_one_way_to_choose(root: Path, verb: str) -> None:
    assert code(root, "pod", verb) == 2
    done = lamina("pod", verb, "--latest", root=root)
    assert (done.returncode, b"there are no pods" in done.stderr) == (3, True)
    if verb != "top":
        assert code(root, "pod", verb, "--latest", "a") == 2
