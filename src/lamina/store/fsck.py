"""fsck: check the store byte by byte, and repair what can be made again.

Names and blobs are only reported or moved aside; derived data is made again; leftovers are removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, StoreDamaged
from lamina.host.files import CHUNK, FileRange, make_directory, remove, reported
from lamina.layer.index import LayerIndex
from lamina.light import replace
from lamina.source.select import read_config
from lamina.source.verify import wrong_size
from lamina.source.walk import Absent, Classified, Damaged, Unrecognized, classify, listed_documents, walk
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest
from lamina.store.completeness import first_missing
from lamina.store.derived import hash_of
from lamina.store.layer_map import layer_map_is_right
from lamina.store.leftovers import leftovers
from lamina.store.members import Members
from lamina.store.name_table import EVERY
from lamina.store.refs import FETCHED

if TYPE_CHECKING:
    from lamina.store.store import Store

LOST_AND_FOUND = "lost+found"


@dataclass(frozen=True, slots=True)
class Finding:
    """``severity``: "error" (an image is incomplete or damaged), "derived" (can be made again), "leftover"
    (harmless), "elsewhere" (not kept here as ``keep`` says, but in a registry). ``repaired``: whether ``--repair``
    repaired it. ``blob``: the damaged blob, if the finding is about one."""

    severity: str
    what: str
    repaired: bool = False
    blob: Digest | None = None


def fsck(
    store: Store, *, repair: bool = False, on_blob: Callable[[Digest], None] = lambda digest: None
) -> list[Finding]:
    """Hash every blob again, follow every name, and check every layer's derived data. ``on_blob`` is called for each
    blob that is checked. Raises StoreDamaged if index.json itself, or (without ``repair``) its log, can't be read."""
    with reported(store.paths.root):
        findings = list(_names(store, repair))
        findings += list(_blobs(store, repair, on_blob))
        broken = {finding.blob for finding in findings if finding.blob is not None}
        layers: dict[Digest, Descriptor] = {}
        elsewhere = store.layers.origins()
        for name, entry in store.names():
            findings += _image(store, name or f"(untagged) {entry.digest.short}", entry, broken, layers, elsewhere)
        named = {entry.digest for _, entry in store.names()}
        for one in store.containers:
            mounted = [(f"mounted into the container {one.name}", image) for image, _ in one.mounted_images]
            for what, top in [(f"{one.image} of the container {one.name}", one.descriptor), *mounted]:
                if top.digest not in named:
                    findings += _image(store, what, top, broken, layers, elsewhere)
        findings += _derived(store, layers, repair)
        findings += _containers(store)
        findings += _volumes(store)
        findings += _repositories(store)
        findings += _leftovers(store, repair)
    return findings


def _names(store: Store, repair: bool) -> Iterator[Finding]:
    """Check the log of names. A damaged index.json is an error that nothing repairs."""
    log = os.path.basename(store.paths.name_log)
    try:
        left = store.refs.interrupted()
    except StoreDamaged as error:
        if not repair or not os.path.lexists(store.paths.name_log):
            raise
        target = os.path.join(store.paths.ingest, LOST_AND_FOUND)
        make_directory(target)
        store.refs.repair(os.path.join(target, log))
        yield Finding("error", f"{error.message}; the names that can be read were kept", True)
        return
    if left:
        yield Finding("leftover", f"{log}: {left} bytes, left by a change of names that was interrupted", repair)
    if repair:
        store.refs.fold()


def _blobs(store: Store, repair: bool, on_blob: Callable[[Digest], None]) -> Iterator[Finding]:
    for algorithm in sorted(os.listdir(store.paths.blobs)):
        directory = os.path.join(store.paths.blobs, algorithm)
        if os.path.islink(directory) or not os.path.isdir(directory):
            yield Finding("leftover", f"{directory} is not a directory, and holds no blobs")
            continue
        for encoded in sorted(os.listdir(directory)):
            try:
                digest = Digest.parse(f"{algorithm}:{encoded}")
            except LaminaError:
                yield Finding("leftover", f"{directory}/{encoded} is not a blob")
                continue
            path = store.blobs.path(digest)
            if os.path.islink(path) or not os.path.isfile(path):
                yield Finding("leftover", f"{path} is not a regular file")
                continue
            if not digest.supported:
                continue
            on_blob(digest)
            if hash_of(path, digest.algorithm) != digest.encoded:
                if repair:
                    _move_aside(store, path)
                yield Finding("error", f"blob {digest} does not match its digest", repair, digest)
            elif repair and os.stat(path).st_mode & 0o222:
                os.chmod(path, 0o444)


def _move_aside(store: Store, path: str, name: str = "") -> None:
    target = os.path.join(store.paths.ingest, LOST_AND_FOUND)
    make_directory(target)
    os.replace(path, os.path.join(target, name or os.path.basename(path)))


