"""Pods: groups of containers, each with a record of its own (``pods/NAME.json``). A container names its pod by ID in
its options, so a new pod never adopts the containers of an old one with the same name.

A record is written once, under the store's lock, and never changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from lamina.errors import Conflict, NotFound, StoreDamaged, UsageError
from lamina.host.files import failure, replace_file, reported
from lamina.host.lock import locked
from lamina.light import TYPE_CHECKING, Value, as_dict, field, pattern
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from typing import Any

    from lamina.store.paths import Paths

_NAME = pattern(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_LONGEST = 200
_SUFFIX = ".json"
_MAX_RECORD = 4 << 20


class Pod(Value):
    """``created``: seconds since 1970. ``share``: the namespaces that its containers share. ``options``: options for
    the container that makes these namespaces, as JSON (``run.container.record``)."""

    id: str
    name: str
    created: float
    labels: tuple[tuple[str, str], ...] = ()
    share: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)


class Pods:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._top = os.path.join(paths.root, "pods")

    def __iter__(self) -> Iterator[Pod]:
        """Every pod, oldest first. Raises StoreDamaged, SystemFailure."""
        return iter(sorted(map(self._read, self._names()), key=lambda one: (one.created, one.id)))

    def create(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        share: tuple[str, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Pod:
        """Make a pod. ``name``: "" for one made from its ID. Raises UsageError, Conflict (the name is taken),
        SystemFailure."""
        identity = os.urandom(32).hex()
        name = check_pod_name(name) if name else identity[:12]
        pod = Pod(identity, name, time.time(), tuple((labels or {}).items()), share, dict(options or {}))
        with reported(self._top):
            with suppress(FileExistsError):
                os.mkdir(self._top, 0o700)
            with locked(self._paths.lock):
                if os.path.lexists(self._path(name)):
                    raise Conflict(
                        f"the name {name!r:.100} is taken by another pod",
                        hint=f"remove it with `lamina pod rm {name}`, or choose another name",
                    )
                replace_file(self._path(name), [write_own(as_dict(pod)).encode()], mode=0o600)
        return pod

    def get(self, word: str) -> Pod:
        """Find a pod by name, or by the first digits of its ID. Raises NotFound, Conflict (several match),
        StoreDamaged, SystemFailure."""
        if word in self._names():
            return self._read(word)
        found = [one for one in self if word and one.id.startswith(word)]
        if len(found) > 1:
            raise Conflict(
                f"{word!r:.70} is ambiguous: the IDs of {len(found)} pods begin with it", hint="give more digits"
            )
        if not found:
            raise NotFound(f"no pod {word!r:.100}", hint="see `lamina pod ls`")
        return found[0]

    def remove(self, pod: Pod) -> None:
        """Delete the record, if it is still that of this pod. Raises SystemFailure."""
        path = self._path(pod.name)
        with reported(path), locked(self._paths.lock), suppress(FileNotFoundError, NotFound):
            if self._read(pod.name).id == pod.id:
                os.unlink(path)

    def _path(self, name: str) -> str:
        return os.path.join(self._top, name + _SUFFIX)

    def _names(self) -> list[str]:
        with reported(self._top):
            try:
                found = os.listdir(self._top)
            except FileNotFoundError:
                return []
        names = (name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))
        return sorted(name for name in names if _NAME.fullmatch(name))

    def _read(self, name: str) -> Pod:
        path = self._path(name)
        try:
            with open(path, "rb") as file:
                return _parsed(read_own(file.read(_MAX_RECORD).decode()), name)
        except FileNotFoundError:
            raise NotFound(f"no pod {name!r:.100}", hint="see `lamina pod ls`") from None
        except OSError as error:
            raise failure(error, path) from error
        except (TypeError, KeyError, ValueError, AttributeError):
            raise StoreDamaged(f"the record of the pod {name} is damaged", hint=f"delete {path}") from None


def check_pod_name(word: str) -> str:
    """Raises UsageError."""
    if not _NAME.fullmatch(word) or len(word) > _LONGEST:
        raise UsageError(f"{word!r:.100} is not a pod name", hint="use letters, digits, _ . and -")
    return word


def _parsed(value: Any, name: str) -> Pod:
    """Raises TypeError, KeyError, ValueError, AttributeError (it is malformed)."""
    labels = tuple((str(key), str(text)) for key, text in value["labels"])
    pod = Pod(value["id"], value["name"], float(value["created"]), labels, tuple(value["share"]), value["options"])
    texts = (pod.id, pod.name, *pod.share)
    if not all(isinstance(text, str) for text in texts) or pod.name != name or not isinstance(pod.options, dict):
        raise ValueError(name)
    return pod
