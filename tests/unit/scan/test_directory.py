"""What a scan of a directory states."""

from __future__ import annotations

import os
from pathlib import Path

from lamina.layer.entry import Kind
from lamina.scan.directory import scan


def test_a_hard_link_states_the_attributes_of_its_file(tmp_path: Path) -> None:
    """Engines that unpack the layer apply the owner, mode and time of the link's header to the file: a program would
    lose its permission to be executed."""
    (tmp_path / "a").write_bytes(b"#!")
    (tmp_path / "a").chmod(0o4711)
    os.utime(tmp_path / "a", ns=(1, 5))
    os.link(tmp_path / "a", tmp_path / "b")
    (first, content), (link, nothing) = scan(str(tmp_path), owner=(3, 4))
    assert content is not None
    assert nothing is None
    assert (link.path, link.kind, link.link, link.size) == (b"b", Kind.HARDLINK, b"a", 0)
    for name in ("mode", "uid", "gid", "mtime"):
        assert getattr(link, name) == getattr(first, name)
    assert (link.mode, link.uid, link.gid, link.mtime) == (0o4711, 3, 4, 5)