def _image(
    store: Store,
    name: str,
    top: Descriptor,
    broken: set[Digest],
    layers: dict[Digest, Descriptor],
    elsewhere: Mapping[Digest, str],
) -> Iterator[Finding]:
    """Check what one name needs. Children of an index that were never fetched are not reported."""
    fetched = set(top.annotations.get(FETCHED, "").split(","))
    lies: list[str] = []

    def wanted(found: Classified) -> Iterator[Descriptor]:
        for one in listed_documents(found):
            size = store.blobs.size(one.digest)
            if size is not None and size != one.size and one.digest not in broken:
                lies.append(wrong_size(found.descriptor.digest, one.digest, one.size, size))
                yield replace(one, size=size)  # its content may be right
            elif EVERY in fetched or str(one.digest) in fetched or size is not None:
                yield one

    for found in walk(lambda one: classify(store.blobs.read, one), [top], children=wanted, max_depth=None):
        digest = found.descriptor.digest
        if isinstance(found, Absent):
            yield Finding("error", f"image {name} needs {digest}, which is missing")
        elif digest in broken or isinstance(found, Damaged):
            yield Finding("error", f"image {name} needs {digest}, which is damaged")
        elif isinstance(found, Unrecognized):
            if digest == top.digest or EVERY in fetched or str(digest) in fetched:
                yield Finding("error", f"image {name}: {found.error.message}")
        elif isinstance(found.document, Manifest):
            whole = digest == top.digest or EVERY in fetched or str(digest) in fetched
            if not whole and first_missing(found.document, store.blobs, store.layers) is not None:
                continue  # it is here for another reason, and was not fetched as a child
            yield from _manifest(store, name, digest, found.document, broken, layers, elsewhere)
    for lie in lies:
        yield Finding("error", f"image {name}: {lie}")


def _manifest(
    store: Store,
    name: str,
    digest: Digest,
    manifest: Manifest,
    broken: set[Digest],
    layers: dict[Digest, Descriptor],
    elsewhere: Mapping[Digest, str],
) -> Iterator[Finding]:
    whole = True
    origins: dict[Digest, str] = {}
    for needed in (manifest.config, *manifest.layers):
        if needed.digest in broken or not store.blobs.has(needed):
            if needed.digest in elsewhere and needed.digest not in broken:
                # its tar is here, and is checked as derived data
                where = elsewhere[needed.digest]
                yield Finding("elsewhere", f"blob {needed.digest} of image {name} is not kept here: it is at {where}")
                continue
            if mediatype.is_foreign(needed.media_type) and not store.blobs.has(needed):
                continue
            size = store.blobs.size(needed.digest)
            if size is not None and needed.digest not in broken:
                yield Finding("error", f"image {name}: {wrong_size(digest, needed.digest, needed.size, size)}")
                whole = False
                continue
            problem = "damaged" if needed.digest in broken else "missing"
            origins = origins or store.layers.origins(kept=True)
            where_it_was = f"; {origins[needed.digest]} had it" if needed.digest in origins else ""
            yield Finding("error", f"image {name} needs blob {needed.digest}, which is {problem}{where_it_was}")
            whole = False
    if whole and manifest.is_image:
        try:
            config = read_config(store, manifest, name)
        except LaminaError as error:
            yield Finding("error", f"image {name}: {error.message}")
            return
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            layers.setdefault(diff_id, layer)


def _derived(store: Store, layers: dict[Digest, Descriptor], repair: bool) -> Iterator[Finding]:
    for diff_id in store.layers.diff_ids():
        descriptor = layers.get(diff_id)
        if descriptor is None:
            continue  # no image has it: prune removes it
        problem = _layer_problem(store, descriptor, diff_id)
        if problem:
            yield _repaired(store, descriptor, diff_id, problem, repair)
        elif not _digests_match(store, descriptor, diff_id):
            yield _removed(
                store.paths.digests(diff_id), f"the content digests of layer {diff_id} do not match its tar", repair
            )
    if not layer_map_is_right(store.reader):
        yield _removed(store.paths.layer_map, "the map from images to layers does not match the images", repair)


def _removed(path: str, problem: str, repair: bool) -> Finding:
    """Report a damaged file that is made again on its next use; with ``repair`` also remove it."""
    if repair:
        remove(path)
    return Finding("derived", problem, repair)


def _digests_match(store: Store, descriptor: Descriptor, diff_id: Digest) -> bool:
    """Whether the kept content digests agree with the layer's tar, or were never made."""
    from lamina.layer.file_digests import LayerDigests

    path = store.paths.digests(diff_id)
    if not os.path.exists(path):
        return True
    with FileRange(path) as stream:
        kept = stream.read()
    index = LayerIndex.load(store.paths.layer_index(diff_id))
    return LayerDigests.make(index, store.layers.get(descriptor, diff_id).open).buffer == kept


