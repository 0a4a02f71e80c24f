"""Puts an image's own layers on another base, and reports conflicts before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lamina.edit.find_base import check_base
from lamina.edit.path_compare import difference, difference_below
from lamina.edit.publish import (
    BASE_DIGEST,
    BASE_NAME,
    Layer,
    Packing,
    docker_format,
    made_layer,
    own_config,
    publish,
    require_bottom,
    timestamp,
    without_base,
)
from lamina.edit.rebase_config import BaseDifference, merged_run_config
from lamina.edit.squash import items_of
from lamina.errors import Conflict, InvalidLayer, UsageError
from lamina.layer.build_layer import index_of
from lamina.layer.entry import Kind
from lamina.layer.file_content import Content, open_content
from lamina.layer.index import LayerIndex
from lamina.source.stack import Stack
from lamina.spec.descriptor import Descriptor
from lamina.union.merge import LayerMerge
from lamina.union.squashed import SquashedEntry, squashed
from lamina.union.tree import HiddenBy, Tree

if TYPE_CHECKING:
    from lamina.source.protocols import Writer

# values of Finding.what
CHANGED = "changed"  # the image replaces or removes something that changed in the base
ADDED = "added"  # the image replaces or removes something that the new base adds
GONE = "gone"  # the image replaces something that the new base no longer has
LINK = "link"  # a hard link to a file of the base that changed or is gone
WHITEOUT = "whiteout"  # the image removes something that the new base no longer has
LIBRARY = "library"
INTERPRETER = "interpreter"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: ``what`` is one of the constants above, ``path`` is in the image, ``detail`` is a text
    for people."""

    what: str
    path: bytes
    detail: str
    conflict: bool = True


@dataclass(frozen=True)
class RebasePlan:
    """The plan of a rebase. ``config`` is the run config of the new image. ``rewritten`` are the image's own layers
    (numbers from 1 in the old image) that can't be used unchanged on the new base, with their new entries."""

    image: Stack
    old: Stack
    new: Stack
    findings: tuple[Finding, ...]
    drift: tuple[BaseDifference, ...]
    config: Mapping[str, Any]
    rewritten: Mapping[int, Sequence[SquashedEntry]] = field(default_factory=dict)

    @property
    def conflicts(self) -> int:
        return sum(one.conflict for one in self.findings) + sum(one.conflict for one in self.drift)


def plan_rebase(image: Stack, old: Stack, new: Stack) -> RebasePlan:
    """Plan moving ``image`` from the base ``old`` to ``new``. Nothing is written.

    Raises UsageError (``old`` is not its base; the new base has another platform, or is the same), InvalidLayer.
    """
    for stack in (image, old, new):
        require_bottom(stack)
    check_base(image, old)
    if new.diff_ids == old.diff_ids:
        raise UsageError(f"{new.name} is already the base of {image.name}", hint="choose another base, or do nothing")
    mine, theirs = image.config.platform, new.config.platform
    if (mine.os, mine.architecture) != (theirs.os, theirs.architecture):
        raise UsageError(
            f"{new.name} is for {theirs}, {image.name} for {mine}", hint="choose a base for the same platform"
        )
    run, drift = _merged_run_config(image, old, new)
    look = _Look(image, old, new)
    found = [*look.findings(), *_lost(look, run)]
    found.sort(key=lambda one: (not one.conflict, one.path, one.what, one.detail))
    return RebasePlan(image, old, new, tuple(found), tuple(drift), run, look.rewritten)


def rebase(
    plan: RebasePlan,
    target: Writer,
    name: str,
    *,
    base_name: str = "",
    force: bool = False,
    packing: Packing = Packing(),  # noqa: B008  (frozen)
) -> Descriptor:
    """Write the planned image: the new base's layers, then the image's own, by digest. A layer with hard links whose
    target is gone is rewritten with the old data. Annotations name the new base: its digest, and ``base_name``.
    Raises Conflict if the plan has conflicts, unless ``force``."""
    if plan.conflicts and not force:
        raise refusal(plan)
    image, first = plan.image, len(plan.old.layers)
    docker = docker_format([image, plan.new], packing if plan.rewritten else None)
    layers: list[Layer] = [handle.descriptor for handle in plan.new.layers]
    diff_ids = list(plan.new.diff_ids)
    with ExitStack() as files:
        for number in range(first + 1, len(image.layers) + 1):
            if number in plan.rewritten:
                items = items_of(image, plan.rewritten[number])
                made = files.enter_context(made_layer(items, packing, docker=docker))
                layers.append(made)
                diff_ids.append(made.diff_id)
            else:
                layers.append(image.layers[number - 1].descriptor)
                diff_ids.append(image.diff_ids[number - 1])
        config = own_config(image).with_run(plan.config).with_layers(diff_ids, _history(plan))
        config = config.with_(created=timestamp(packing.epoch), os_version=plan.new.config.os_version)
        annotations = without_base(image.manifest.annotations)
        if _is_whole(plan.new):
            annotations[BASE_DIGEST] = str(plan.new.manifest.descriptor.digest)
            if base_name:
                annotations[BASE_NAME] = base_name
        return publish(target, name, layers, config, docker=docker, purpose="rebase", annotations=annotations)


