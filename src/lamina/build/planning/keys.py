"""The key of a step (pure): named parts, and the digest of all of them.

The parts say what the step does and what it reads: the layers below by their content (a ChainID), the files of
contexts by their digests. Nothing in a key depends on a time, on a path of this host or on an earlier build. Secrets,
ssh agents and proxies are in no key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from lamina.build.steps import BaseStep, CopyStep, DirectoryStep, FromStep, Inline, RunMount, RunStep, Step, WheelStep
from lamina.spec.json import write_own

VERSION = "1"
"""Raise it when the same parts give another layer."""

Parts = dict[str, str]
Origins = Callable[["FromStep | RunMount"], str]


def key_of(parts: Mapping[str, str]) -> str:
    """64 hex digits."""
    return hashlib.sha256(_packed(dict(sorted(parts.items()))).encode()).hexdigest()


def parts_of(
    step: Step, below: str, inputs: Mapping[str, str], origins: Origins, *, epoch: int | None = None
) -> Parts:
    """The parts of the key of a step that is not a base.

    ``below``: the ChainID of the layers below, "" if there are none. ``inputs``: the digests of what it reads from
    contexts and other hosts. ``origins``: what identifies what it reads from another step.
    """
    parts: Parts = {"version": VERSION}
    if isinstance(step, WheelStep):
        return parts | _wheel(step)
    if epoch is not None:
        parts["SOURCE_DATE_EPOCH"] = str(epoch)
    if not (isinstance(step, CopyStep) and step.link):
        parts["layers below"] = below
    if isinstance(step, CopyStep):
        _copy(parts, step, origins)
    elif isinstance(step, DirectoryStep):
        parts |= {"instruction": "WORKDIR", "path": step.path, "owner": step.owner}
    elif isinstance(step, RunStep):
        _run(parts, step, origins)
    else:
        raise TypeError(f"a {type(step).__name__} has no key")
    return parts | dict(inputs)


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """The parts that differ: (name, before, now), "" where one has no such part."""
    names = [*now, *(name for name in before if name not in now)]
    found = ((name, before.get(name, ""), now.get(name, "")) for name in names)
    return tuple((name, old, new) for name, old, new in found if old != new)


def _copy(parts: Parts, step: CopyStep, origins: Origins) -> None:
    parts["instruction"] = "ADD" if step.is_add else "COPY"
    sources: list[object] = []
    for source in step.sources:
        if isinstance(source, FromStep):
            sources.append(["from", *source.patterns])
            parts[f"from {_name(source.step)}"] = origins(source)
        elif isinstance(source, Inline):
            sources.append(["document", source.name])
            parts[f"<<{source.name}"] = hashlib.sha256(source.content).hexdigest()
        else:
            sources.append([type(source).__name__, *getattr(source, "patterns", ())])
    parts["sources"] = _packed(sources)
    parts["target"] = step.target
    parts["options"] = _packed(
        {
            "owner": step.owner,
            "mode": step.mode,
            "link": step.link,
            "parents": step.parents,
            "exclude": list(step.exclude),
            "unpack": step.unpack,
        }
    )


def _wheel(step: WheelStep) -> Parts:
    """Neither the address, nor what is below, nor a time: all images that pin this wheel share the layer."""
    return {
        "instruction": "WHEEL",
        "file": step.file,
        "content": step.sha256,
        "python": step.executable,
        "directories": _packed([step.site, step.scripts, step.data, step.python.rpartition(".")[0]]),
    }


def _run(parts: Parts, step: RunStep, origins: Origins) -> None:
    parts["instruction"] = "RUN"
    parts["command"] = _packed(list(step.words))
    parts["platform"] = str(step.platform)
    parts["user"] = step.user
    parts["working directory"] = step.workdir
    for name, value in step.env:
        parts[f"variable {name}"] = value
    for path, content in step.files:
        parts[f"file {path}"] = hashlib.sha256(content).hexdigest()
    for number, mount in enumerate(step.mounts):
        parts[f"mount {number + 1}: {mount.target or mount.kind}"] = _mount(mount, origins)
    limits = [[limit.name, limit.soft, limit.hard] for limit in step.ulimits]
    parts["options"] = _packed(
        {
            "network": step.network,
            "insecure": step.insecure,
            "hosts": [list(host) for host in step.add_hosts],
            "shm": step.shm_size,
            "ulimits": limits,
        }
    )


def _mount(mount: RunMount, origins: Origins) -> str:
    """A secret counts by its id, and a cache by its place: never by their content."""
    origin = origins(mount) if isinstance(mount.origin, Step) else mount.origin
    return _packed(
        {
            "kind": mount.kind,
            "target": mount.target,
            "source": mount.source,
            "origin": origin,
            "id": mount.id,
            "sharing": mount.sharing,
            "read_only": mount.read_only,
            "required": mount.required,
            "mode": mount.mode,
            "uid": mount.uid,
            "gid": mount.gid,
            "size": mount.size,
            "variable": mount.variable,
        }
    )


def _name(step: Step) -> str:
    return step.name if isinstance(step, BaseStep) else step.stage or step.label


def _packed(value: object) -> str:
    return write_own(value)
