"""Blame compared with a brute-force replay: the layers are applied one after the other to a dict of paths, with the
attributes and bytes of each path."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from hypothesis import example, given, settings

from lamina.errors import InvalidLayer, PathNotFound
from lamina.insight.blame import Blame, blame, blame_under
from lamina.insight.ghosts import recover
from lamina.layer.entry import Entry, Kind
from lamina.layer.file_content import Content
from lamina.source.stack import Stack
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.image_config import History, ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.union.path_history import State, path_history
from sides import MadeLayer, layers
from support import rounds
from unit.union.test_union_model import Impossible, Node, apply


class Layer(MadeLayer):
    def __init__(self, entries: list[Any]) -> None:
        super().__init__(entries)
        self.descriptor = Descriptor.of(mediatype.OCI_LAYER, repr(entries).encode())


def stack_of(made: list[Layer]) -> Stack:
    config = ImageConfig.build(Platform.host(), diff_ids=[layer.diff_id for layer in made])
    manifest = build_manifest(Descriptor.of(mediatype.OCI_CONFIG, config.raw), [layer.descriptor for layer in made])
    steps = tuple(History(created_by=f"step {number + 1}") for number in range(len(made)))
    return Stack("app", manifest, config, tuple(made), steps)  # type: ignore[arg-type]


class Shown(NamedTuple):
    """What is compared of a path."""

    kind: Kind
    mode: int
    uid: int
    mtime: int
    size: int
    digest: str
    target: bytes


def replayed(stack: list[list[Any]]) -> list[dict[bytes, Shown]]:
    """The state of each path after each layer."""
    after: list[dict[bytes, Shown]] = []
    tree: dict[bytes, Node] = {}
    for number, layer in enumerate(stack):
        # the model keeps the last figure of what it applies: here it says which entry that was
        tree = apply(tree, [(e[0], e[1], e[2], e[3], number * 100 + row + 1) for row, e in enumerate(layer)])
        after.append({path: shown(stack, node) for path, node in tree.items()})
    return after


def shown(stack: list[list[Any]], node: Node) -> Shown:
    if node.kind == Kind.DIRECTORY:
        return Shown(node.kind, node.mode, 0, 0, 0, "", b"")
    number, row = divmod(node.size - 1, 100)
    kind, _, target, mode, content, uid, mtime = stack[number][row]
    is_file = kind == Kind.FILE
    return Shown(
        kind,
        mode,
        uid,
        mtime * 1_000_000_000,
        len(content) if is_file else 0,
        hashlib.sha256(content).hexdigest() if is_file else "",
        target if kind == Kind.SYMLINK else b"",
    )


def told(entry: Entry, content: bytes) -> Shown:
    is_file = entry.kind == Kind.FILE
    digest = hashlib.sha256(content).hexdigest() if is_file else ""
    target = entry.link if entry.kind == Kind.SYMLINK else b""
    return Shown(entry.kind, entry.mode, entry.uid, entry.mtime, entry.size, digest, target)


def content(made: list[Layer], state: State) -> bytes:
    if state.entry.kind != Kind.FILE:
        return b""
    with Content(state.entry.size, state.entry.offset, state.entry.sparse, made[state.holder].open) as stream:
        return stream.read()


def is_shown(story: Blame, stage: int, number: int) -> bool:
    """Whether blame agrees that layers 1 to ``number`` show this state."""
    ended = story.states[stage].ended
    return story.states[stage].layer <= number and (ended is None or ended.layer > number)


def words(one: Shown, below: Shown) -> set[str]:
    """The attributes that blame must report as changed."""
    found = {"time"} if one.mtime != below.mtime else set()
    if one.kind != below.kind:
        found.add("kind")
    elif one.kind == Kind.FILE and (one.size, one.digest) != (below.size, below.digest):
        found.add("content" if one.size == below.size else "size")
    if one.kind == below.kind and one.target != below.target:
        found.add("target")
    if one.mode != below.mode:
        found.add("mode")
    if one.uid != below.uid:
        found.add("owner")
    if one.kind == below.kind == Kind.FILE and one.size == below.size:
        return found or {"nothing"}
    return found


@settings(max_examples=rounds(600), deadline=None)
@given(layers)
@example(  # the bytes of one length are not the same
    [
        [(Kind.FILE, b"a", b"", 0o600, b"aa", 0, 0), (Kind.HARDLINK, b"b", b"a", 0o600, b"", 0, 0)],
        [(Kind.FILE, b"a", b"", 0o600, b"bb", 0, 0)],
        [(Kind.WHITEOUT, b"a", b"", 0, b"", 0, 0), (Kind.FILE, b"b/c", b"", 0o600, b"aa", 7, 5)],
    ]
)
@example(  # the bytes of a link to a file below are in the layer below
    [
        [(Kind.FILE, b"a", b"", 0o600, b"aa", 0, 0)],
        [(Kind.FILE, b"c", b"", 0o600, b"ccc", 0, 0), (Kind.HARDLINK, b"b", b"a", 0o600, b"", 0, 0)],
        [(Kind.FILE, b"a", b"", 0o600, b"bb", 0, 0)],
    ]
)
def test_blame_equals_a_replay_layer_by_layer(stack: Any) -> None:
    made = [Layer(layer) for layer in stack]
    whole = stack_of(made)
    try:
        after = replayed(stack)
    except Impossible:
        return
    try:
        tree = whole.tree()
    except InvalidLayer:
        return
    nodes_by_path = {story.path: story for story in blame_under(whole, b"")}
    assert {path for seen in after for path in seen} <= nodes_by_path.keys()
    for path, story in nodes_by_path.items():
        if not path:
            continue
        states = path_history(tree, path).states
        every = [told(state.entry, content(made, state)) for state in states]
        assert [told(stage.entry, b"").kind for stage in story.states] == [state.kind for state in every]
        for number, seen in enumerate(after, 1):
            visible = [stage for stage in range(len(states)) if is_shown(story, stage, number)]
            assert [every[stage] for stage in visible] == ([seen[path]] if path in seen else [])
        last = after[-1].get(path) if after else None
        assert story.hidden == (last is None)
        for stage, below in zip(range(len(states)), every[1:], strict=False):
            assert {word.split()[0] for word in story.states[stage].changed} == words(every[stage], below)
        for stage, one in zip(story.states, states, strict=True):
            assert stage.digest == str(made[one.layer].descriptor.digest)
            assert stage.step == f"step {stage.layer}"
        check_recovered(whole, path, story, every)


def check_recovered(whole: Stack, path: bytes, story: Blame, every: list[Shown]) -> None:
    """``ghosts --recover`` gives the bytes that the layer's only state of the path had."""
    for stage, state in zip(story.states, every, strict=True):
        if state.kind == Kind.FILE and sum(other.layer == stage.layer for other in story.states) == 1:
            with recover(whole, path, layer=stage.layer) as stream:
                assert hashlib.sha256(stream.read()).hexdigest() == state.digest


