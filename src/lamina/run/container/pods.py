"""Pods: containers that belong together. They share a network if their pod says so: the first container makes it, and
the others join it. And what a container requires: other containers, which are started before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lamina.errors import NotFound, UsageError
from lamina.light import TYPE_CHECKING, as_dict, replace
from lamina.run.container.record import from_json, to_json
from lamina.run.options import OWN_NETWORK, ContainerOptions

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.pods import Pod
    from lamina.store.store import Store

NET = "net"
_NAMESPACES = ("cgroup", "ipc", "net", "pid", "uts")
_OF_NETWORK = ("network", "networks", "ports", "publish_all")
"""Options that only the container that makes the network can have."""
_NEW = "new:"
CREATED, RUNNING, DEGRADED, PAUSED, EXITED = "Created", "Running", "Degraded", "Paused", "Exited"
STATES = (CREATED, RUNNING, DEGRADED, PAUSED, EXITED)


def parse_share(word: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The namespaces that a pod shares, and those of ``word`` that it can't share. ``word``: a list with commas;
    "" and "none": nothing; None: the default. Raises UsageError."""
    if word is None:
        return (NET,), ()
    names = [name for name in word.split(",") if name not in ("", "none")]
    if names and all(name.startswith("+") for name in names):  # in addition to the default
        names = [NET, *(name[1:] for name in names)]
    for name in names:
        if name not in _NAMESPACES:
            raise UsageError(f"unknown namespace {name!r:.60}", hint=f"choose of {', '.join(_NAMESPACES)}")
    return (NET,) if NET in names else (), tuple(name for name in names if name != NET)


def options_of(pod: Pod) -> ContainerOptions:
    """The options of the pod's network."""
    return from_json(pod.options) if pod.options else ContainerOptions()


def as_options(wanted: ContainerOptions) -> Mapping[str, object]:
    """The options of a pod's network, for its record."""
    return to_json(wanted) if wanted != ContainerOptions() else {}


def members(store: Store, pod: Pod) -> list[Container]:
    """The containers of the pod, oldest first. Raises SystemFailure."""
    return [one for one in store.containers.every() if pod_of(one) == pod.id]


def pod_of(container: Container) -> str:
    """The ID of the container's pod, "" for none."""
    found = (container.wanted or {}).get("pod", "")
    return found if isinstance(found, str) else ""


def status(states: Iterable[str]) -> str:
    """The state of a pod, from those of its containers (pure): podman's words."""
    found = list(states)
    running = sum(state in ("running", "restarting") for state in found)
    if running:
        return RUNNING if running == len(found) else DEGRADED
    for state, word in (("paused", PAUSED), ("exited", EXITED)):
        if state in found:
            return word
    return CREATED


def resolved(store: Store, wanted: ContainerOptions) -> ContainerOptions:
    """The options with IDs in the place of the names of a pod and of required containers, and with the pod's network.
    ``--pod new:NAME`` makes a pod. Raises NotFound, Conflict, UsageError, StoreDamaged, SystemFailure."""
    names = [name for word in wanted.requires for name in word.split(",") if name]
    wanted = replace(wanted, requires=tuple(dict.fromkeys(store.containers.get(name).id for name in names)))
    if not wanted.pod:
        return wanted
    from lamina.store.pods import Pods

    pods = Pods(store.paths)
    if wanted.pod.startswith(_NEW):
        network = {name: getattr(wanted, name) for name in _OF_NETWORK}
        pod = pods.create(
            wanted.pod.removeprefix(_NEW), share=(NET,), options=as_options(ContainerOptions(**network))
        )
        wanted = replace(wanted, **{name: as_dict(ContainerOptions())[name] for name in _OF_NETWORK})
    else:
        pod = pods.get(wanted.pod)
    wanted = replace(wanted, pod=pod.id)
    return _with_network(store, pod, wanted) if NET in pod.share else wanted


def _with_network(store: Store, pod: Pod, wanted: ContainerOptions) -> ContainerOptions:
    if wanted.ports or wanted.networks or wanted.publish_all or wanted.network not in OWN_NETWORK:
        raise UsageError(
            f"the containers of the pod {pod.name} share its network: ports and networks are the pod's",
            hint="give them to `lamina pod create`, or make the pod with --share=",
        )
    first = next((one for one in members(store, pod) if not _is_guest(one)), None)
    if first is not None:
        return replace(wanted, network=f"container:{first.id}", requires=(*wanted.requires, first.id))
    theirs = options_of(pod)
    changes = {name: getattr(theirs, name) for name in (*_OF_NETWORK, "hostname", "dns", "add_hosts")}
    return replace(wanted, **{name: value for name, value in changes.items() if value})


def _is_guest(container: Container) -> bool:
    return str((container.wanted or {}).get("network", "")).startswith("container:")


def required(store: Store, container: Container) -> list[Container]:
    """The containers that must run before this one and do not run, in the order to start them. Raises NotFound (one
    was removed), SystemFailure."""
    found: dict[str, Container] = {}
    _collect(store, container, found, {container.id})
    return [one for one in found.values() if not store.containers.is_running(one)]


def _collect(store: Store, container: Container, found: dict[str, Container], seen: set[str]) -> None:
    for identity in (container.wanted or {}).get("requires", ()):
        if identity in seen:
            continue
        seen.add(identity)
        try:
            one = store.containers.get(identity)
        except NotFound:
            raise NotFound(
                f"the container {container.name} requires the container {identity[:12]}, which was removed",
                hint=f"remove {container.name}, and create it again",
            ) from None
        _collect(store, one, found, seen)
        found[identity] = one
