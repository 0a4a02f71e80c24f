"""Image configs (image-spec config.md; docker's have the same form and more fields): a typed view over the raw bytes.

Edits change the decoded JSON object, so that fields which lamina doesn't know (Healthcheck, OnBuild, Shell, ...)
survive. Null counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from lamina.errors import InvalidDocument, UsageError
from lamina.light import TYPE_CHECKING, Value
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import dump, kind_of, load, refuse_case_variants
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, TypedDict, Unpack

    class Changes(TypedDict, total=False):
        """What ``with_`` and ``build`` can set; None removes the field."""

        created: str | None
        author: str | None
        architecture: str
        variant: str | None
        os: str
        os_version: str | None
        user: str | None
        exposed_ports: Iterable[str] | None
        env: Iterable[str] | None
        entrypoint: Iterable[str] | None
        cmd: Iterable[str] | None
        volumes: Iterable[str] | None
        working_dir: str | None
        labels: Mapping[str, str] | None
        stop_signal: str | None
        healthcheck: Mapping[str, Any] | None
        on_build: Iterable[str] | None


_TOP = (
    "created",
    "author",
    "architecture",
    "variant",
    "os",
    "os.version",
    "os.features",
    "config",
    "rootfs",
    "history",
)
_KNOWN = frozenset(_TOP)
# keyword of with_() -> key in the document, in the order in which build() writes them
_TOP_KEYS = {
    "created": "created",
    "author": "author",
    "architecture": "architecture",
    "variant": "variant",
    "os": "os",
    "os_version": "os.version",
}
_RUN_KEYS = {
    "user": "User",
    "exposed_ports": "ExposedPorts",
    "env": "Env",
    "entrypoint": "Entrypoint",
    "cmd": "Cmd",
    "volumes": "Volumes",
    "working_dir": "WorkingDir",
    "labels": "Labels",
    "stop_signal": "StopSignal",
    "healthcheck": "Healthcheck",
    "on_build": "OnBuild",
}
CHANGEABLE = (*_TOP_KEYS, *_RUN_KEYS)
"""The fields that ``Changes`` has."""
_RUN_KNOWN = frozenset(_RUN_KEYS.values())
_HISTORY_KNOWN = frozenset({"created", "created_by", "author", "comment", "empty_layer"})
_HINT = "the config breaks its specification; report it to the publisher of the image"


class History(Value):
    """One step of the build history. A step with ``empty_layer`` made no layer. ``created_by`` may contain file
    names: bytes that are not UTF-8 (surrogate escapes) are written as ``\\xff``, because JSON can't hold them."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    @classmethod
    def from_json(cls, value: object, what: str) -> History:
        """Read one step from a decoded JSON value. Raises InvalidDocument, which names ``what``."""
        if type(value) is not dict:
            raise _invalid(what, "a step", "an object", value)
        refuse_case_variants(value, _HISTORY_KNOWN, what)
        empty = value.get("empty_layer")
        if empty is not None and type(empty) is not bool:
            raise _invalid(what, "empty_layer", "true or false", empty)
        return cls(
            _text(value, "created", what),
            _text(value, "created_by", what) or "",
            _text(value, "author", what) or "",
            _text(value, "comment", what) or "",
            bool(empty),
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "created": self.created,
            "created_by": _utf8(self.created_by),
            "author": self.author,
            "comment": self.comment,
            "empty_layer": self.empty_layer,
        }
        return {key: item for key, item in value.items() if item}


def _utf8(text: str) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


