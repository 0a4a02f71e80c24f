"""What builds keep in the store is counted, pinned, and removed when it is asked for."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from lamina.build.planning.keys import key_of
from lamina.build.programs.cache_mounts import CacheWanted, cache_directories, cache_mounts
from lamina.build.solving.cache import Cache, Made, Record
from lamina.build.storage import prune_cache
from lamina.cli import run
from lamina.events import Cancel
from lamina.spec.platform import Platform
from lamina.store.prune import prune
from lamina.store.remove import remove_images
from lamina.store.store import Store
from lamina.store.usage import usage
from support import store_with, write_layout

NAMES = ("one", "two")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the steps of two builds whose images are gone: the cache alone needs their layers."""
    for name in NAMES:
        write_layout(tmp_path / "l", name, [[(name, os.urandom(200_000))]])
    store = store_with(tmp_path / "l", tmp_path / "s", *NAMES)
    cache = Cache(store)
    for number, name in enumerate(NAMES):
        (layer,) = store.stack(name, Platform.host()).layers
        parts = {"command": name}
        made = Made(layer.descriptor, layer.diff_id, "2024-01-01T00:00:00Z")
        cache.put(Record(key_of(parts), parts, made, (f"place-{name}",), f"RUN {name}"))
        os.utime(tmp_path / "s/build/records" / key_of(parts), (time.time() - 7200 * (2 - number),) * 2)
    cache.keep()
    remove_images(store, NAMES)
    return store


def mount(store: Store, name: str) -> None:
    with cache_directories(store, [(CacheWanted(name), lambda path: None)], Cancel()) as (path,):
        Path(path, "kept").write_bytes(bytes(100_000))


def layers(store: Store) -> int:
    return len(list(store.layers.diff_ids()))


def test_prune_keeps_the_layers_of_the_cache(store: Store) -> None:
    assert layers(store) == 2
    prune(store, all=True)
    assert layers(store) == 2
    assert len(list(Cache(store))) == 2


def test_df_counts_what_builds_keep(store: Store) -> None:
    before = usage(store)
    assert before.build > 2 * 400_000  # a blob and a tar for each
    assert before.unneeded == before.images == before.held == 0
    mount(store, "npm")
    after = usage(store)
    assert after.build >= before.build + 100_000
    assert after.total == sum(
        (after.images, after.held, after.build, after.unneeded, after.ingest, after.containers, after.frame)
    )


def test_removing_the_cache_frees_its_layers_and_mounts(store: Store, tmp_path: Path) -> None:
    mount(store, "npm")
    before = usage(store)
    assert prune_cache(store, dry_run=True).freed == before.build
    assert layers(store) == 2
    done = prune_cache(store)
    assert layers(store) == 0
    assert len(done.deleted) >= 2
    assert done.freed > 2 * 400_000
    assert list(Cache(store)) == []
    assert cache_mounts(store) == []
    assert usage(store).build < 50_000
    assert store.roots.pins() == []
    assert os.listdir(os.path.join(store.paths.build, "places")) == []


def test_only_what_is_old_is_removed(store: Store) -> None:
    prune_cache(store, age=3 * 3600)
    assert {one.label for one in Cache(store)} == {"RUN two"}
    assert layers(store) == 1


def test_the_newest_steps_stay_up_to_a_size(store: Store) -> None:
    prune_cache(store, size=250_000)
    assert os.listdir(os.path.join(store.paths.build, "places")) == ["place-two"]
    assert {one.label for one in Cache(store)} == {"RUN two"}
    assert layers(store) == 1


def test_a_cache_mount_that_is_in_use_stays(store: Store) -> None:
    mount(store, "old")
    with cache_directories(store, [(CacheWanted("npm"), lambda path: None)], Cancel()) as (path,):
        prune_cache(store)
        assert os.path.isdir(path)
    assert {one.id for one in cache_mounts(store)} == {"npm"}


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("prune",), 2),
        (("prune", "--build", "--dry-run"), 2),
        (("prune", "--build"), 0),
        (("builder", "prune", "-f"), 0),
        (("buildx", "prune", "-af"), 0),
        (("builder", "prune", "-f", "--filter", "until=3h"), 1),
        (("builder", "prune", "-f", "--keep-storage", "250kb"), 1),
        (("system", "prune", "-f"), 2),
        (("system", "prune", "-af"), 0),
    ],
)
def test_these_verbs_remove_the_build_cache(
    store: Store, words: tuple[str, ...], steps: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["--root", store.paths.root, *words]) == 0
    assert len(list(Cache(store))) == steps
    out, err = capfd.readouterr()
    freed = re.search("(?:freed|Total reclaimed space): ([0-9.]+[kM]?B)", out)  # the second is docker's, of `system`
    assert freed
    assert (freed[1] == "0B") == (steps == 2 and "--dry-run" not in words)
    assert err == ""


def test_the_build_cache_has_a_line_in_df(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--root", store.paths.root, "df", "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["build"] == usage(store).build
    assert run(["--root", store.paths.root, "buildx", "du"]) == 0
    assert "build cache" in capfd.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"parts": {}, "layer": null}', b"\xff"])
def test_fsck_finds_a_damaged_record(store: Store, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    fsck = ["--root", store.paths.root, "fsck"]
    assert run(fsck) == 0
    path = Path(store.paths.build, "records", sorted(os.listdir(os.path.join(store.paths.build, "records")))[0])
    path.write_bytes(content)
    assert run(fsck) == 1
    assert "of the build cache is damaged" in capfd.readouterr().out
    assert path.exists()
    assert run([*fsck, "--repair"]) == 0
    assert not path.exists()
    assert run(fsck) == 0
    assert len(list(Cache(store))) == 1


@pytest.mark.parametrize("words", [("--filter", "label=x"), ("--filter", "until=x"), ("--keep-storage", "much")])
def test_bad_limits_are_refused(store: Store, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--root", store.paths.root, "builder", "prune", "-f", *words]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert len(list(Cache(store))) == 2