def test_layers_of_a_range_keep_the_numbers_that_they_have_in_the_image() -> None:
    def entry(kind: Kind, path: bytes) -> Any:
        return (kind, path, b"", 0o600, b"aa", 0, 0)

    none = [entry(Kind.FILE, b"other")]
    made = [
        [entry(Kind.FILE, b"a"), entry(Kind.DIRECTORY, b"d")],
        none,
        [entry(Kind.WHITEOUT, b"a"), entry(Kind.DIRECTORY, b"d")],
        [entry(Kind.WHITEOUT, b"a")],
    ]
    whole = stack_of([Layer(none), *map(Layer, made)])
    for story in (blame(whole.slice(2, 5), b"a"), next(blame_under(whole.slice(2, 5), b"a"))):
        (stage,) = story.states
        assert stage.layer == 2
        assert stage.ended is not None
        assert (stage.ended.how, stage.ended.layer) == ("whiteout", 4)
        assert stage.ended.text == "hidden by layer 4: a whiteout of it"
    assert blame(whole.slice(2, 5), b"a").whiteouts == ((5, b"a"),)
    newest, oldest = blame(whole.slice(2, 5), b"d").states
    assert (newest.layer, oldest.layer) == (4, 2)
    assert oldest.ended is not None
    assert (oldest.ended.how, oldest.ended.layer) == ("restated", 4)
    assert oldest.ended.text == "layer 4 states the directory again"


@settings(max_examples=rounds(400), deadline=None)
@given(layers)
def test_blame_of_one_path_is_that_of_all(stack: Any) -> None:
    """Whether only a path was looked up, or the whole stack was merged."""
    made = [Layer(layer) for layer in stack]
    try:
        every = list(blame_under(stack_of(made), b""))
    except InvalidLayer:
        return
    for story in every:
        alone = blame(stack_of(made), story.path)
        assert (alone.path, alone.hidden, alone.states) == (story.path, story.hidden, story.states)
    try:
        blame(stack_of(made), b"none")
    except PathNotFound:
        return
    raise AssertionError("a path that no layer has")