def refusal(plan: RebasePlan) -> Conflict:
    """Return the error for a plan with conflicts."""
    return Conflict(
        f"{plan.image.name} has {plan.conflicts} conflicts with {plan.new.name}",
        hint="check them; use --force to write the image anyway: its own files win",
    )


def _merged_run_config(image: Stack, old: Stack, new: Stack) -> tuple[dict[str, Any], list[BaseDifference]]:
    before = old.config.json.get("config") if _is_whole(old) else None
    after, mine = (stack.config.json.get("config") for stack in (new, image))
    return merged_run_config(before or {}, after or {}, mine or {})


def _is_whole(stack: Stack) -> bool:
    """Whether the config belongs to exactly these layers: a range has the config of the whole image."""
    return len(stack.layers) == len(stack.config.diff_ids)


def _history(plan: RebasePlan) -> list[dict[str, Any]]:
    """Return the new base's steps, then the image's own: those after the old base's steps, or after its
    last layer."""
    base = own_config(plan.new).aligned_history()
    steps, below = own_config(plan.image).aligned_history(), own_config(plan.old).aligned_history()
    if _is_whole(plan.old) and steps[: len(below)] == below:
        return base + steps[len(below) :]
    made = 0
    for number, step in enumerate(steps):
        if made == len(plan.old.layers):
            return base + steps[number:]
        made += not step.get("empty_layer")
    return base


class _Look:
    """The image on the old base and on the new one, side by side."""

    def __init__(self, image: Stack, old: Stack, new: Stack) -> None:
        self.image = image
        self.old = old
        self.new = new
        self.depth = len(old.layers)
        self.indexes = [handle.index() for handle in image.layers]
        self.before = _Upon(self.indexes[: self.depth], self.indexes[self.depth :])
        self.rewritten: dict[int, list[SquashedEntry]] = {}
        self.after = self._after()

    def findings(self) -> Iterator[Finding]:
        seen = set()
        for one in (*self._hidden(), *self._gone(), *self._restated()):
            if one.path not in seen:
                seen.add(one.path)
                yield one
        yield from self._links()

    def _after(self) -> _Upon:
        """Merge the image's layers on the new base; a layer that does not fit is rewritten as it is on the
        old base."""
        base = [handle.index() for handle in self.new.layers]
        while True:
            own: list[LayerIndex] = []
            for number in range(self.depth + 1, len(self.indexes) + 1):
                stated = self.rewritten.get(number)
                own.append(self.indexes[number - 1] if stated is None else index_of(one.entry for one in stated))
            try:
                return _Upon(base, own)
            except _Misfit as misfit:
                number = misfit.own + self.depth + 1
                if number in self.rewritten:
                    raise misfit.error from None
                self.rewritten[number] = list(
                    squashed(self.indexes[:number], number - 1, relink=self.depth, marks=True)
                )

    def _hidden(self) -> Iterator[Finding]:
        """Yield what the image hides of the new base, unless it hid the same of the old one."""
        tree = self.after.tree
        for node, _ in self.after.hidden():
            path = tree.path(node)
            there, before = self.new.tree().find(path), self.old.tree().find(path)
            if there is None or self._is_as_new(path, there):
                continue
            if before is None:
                yield Finding(ADDED, path, f"the new base brings this {tree.kind(node).name.lower()}")
                continue
            how = difference_below(self.old, before, self.new, there)
            if how:
                yield Finding(CHANGED, path, how)

    def _is_as_new(self, path: bytes, there: int) -> bool:
        """Whether the image has the same at the path as the new base."""
        own = self.image.tree().find(path)
        if own is None or self.image.tree().is_directory(own):
            return False
        return not difference(self.image, own, self.new, there)

    def _gone(self) -> Iterator[Finding]:
        """Yield what the image hid of the old base and the new base does not have."""
        tree = self.before.tree
        for node, how in self.before.hidden():
            path = tree.path(node)
            if self.new.tree().find(path) is not None:
                continue
            if how == HiddenBy.REPLACED or tree.find(path) is not None:
                yield Finding(GONE, path, "the image replaces it, but the new base does not have it")
            else:
                yield Finding(
                    WHITEOUT, path, "the image removes it, but the new base does not have it", conflict=False
                )

    def _restated(self) -> Iterator[Finding]:
        """Yield directories of the base to which the image gives its own attributes."""
        tree = self.before.tree
        for node in range(1, self.before.limit):
            if not tree.is_directory(node) or not tree.is_alive(node):
                continue
            if tree.origin_layers[node] < self.depth:
                continue
            path = tree.path(node)
            there, below = self.new.tree().find(path), self.old.tree().find(path)
            if there is None or below is None:
                continue
            how = difference(self.old, below, self.new, there)
            if how and difference(self.image, node, self.new, there):
                yield Finding(CHANGED, path, how)

    def _links(self) -> Iterator[Finding]:
        """Yield hard links of the image to files of its base."""
        tree = self.before.tree
        for node, inode in tree.hardlinks.items():
            if node < self.before.limit or inode >= self.before.limit:
                continue
            layer = tree.origin_layers[node]
            target = self.indexes[layer].link(tree.rows[node])
            there = self.new.tree().hardlink_target(target)
            shown = "/" + target.decode("utf-8", "backslashreplace")
            if layer + 1 in self.rewritten:
                if there is None:
                    yield Finding(LINK, tree.path(node), f"links to {shown}, which was not found in the new base")
            elif there is not None:
                how = difference(self.old, inode, self.new, there)
                if how:
                    yield Finding(LINK, tree.path(node), f"links to {shown}: {how}")

    def open_before(self, node: int) -> Content:
        return _opened(self.image, *self.before.tree.content(node))

    def open_after(self, node: int) -> Content:
        layer, row = self.after.tree.content(node)
        if layer < len(self.new.layers):
            return _opened(self.new, layer, row)
        number = layer - len(self.new.layers) + self.depth + 1
        stated = self.rewritten.get(number)
        content = (number - 1, row) if stated is None else stated[row].content
        assert content is not None
        return _opened(self.image, *content)