class ImageConfig:
    """An image config. Immutable: ``with_`` and ``add_layer`` return new ones. Don't change ``json``.

    Command lines are tuples of arguments, () if not set. ``env`` holds ``NAME=value`` lines in order.
    """

    def __init__(self, raw: bytes, value: dict[str, Any], what: str, media_type: str) -> None:
        """Internal: use ``parse`` or ``build``."""
        self.raw = raw
        self.json = value
        self.media_type = media_type
        self.architecture = _text(value, "architecture", what) or ""
        self.os = _text(value, "os", what) or ""
        self.variant = _text(value, "variant", what) or ""
        self.os_version = _text(value, "os.version", what) or ""
        self.created = _text(value, "created", what)
        self.author = _text(value, "author", what) or ""
        self.diff_ids = _diff_ids(value.get("rootfs"), what)
        self.history = tuple(
            History.from_json(step, f"{what}: history[{number}]")
            for number, step in enumerate(_list(value, "history", what))
        )
        run = _object(value, "config", what)
        refuse_case_variants(run, _RUN_KNOWN, f"{what}: config")
        what = f"{what}: config"
        self.user = _text(run, "User", what) or ""
        self.working_dir = _text(run, "WorkingDir", what) or ""
        self.stop_signal = _text(run, "StopSignal", what) or ""
        self.env = _strings(run, "Env", what)
        self.cmd = _command(run, "Cmd", what)
        self.entrypoint = _command(run, "Entrypoint", what)
        self.exposed_ports = tuple(_object(run, "ExposedPorts", what))
        self.volumes = tuple(_object(run, "Volumes", what))
        self.labels = _labels(run, what)

    @classmethod
    def parse(cls, raw: bytes, what: str = "image config", media_type: str = mediatype.OCI_CONFIG) -> ImageConfig:
        """Parse a config from its bytes. Raises InvalidDocument, which names ``what`` and the field."""
        return cls(raw, load(raw, what, known=_KNOWN), what, media_type)

    @classmethod
    def build(
        cls,
        platform: Platform,
        *,
        diff_ids: Iterable[Digest] = (),
        history: Iterable[History] = (),
        media_type: str = mediatype.OCI_CONFIG,
        **changes: Unpack[Changes],
    ) -> ImageConfig:
        """Make a new config. The same arguments give the same bytes: fields have a fixed order."""
        steps = [step.to_json() for step in history]
        value: dict[str, Any] = {
            "architecture": platform.architecture,
            "os": platform.os,
            "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]},
        }
        if steps:
            value["history"] = steps
        changes.setdefault("variant", platform.variant)
        changes.setdefault("os_version", platform.os_version)
        value = _changed(value, changes)
        ordered = {key: value[key] for key in _TOP if key in value}
        return cls(dump(ordered), ordered, "image config", media_type)

    def with_(self, **changes: Unpack[Changes]) -> ImageConfig:
        """Return a copy with these fields set (None removes one); all other fields, known or not, are kept."""
        return self._edited(_changed(self.json, changes))

    def add_layer(self, diff_id: Digest, history: History | None = None) -> ImageConfig:
        """Return a copy with one more layer on top.

        If ``history`` is given and the steps below don't match the layers, they are aligned first, so that the new
        step belongs to the new layer: missing steps are added, and surplus ones are marked as empty.
        """
        rootfs = {**(self.json.get("rootfs") or {})}
        rootfs["diff_ids"] = [*map(str, self.diff_ids), str(diff_id)]
        value = {**self.json, "rootfs": rootfs}
        if history is not None:
            steps = self.aligned_history()
            value["history"] = [*steps, history.to_json()]
        return self._edited(value)

    def keep_layers(self, count: int) -> ImageConfig:
        """Return a copy with only the lowest ``count`` layers, and the history up to the last of them."""
        if count >= len(self.diff_ids):
            return self
        steps, made = [], 0
        for step in self.aligned_history() if self.history else ():
            made += not step.get("empty_layer")
            if made > count:
                break
            steps.append(step)
        rootfs = {**(self.json.get("rootfs") or {}), "diff_ids": [str(diff_id) for diff_id in self.diff_ids[:count]]}
        return self._edited({**self.json, "rootfs": rootfs, "history": steps})

    def with_layers(
        self, diff_ids: Iterable[Digest], history: Iterable[Mapping[str, Any]] | None = None
    ) -> ImageConfig:
        """Return a copy with these layers and, if given, these history steps (in the form of ``aligned_history``)."""
        rootfs = {**(self.json.get("rootfs") or {}), "diff_ids": [str(diff_id) for diff_id in diff_ids]}
        value = {**self.json, "rootfs": rootfs}
        if history is not None:
            value["history"] = [dict(step) for step in history]
            if not value["history"]:
                del value["history"]
        return self._edited(value)

    def with_run(self, run: Mapping[str, Any]) -> ImageConfig:
        """Return a copy with this object as ``config``, the defaults for running."""
        return self._edited({**self.json, "config": dict(run)})

    def aligned_history(self) -> list[dict[str, Any]]:
        """Return the history steps as objects, one non-empty step a layer: surplus steps are marked as empty, missing
        ones are added."""
        steps: list[dict[str, Any]] = [dict(step) for step in self.json.get("history") or ()]
        made = [step for step in steps if not step.get("empty_layer")]
        for surplus in made[len(self.diff_ids) :]:
            surplus["empty_layer"] = True
        missing = len(self.diff_ids) - len(made)
        return steps + [{"comment": "no history was recorded for this layer"} for _ in range(missing)]

    @cached_property
    def descriptor(self) -> Descriptor:
        """The descriptor of the raw bytes (sha256); its digest is the image ID."""
        return Descriptor.of(self.media_type, self.raw)

    @property
    def platform(self) -> Platform:
        """The platform, normalised; a missing operating system counts as linux."""
        return self.stated_platform.normalized()

    @property
    def stated_platform(self) -> Platform:
        """The platform as written; a missing operating system counts as linux."""
        features = self.json.get("os.features")
        stated = tuple(item for item in features if type(item) is str) if type(features) is list else ()
        return Platform(self.os or "linux", self.architecture, self.variant, self.os_version, stated)

    @property
    def created_time(self) -> datetime | None:
        """``created`` as a point in time (UTC if no zone is stated); None if absent or not RFC 3339."""
        return parse_time(self.created)

    @property
    def environment(self) -> dict[str, str]:
        """``env`` as a map. If a name occurs several times, the last line wins; a line without ``=`` has an empty
        value."""
        return {name: value for name, _, value in (line.partition("=") for line in self.env)}

    def steps(self) -> tuple[History | None, ...]:
        """Return for each layer the step that made it, or None if there is no such step. Steps beyond the layers are
        ignored."""
        made = [step for step in self.history if not step.empty_layer][: len(self.diff_ids)]
        return (*made, *[None] * (len(self.diff_ids) - len(made)))

    def check_layers(self, count: int, what: str = "image") -> None:
        """Raise InvalidDocument unless the manifest has as many layers as the config has diff_ids."""
        if count != len(self.diff_ids):
            raise InvalidDocument(
                f"{what}: the manifest has {count} layers, but the config names {len(self.diff_ids)} diff_ids",
                hint="report it to the publisher of the image: its config does not fit its layers",
            )

    def _edited(self, value: dict[str, Any]) -> ImageConfig:
        return ImageConfig(dump(value), value, "image config", self.media_type)

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, ImageConfig) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"<ImageConfig {self.descriptor.digest}>"