def _layer_problem(store: Store, descriptor: Descriptor, diff_id: Digest) -> str:
    tar = store.paths.tar(diff_id)
    try:
        if not store.layers.has_tar(diff_id) and store.layers.is_without_tar(descriptor, diff_id):
            return _problem_without_tar(store, descriptor, diff_id)
        index = LayerIndex.load(store.paths.layer_index(diff_id))
        if os.stat(tar).st_size != index.tar_size:
            return f"the tar of layer {diff_id} is not as long as its index states"
        if hash_of(tar, diff_id.algorithm) != diff_id.encoded:
            return f"the tar of layer {diff_id} does not match its diff_id"
        if _index_made_again(tar) != bytes(index.buffer):
            return f"the index of layer {diff_id} does not match its tar"
    except FileNotFoundError:
        return f"the derived files of layer {diff_id} are incomplete"
    except LaminaError as error:
        return f"layer {diff_id}: {error.message}"
    return ""


def _problem_without_tar(store: Store, descriptor: Descriptor, diff_id: Digest) -> str:
    """Check a layer without a tar: decompress its blob once more, and compare."""
    from lamina.layer.checkpoints.file import SeekIndex, SniffingCheckpoints
    from lamina.layer.decode import LayerReader

    index, seek = LayerIndex.load(store.paths.layer_index(diff_id)), SeekIndex.load(store.paths.seek(diff_id))
    if not store.blobs.has(descriptor):
        return ""  # reported as missing
    inflate = SniffingCheckpoints(mediatype.compression(descriptor.media_type) or "none", descriptor.size)
    reader = LayerReader(max_layer=store.max_layer, what=f"layer {diff_id}", inflate=inflate)
    with store.blobs.get(descriptor).open() as stream:
        while data := stream.read(CHUNK):
            for _ in reader.feed(data):
                pass
    if b"".join(reader.finish().chunks()) != bytes(index.buffer):
        return f"the index of layer {diff_id} does not match its tar"
    if seek.blob == descriptor.digest and list(seek.checkpoints()) != inflate.checkpoints:
        return f"the checkpoints of layer {diff_id} do not match its blob"
    return ""


def _index_made_again(tar: str) -> bytes:
    from lamina.layer.index import IndexBuilder
    from lamina.layer.tar import TarParser

    builder = IndexBuilder()
    parser = TarParser(builder)
    with FileRange(tar) as stream:
        while data := stream.read(CHUNK):
            parser.feed(data)
    parser.finish()
    return b"".join(builder.chunks(parser.position))


def _repaired(store: Store, descriptor: Descriptor, diff_id: Digest, problem: str, repair: bool) -> Finding:
    if not repair:
        return Finding("derived", problem)
    try:
        store.layers.make_derived_again(descriptor, diff_id)
    except LaminaError as error:
        if not store.blobs.has(descriptor) and store.layers.has_tar(diff_id):
            # The tar was the only copy. Once it is moved aside, the next pull fetches the layer again.
            _move_aside(store, store.paths.tar(diff_id), f"{diff_id.encoded}.tar")
            return Finding(
                "error", f"{problem}, and can't be made again without its blob: run `lamina pull` to fetch it"
            )
        return Finding("error", f"layer {diff_id} can't be made again: {error.message}")
    return Finding("derived", problem, True)


def _containers(store: Store) -> Iterator[Finding]:
    found, left = store.containers.scan()
    for one in found:
        if one.is_damaged:
            hint = f"run `lamina rm {one.id[:12]}` to remove the container and its changes"
            yield Finding("error", f"the record of the container {one.name} is damaged: {hint}")
    for one in store.containers.killed(found):
        yield Finding(
            "leftover", f"the container {one.name} was left by a process that was killed: run `lamina prune`"
        )
    for path in [*left, *store.containers.unknown_paths()]:
        what = "left by interrupted work: run `lamina prune`" if path in left else "not a container"
        yield Finding("leftover", f"{os.path.relpath(path, store.paths.root)}: {what}")


def _volumes(store: Store) -> Iterator[Finding]:
    for one in store.volumes.every():
        if one.damaged:
            yield Finding(
                "error", f"the record of the volume {one.name} is damaged: its labels and options are not known"
            )
    for name, what in store.volumes.oddities():
        yield Finding("leftover", f"volumes/{name}: {what}")


def _repositories(store: Store) -> Iterator[Finding]:
    for path in Members(store.paths).oddities():
        yield Finding("leftover", f"{path}: nothing that lamina serve makes")


def _leftovers(store: Store, repair: bool) -> Iterator[Finding]:
    effective = {root.name for root in store.roots.effective()}
    for root in store.roots:
        if not root.alive:
            what = f"root {root.name} ({root.purpose}) of a process that has ended"
            if root.pin:
                what = f"pin {root.pin} ({root.purpose}), which was not used for as long as it lasts"
            if root.name in effective:
                yield Finding(
                    "leftover",
                    f"{what}: the objects that it lists are kept for an hour, so that the next pull can resume",
                )
            else:
                yield Finding("leftover", what, repair)
    if repair:
        store.roots.remove_ended()
    for left in leftovers(store.paths, take=repair):
        what = f"{os.path.relpath(left.path, store.paths.root)}: {left.kind}, {left.size} bytes"
        if left.due:
            yield Finding("leftover", f"{what}, left by interrupted work: run `lamina prune`", repair)
        else:
            yield Finding(
                "leftover",
                f"{what}, left by an interrupted command: kept for an hour, so that the next pull can resume",
            )
