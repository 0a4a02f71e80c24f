"""Lists the packages in an image, with the layer that added each: dpkg, apk, rpm, pip, npm, gem, composer, Maven, the
dependencies recorded in Rust and Go programs, and well-known programs by their version strings. It reads the union
and runs nothing of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

from lamina.errors import InvalidContent
from lamina.insight import package_archives, package_binaries, package_programs, package_texts
from lamina.insight.package_texts import NamedPackage
from lamina.layer.entry import Entry, Kind
from lamina.layer.file_content import Content
from lamina.source.stack import Stack
from lamina.union.path_history import path_history

MAX_DATABASE = 256 << 20
MAX_FILE = 4 << 20
MAX_PROGRAMS = 2 << 30
"""The most bytes of all programs that are searched for version strings: holes cost a hostile layer nothing."""
MAX_ARCHIVES = 1 << 30
"""The most bytes that are read in Java archives."""
MAX_PACKAGES = 200_000
MAX_NOTES = 100
KINDS = ("deb", "apk", "rpm", "pypi", "npm", "gem", "composer", "maven", "cargo", "golang", "binary")

Reader = Callable[[bytes], Iterator[NamedPackage]]

_DATABASES: dict[bytes, Reader] = {
    b"var/lib/dpkg/status": package_texts.dpkg_status,
    b"lib/apk/db/installed": package_texts.apk_installed,
    b"usr/lib/apk/db/installed": package_texts.apk_installed,
    b"var/lib/rpm/rpmdb.sqlite": package_binaries.rpm_database,
    b"usr/lib/sysimage/rpm/rpmdb.sqlite": package_binaries.rpm_database,
    b"usr/share/rpm/rpmdb.sqlite": package_binaries.rpm_database,
}
_NOT_READ = (
    b"var/lib/rpm/Packages",
    b"var/lib/rpm/Packages.db",
    b"usr/lib/sysimage/rpm/Packages",
    b"usr/lib/sysimage/rpm/Packages.db",
)
_STATUS_D = b"var/lib/dpkg/status.d/"
_LISTS: tuple[tuple[bytes, bytes, Callable[[bytes], Set[bytes]]], ...] = (
    (b"var/lib/dpkg/info", b".list", package_texts.dpkg_list),
    (b"var/lib/dpkg/status.d", b".md5sums", package_texts.dpkg_sums),
)
"""Lists of the files of one package: directory, suffix, and parser."""
_FILES_IN: dict[bytes, Callable[[bytes, Set[bytes]], Set[bytes]]] = {
    path: package_texts.apk_files if b"apk" in path else package_binaries.rpm_files
    for path in _DATABASES
    if b"dpkg" not in path
}
"""Databases with the files of all packages: functions that return which of the given files are in them."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package. ``path`` is the file that states it. ``layer`` (from 1) is where it first appears in this version;
    ``diff_id`` and ``step`` belong to that layer."""

    named: NamedPackage
    purl: str
    path: bytes
    layer: int
    diff_id: str
    step: str | None

    @property
    def name(self) -> str:
        return self.named.name

    @property
    def version(self) -> str:
        return self.named.version

    @property
    def kind(self) -> str:
        return self.named.kind


@dataclass(frozen=True, slots=True)
class Inventory:
    """The packages of an image. ``notes`` list what could not be read, and why. ``distribution`` is ID and VERSION_ID
    of os-release, "" for none."""

    packages: tuple[Package, ...]
    notes: tuple[str, ...]
    distribution: tuple[str, str]


def packages(stack: Stack, *, programs: bool = True) -> Inventory:
    """List all packages in the union, by kind, name and version. ``programs``: also read ELF programs (a few reads of
    each; well-known ones up to their version string). Raises InvalidLayer, and what ``stack.tree`` raises."""
    return _Looking(stack).run(programs)


def purl_of(named: NamedPackage, distribution: tuple[str, str] = ("", "")) -> str:
    """Return the package URL (purl-spec), with the distribution for packages of a distribution."""
    name, namespace, qualifiers = named.name, "", {}
    if named.kind in ("deb", "apk", "rpm"):
        namespace = distribution[0] or {"deb": "debian", "apk": "alpine"}.get(named.kind, "")
        if named.architecture:
            qualifiers["arch"] = named.architecture
        if all(distribution):
            qualifiers["distro"] = "-".join(distribution)
    if named.kind in ("npm", "composer", "golang"):
        namespace, _, name = name.rpartition("/")
    elif named.kind == "maven":
        namespace, _, name = name.rpartition(":")
    if named.kind == "pypi":
        name = name.lower().replace("_", "-")
    elif named.kind in ("deb", "apk", "composer", "golang"):
        namespace, name = namespace.lower(), name.lower()
    version, kind = named.version, named.kind
    if kind == "binary":
        kind = "generic"
    elif kind == "golang" and version == "(devel)":
        version = ""  # Go's word for no version: built from a directory
    elif kind == "golang" and name == "stdlib":
        version = version.removeprefix("go")
    if named.kind == "rpm" and ":" in version:
        qualifiers["epoch"], _, version = version.partition(":")
    above = "".join(_quoted(part) + "/" for part in namespace.split("/") if part)
    asked = "&".join(f"{key}={_quoted(value)}" for key, value in sorted(qualifiers.items()))
    return (
        f"pkg:{kind}/{above}{_quoted(name)}"
        + (f"@{_quoted(version)}" if version else "")
        + (f"?{asked}" if asked else "")
    )


def _quoted(text: str) -> str:
    return quote(text, safe=":")


class _Looking:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.tree = stack.tree()
        self.notes: list[str] = []
        self.found: dict[tuple[NamedPackage, bytes], int] = {}  # -> layer, from 0
        self._own: dict[
            bytes, tuple[NamedPackage, int]
        ] = {}  # programs detected by version string: path -> package, layer
        self._told: set[tuple[int, int]] = set()  # (layer, row) of their files
        self._left = MAX_PROGRAMS
        self._archives = package_archives.JavaArchives(MAX_ARCHIVES)

    def run(self, programs: bool) -> Inventory:
        for path, reader in _DATABASES.items():
            if self._is_file(self.tree.find(path)):
                self._by_states(path, reader, MAX_DATABASE)
        for path in _NOT_READ:
            if self._is_file(self.tree.find(path)):
                self.notes.append(f"/{path.decode()}: this form of rpm's database is not supported")
        for path in _DATABASES:
            log = self.tree.find(path + b"-wal")
            if log is not None and self._is_file(log) and self.tree.entry(log).size:
                self.notes.append(f"/{path.decode()}-wal: entries that are only in this log are not read")
        self._files(programs)
        self._programs_of_nobody()
        distribution = self._distribution()
        steps, first = self.stack.steps, self.stack.first
        every = []
        for (named, path), layer in self.found.items():
            step = steps[layer] if layer < len(steps) else None
            every.append(
                Package(
                    named,
                    purl_of(named, distribution),
                    path,
                    first + layer,
                    str(self.stack.layers[layer].diff_id),
                    (step.created_by or step.comment or None) if step else None,
                )
            )
        every.sort(key=lambda one: (KINDS.index(one.kind), one.name, one.version, one.path))
        return Inventory(tuple(every), tuple(self.notes), distribution)

    def _files(self, programs: bool) -> None:
        """Find packages with one file each: by their names or, for programs, by their content."""
        tree = self.tree
        hidden = {
            tree.path(node)
            for node, ended in enumerate(tree.endings_of)
            if ended and tree.names[node] in (b"METADATA", b"PKG-INFO", b"package.json", b"installed.json")
        }
        for node, ended in enumerate(tree.endings_of):
            if ended or tree.is_directory(node) or not self._is_file(node):
                continue
            path = tree.path(node)
            reader = _reader_of(path)
            if reader is not None:
                if path in hidden or path.startswith(_STATUS_D):
                    self._by_states(path, reader, MAX_FILE)
                else:
                    self._note_found(reader, path, tree.entry(node), *self._content_layer(node), MAX_FILE)
            elif package_archives.is_archive(tree.names[node]):
                if tree.inode(node) == node:
                    self._java_archive(node, path)
            elif programs:
                self._program(node, path)

    def _content_layer(self, node: int) -> tuple[int, int]:
        """Return the layer with the name, and the layer with the content."""
        return self.tree.origin_layers[node], self.tree.content(node)[0]

    def _java_archive(self, node: int, path: bytes) -> None:
        layer, row = self.tree.content(node)
        with self.stack.open_content(layer, row) as stream:
            assert isinstance(stream, Content)

            def read(at: int, size: int) -> bytes:
                stream.seek(at)
                return stream.read(size)

            for named in self._archives.packages(read, self.stack.layers[layer].index().size[row]):
                self._add(named, path, layer)
        if self._archives.left <= 0:
            self._note(f"Java archives have more than {MAX_ARCHIVES} bytes: the rest was not searched")

    def _program(self, node: int, path: bytes) -> None:
        """Read a program. For a file with several hard links, the first name reports its dependencies, and the first
        name that is a candidate reports its version."""
        layer, row = self.tree.content(node)
        index = self.stack.layers[layer].index()
        first = self.tree.inode(node) == node
        meant = package_programs.is_meant(self.tree.names[node]) and (layer, row) not in self._told
        if index.size[row] < 64 or not (meant or (first and index.mode[row] & 0o111)):
            return
        with self.stack.open_content(layer, row) as stream:
            assert isinstance(stream, Content)

            def read(at: int, size: int) -> bytes:
                stream.seek(at)
                return stream.read(size)

            def counted(size: int) -> bytes:
                data = stream.read(min(size, self._left))
                self._left -= len(data)
                return data

            for named in package_binaries.program(read) if first else ():
                self._add_or_ask(named, path, layer)
            if meant and self._left:
                stream.seek(0)
                for named in package_programs.programs(self.tree.names[node], counted):
                    self._told.add((layer, row))
                    self._add_or_ask(named, path, layer)
                if not self._left:
                    self.notes.append(f"programs have more than {MAX_PROGRAMS} bytes: the rest was not searched")

    def _programs_of_nobody(self) -> None:
        """Add the programs whose files belong to no package of the distribution; the others are already listed as
        packages. A file that was rewritten in a later layer than the package database does not belong to the package
        any more."""
        if not self._own:
            return
        listed = {path: path for path in self._own}
        for path in self._own:  # dpkg may list /usr/bin/x as /bin/x, from before the directories were merged
            short = path.removeprefix(b"usr/")
            top = self.tree.find(short.partition(b"/")[0])
            if short != path and top is not None and self.tree.kind(top) == Kind.SYMLINK:
                listed[short] = path
        owned: set[bytes] = set()
        for holder, paths in self._lists(listed.keys()):
            owned.update(listed[path] for path in paths if self._own[listed[path]][1] <= holder)
        for path, (named, layer) in self._own.items():
            if path not in owned:
                self._add(named, path, layer)

    def _lists(self, wanted: Set[bytes]) -> Iterator[tuple[int, Set[bytes]]]:
        """Yield which of these files belong to packages of the distribution, with the layer that states it."""
        left = MAX_DATABASE
        for directory, suffix, reader in _LISTS:
            parent = self.tree.find(directory)
            if parent is None or not self.tree.is_directory(parent):
                continue
            for name, node in self.tree.children(parent).items():
                if name.endswith(suffix) and self._is_file(node):
                    entry = self.tree.entry(node)
                    left -= entry.size
                    if entry.size <= min(MAX_FILE, left):
                        with self.stack.open_file(node) as stream:
                            yield self.tree.content(node)[0], wanted & reader(stream.read())
        for path, files in _FILES_IN.items():
            database = self.tree.find(path)
            if database is not None and self._is_file(database) and self.tree.entry(database).size <= MAX_DATABASE:
                with self.stack.open_file(database) as stream, suppress(InvalidContent):  # noted where it was read
                    yield self.tree.content(database)[0], files(stream.read(), wanted)

    def _by_states(self, path: bytes, reader: Reader, limit: int) -> None:
        """Read a file that layers rewrite: each package belongs to the layer in which it got its version."""
        since: dict[NamedPackage, int] = {}
        for state in reversed(path_history(self.tree, path).states):
            if state.entry.kind != Kind.FILE:
                since = {}
                continue
            now = self._read(reader, path, state.entry, state.holder, limit)
            since = {named: since.get(named, state.layer) for named in now}
        for named, layer in since.items():
            self._add(named, path, layer)

    def _note_found(self, reader: Reader, path: bytes, entry: Entry, layer: int, holder: int, limit: int) -> None:
        for named in self._read(reader, path, entry, holder, limit):
            self._add_or_ask(named, path, layer)

    def _read(self, reader: Reader, path: bytes, entry: Entry, holder: int, limit: int) -> list[NamedPackage]:
        shown = path.decode("utf-8", "backslashreplace")
        if entry.size > limit:
            self._note(f"/{shown}: the file is too large: {entry.size} bytes, the limit is {limit}")
            return []
        with Content(entry.size, entry.offset, entry.sparse, self.stack.layers[holder].open) as stream:
            data = stream.read()
        found: list[NamedPackage] = []
        try:
            for named in reader(data):
                found.append(named)
                if len(found) > MAX_PACKAGES:
                    self._note(f"/{shown}: more than {MAX_PACKAGES} packages; the rest is left out")
                    break
        except InvalidContent as error:
            self._note(f"/{shown}: {error.message}")
        return found

    def _add_or_ask(self, named: NamedPackage, path: bytes, layer: int) -> None:
        """Add a package; for a program, first find out whose file it is."""
        if named.kind == "binary" and len(self._own) < MAX_PACKAGES:
            self._own[path] = (named, layer)
        else:
            self._add(named, path, layer)

    def _add(self, named: NamedPackage, path: bytes, layer: int) -> None:
        if len(self.found) < MAX_PACKAGES:
            self.found.setdefault((named, path), layer)
        else:
            self._note(f"more than {MAX_PACKAGES} packages in all; the rest is left out")

    def _note(self, text: str) -> None:
        if len(self.notes) < MAX_NOTES and text not in self.notes:
            self.notes.append(text)

    def _distribution(self) -> tuple[str, str]:
        for path in (b"usr/lib/os-release", b"etc/os-release"):
            node = self.tree.find(path)
            if node is not None and self._is_file(node) and self.tree.entry(node).size <= 1 << 16:
                with self.stack.open_file(node) as stream:
                    said = package_texts.os_release(stream.read())
                return _word(said.get("ID", "")), _word(said.get("VERSION_ID", ""))
        return "", ""

    def _is_file(self, node: int | None) -> bool:
        return node is not None and self.tree.kind(node) == Kind.FILE


def _word(text: str) -> str:
    return text if text.isascii() and text.isprintable() and len(text) <= 64 and " " not in text else ""


def _reader_of(path: bytes) -> Reader | None:
    """Return the parser for this path, or None."""
    if path.startswith(_STATUS_D):
        return None if path.endswith(b".md5sums") else package_texts.dpkg_status
    parts = path.rsplit(b"/", 4)
    name = parts[-1]
    if name == b"METADATA" and len(parts) > 1 and parts[-2].endswith(b".dist-info"):
        return package_texts.python_metadata
    if name == b"PKG-INFO" and len(parts) > 1 and parts[-2].endswith(b".egg-info"):
        return package_texts.python_metadata
    if name.endswith(b".egg-info"):
        return package_texts.python_metadata
    if name.endswith(b".gemspec") and b"specifications" in parts[-3:-1]:
        return package_texts.gem_specification
    if name == b"installed.json" and len(parts) > 1 and parts[-2] == b"composer":
        return package_texts.composer_installed
    if name == b"OTP_VERSION" and len(parts) > 2 and parts[-3] == b"releases":
        return package_texts.erlang_release
    return package_texts.npm_package if name == b"package.json" else None