class _Upon:
    """Layers merged on top of a base: nodes below ``limit`` belong to the base."""

    def __init__(self, base: Sequence[LayerIndex], own: Sequence[LayerIndex]) -> None:
        """Merge them. Raises _Misfit."""
        self.tree = Tree([*base, *own])
        for number, index in enumerate(base):
            LayerMerge(self.tree, number, index).apply()
        self.limit = len(self.tree.names)
        self._before = len(self.tree.endings)
        for number, index in enumerate(own):
            try:
                LayerMerge(self.tree, len(base) + number, index).apply()
            except InvalidLayer as error:
                raise _Misfit(number, error) from None

    def hidden(self) -> Iterator[tuple[int, HiddenBy]]:
        """Yield what the layers hid of the base, without what is below something hidden."""
        for ending in self.tree.endings[self._before :]:
            if ending.node < self.limit and self.tree.is_alive(self.tree.parent(ending.node)):
                yield ending.node, ending.how


class _Misfit(Exception):
    """A layer (number from 0) does not fit on this base."""

    def __init__(self, own: int, error: InvalidLayer) -> None:
        super().__init__(error.message)
        self.own = own
        self.error = error


def _opened(stack: Stack, layer: int, row: int) -> Content:
    return open_content(stack.layers[layer].index(), row, stack.layers[layer].open)


def _lost(look: _Look, run: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield libraries and interpreters that the image's own programs find now, and would not find afterwards."""
    from lamina.edit.libraries import LIBRARY_PATH, Loader, needs

    tree = look.before.tree
    before = Loader(tree, look.open_before, look.image.config.environment.get(LIBRARY_PATH, ""))
    env = dict(str(line).partition("=")[::2] for line in run.get("Env") or ())
    after = Loader(look.after.tree, look.open_after, env.get(LIBRARY_PATH, ""))
    known: dict[tuple[str, tuple[str, ...]], bool] = {}
    for node in tree.walk():
        if tree.kind(node) != Kind.FILE or tree.content(node)[0] < look.depth:
            continue
        for need in needs(tree, node, look.open_before):
            key = (need.name, need.search)
            if key not in known:
                known[key] = before.has(need) and not after.has(need)
            if known[key]:
                what = LIBRARY if need.is_library else INTERPRETER
                yield Finding(what, need.path, f"needs {need.name}, which would not be found any more")