def chain_ids(diff_ids: Sequence[Digest]) -> tuple[Digest, ...]:
    """Compute the ChainID of each layer, bottom first (config.md, "Layer ChainID")."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode("ascii")) if chain else diff_id)
    return tuple(chain)


def parse_time(text: str | None) -> datetime | None:
    """Parse an RFC 3339 time; the result always has a zone (UTC if none is stated). Returns None if it can't be read.
    Nanoseconds, as Go writes them, are cut to microseconds."""
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _changed(value: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    given: dict[str, Any] = dict(changes)
    unknown = given.keys() - _TOP_KEYS.keys() - _RUN_KEYS.keys()
    if unknown:
        raise UsageError(f"an image config has no field {min(unknown)!r}", hint=f"use {', '.join(CHANGEABLE)}")
    result = dict(value)
    for name, key in _TOP_KEYS.items():
        if name in given:
            _put(result, key, given[name])
    run = dict(result.get("config") or {})
    for name, key in _RUN_KEYS.items():
        if name in given:
            _put(run, key, _written(name, given[name]))
    if run or result.get("config"):
        result["config"] = run
    return result


def changes_of(arguments: Mapping[str, object]) -> Changes:
    """The arguments that are fields of a config and are not ``...``."""
    given = {field: arguments.get(field, ...) for field in CHANGEABLE}
    return {field: value for field, value in given.items() if value is not ...}  # type: ignore[return-value]


def _written(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str):
        if name in ("env", "cmd", "entrypoint", "exposed_ports", "volumes", "labels") and value is not None:
            raise UsageError(
                f"{name} must be a list, not the text {value!r:.80}", hint=f"write it as [{value!r:.80}]"
            )
        return value
    if name in ("exposed_ports", "volumes"):
        return {item: {} for item in sorted(value)}
    return dict(value) if isinstance(value, Mapping) else list(value)


def _put(value: dict[str, Any], key: str, new: Any) -> None:
    if new:
        value[key] = new
    else:
        value.pop(key, None)


def _diff_ids(rootfs: object, what: str) -> tuple[Digest, ...]:
    if type(rootfs) is not dict:
        raise _invalid(what, "rootfs", "an object", rootfs)
    refuse_case_variants(rootfs, frozenset({"type", "diff_ids"}), f"{what}: rootfs")
    kind = _text(rootfs, "type", f"{what}: rootfs")
    if kind not in (None, "layers"):
        raise InvalidDocument(f"{what}: rootfs.type is {kind!r:.60}, expected 'layers'", hint=_HINT)
    found = []
    for number, text in enumerate(_list(rootfs, "diff_ids", f"{what}: rootfs")):
        try:
            found.append(Digest.parse(text))
        except UsageError as error:
            raise InvalidDocument(f"{what}: rootfs.diff_ids[{number}]: {error.message}", hint=_HINT) from error
    return tuple(found)


def _labels(run: Mapping[str, Any], what: str) -> dict[str, str]:
    labels = _object(run, "Labels", what)
    for key, text in labels.items():
        if text is not None and type(text) is not str:
            raise _invalid(what, f"Labels[{key!r:.80}]", "a string", text)
    return {key: text or "" for key, text in labels.items()}


def _command(value: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    """Read a command line. Docker before 1.10 wrote a command of one word as a string, and still reads it."""
    return (value[key],) if type(value.get(key)) is str else _strings(value, key, what)


def _strings(value: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    found = _list(value, key, what)
    for number, item in enumerate(found):
        if type(item) is not str:
            raise _invalid(what, f"{key}[{number}]", "a string", item)
    return tuple(found)


def _list(value: Mapping[str, Any], key: str, what: str) -> list[Any]:
    found = value.get(key)
    if found is None:
        return []
    if type(found) is not list:
        raise _invalid(what, key, "a list", found)
    return found


def _object(value: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    found = value.get(key)
    if found is None:
        return {}
    if type(found) is not dict:
        raise _invalid(what, key, "an object", found)
    return found


def _text(value: Mapping[str, Any], key: str, what: str) -> str | None:
    text = value.get(key)
    if text is not None and type(text) is not str:
        raise _invalid(what, key, "a string", text)
    return text


def _invalid(what: str, field: str, wanted: str, found: object) -> InvalidDocument:
    return InvalidDocument(f"{what}: {field} must be {wanted}, not {kind_of(found)}", hint=_HINT)
