"""The paths of files in a store (docs/store.md), and making or checking its frame."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import NoStore, NotFound, StoreDamaged, SystemFailure, Unsupported
from lamina.host.files import make_directory, replace_file, reported, write_all
from lamina.host.temporary import Temporary, is_temporary
from lamina.spec.digest import Digest

FORMAT = 3
"""The number of the store's format; an older format is raised when the store is opened, without other work.

In format 1, tars and trees were synced before they got their names. A lamina that knows only format 1 trusts them
after a crash, without the notes of ``store.derived``: it must not open a store whose tars and trees were not synced.
In format 2, index.json contained all names. A lamina that knows only format 2 would delete the images whose names are
in the log (decision 0041)."""
READ_ONLY = 0o444
"""The mode of a blob's file."""
_TEXT = b'{"imageLayoutVersion":"1.0.0"}'
_EMPTY_INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
_DIRECTORIES = ("blobs", "ingest", "roots", "containers", "volumes", "layers", "unions")


class Paths:
    """The paths of files below ``root``. Digests are checked values, so no path can lead outside."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.index = os.path.join(root, "index.json")
        self.name_log = os.path.join(root, "index.json.log")
        self.layer_map = os.path.join(root, "members")
        self.lock = os.path.join(root, "lock")
        self.reserve = os.path.join(root, "reserve")
        self.ingest = os.path.join(root, "ingest")
        self.roots = os.path.join(root, "roots")
        self.blobs = os.path.join(root, "blobs")
        self.layers = os.path.join(root, "layers")
        self.unions = os.path.join(root, "unions")
        self.repositories = os.path.join(root, "repositories")
        """What was pushed to the repositories of a registry server. It is made on first use."""
        self.build = os.path.join(root, "build")
        """What builds keep: records of finished steps, cache mounts, and the directories of running steps. It is made
        on first use."""

    def blob(self, digest: Digest) -> str:
        return os.path.join(self.blobs, digest.algorithm, digest.encoded)

    def part(self, digest: Digest) -> str:
        return os.path.join(self.ingest, f"{digest.algorithm}-{digest.encoded}.part")

    def layer(self, diff_id: Digest) -> str:
        return os.path.join(self.layers, diff_id.algorithm, diff_id.encoded)

    def union(self, key: str) -> str:
        """The directory of a union. ``key``: hex digits."""
        return os.path.join(self.unions, key)

    def tar(self, diff_id: Digest) -> str:
        return os.path.join(self.layer(diff_id), "tar")

    def origins(self, diff_id: Digest) -> str:
        return os.path.join(self.layer(diff_id), "origins")

    def digests(self, diff_id: Digest) -> str:
        return os.path.join(self.layer(diff_id), "digests")

    def seek(self, diff_id: Digest) -> str:
        return os.path.join(self.layer(diff_id), "seek")

    def layer_index(self, diff_id: Digest) -> str:
        return os.path.join(self.layer(diff_id), "index")


def open_root(root: str, *, create: bool) -> Paths:
    """The frame of the store; made if it is missing and ``create`` is True.

    Raises NotFound (no store there), Unsupported (another format), StoreDamaged, SystemFailure.
    """
    paths = Paths(os.path.realpath(root))  # runtimes and the kernel report paths without symlinks
    with reported(root):
        _check_owner(paths.root)
        try:
            with open(os.path.join(root, "format"), "rb") as file:
                found = _checked_format(file.read(64), root)
            if found < FORMAT:
                _raise_format(paths)
        except (FileNotFoundError, NotADirectoryError):
            if not create:
                kind = NotFound if _unknown_names(root) else NoStore
                raise kind(
                    f"no store at {root}", hint="make one with `lamina pull`, `lamina load` or `lamina pack`"
                ) from None
            _make(paths)
    return paths


def _check_owner(root: str) -> None:
    """Raise SystemFailure if the store belongs to another user. Root would leave files that the owner can't remove,
    with ids outside the owner's namespace; other users may not even read it."""
    if not hasattr(os, "geteuid"):
        return
    try:
        owner = os.stat(root).st_uid
    except OSError:
        return  # there is no store, or reading it reports the error
    user = os.geteuid()
    if owner == user:
        return
    if user == 0:
        from lamina.host.privileges import is_root

        if is_root():
            name = _name_of(owner)
            raise SystemFailure(
                f"root can't use the store {root}: it belongs to {name}, whose containers have other ids",
                hint=f"run `runuser -u {name} -- lamina ...`, or choose another store with --root",
            )
    elif not os.access(root, os.R_OK | os.X_OK):
        raise SystemFailure(
            f"the store {root} can't be opened: permission denied; it belongs to {_name_of(owner)}",
            hint=f"run it as {_name_of(owner)}, or choose another store with --root",
        )


def _name_of(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _raise_format(paths: Paths) -> None:
    """Set the store's format number to this one; nothing else changes. A store that is read-only, or on a full disk,
    keeps its number."""
    with suppress(OSError):
        replace_file(os.path.join(paths.root, "format"), [b"%d\n" % FORMAT])


def _checked_format(text: bytes, root: str) -> int:
    stripped = text.strip()
    if not stripped.isdigit():
        raise StoreDamaged(f"{root}/format is not a format number", hint="check the path: it may not be a store")
    if int(stripped) > FORMAT:
        raise Unsupported(
            f"the store {root} has the unknown format {int(stripped)}", hint="update lamina: a newer version made it"
        )
    if int(stripped) < 1:
        raise Unsupported(
            f"the store {root} has the invalid format {int(stripped)}", hint="choose another store with --root"
        )
    return int(stripped)


def _make(paths: Paths) -> None:
    """Make the frame. Safe to run twice, and at the same time: ``format`` is written last."""
    root = paths.root
    os.makedirs(os.path.dirname(root), exist_ok=True)
    make_directory(root)
    unknown = _unknown_names(root)
    if unknown:
        raise StoreDamaged(
            f"{root} is not a store and not empty: {unknown[0]!r:.100} is in it",
            hint="choose an empty directory for the store",
        )
    for name in _DIRECTORIES:
        make_directory(os.path.join(root, name))
    make_directory(os.path.join(root, "blobs", "sha256"))
    for name, content in (("oci-layout", _TEXT), ("index.json", _EMPTY_INDEX)):
        path = os.path.join(root, name)
        if not os.path.exists(path):
            write_new(path, content)
    replace_file(os.path.join(root, "format"), [b"%d\n" % FORMAT])


def _unknown_names(root: str) -> list[str]:
    """The names in the directory of a store that a store does not have. Leftovers of a killed ``_make`` are not
    among them. Raises OSError."""
    try:
        present = set(os.listdir(root))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return [root]
    present -= {
        *_DIRECTORIES,
        "oci-layout",
        "index.json",
        "index.json.log",
        "repositories",
        "lock",
        "reserve",
        "format",
    }
    return sorted(name for name in present if not is_temporary(name))


def write_new(path: str, content: bytes) -> None:
    """Write ``path`` unless it exists by now: the first writer wins. Raises OSError."""
    with Temporary(*os.path.split(path)) as file:
        write_all(file.descriptor, content)
        os.fsync(file.descriptor)
        file.put_new(path)
