"""image.diff: the value that `diff` prints, for scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

import lamina
from lamina.errors import NotFound, PathNotFound, UsageError
from lamina.image import load_settings, open_store
from lamina.insight.change import Change
from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from support import lamina as cli
from support import write_layout

OLD = [
    ("etc/", None),
    ("etc/conf", b"one\ntwo\n"),
    ("etc/gone", b"g"),
    ("bin/", None),
    ("bin/old", b"tool" * 9),
    ("\u202eodd\x1b", b"1"),
]
NEW = [
    ("etc/conf", b"one\n2\n", {"mode": 0o600}),
    ("etc/.wh.gone", b""),
    ("bin/.wh.old", b""),
    ("bin/new", b"tool" * 9),
    ("more", b"\0"),
    ("\u202eodd\x1b", b"2"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_layout(tmp_path / "l", "old", [OLD])
    write_layout(tmp_path / "l", "new", [OLD, NEW], config={"config": {"Env": ["A=1"], "Cmd": ["x"]}})
    for name in ("old", "new"):
        assert cli("copy", f"oci:{tmp_path}/l:{name}", name, root=tmp_path / "s").returncode == 0
    return tmp_path / "s"


def test_diff_is_what_the_command_prints(root: Path) -> None:
    old, new = lamina.open("old", root=root), lamina.open("new", root=root)
    diff = old.diff(new)
    assert isinstance(diff, lamina.Diff)
    printed = cli("diff", "old", "new", root=root).stdout.decode().splitlines()
    assert [str(change) for change in diff] == [line for line in printed if line[:2] in ("A ", "C ", "D ", "R ")]
    assert [(change.how, change.path) for change in diff] == [
        ("renamed", b"bin/new"),
        ("changed", b"etc/conf"),
        ("removed", b"etc/gone"),
        ("added", b"more"),
        ("changed", "\u202eodd\x1b".encode()),
    ]
    assert len(diff) == 5
    assert diff
    assert diff.config
    assert [change.how for change in diff.history] == ["added"]
    conf = diff.changes[1]
    assert conf.fields == ("content", "mode")
    assert diff.text(conf) == ["--- a/etc/conf", "+++ b/etc/conf", "@@ -1,2 +1,2 @@", " one", "-two", "+2"]
    assert [diff.text(change) for change in diff if change.how != "changed"] == [None] * 3
    assert (diff.text(diff.changes[4]) or [""])[0] == "--- a/\\u202eodd\\x1b"


def test_diffs_and_changes_are_values(root: Path) -> None:
    old, new = lamina.open("old", root=root), lamina.open("new", root=root)
    diff, again = old.diff(new), lamina.open("old", root=root).diff(lamina.open("new", root=root))
    assert diff == again
    assert list(diff) == list(again)
    assert set(diff) == set(again)
    assert diff != new.diff(old)
    assert diff != old.diff(new, ignore=["mode"])
    none = new[:1].diff(old, ignore=["history", "config"])
    assert not none
    assert len(none) == 0
    assert bool(old.diff(new, "/", ignore=["content", "kind"][:1]))
    assert [change.path for change in old.diff(new, "/etc", ignore=["content", "mode"])] == [b"etc/gone"]
    assert {change.how for change in old.diff(new, renames=False)} == {"added", "removed", "changed"}


def test_the_other_side_may_be_a_directory_or_a_container(root: Path, tmp_path: Path) -> None:
    new = lamina.open("new", root=root)
    new.unpack(tmp_path / "files")
    assert not new.diff(tmp_path / "files", ignore=["owner"])
    (tmp_path / "files/etc/conf").write_text("three\n")
    found = list(new.diff(str(tmp_path / "files"), ignore=["owner", "time"]))
    assert [(change.path, change.fields) for change in found] == [(b"etc/conf", ("content",))]
    store = open_store(load_settings({"root": str(root)}))
    container = create(store, new.stack, ContainerOptions(name="web"))
    assert not new.diff(container)
    upper = Path(store.containers.path(container.id, "upper"))
    (upper / "fresh").write_bytes(b"x")
    assert [str(change) for change in new.diff(store.containers.get("web"), ignore=["time"])] == ["A /fresh"]


def test_an_error_says_what_can_not_be_compared(root: Path, tmp_path: Path) -> None:
    image = lamina.open("new", root=root)
    with pytest.raises(NotFound, match="'old' is not a directory"):
        image.diff("old")
    with pytest.raises(PathNotFound, match="not found on either side"):
        image.diff(image, "/none")
    with pytest.raises(UsageError, match="can't be ignored"):
        image.diff(image, ignore=["weather"])


def test_find_of_the_store_yields_typed_values(root: Path, tmp_path: Path) -> None:
    store = lamina.open_store(load_settings({"root": str(root)}))
    found = list(store.find("conf", ghosts=True))
    assert [(one.entry.path, one.entry.size) for one in found] == [(b"etc/conf", 8), (b"etc/conf", 6)]
    assert [(place.name, place.layer, place.state, place.by) for place in found[0].places] == [
        ("docker.io/library/new:latest", 1, "replaced", 2),
        ("docker.io/library/old:latest", 1, "visible", None),
    ]
    assert store.find("conf", images=["old"], size="+7").unread == ()
    with pytest.raises(UsageError, match="regular expression"):
        store.find("(", regex=True)
    with pytest.raises(TypeError):
        store.find("conf", colour="red")  # type: ignore[call-arg]


def test_a_change_is_printed_safely() -> None:
    from lamina.layer.entry import Entry, Kind

    before, after = Entry(b"l", Kind.SYMLINK, link=b"a"), Entry(b"l", Kind.SYMLINK, link=b"\x1b[2J\xff")
    assert str(Change("changed", b"\x07l", before, after, ("target",))) == "C /\\x07l   target (a to \\x1b[2J\\xff)"


def test_what_was_merged_is_not_merged_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> tuple[lamina.Image, lamina.Image]:
        return lamina.open("old", root=root), lamina.open("new", root=root)

    old, new = opened()
    changes = old.diff(new).changes
    fresh, again = opened()
    trees = fresh.tree, again.tree
    found = fresh.diff(again)
    assert (found.before.tree, found.after.tree) == trees
    assert found.changes == changes
    monkeypatch.setattr("lamina.union.merge.LayerMerge.apply", None)  # nothing can be merged from here on
    assert old.diff(new).changes == changes
    assert again.diff(fresh)
    assert old.tree.find(b"etc/gone") is not None  # what the comparison merged, the images have
    assert new.tree.find(b"etc/gone") is None
