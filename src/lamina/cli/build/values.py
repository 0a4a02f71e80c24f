"""The values of `build`'s options, in the syntax of docker buildx. They are read before anything is done."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from lamina.build.options import MAX_SECRET, Attestations, CachePlace, Secret, SshAgent
from lamina.build.outputs import KINDS, Output
from lamina.errors import NotFound, Unsupported, UsageError
from lamina.host.files import reported

if TYPE_CHECKING:
    from lamina.spec.platform import Platform


def csv_words(word: str, flag: str, hint: str = "quote a value that has a comma") -> list[str]:
    """Split at commas, as CSV: a word in quotation marks may have commas. Raises UsageError."""
    try:
        (found,) = csv.reader([word], strict=True)
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{flag} {word!r:.200}: {error}", hint=hint) from None
    return found


def pairs_of(word: str, flag: str, hint: str, known: Iterable[str] = ()) -> dict[str, str]:
    """Read ``KEY=VALUE,...``; keys are returned in lower case. ``known``: the keys that are allowed, () for any.
    Raises UsageError."""
    found: dict[str, str] = {}
    allowed = sorted(known)
    for field in csv_words(word, flag, hint):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not key or not equals or "\0" in field:
            raise UsageError(f"{flag} {word!r:.200}: {field!r:.100} is not KEY=VALUE", hint=hint)
        if allowed and key not in allowed:
            raise UsageError(f"{flag} {word!r:.200}: unknown key {key!r:.60}", hint=f"use {', '.join(allowed)}")
        found[key] = value
    return found


def _pair(word: str, flag: str) -> tuple[str, str, str]:
    """Split NAME=VALUE that goes into an image, which can hold only UTF-8."""
    name, equals, value = word.partition("=")
    if not name or "\0" in word:
        raise UsageError(f"{flag} {word!r:.100} has no name", hint="write NAME=VALUE")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{flag} {word!r:.100} is not UTF-8", hint="give text; an image can hold only UTF-8"
        ) from None
    return name, equals, value


def build_arguments(words: Iterable[str]) -> dict[str, str | None]:
    """Read ``NAME=VALUE``; the value of ``NAME`` alone is None. Raises UsageError."""
    found: dict[str, str | None] = {}
    for word in words:
        name, equals, value = _pair(word, "--build-arg")
        found[name] = value if equals else None
    return found


def argument_file(text: str) -> list[str]:
    """Return the words of a file of build arguments: one a line, empty lines and comments (``#``) left out (pure)."""
    lines = (line.removesuffix("\r").strip() for line in text.removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def labels(words: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``; the value of ``NAME`` alone is "". Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        name, _, value = _pair(word, "--label")
        found[name] = value
    return found


_PLACES = ("manifest", "index", "manifest-descriptor", "index-descriptor")


def annotations_of(words: Iterable[str]) -> dict[str, str]:
    """Read ``[PLACE[[PLATFORM]],...:]KEY=VALUE``. Each key of the result has one place, ``PLACE:KEY``, or none.
    Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = _pair(word, "--annotation")
        if not equals:
            raise UsageError(f"--annotation {word!r:.100} is not KEY=VALUE", hint="write KEY=VALUE")
        places, colon, name = key.partition(":")
        if not colon:
            found[key] = value
            continue
        for place in places.split(","):
            kind, bracket, platform = place.partition("[")
            if kind not in _PLACES or (bracket and not platform.endswith("]")) or not name:
                raise UsageError(
                    f"--annotation {word!r:.100}: unknown place {place!r:.60}", hint=f"use {', '.join(_PLACES)}"
                )
            if bracket:
                from lamina.spec.platform import Platform

                place = f"{kind}[{Platform.parse(platform.removesuffix(']'))}]"
            found[f"{place}:{name}"] = value
    return found


_CONTEXT = "write NAME=DIR, NAME=docker-image://REF, NAME=oci-layout://DIR[:REF] or NAME=URL"


def build_contexts(words: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=PLACE``. ``:latest`` at the end of a name is left out. Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not name or not equals or not place or "\0" in word:
            raise UsageError(f"--build-context {word!r:.200} is not NAME=PLACE", hint=_CONTEXT)
        found[name.removesuffix(":latest")] = place
    return found


_HOW = "write id=NAME,src=FILE or id=NAME,env=VARIABLE"


def secrets(words: Iterable[str], host: Mapping[str, str]) -> tuple[Secret, ...]:
    """Read ``id=NAME[,src=FILE|,env=VARIABLE]``; with neither, the secret is the variable NAME if ``host`` has it,
    else the file NAME. Raises UsageError, NotFound (no such file or variable)."""
    found: dict[str, Secret] = {}
    for word in words:
        given = pairs_of(word, "--secret", _HOW, ("type", "id", "source", "src", "env"))
        kind = given.get("type", "")
        if kind not in ("", "file", "env"):
            raise UsageError(f"--secret {word!r:.200}: unknown type {kind!r:.60}", hint="use file or env")
        path, variable = given.get("source", given.get("src", "")), given.get("env", "")
        if kind == "env" and not variable:
            path, variable = "", path
        name = given.get("id", "")
        if not name:
            raise UsageError(f"--secret {word!r:.200} has no id", hint=_HOW)
        if path and variable:
            raise UsageError(f"--secret {word!r:.200} names a file and a variable", hint="give one of them")
        if not path and not variable:
            variable = name if name in host and kind != "file" else ""
            path = "" if variable else name
        if variable and variable not in host:
            raise NotFound(f"--secret {name!r:.100}: the variable {variable!r:.100} is not set", hint=_HOW)
        if path and (not os.path.exists(path) or os.path.isdir(path)):
            raise NotFound(f"--secret {name!r:.100}: no such file: {path!r:.300}", hint=_HOW)
        found[name] = Secret(name, path, variable)
        if path and not os.path.isfile(path):  # <(command) of a shell can be read only once
            found[name] = Secret(name, value=_whole(path, name))
    return tuple(found.values())


def agents(words: Iterable[str], host: Mapping[str, str]) -> tuple[SshAgent, ...]:
    """Read ``default|ID[=SOCKET|KEY,...]``; without a path, the agent of SSH_AUTH_SOCK in ``host``. Raises
    UsageError, NotFound."""
    found: dict[str, SshAgent] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        name = name or "default"
        paths = rest.split(",") if equals else [host.get("SSH_AUTH_SOCK", "")]
        if not all(paths):
            if equals:
                raise UsageError(f"--ssh {word!r:.200} has an empty path", hint="write default, or ID=SOCKET")
            raise NotFound(
                f"--ssh {word!r:.100}: SSH_AUTH_SOCK is not set", hint="start an ssh agent, or write ID=SOCKET"
            )
        for path in paths:
            if not os.path.exists(path):
                raise NotFound(f"--ssh {word!r:.200}: no such file: {path!r:.300}", hint="check the path")
        if len(paths) == 1 and stat.S_ISSOCK(os.stat(paths[0]).st_mode):
            found[name] = SshAgent(name, socket=paths[0])
        else:
            found[name] = SshAgent(name, keys=tuple(paths))
    return tuple(found.values())


_ATTESTATIONS = {"provenance": ("disabled", "mode", "version", "builder-id"), "sbom": ("disabled",)}
_CACHES = ("registry", "local", "inline")
_CLOUDS = ("gha", "s3", "azblob")


def caches(words: Iterable[str], flag: str) -> tuple[CachePlace, ...]:
    """Read ``REF``, ``type=registry,ref=REF``, ``type=local,src=DIR`` (``dest=DIR`` to write) or ``type=inline``.
    Raises UsageError, Unsupported."""
    found: list[CachePlace] = []
    end = "dest" if flag == "--cache-to" else "src"
    hint = f"use REF, type=registry,ref=REF, type=local,{end}=DIR or type=inline"
    for word in words:
        if "=" not in word:
            found += [CachePlace("registry", {"ref": one}) for one in csv_words(word, flag) if one]
            continue
        given = pairs_of(word, flag, hint)
        kind = given.pop("type", "")
        if kind in _CLOUDS:
            raise Unsupported(f"{flag} type={kind} is not supported", hint=hint)
        if kind not in _CACHES:
            raise UsageError(f"{flag} {word!r:.200}: unknown type {kind!r:.60}", hint=hint)
        key = {"registry": "ref", "local": end}.get(kind, "")
        if key and not given.get(key):
            raise UsageError(f"{flag} {word!r:.200} has no {key}", hint=hint)
        found.append(CachePlace(kind, given))
    return tuple(found)


def attestations(provenance: str | None, sbom: str | None, attest: Iterable[str]) -> Attestations:
    """Read --provenance, --sbom (true, false, or pairs) and --attest ``type=provenance,mode=max``; the last one
    counts. Raises UsageError, Unsupported."""
    words = [("--attest", word) for word in attest]
    words += [("--provenance", _typed("provenance", provenance))] if provenance else []
    words += [("--sbom", _typed("sbom", sbom))] if sbom else []
    asked = dict(_attestation(word, flag) for flag, word in words)
    given = asked.get("provenance")
    if given is None:
        return Attestations(sbom=asked.get("sbom") is not None)
    mode, version = given.get("mode", "min"), given.get("version", "v1")
    if mode not in ("min", "max"):
        raise UsageError(f"provenance: no mode {mode!r:.60}", hint="use mode=min or mode=max")
    if version != "v1":
        raise Unsupported(f"provenance: version {version!r:.60} is not supported", hint="use version=v1")
    return Attestations(mode, given.get("builder-id", ""), sbom=asked.get("sbom") is not None)


def _typed(kind: str, word: str) -> str:
    """The value of --provenance or --sbom as --attest has it."""
    switch = {"true": "false", "1": "false", "false": "true", "0": "true"}.get(word.lower())
    return f"type={kind},{word}" if switch is None else f"type={kind},disabled={switch}"


def _attestation(word: str, flag: str) -> tuple[str, dict[str, str] | None]:
    """The kind of an attestation and its options, None if it is turned off."""
    hint = "use type=provenance or type=sbom" if flag == "--attest" else f"use {flag}=true"
    given = pairs_of(word, flag, hint)
    kind = given.pop("type", "")
    known = _ATTESTATIONS.get(kind)
    if known is None:
        raise UsageError(f"{flag} {word!r:.200}: unknown type {kind!r:.60}", hint=hint)
    for name in given:
        if name not in known:
            raise Unsupported(f"{kind}: {name!r:.60} is not supported", hint=f"use {', '.join(known)}")
    return kind, None if _truth(given, "disabled", word, default=False) else given


def platforms(words: Iterable[str]) -> tuple[Platform, ...]:
    """Read ``a,b``; the same platform counts once; ``local`` is this host's. Raises UsageError."""
    from lamina.spec.platform import Platform

    found: list[Platform] = []
    for word in words:
        for one in word.split(","):
            text = one.strip()
            if not text:
                raise UsageError(f"--platform {word!r:.100} has an empty platform", hint="write it like linux/amd64")
            found.append(Platform.host() if text == "local" else Platform.parse(text))
    return tuple(dict.fromkeys(found))


_ALLOWED = ("network.host", "security.insecure")
_OTHERS = ("fs", "ssh", "image", "device", "buildx")


def allowed(words: Iterable[str]) -> frozenset[str]:
    """Read what RUN may ask for: network.host, security.insecure. What buildx knows besides these has no effect.
    Raises UsageError for an unknown word."""
    found = set()
    for word in (one.strip() for given in words for one in given.split(",")):
        if word in _ALLOWED:
            found.add(word)
        elif word.partition("=")[0].partition(".")[0] not in _OTHERS:
            raise UsageError(f"--allow {word!r:.100} is unknown", hint=f"use {' or '.join(_ALLOWED)}")
    return frozenset(found)


def _whole(path: str, name: str) -> bytes:
    """Read a secret from a pipe or a device. Raises UsageError (too long), SystemFailure."""
    with reported(path), open(path, "rb") as file:
        data = file.read(MAX_SECRET + 1)
    if len(data) > MAX_SECRET:
        raise UsageError(f"--secret {name!r:.100}: more than {MAX_SECRET >> 10} KiB", hint=_HOW)
    return data


class Call(NamedTuple):
    """What `build` is asked to do: build, check, outline or targets. ``format``: "" or json. ``ignore_status``: the
    exit code is 0 also where there are findings."""

    name: str = "build"
    format: str = ""
    ignore_status: bool = False


_CALLS = ("build", "check", "outline", "targets")


def call(word: str) -> Call:
    """Read ``NAME[,format=json][,ignorestatus=true]``; ``lint`` is another name of ``check``. Raises UsageError."""
    found = Call()
    for number, one in enumerate(csv_words(word, "--call")):
        key, equals, value = one.partition("=")
        name = "check" if key == "lint" else key
        if not equals and not number and name in _CALLS:
            found = found._replace(name=name)
        elif key == "format" and value in ("json", "text"):
            found = found._replace(format="json" if value == "json" else "")
        elif key == "ignorestatus" and value in ("true", "false", "1", "0"):
            found = found._replace(ignore_status=value in ("true", "1"))
        else:
            raise UsageError(
                f"--call {word!r:.100}: unknown word {one!r:.60}",
                hint=f"use {', '.join(_CALLS)}; ,format=json prints JSON",
            )
    return found


_NETWORKS = {"": "", "sandbox": "", "default": "", "bridge": "", "private": "", "none": "none", "host": "host"}


def network(word: str) -> str:
    """The network of RUN: default, none or host. Raises UsageError."""
    if word not in _NETWORKS:
        raise UsageError(f"--network {word!r:.100} is unknown to builds", hint="use default, none or host")
    return _NETWORKS[word] or "default"


_OUTPUT = "write type=image, oci, docker, tar, local or registry, with dest=PATH; or a directory"
_NEEDS_PATH = ("local", "tar", "oci")
_OF_IMAGES = ("name", "push", "store", "unpack", "push-by-digest", "name-canonical", "dangling-name-prefix")
_OF_LAYERS = ("compression", "compression-level", "force-compression", "oci-mediatypes", "rewrite-timestamp")


def output(word: str) -> Output:
    """Read ``DIR``, ``-`` or ``type=...,dest=...`` of ``--output``. Raises UsageError, Unsupported."""
    if word == "-":
        return Output("tar", "-")
    if csv_words(word, "--output", _OUTPUT) == [word] and not word.startswith("type=") and word:
        return Output("local", word)
    given = pairs_of(word, "--output", _OUTPUT)
    kind, path = given.pop("type", ""), given.pop("dest", "")
    if kind not in KINDS:
        raise UsageError(f"--output {word!r:.200}: unknown type {kind!r:.60}", hint=_OUTPUT)
    if kind in _NEEDS_PATH and not path:
        raise UsageError(f"--output {word!r:.200} has no dest", hint="add dest=PATH")
    if kind == "local" and path == "-":
        raise UsageError("--output type=local can't write to standard output", hint="use type=tar,dest=-")
    if kind in ("image", "registry") and path:
        raise UsageError(f"--output {word!r:.200}: type={kind} has no dest", hint="use type=oci or type=docker")
    for key in given:
        if key not in (*_OF_IMAGES, *_OF_LAYERS, "tar", "platform-split", "mode", "artifact", "buildinfo") and not (
            key.startswith("annotation")
        ):
            raise UsageError(f"--output {word!r:.200}: unknown key {key!r:.60}", hint=_OUTPUT)
    if given.get("mode", "copy") != "copy":
        raise Unsupported("--output mode=delete is not supported", hint="use an empty directory")
    if _truth(given, "force-compression", word, default=False):
        raise Unsupported(
            "--output force-compression is not supported: layers that exist keep their compression",
            hint="leave it out; with --no-cache all layers but those of the base are new",
        )
    if _truth(given, "push-by-digest", word, default=False):
        raise Unsupported("--output push-by-digest is not supported", hint="push with a name")
    return Output(
        "image" if kind == "registry" else kind,
        path,
        names=tuple(one for one in given.get("name", "").split(",") if one),
        push=_truth(given, "push", word, default=kind == "registry"),
        store=_truth(given, "store", word, default=True),
        is_directory=not _truth(given, "tar", word, default=True),
        split=_truth(given, "platform-split", word, default=None),
        compression=_compression(given, word),
        level=_level(given, word),
        docker=not _truth(given, "oci-mediatypes", word, default=True),
        annotations=tuple(_annotations(given)),
    )


def _truth(given: Mapping[str, str], key: str, word: str, *, default: bool | None) -> bool:
    text = given.get(key)
    if text is None:
        return default  # type: ignore[return-value]
    if text.lower() not in ("true", "false", "1", "0"):
        raise UsageError(
            f"--output {word!r:.200}: {key} is true or false, not {text!r:.60}", hint=f"write {key}=true"
        )
    return text.lower() in ("true", "1")


_COMPRESSIONS = {"gzip": "gzip", "zstd": "zstd", "uncompressed": "none"}


def _compression(given: Mapping[str, str], word: str) -> str:
    text = given.get("compression", "")
    if text and text not in _COMPRESSIONS:
        raise UsageError(
            f"--output {word!r:.200}: unknown compression {text!r:.60}", hint=f"use {', '.join(_COMPRESSIONS)}"
        )
    return _COMPRESSIONS[text] if text else ""


def _level(given: Mapping[str, str], word: str) -> int | None:
    text = given.get("compression-level")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 3):
        raise UsageError(f"--output {word!r:.200}: {text!r:.60} is not a level", hint="give 0 to 22")
    return int(text)


def _annotations(given: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """BuildKit's ``annotation.KEY``, ``annotation-index.KEY``, ``annotation[PLATFORM].KEY``, in the form of
    ``annotations_of``."""
    for key, value in given.items():
        if key.startswith("annotation"):
            head, _, name = key.removeprefix("annotation").partition(".")
            place, bracket, platform = head.removeprefix("-").partition("[")
            where = (place or "manifest") + bracket + platform
            yield (f"{where}:{name}" if where != "manifest" else name), value
