"""Lock files: which wheels an image gets. Reads uv.lock, pylock.toml (PEP 751) and requirements.txt with exact
versions (pure: the caller reads other files and the pages of an index)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from lamina.errors import LimitExceeded, NotFound, Unsupported, UsageError

if TYPE_CHECKING:
    from lamina.build.wheels.python_target import PythonTarget

INDEX = "https://pypi.org/simple/"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_LOCK = 64 << 20  # bytes
_MAX_DEPTH = 20  # requirements files that name each other


@dataclass(frozen=True, slots=True)
class WheelFile:
    """``url``: an https or http address, or a path of this host. ``sha256``: hex digits. ``size`` in bytes, None if
    it was not stated."""

    name: str
    url: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of a lock file. ``files``: its wheels, for all platforms."""

    name: str
    version: str
    files: tuple[WheelFile, ...]


def choose(pin: Pin, target: PythonTarget, tags: Mapping[str, int]) -> WheelFile:
    """The wheel that fits best. ``tags``: rank of each tag that fits. Raises NotFound."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    best: tuple[int, WheelFile] | None = None
    for file in pin.files:
        try:
            _, _, _, stated = parse_wheel_filename(file.name)
        except InvalidWheelFilename:
            continue
        rank = min((tags[str(tag)] for tag in stated if str(tag) in tags), default=None)
        if rank is not None and (best is None or rank < best[0]):
            best = rank, file
    if best is None:
        python = f"Python {target.version[0]}.{target.version[1]} on linux/{target.machine}"
        why = "it has only a source distribution" if not pin.files else "its wheels are for others"
        raise NotFound(
            f"{pin.name} {pin.version} has no wheel for {python}: {why}",
            hint="choose another version, or build it in a Dockerfile with RUN pip install",
        )
    return best[1]


def read_lock(
    data: bytes,
    name: str,
    target: PythonTarget,
    *,
    include: Callable[[str], bytes],
    page: Callable[[str], Mapping[str, Any]],
    index: str = INDEX,
) -> list[Pin]:
    """The pins of a lock file that ``target`` needs, sorted by name. ``name``: the file's name, which tells its kind.
    ``include`` reads another requirements file, by its path. ``page`` reads a page of an index as JSON (PEP 691).
    Raises UsageError (what is wrong, and in which line or package), Unsupported, LimitExceeded."""
    if len(data) > _MAX_LOCK:
        raise LimitExceeded(f"{name}: the file is too large: {len(data)} bytes, the limit is {_MAX_LOCK}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8: byte {error.start}", hint="save it as UTF-8") from None
    base = name.rpartition("/")[2]
    if base == "uv.lock":
        found = _uv(_toml(text, name), name, target)
    elif base == "pylock.toml" or (base.startswith("pylock.") and base.endswith(".toml")):
        found = _pylock(_toml(text, name), name, target)
    elif base.endswith((".txt", ".in")):
        found = list(_Requirements(target, include, page, index).pins(text, name))
    else:
        raise Unsupported(f"{name!r:.200} is not a lock file", hint="give uv.lock, pylock.toml or requirements.txt")
    by_name: dict[str, Pin] = {}
    for pin in found:
        known = by_name.setdefault(pin.name, pin)
        if known.version != pin.version:
            raise UsageError(f"{name}: {pin.name} is pinned twice: {known.version} and {pin.version}")
    return [by_name[key] for key in sorted(by_name)]


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{name} is not TOML: {error}", hint="make it again") from None


def _wheels(values: object, name: str, what: str) -> Iterator[WheelFile]:
    """The ``wheels`` of a package in a lock file."""
    for value in _tables(values, name, what):
        url, path = value.get("url", ""), value.get("path", "")
        address = url or path
        hashes = value.get("hashes")
        stated = value.get("hash", "")
        digest = stated.removeprefix("sha256:") if isinstance(stated, str) else ""
        if isinstance(hashes, dict):
            digest = hashes.get("sha256", "")
        if not isinstance(address, str) or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise UsageError(f"{name}: a wheel of {what} has no address or no sha256", hint="make the file again")
        file = value.get("filename") or value.get("name") or unquote(urlsplit(address).path.rpartition("/")[2])
        size = value.get("size")
        yield WheelFile(str(file), address, digest, size if isinstance(size, int) else None)


def _tables(values: object, name: str, what: str) -> list[dict[str, Any]]:
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UsageError(f"{name}: {what} should be a list of tables", hint="make the file again")
    return values


def _fits(marker: object, target: PythonTarget, name: str, extras: Iterable[str] = ()) -> bool:
    """Whether a marker (PEP 508) is true for the target, with one of these extras."""
    if not marker:
        return True
    from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName

    try:
        parsed = Marker(str(marker))
        environment = target.markers()
        return any(parsed.evaluate({**environment, "extra": extra}) for extra in ("", *extras))
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, RecursionError) as error:
        raise UsageError(f"{name}: the marker {marker!r:.200} can't be evaluated: {error}") from None


def _uv(document: dict[str, Any], name: str, target: PythonTarget) -> list[Pin]:
    """What the workspace's members need, development groups left out. The members themselves have no wheels: they are
    the application, which is copied."""
    from packaging.utils import canonicalize_name

    packages: dict[str, list[dict[str, Any]]] = {}
    for package in _tables(document.get("package"), name, "package"):
        packages.setdefault(canonicalize_name(str(package.get("name", ""))), []).append(package)
    own = ("virtual", "editable", "directory")
    roots = [one for many in packages.values() for one in many if any(key in one.get("source", {}) for key in own)]
    if not roots:
        raise UsageError(f"{name} names no project", hint="make it with `uv lock`")
    pins: dict[tuple[str, str], Pin] = {}
    seen: set[tuple[str, str, str]] = set()
    waiting = [(package, "") for package in roots]
    while waiting:
        package, extra = waiting.pop()
        title, version = canonicalize_name(str(package.get("name", ""))), str(package.get("version", ""))
        if (title, version, extra) in seen:
            continue
        seen.add((title, version, extra))
        if not any(key in package.get("source", {}) for key in own) and (title, version) not in pins:
            if "git" in package.get("source", {}):
                raise Unsupported(
                    f"{name}: {title} comes from a git repository: it has no wheel",
                    hint="build it in a Dockerfile with RUN pip install",
                )
            pins[title, version] = Pin(title, version, tuple(_wheels(package.get("wheels"), name, title)))
        needs = package.get("dependencies")
        if extra:
            needs = package.get("optional-dependencies", {}).get(extra)
        for need in _tables(needs, name, f"the dependencies of {title}"):
            if not _fits(need.get("marker"), target, name):
                continue
            for found in _needed(packages, need, name, title):
                waiting += [(found, ""), *((found, str(one)) for one in need.get("extra", ()))]
    return list(pins.values())


def _needed(
    packages: Mapping[str, list[dict[str, Any]]], need: Mapping[str, Any], name: str, by: str
) -> list[dict[str, Any]]:
    from packaging.utils import canonicalize_name

    title, version = canonicalize_name(str(need.get("name", ""))), need.get("version")
    found = [one for one in packages.get(title, ()) if version is None or one.get("version") == version]
    if len(found) != 1:
        raise UsageError(f"{name}: {by} needs {title}, which is not there once", hint="make it again with `uv lock`")
    return found


def _pylock(document: dict[str, Any], name: str, target: PythonTarget) -> list[Pin]:
    from packaging.utils import canonicalize_name

    if str(document.get("lock-version", "")).partition(".")[0] != "1":
        raise Unsupported(f"{name}: lock-version {document.get('lock-version')!r:.40} is not known", hint="use 1.0")
    pins = []
    for package in _tables(document.get("packages"), name, "packages"):
        title = canonicalize_name(str(package.get("name", "")))
        if "directory" in package or not _fits(package.get("marker"), target, name):
            continue
        pins.append(Pin(title, str(package.get("version", "")), tuple(_wheels(package.get("wheels"), name, title))))
    return pins


class _Requirements:
    """Requirements files: exact versions, from an index."""

    def __init__(
        self,
        target: PythonTarget,
        include: Callable[[str], bytes],
        page: Callable[[str], Mapping[str, Any]],
        index: str,
    ) -> None:
        self._target, self._include, self._page = target, include, page
        self._indexes = [index]

    def pins(self, text: str, name: str, depth: int = 0) -> Iterator[Pin]:
        if depth > _MAX_DEPTH:
            raise UsageError(f"{name}: requirements files include each other", hint="remove the circle")
        lines = list(_logical_lines(text))
        for number, line in lines:  # the indexes count for all lines
            option, _, value = line.replace("=", " ", 1).partition(" ")
            if option in ("-i", "--index-url"):
                self._indexes[0] = _as_directory(value.strip())
            elif option == "--extra-index-url":
                self._indexes.append(_as_directory(value.strip()))
            elif option.startswith("-") and option not in _READ and option not in _IGNORED:
                raise Unsupported(
                    f"{name}:{number}: the option {option!r:.60} is not supported", hint="remove it, or use uv.lock"
                )
        for number, line in lines:
            option, _, value = line.replace("=", " ", 1).partition(" ")
            if option in ("-r", "--requirement"):
                other = urljoin(name, value.strip())
                yield from self.pins(self._include(other).decode("utf-8", "replace"), other, depth + 1)
            elif not line.startswith("-"):
                yield from self._pin(line, f"{name}:{number}")

    def _pin(self, line: str, where: str) -> Iterator[Pin]:
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name

        words = re.split(r"\s+--hash[=\s]", line)
        hashes = {word.strip().removeprefix("sha256:") for word in words[1:] if word.strip().startswith("sha256:")}
        if len(words) > 1 and not hashes:
            raise Unsupported(f"{where}: only sha256 hashes are supported", hint="make the file again")
        try:
            wanted = Requirement(words[0].strip())
        except (InvalidRequirement, RecursionError) as error:
            raise UsageError(f"{where}: {words[0].strip()!r:.200} is not a requirement: {error}") from None
        if not _fits(wanted.marker, self._target, where):
            return
        title = canonicalize_name(wanted.name)
        if wanted.url:
            yield _direct(title, wanted.url, hashes, where)
            return
        exact = [one.version for one in wanted.specifier if one.operator in ("==", "===") and "*" not in one.version]
        if len(exact) != 1 or len(wanted.specifier) != 1:
            raise UsageError(
                f"{where}: {title} has no exact version",
                hint=f"write {title}==VERSION; `uv pip compile` or `pip freeze` do so",
            )
        files = [file for index in self._indexes for file in self._listed(index, title, exact[0], hashes)]
        yield Pin(title, exact[0], tuple(files))

    def _listed(self, index: str, title: str, version: str, hashes: set[str]) -> Iterator[WheelFile]:
        from packaging.utils import InvalidWheelFilename, parse_wheel_filename
        from packaging.version import InvalidVersion, Version

        address = urljoin(index, f"{title}/")
        for file in self._page(address).get("files") or ():
            if not isinstance(file, dict) or not str(file.get("filename", "")).endswith(".whl"):
                continue
            name, url = str(file["filename"]), urljoin(address, str(file.get("url", "")))
            digest = str((file.get("hashes") or {}).get("sha256", ""))
            try:
                fits = parse_wheel_filename(name)[1] == Version(version)
            except (InvalidWheelFilename, InvalidVersion):
                continue
            if fits and _SHA256.fullmatch(digest) and (not hashes or digest in hashes):
                size = file.get("size")
                yield WheelFile(name, url, digest, size if isinstance(size, int) else None)


_READ = ("-i", "--index-url", "--extra-index-url", "-r", "--requirement")
_IGNORED = ("--require-hashes", "--only-binary", "--prefer-binary", "--trusted-host", "--no-index", "--hash")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers: continuations joined, comments and empty lines left out (as pip does)."""
    held, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first if held else number
        line = re.sub(r"(^|\s+)#.*$", "", line) if not held or not line.startswith("#") else ""
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        whole, held = (held + line).strip(), ""
        if whole:
            yield first, whole
    if held.strip():
        yield first, held.strip()


def _as_directory(url: str) -> str:
    return url if url.endswith("/") else url + "/"


def _direct(title: str, url: str, hashes: set[str], where: str) -> Pin:
    """A requirement with an address: ``name @ https://host/name-1.0-py3-none-any.whl#sha256=...``."""
    address, _, fragment = url.partition("#")
    stated = dict(part.partition("=")[::2] for part in fragment.split("&"))
    digests = {stated["sha256"]} if "sha256" in stated else hashes
    name = unquote(urlsplit(address).path.rpartition("/")[2])
    if not name.endswith(".whl"):
        raise Unsupported(f"{where}: {title} is not a wheel: {name!r:.200}", hint="build it with RUN pip install")
    if len(digests) != 1 or not _SHA256.fullmatch(next(iter(digests))):
        raise UsageError(f"{where}: the address of {title} has no sha256", hint="add #sha256=HEX to the address")
    return Pin(title, name.split("-")[1], (WheelFile(name, address, next(iter(digests))),))
