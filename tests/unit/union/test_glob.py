"""Globs over the union, compared with matching every path."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from generated import build, numbered, stacks
from lamina.errors import InvalidLayer
from lamina.layer.entry import Kind
from lamina.union.glob import glob
from lamina.union.merge import merge

Names = tuple[bytes, ...]


def fits(parts: list[bytes], names: Names, directories: set[Names], at: Names = ()) -> bool:
    """Whether ``names``, below ``at``, fit. As with Python's own, ``**`` begins in a directory."""
    if not parts:
        return not names
    if parts[0] == b"**":
        return at in directories and any(
            fits(parts[1:], names[skipped:], directories, at + names[:skipped]) for skipped in range(len(names) + 1)
        )
    known = {b"*": True, b"?": True, b"[ab]": names[:1] < (b"c",), b"[!a]": names[:1] > (b"a",)}
    return (
        bool(names)
        and known.get(parts[0], parts[0] == names[0])
        and fits(parts[1:], names[1:], directories, at + names[:1])
    )


def names(path: bytes) -> Names:
    return tuple(path.split(b"/")) if path else ()


@example([[(Kind.FILE, b"a", b"a", 0o600)]], [b"*", b"**"])
@given(stacks, st.lists(st.sampled_from([b"*", b"**", b"?", b"a", b"b", b"[ab]", b"[!a]"]), min_size=1, max_size=4))
def test_a_glob_finds_exactly_the_matching_paths(stack: Any, parts: list[bytes]) -> None:
    plain = [[entry for entry in layer if entry[0] != Kind.SYMLINK] for layer in stack]
    try:
        union = merge([build(layer) for layer in numbered(plain)])
    except InvalidLayer:
        return
    every = {names(union.path(node)): union.is_directory(node) for node in union.walk()}
    directories = {at for at, is_directory in every.items() if is_directory}
    expected = sorted(at for at in every if fits(parts, at, directories))
    assert glob(union, 0, parts) == [b"/".join(at) for at in expected]


def test_a_glob_follows_symlinks_to_directories_and_keeps_their_names() -> None:
    made = [
        (Kind.FILE, b"d/f", b"", 0o600),
        (Kind.SYMLINK, b"l", b"d", 0o777),
        (Kind.SYMLINK, b"loop", b"loop", 0o777),
        (Kind.SYMLINK, b"file", b"d/f", 0o777),
    ]
    union = merge([build(one) for one in numbered([made])])
    assert glob(union, 0, [b"*", b"f"]) == [b"d/f", b"l/f"]
    assert glob(union, 0, [b"l", b"**"]) == [b"l", b"l/f"]
    assert glob(union, 0, [b"**", b"f"]) == [b"d/f"]


def test_two_stars_are_directories_however_deep_and_at_the_end_all_there_is() -> None:
    layer = [(Kind.FILE, path, b"", 0o600) for path in (b"f", b"d/g", b"d/e/h")]
    union = merge([build(one) for one in numbered([layer])])
    assert glob(union, 0, [b"**"]) == [b"", b"d", b"d/e", b"d/e/h", b"d/g", b"f"]
    assert glob(union, 0, [b"**", b"*"]) == [b"d", b"d/e", b"d/e/h", b"d/g", b"f"]
