"""A command is killed at a fault point and another one runs: every named image is complete without a registry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.archive.layout import LayoutReader, LayoutWriter
from lamina.edit.append import append
from lamina.edit.publish import Packing, Revision
from lamina.layer.entry import Entry, Kind
from lamina.remote.client import Access
from lamina.remote.registries import Registries
from lamina.remote.repository import Repository
from lamina.run import writable
from lamina.run.container.commit import commit
from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.store.fault import POINTS
from lamina.store.fsck import fsck
from lamina.store.prune import prune
from lamina.store.remove import remove_images
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import require_root, write_layout
from unruly import Unruly

BASE = [("etc/", None), ("etc/conf", b"one\n" * 5000)]
TOP = [("etc/conf", b"two\n"), ("new", b"new\n")]
MANY = ("app", "two", "plain")
_COMING = [point for point in POINTS if point.startswith(("ingest.", "manifest.", "root.", "refs."))]
_TOGETHER = [point for point in POINTS if point.startswith(("batch.", "ingest.index", "ingest.tar"))]
_GOING = [point for point in POINTS if point.startswith(("gc.", "prune.refs", "refs."))]
PASSED = {
    "pull": _COMING,
    "load": _COMING,
    "load many": [*_TOGETHER, *(point for point in _COMING if point.startswith(("manifest.", "root.", "refs.")))],
    "append": _COMING,
    "commit": _COMING,
    "rmi": _GOING,
    "prune": [*_GOING, "prune.parts-removed"],
}
"""The fault points that each verb passes."""
REVISION = Revision("test", packing=Packing(epoch=0))


def do(verb: str, root: Path, image: str, layout: Path) -> None:
    store = Store.open(str(root))
    if verb == "pull":
        copy(Repository(image, Access(first_wait=0.001), Registries()), store, [(image, "app")])
    elif verb == "load":
        copy(LayoutReader(str(layout)), store, [("app", "app")])
    elif verb == "load many":
        copy(LayoutReader(str(layout)), store, [(name, name) for name in MANY])
    elif verb == "append":
        items = [(Entry(b"more", Kind.FILE, 0o644, size=4), b"more")]
        append(store.stack("base", Platform.host()), items, store, "own", REVISION)
    elif verb == "commit":
        commit(store, store.stack("base", Platform.host()), store.containers.get("c"), "own", REVISION)
    elif verb == "rmi":
        remove_images(store, ["app"])
    else:
        prune(store, all=True, grace=0)


def prepare(verb: str, root: Path, image: str, layout: Path) -> None:
    """What ``verb`` needs; with one layer of the image here already, by another name."""
    store = Store.open(str(root))
    copy(LayoutReader(str(layout)), store, [("base", "base")])
    if verb == "commit":
        require_root()
        container = create(store, store.stack("base", Platform.host()), ContainerOptions(command=("sh",), name="c"))
        (Path(writable.path(store, container, writable.UPPER)) / "new").write_bytes(b"new\n")
    if verb in ("rmi", "prune"):
        do("pull", root, image, layout)


def check_whole(store: Store, place: Path) -> None:
    """Each named image can be saved and read with what is here."""
    assert [one.what for one in fsck(store) if one.severity not in ("leftover", "derived")] == []
    for number, (name, _) in enumerate(store.names()):
        copy(store, LayoutWriter(str(place / str(number))), [(name, "x")])
        for layer in store.stack(name, Platform.host()).layers:
            with layer.open() as stream:
                assert Digest.of(stream.read()) == layer.diff_id


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout")
    write_layout(directory, "app", [BASE, TOP])
    write_layout(directory, "base", [BASE])
    write_layout(directory, "two", [BASE, [("second", b"2")]])
    write_layout(directory, "plain", [[("plain", b"p")]], compress=False)
    return directory


@pytest.mark.parametrize(("verb", "point"), [(verb, point) for verb in PASSED for point in PASSED[verb]])
def test_after_a_kill_and_the_next_command_every_image_is_whole(
    verb: str, point: str, layout: Path, tmp_path: Path
) -> None:
    root = tmp_path / "s"
    code = "import sys; from pathlib import Path; from test_killed import do; w = sys.argv[1:]; "
    code += "do(w[0], Path(w[1]), w[2], Path(w[3]))"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    with Unruly(layout) as registry:
        prepare(verb, root, registry.image, layout)
        done = subprocess.run(
            [sys.executable, "-c", code, verb, str(root), registry.image, str(layout)],
            capture_output=True,
            check=False,
            env={**os.environ, "LAMINA_FAULT": point, "PYTHONPATH": path},
        )
        assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
        do("pull" if verb in ("rmi", "prune") else verb, root, registry.image, layout)
    store = Store.open(str(root))
    names = {name for name, _ in store.names()}
    assert f"docker.io/library/{'own' if verb in ('append', 'commit') else 'app'}:latest" in names
    check_whole(store, tmp_path)
