"""The big demo's helper that turns an overlay's upper directory into a layer, against the kernel's own union."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import lamina
from lamina.edit.append import append
from lamina.edit.publish import Revision
from lamina.image import load_settings
from lamina.layer.entry import Kind
from lamina.scan.directory import scan
from support import require_root

DEMO = Path(__file__).parents[2] / "demo"

CHANGES = """
set -eu
cd "$1"
echo two > changed
rm gone also-gone dir/inner
rm -r emptied && mkdir emptied && echo new > emptied/new
rm -r becomes-file && echo file > becomes-file
rm becomes-dir && mkdir becomes-dir && echo in > becomes-dir/in
mkdir -p fresh/deep && echo x > fresh/deep/x && ln fresh/deep/x fresh/linked
mv renamed renamed-to
chmod 4711 dir && chown 7:8 dir
"""


@pytest.mark.root
def test_an_upper_directory_becomes_a_layer_that_says_what_the_kernel_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    monkeypatch.syspath_prepend(str(DEMO))
    from big_overlay import Overlay, upper_items  # type: ignore[import-not-found,unused-ignore]

    lower = tmp_path / "lower"
    for name in ("proc", "dev", "dir", "emptied", "becomes-file", "renamed"):
        (lower / name).mkdir(parents=True)
        (lower / name / "inner").write_text(name)
    for name in ("changed", "gone", "also-gone", "becomes-dir"):
        (lower / name).write_text(name)
    overlay = Overlay([lower], tmp_path / "overlay")
    copied = tmp_path / "copied"  # the union as the kernel has it, seen from outside its namespace
    script = CHANGES + 'umount -l "$1/proc" "$1/dev"; cp -a "$1" "$2"'
    command = overlay.around(["sh", "-c", script, "sh", overlay.root, copied])
    done = subprocess.run(command, check=False, capture_output=True)
    if b"mount" in done.stderr or b"unshare" in done.stderr:
        pytest.skip(f"no overlay mounts here: {done.stderr.decode()}")
    assert done.returncode == 0, done.stderr

    items = list(upper_items(overlay.upper, overlay.lowers))
    hidden = {entry.path for entry, _ in items if entry.kind == Kind.WHITEOUT}
    assert hidden == {b"gone", b"also-gone", b"dir/inner", b"renamed"}
    assert {entry.path for entry, _ in items if entry.kind == Kind.OPAQUE} == {b"emptied"}

    settings = load_settings({"root": str(tmp_path / "store")})
    store = lamina.open_store(settings)
    append(None, list(scan(str(lower), owner=None)), store, "base", Revision("base"))
    append(lamina.open("base", settings=settings).stack, items, store, "top", Revision("top"))
    lamina.open("top", settings=settings).unpack(tmp_path / "unpacked")
    assert described(tmp_path / "unpacked") == described(copied)


def described(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, below, files in os.walk(top):
        for name in sorted(below + files):
            path = Path(directory, name)
            state, relative = path.lstat(), str(path.relative_to(top))
            content = path.read_bytes() if path.is_file() else None
            links = 0 if path.is_dir() else state.st_nlink
            found[relative] = (oct(state.st_mode), state.st_uid, state.st_gid, state.st_mtime_ns, content, links)
    return found
