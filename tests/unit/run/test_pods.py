"""Pods: their records, what they share, and the states of their containers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import Conflict, LaminaError, NotFound, StoreDamaged, UsageError
from lamina.run.container.pods import as_options, options_of, parse_share, status
from lamina.run.options import ContainerOptions
from lamina.store.pods import Pods
from lamina.store.store import Store


@pytest.fixture
def pods(tmp_path: Path) -> Pods:
    return Pods(Store.open(str(tmp_path / "store")).paths)


@pytest.mark.parametrize(
    ("word", "shared", "not_shared"),
    [
        (None, ("net",), ()),
        ("", (), ()),
        ("none", (), ()),
        ("net", ("net",), ()),
        ("ipc,net,uts", ("net",), ("ipc", "uts")),
        ("+pid", ("net",), ("pid",)),
        ("pid", (), ("pid",)),
    ],
)
def test_what_a_pod_shares(word: str | None, shared: tuple[str, ...], not_shared: tuple[str, ...]) -> None:
    assert parse_share(word) == (shared, not_shared)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], "Created"),
        (["created", "created"], "Created"),
        (["running", "running"], "Running"),
        (["running", "restarting"], "Running"),
        (["running", "exited"], "Degraded"),
        (["running", "created"], "Degraded"),
        (["paused", "exited"], "Paused"),
        (["exited", "created"], "Exited"),
    ],
)
def test_state_of_a_pod(states: list[str], expected: str) -> None:
    assert status(states) == expected


def test_a_pod_is_found_by_name_and_id(pods: Pods) -> None:
    made = pods.create("site", labels={"a": "b"}, share=("net",), options=as_options(ContainerOptions(hostname="h")))
    other = pods.create("")
    assert [one.name for one in pods] == ["site", other.id[:12]]
    for word in ("site", made.id, made.id[:6]):
        found = pods.get(word)
        assert (found, found.labels, options_of(found).hostname) == (made, (("a", "b"),), "h")


def test_a_removed_pod_is_gone_and_its_name_is_free(pods: Pods) -> None:
    first = pods.create("site")
    pods.remove(first)
    with pytest.raises(NotFound, match="site"):
        pods.get("site")
    second = pods.create("site")
    pods.remove(first)  # a process that has read the old record
    assert pods.get("site") == second


def test_a_name_is_given_once(pods: Pods) -> None:
    pods.create("site")
    with pytest.raises(Conflict, match="site"):
        pods.create("site")


@pytest.mark.parametrize("name", ["../x", "a/b", "", " ", "-x", "x" * 300])
def test_names_lead_nowhere_else(pods: Pods, name: str) -> None:
    with pytest.raises((NotFound, UsageError)):
        pods.get(name)
    if name:
        with pytest.raises(UsageError):
            pods.create(name)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"id": 1, "name": "site"}', b"[" * 1000])
def test_a_damaged_record_says_so(pods: Pods, tmp_path: Path, text: bytes) -> None:
    pods.create("site")
    (tmp_path / "store" / "pods" / "site.json").write_bytes(text)
    with pytest.raises(StoreDamaged, match="site"):
        pods.get("site")


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_directory, _link])
def test_another_kind_of_file_is_an_error(pods: Pods, tmp_path: Path, make: Callable[[Path], None]) -> None:
    os.mkdir(tmp_path / "store" / "pods")
    make(tmp_path / "store" / "pods" / "site.json")
    with pytest.raises(LaminaError):
        pods.get("site")
    with pytest.raises(Conflict):
        pods.create("site")


def test_an_unknown_namespace_is_refused() -> None:
    with pytest.raises(UsageError, match="nope"):
        parse_share("net,nope")
