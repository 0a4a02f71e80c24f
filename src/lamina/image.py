"""The facade (floor 8): ``Image`` and ``Layer`` as people script them. It only delegates; paths are ``str`` here.

Bytes that are not UTF-8 come through as surrogate escapes, as Python's own file functions have them.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from lamina.errors import NoStore, NotFound, ReferenceNotFound, UsageError
from lamina.light import TYPE_CHECKING, replace
from lamina.source import LayerHandle, Reader, Stack
from lamina.spec.digest import Digest
from lamina.spec.name import ImageName, parse_name

if TYPE_CHECKING:
    from typing import Any, Unpack

    from lamina.config import Settings
    from lamina.edit.publish import Packing
    from lamina.edit.rebase import RebasePlan
    from lamina.events import Cancel
    from lamina.insight.blame import Blame
    from lamina.insight.compare import Diff
    from lamina.insight.side import Side
    from lamina.layer.entry import Entry
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.image_config import Changes, ImageConfig
    from lamina.spec.manifest import Manifest
    from lamina.spec.platform import Platform
    from lamina.store.containers import Container
    from lamina.store.store import Store
    from lamina.transfer.connect import Network
    from lamina.union.tree import Tree, Union
    from lamina.view.fs import LaminaFileSystem
    from lamina.view.path import ImagePath
    from lamina.view.unpack import UnpackReport


def open(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    platform: str | None = None,
    settings: Settings | None = None,
) -> Image:
    """The image ``name``: a reference, ID or digest in the store, ``docker://REF`` in a registry, ``oci:DIR[:REF]``,
    ``oci-archive:FILE[:REF]`` or ``docker-archive:FILE[:REF]``; with ``~N`` or ``~N:M`` a range of its layers.

    ``root`` is the store's directory, ``platform`` like ``linux/arm64``; both default to the settings.
    Raises ReferenceNotFound, NotFound (platform), InvalidContent, UsageError, Unsupported.
    """
    flags = {key: str(value) for key, value in (("root", root), ("platform", platform)) if value is not None}
    return open_with(name, settings or load_settings(flags))


def load_settings(flags: Mapping[str, str] | None = None) -> Settings:
    """The settings as they are now: defaults, files, environment, then ``flags``."""
    from lamina.config import Settings

    return Settings.load(flags=flags or {})


def open_with(name: str, settings: Settings) -> Image:
    """As ``open``, with settings that were loaded already."""
    parsed = parse_name(name)
    platform = settings.wanted_platform()
    if parsed.transport:
        from lamina.transfer.connect import Network
        from lamina.transfer.open import open_stack

        network = Network(settings)
        reader = reader_for(parsed, network)
        inside = str(network.full(parsed.name)) if parsed.transport == "docker" else parsed.name
        whole = str(replace(parsed, low=1, high=None))
        stack = open_stack(reader, inside, platform, whole, max_layer=settings.max_layer)
    else:
        stack = _stored(settings, parsed.name, platform)
    if not parsed.whole:
        stack = stack.slice(parsed.low, parsed.high)
    return Image(stack, settings)


def _stored(settings: Settings, name: str, platform: Platform) -> Stack:
    """An image of the store; a short name that registries.conf gives another meaning is tried in that too."""
    try:
        store = open_store(settings, create=False)
    except NoStore as error:
        hint = f"`lamina pull {name:.200}` brings it in"
        raise ReferenceNotFound(f"no image {name!r:.300}: {error.message} yet", hint=hint) from None
    try:
        found = store.stack(name, platform)
    except ReferenceNotFound:
        from lamina.remote.registries import Registries

        alias = Registries.load().alias(name.partition(":")[0])
        if alias is None:
            raise
        found = store.stack(alias + name[len(name.partition(":")[0]) :], platform)
    return replace(found, look=partial(_look, store), kept=partial(_kept, store))


def _look(store: Store, stack: Stack) -> Union:
    from lamina.view.look import look

    return look(store, stack)


def _kept(store: Store, stack: Stack) -> Union | None:
    from lamina.view.look import kept

    return kept(store, stack)


def open_store(settings: Settings | None = None, *, create: bool = True) -> Store:
    """The store of these settings, or of those that are set now. Raises NotFound (none there, without ``create``),
    Unsupported (another format), StoreDamaged, SystemFailure."""
    from lamina.store.store import Store

    settings = settings or load_settings()
    return Store.of(settings, create=create)


def reader_for(name: ImageName, network: Network) -> Reader:
    """The place that a transport and location name. Raises UsageError, NotFound."""
    if name.transport == "docker":
        return network.repository(name.name)
    if name.transport == "oci":
        from lamina.archive.layout import LayoutReader

        return LayoutReader(name.location)
    if name.transport == "oci-archive":
        from lamina.archive.oci import OciArchiveReader

        return OciArchiveReader(name.location)
    from lamina.archive.docker import DockerArchiveReader

    return DockerArchiveReader(name.location)


class Image:
    """An image, or a range of its layers: an immutable value. Nothing is unpacked to look into it."""

    def __init__(self, stack: Stack, settings: Settings | None = None) -> None:
        self.stack = stack
        self._settings = settings

    @property
    def name(self) -> str:
        return self.stack.name

    @property
    def digest(self) -> Digest:
        """Of the manifest."""
        return self.stack.manifest.descriptor.digest

    @property
    def id(self) -> Digest:
        """The config's digest: docker's image ID."""
        return self.stack.manifest.config.digest

    @property
    def manifest(self) -> Manifest:
        return self.stack.manifest

    @property
    def config(self) -> ImageConfig:
        return self.stack.config

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Bottom first."""
        return tuple(
            Layer(handle, self.stack.first + number, self.stack.steps[number])
            for number, handle in enumerate(self.stack.layers)
        )

    @property
    def tree(self) -> Tree:
        """The union of the layers, merged on first need."""
        return self.stack.tree()

    @property
    def union(self) -> Union:
        """The union for a few questions: read from where it was written before, else merged as ``tree``."""
        return self.stack.union()

    @property
    def fs(self) -> LaminaFileSystem:
        """A read-only fsspec filesystem over the union."""
        from lamina.view.fs import LaminaFileSystem

        return LaminaFileSystem(stack=self.stack, skip_instance_cache=True)

    def path(self, path: str | os.PathLike[str] = "/") -> ImagePath:
        """A path in the union as importlib.resources takes one (``Traversable``), with pathlib's ways to read.
        Nothing is looked up yet. Raises UsageError for what no path can be."""
        from lamina.view.path import ImagePath

        return ImagePath(self.stack, path)

    def stat(self, path: str, *, follow: bool = False) -> Entry:
        """What the union has at ``path``. Raises PathNotFound."""
        tree, node = self.stack.lookup(to_bytes(path), follow=follow)
        return tree.entry(node)

    def listdir(self, path: str = "/") -> list[str]:
        """The names in a directory, in byte order. Raises PathNotFound, UsageError where it is no directory."""
        tree, node = self.stack.listing(to_bytes(path), links=False)
        if not tree.is_directory(node):
            raise UsageError(f"{path!r:.200} in {self.name} is no directory")
        return [os.fsdecode(name) for name in sorted(tree.children(node))]

    def read_bytes(self, path: str) -> bytes:
        """A file's content; symlinks are followed inside the image. Raises PathNotFound, UsageError."""
        from lamina.layer.entry import Kind

        tree, node = self.stack.lookup(to_bytes(path), follow=True)
        if tree.kind(node) != Kind.FILE:
            raise UsageError(f"{path!r:.200} in {self.name} is no regular file")
        with self.stack.open_stored(tree.stored(node)) as stream:
            return stream.read()

    def blame(self, path: str) -> Blame:
        """The layer and build step of the winning entry, what it shadows, and what hid it. Raises PathNotFound."""
        from lamina.insight.blame import blame

        return blame(self.stack, to_bytes(path))

    def diff(
        self,
        other: Image | Container | str | os.PathLike[str],
        path: str = "/",
        *,
        ignore: Sequence[str] = (),
        renames: bool = True,
        on_warning: Callable[[str], object] = lambda text: None,
    ) -> Diff:
        """What differs in ``other``, file by file at ``path`` and below; nothing is unpacked. ``other``: an image, a
        container (``store.containers.get``), or the path of a directory of this machine. ``ignore``: names of
        ``insight.compare.ASPECTS``, like "time". ``renames``: as one change. ``on_warning`` hears of what a directory
        has and no image can. Raises PathNotFound, NotFound, UsageError, InvalidContent, SystemFailure."""
        from lamina.insight.compare import ASPECTS, compare
        from lamina.insight.diff import parse_fields
        from lamina.insight.side import Side

        ignored = parse_fields(",".join(ignore), ASPECTS)
        after = Side.of(other.stack) if isinstance(other, Image) else self._side(other, on_warning)
        return compare(Side.of(self.stack), after, to_bytes(path), ignore=ignored, renames=renames)

    def _side(self, other: Container | str | os.PathLike[str], on_warning: Callable[[str], object]) -> Side:
        from lamina.store.containers import Container

        if isinstance(other, Container):
            from lamina.run.side import container_side

            return container_side(self._store(), other, on_warning=on_warning)
        from lamina.insight.directory import directory_side

        path = os.fspath(other)
        if not os.path.isdir(path):
            raise NotFound(f"no directory {path!r:.300}", hint="an image is given as lamina.open(...)")
        return directory_side(path, on_warning=on_warning)

    def unpack(self, target: str | os.PathLike[str], *, cancel: Cancel | None = None) -> UnpackReport:
        """Write the union into the new or empty directory ``target``. Raises Conflict, SystemFailure."""
        from lamina.view.unpack import unpack

        return unpack(self.stack, os.fsencode(target), cancel=cancel)

    @contextmanager
    def mount(self, target: str | os.PathLike[str] = "") -> Iterator[str]:
        """The union as a read-only directory while the block runs; its path. Without ``target`` it is a new directory
        in the store: several threads and processes may mount the same image at once. Linux; for an image that is not
        in the store, and where plain users get no user namespace, with lamina[fuse]. Raises Conflict, SystemFailure,
        Unsupported."""
        from lamina.view.mount import mount, unmount

        store = open_store(self._settings, create=False)
        mounted = mount(store, self.stack, os.fspath(target))
        try:
            yield mounted.target
        finally:
            with suppress(NotFound):  # `lamina umount --all` was first
                unmount(store, mounted.target)

    def append(
        self,
        files: Mapping[str, str | os.PathLike[str]] | None = None,
        *,
        remove: Sequence[str] = (),
        keep_owner: bool = False,
        step: str = "append",
        name: str = "",
        epoch: int | None = None,
        **changes: Unpack[Changes],
    ) -> Image:
        """A new image of the store with one layer on top. ``files``: paths in the image, each with the file or
        directory of this machine that shall be there (owned by 0:0, or with ``keep_owner`` as here); ``remove``:
        paths to hide; ``changes`` of the config as ``with_config`` has them. Without ``files`` and ``remove`` there
        is no new layer. Raises PathNotFound, NotFound, UsageError, BlobNotFound, SystemFailure."""
        from lamina.edit.append import append, files_of

        sources = [(os.fspath(source), to_bytes(target)) for target, source in (files or {}).items()]
        owner = None if keep_owner else (0, 0)
        items = files_of(sources, map(to_bytes, remove), self.stack, owner=owner)
        packing = self._packing(epoch)
        made = append(
            self.stack,
            items,
            self._store(),
            name,
            created_by=step,
            epoch=epoch,
            compression=packing.compression,
            level=packing.level,
            changes=changes,
        )
        return self._new(name, made)

    def with_config(self, *, name: str = "", epoch: int | None = None, **changes: Unpack[Changes]) -> Image:
        """A new image of the store with the same layers and these fields of its config (``Changes``; None removes
        one). ``name``: what the store shall call it, or nothing. Raises UsageError, BlobNotFound."""
        from lamina.edit.configure import with_config

        step = "with_config " + " ".join(sorted(changes))
        return self._new(name, with_config(self.stack, self._store(), name, changes, created_by=step, epoch=epoch))

    def squash(self, low: int, high: int | None = None, *, name: str = "", epoch: int | None = None) -> Image:
        """A new image of the store in which layers ``low`` to ``high`` (from 1; None: the top) are one, with the same
        union. Raises UsageError (out of range), BlobNotFound (the image is not this store's)."""
        from lamina.edit.squash import squash

        high = len(self) if high is None else high
        step, packing = f"squash {low} to {high}", self._packing(epoch)
        made = squash(self.stack, low, high, self._store(), name, created_by=step, packing=packing)
        return self._new(name, made)

    def flatten(self, *, name: str = "", epoch: int | None = None) -> Image:
        """A new image of the store with one layer and the same union. Raises BlobNotFound."""
        from lamina.edit.squash import flatten

        made = flatten(self.stack, self._store(), name, created_by="flatten", packing=self._packing(epoch))
        return self._new(name, made)

    def erase(self, *paths: str, name: str = "", epoch: int | None = None) -> Image:
        """A new image of the store none of whose layers has these paths, or anything below them. Raises PathNotFound,
        UsageError, BlobNotFound."""
        from lamina.edit.erase import erase, plan_erase

        plan = plan_erase(self.stack, [to_bytes(path) for path in paths])
        step, packing = "erase " + " ".join(paths), self._packing(epoch)
        return self._new(name, erase(self.stack, plan, self._store(), name, created_by=step, packing=packing))

    def plan_rebase(self, onto: Image, old_base: Image | None = None) -> RebasePlan:
        """What ``rebase`` would do, and what that breaks. Raises NotFound (no base in the store), UsageError."""
        from lamina.edit.base import find_base
        from lamina.edit.rebase import plan_rebase

        old = old_base.stack if old_base else find_base(self.stack, self._store())
        return plan_rebase(self.stack, old, onto.stack)

    def rebase(
        self,
        onto: Image,
        old_base: Image | None = None,
        *,
        name: str = "",
        force: bool = False,
        epoch: int | None = None,
    ) -> Image:
        """A new image of the store: this one's own layers upon those of ``onto``. Raises Conflict unless ``force``,
        and as ``plan_rebase``."""
        from lamina.edit.rebase import rebase

        plan, packing = self.plan_rebase(onto, old_base), self._packing(epoch)
        return self._new(name, rebase(plan, self._store(), name, force=force, packing=packing))

    def _store(self) -> Store:
        return open_store(self._settings)

    def _packing(self, epoch: int | None) -> Packing:
        from lamina.edit.publish import Packing

        settings = self._settings or load_settings()
        return Packing(settings.compression, settings.compression_level, epoch)

    def _new(self, name: str, made: Descriptor) -> Image:
        stack = self._store().stack_at(made, self.config.platform, name or str(made.digest))
        return Image(stack, self._settings)

    def __getitem__(self, layers: builtins.slice) -> Image:
        """A range of layers, as Python slices: ``image[:2]`` is the union of the lowest two."""
        if not isinstance(layers, slice) or layers.step not in (None, 1):
            raise UsageError("layers are taken as image[low:high]", hint="image[:2] is the union of the lowest two")
        low, high, _ = layers.indices(len(self.stack.layers))
        first = self.stack.first
        return Image(self.stack.slice(first + low, first + max(high, low) - 1), self._settings)

    def __len__(self) -> int:
        """How many layers."""
        return len(self.stack.layers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return (self.digest, self.stack.first, len(self)) == (other.digest, other.stack.first, len(other))

    def __hash__(self) -> int:
        return hash((self.digest, self.stack.first, len(self)))

    def __repr__(self) -> str:
        return f"<lamina.Image {self.name} {self.digest.short} {len(self)} layers>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        from lamina.insight.html import stack_html

        return stack_html(self.stack)


class Layer:
    """One layer of an image: an immutable set of changes."""

    def __init__(self, handle: LayerHandle, number: int, step: Any = None) -> None:
        self.handle = handle
        self.number = number
        """From 1 at the bottom."""
        self.step = step
        """The build step that made it (``History``), or None."""

    @property
    def digest(self) -> Digest:
        """Of the blob, as it is stored and sent."""
        return self.handle.descriptor.digest

    @property
    def diff_id(self) -> Digest:
        """Of the uncompressed tar."""
        return self.handle.diff_id

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return self.handle.descriptor.size

    @property
    def tar_size(self) -> int:
        """Bytes of the uncompressed tar."""
        return self.handle.index().tar_size

    def __len__(self) -> int:
        """How many entries."""
        return len(self.handle.index())

    def __iter__(self) -> Iterator[Entry]:
        """The entries in archive order, whiteouts among them."""
        return iter(self.handle.index())

    def __repr__(self) -> str:
        return f"<lamina.Layer {self.number} {self.digest.short}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        from lamina.insight.html import layer_html

        return layer_html(self.handle, self.number, self.step)


def to_bytes(path: str | os.PathLike[str]) -> bytes:
    """A path that a person typed, as the floors below have it: relative, no slash at its ends, ``.`` and ``..``
    resolved as text (never above the root)."""
    parts: list[bytes] = []
    for part in os.fsencode(path).split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
