"""`du` adds up to `df`.

What that means: the columns of ``du --hidden`` are, for each layer, all bytes of files that its tar holds: each file
once however many hardlinks it has, and what another entry of the same or a higher layer hides as well. Those bytes
and the tar's own headers and padding are the tar, to the byte (but for the holes of sparse members, which ``du``
counts and no tar holds); and the tars of all images, each distinct layer once, in whole blocks of the disk, are what
``df`` says they take (but for blocks of zeros, which the store leaves to be holes).
"""

from __future__ import annotations

import json
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from support import Member, lamina, write_layout

random_bytes = random.Random(11).randbytes
BASE: list[Member] = [
    ("a/", None),
    ("a/one", random_bytes(300_001)),
    ("a/two", "= a/one"),  # a hardlink holds nothing
    ("gone/x", random_bytes(200_000)),
    ("kept", random_bytes(100_001)),
    ("link", "-> kept"),
]
CHANGED: list[Member] = [
    ("a/one", random_bytes(50_003)),  # a/two keeps what it was
    ("gone/.wh.x", b""),
    ("below", "= kept"),  # whose bytes are the base's
    ("twice", random_bytes(1_000)),
    ("twice", random_bytes(40_000)),
]
OTHER: list[Member] = [(".wh.a", b""), ("c", random_bytes(250_000)), ("empty", b"")]
IMAGES = {"base": [BASE], "one": [BASE, CHANGED], "two": [BASE, OTHER, CHANGED]}


def told(root: Path, *words: str) -> Any:
    done = lamina(*words, "--format", "json", root=root)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def held(tar: Path) -> int:
    """Bytes of regular files in a tar, as Python reads it."""
    with tarfile.open(tar) as archive:
        return sum(member.size for member in archive if member.isreg())


@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "tar"])
def test_hidden_columns_of_du_and_tar_headers_add_up_to_df(tmp_path: Path, compress: bool) -> None:
    for name, layers in IMAGES.items():
        write_layout(tmp_path / "l", name, layers, compress=compress)
    root = tmp_path / "s"
    assert lamina("load", "-i", str(tmp_path / "l"), "--keep", "blob+tar", root=root).returncode == 0
    block = os.statvfs(root).f_frsize

    def blocks(size: int) -> int:
        return -(-size // block) * block

    columns: dict[str, int] = {}  # of each distinct layer
    needs: dict[str, set[str]] = {}
    for name, layers in IMAGES.items():
        (whole,) = told(root, "du", "-s", "--hidden", name)
        diff_ids = told(root, "inspect", name)[0]["RootFS"]["Layers"]
        assert whole["size"] == sum(whole["layers"].values())
        assert len(whole["layers"]) == len(diff_ids) == len(layers)
        for number, diff_id in enumerate(diff_ids, 1):
            column = whole["layers"][str(number)]
            assert columns.setdefault(diff_id, column) == column  # the same in every image that has it
        needs[name] = set(diff_ids)
    tars = {diff_id: root / "layers/sha256" / diff_id.removeprefix("sha256:") / "tar" for diff_id in columns}
    assert sorted(columns.values()) == [91_003, 250_000, 600_002]
    assert columns == {diff_id: held(tar) for diff_id, tar in tars.items()}

    used = told(root, "df")
    frames = {diff_id: tar.stat().st_size - held(tar) for diff_id, tar in tars.items()}
    of_tars = {diff_id: blocks(columns[diff_id] + frames[diff_id]) for diff_id in tars}
    rest = sum(blocks(blob.stat().st_size) for blob in (root / "blobs/sha256").iterdir())
    if compress:
        assert used["layers"]["tars"] == sum(of_tars.values())
        assert used["layers"]["blobs"] == rest
    else:  # the blob is the tar, once on the disk
        assert used["layers"]["tars"] == 0
        assert used["layers"]["blobs"] == rest
        assert rest > sum(of_tars.values()) > rest - 20 * block  # the rest is manifests and configs
    assert used["images"] == sum(used["layers"].values())

    sizes = {image["names"][0]: image for image in used["per_image"]}
    two, one, base = (sizes[f"docker.io/library/{name}:latest"] for name in ("two", "one", "base"))
    (alone,) = needs["two"] - needs["one"] - needs["base"]
    assert two["unique"] > of_tars[alone]
    assert two["unique"] < 2 * of_tars[alone] + 20 * block
    assert one["shared"] == one["size"] - one["unique"] >= sum(of_tars[diff_id] for diff_id in needs["one"])
    assert base["shared"] >= sum(of_tars[diff_id] for diff_id in needs["base"])


def test_du_and_ghosts_together_cover_all_content_of_the_layers(tmp_path: Path) -> None:
    for name, layers in IMAGES.items():
        write_layout(tmp_path / "l", name, layers)
    root = tmp_path / "s"
    assert lamina("load", "-i", str(tmp_path / "l"), root=root).returncode == 0
    for name in IMAGES:
        (shown,), (whole,) = told(root, "du", "-s", name), told(root, "du", "-s", "--hidden", name)
        assert shown["size"] + told(root, "ghosts", "--no-secrets", name)["hidden"]["size"] == whole["size"]
        assert whole["size"] == sum(layer["content_size"] for layer in told(root, "layers", name))
        rows = told(root, "du", "-d", "1", "-a", "--hidden", name)
        assert {row["path"]: row for row in rows}["/"]["layers"] == whole["layers"]
        for number, size in whole["layers"].items():
            assert size == sum(row["layers"].get(number, 0) for row in rows if row["path"] != "/")
