"""Candidates for completion: images, containers, paths inside images, values of options. Names come from images and
archives and may be hostile; ``completion`` quotes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from lamina.errors import LaminaError

if TYPE_CHECKING:
    from lamina.cli.session import Session


FILES, DIRECTORIES = "#file", "#dir"


_MOST = 16 << 20  # bytes of a Dockerfile


_FEW = 16
"""Up to this many symlinks are followed one by one; for more, a merge of the whole image is cheaper."""


def verbs(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the verbs and nouns that begin with ``incomplete``, without importing any."""
    from lamina.cli.noun_table import NOUNS

    root = ctx.find_root().command
    names = sorted({*(root.list_commands(ctx) if isinstance(root, click.Group) else ()), *NOUNS})
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def values(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    verb = ctx.command.name or ""
    group = ctx.parent.command.name if ctx.parent is not None else None
    if group in _GROUPS:
        verb = f"{group} {verb}"
    name, metavar = parameter.name or "", parameter.metavar or ""
    if isinstance(parameter, click.Option):
        for option in parameter.opts:
            known = _OPTIONS.get((verb, option)) or _OPTIONS.get(("", option))
            if known is not None:
                values = known(ctx, incomplete) if callable(known) else known
                return [value for value in values if value.startswith(incomplete)]
    elif verb == "cp":
        return _copied(ctx, incomplete)
    elif verb == "help":
        return [item.value for item in verbs(ctx, incomplete)]
    elif verb in _MAKERS:
        return []  # a new name
    elif any(word in metavar for word in _NAMED):
        known = next(names for word, names in _NAMED.items() if word in metavar)
        return [name for name in known(ctx) if name.startswith(incomplete)]
    elif "CONTAINER" in metavar:
        return list(containers(ctx, incomplete, states=_STATES.get(verb)))
    elif name in ("path", "paths") or (verb in ("run", "boot") and name == "words" and incomplete.startswith("/")):
        image = ctx.params.get("image") or ctx.params.get("before")
        return list(inside(session_of(ctx), image, incomplete)) if isinstance(image, str) else []
    elif verb == "umount":
        return list(_mounted(ctx, incomplete))
    elif name in ("image", "images", "patterns") or "IMAGE" in metavar:
        return image_words(ctx, incomplete)
    if "FILE" in metavar:
        return [FILES]
    return [DIRECTORIES] if "DIR" in metavar or (verb, name) in _PLACES else []


_GROUPS = ("volume", "network", "pod")


_MAKERS = ("volume create", "network create", "pod create")


_STATES = {
    **dict.fromkeys(("attach", "exec", "kill", "pause", "stop", "top"), ("running",)),
    "start": ("created", "exited"),
    "unpause": ("paused",),
}
"""Verbs that make sense only for containers in these states."""


_PLACES = {("mount", "target"), ("unpack", "directory")}


_BOTH = ("diff", "export", "inspect")
"""Verbs that take images and containers."""


def image_words(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the candidates for an argument that names an image."""
    found = list(images(ctx, incomplete))
    return [*found, *containers(ctx, incomplete)] if ctx.command.name in _BOTH else found


def _mounted(ctx: click.Context, incomplete: str) -> Iterator[str]:
    from lamina.view.overlay.mount import mounts

    try:
        store = session_of(ctx).store_if_any
        yield from (one.target for one in mounts(store) if one.target.startswith(incomplete)) if store else ()
    except LaminaError:
        return


def session_of(ctx: click.Context) -> Session:
    """Return a session for the command line that is being typed."""
    from lamina.cli.session import Session

    root = ctx.find_root().params.get("root")
    return Session({"root": root} if root else {})


def images(ctx: click.Context, incomplete: str = "") -> Iterator[str]:
    """Yield the names in the store that begin with ``incomplete``."""
    from lamina.spec.reference import Reference

    try:
        store = session_of(ctx).store_if_any
        names = [Reference.parse(name).familiar for name, _ in store.names() if name] if store else []
    except LaminaError:
        return  # a damaged store must not break completion
    yield from sorted(name for name in names if name.startswith(incomplete))


def containers(ctx: click.Context, incomplete: str = "", *, states: tuple[str, ...] | None = None) -> Iterator[str]:
    """Yield the names of containers that begin with ``incomplete``; if there is none, IDs. ``states``: only of
    containers in one of these."""
    try:
        store = session_of(ctx).store_if_any
        every = store.containers.every() if store else []
        if store and states:
            every = [one for one in every if store.containers.state(one) in states]
    except LaminaError:
        return
    names = [one.name for one in every if one.name.startswith(incomplete)]
    yield from sorted(names or [one.id[:12] for one in every if incomplete and one.id.startswith(incomplete)])


def inside(session: Session, image: str, incomplete: str) -> Iterator[str]:
    """Yield the paths in an image that begin with ``incomplete``; directories end with a slash. Only images on this
    machine are read: completion must not download layers or read standard input as an archive."""
    from lamina.layer.entry import Kind
    from lamina.places import to_bytes
    from lamina.spec.name import parse_name

    directory = incomplete[: incomplete.rfind("/") + 1]
    beginning = os.fsencode(incomplete[len(directory) :])
    try:
        place = parse_name(image)
        if place.transport == "docker" or place.location == "-":
            return
        stack = session.image(image).stack
        union, node = stack.listing(to_bytes(directory or "/"), follow=True, links=False)
        children = {name: child for name, child in union.children(node).items() if name.startswith(beginning)}
        links = {name for name, child in children.items() if union.kind(child) == Kind.SYMLINK}
        if len(links) > _FEW:
            stack.union()  # later lookups use it
        for name, child in sorted(children.items()):
            is_directory = union.is_directory(child)
            if name in links:
                with suppress(LaminaError):  # a dangling symlink
                    found, target = stack.lookup(union.path(child), follow=True)
                    is_directory = found.is_directory(target)
            yield directory + os.fsdecode(name) + ("/" if is_directory else "")
    except LaminaError:
        return


def _copied(ctx: click.Context, incomplete: str) -> list[str]:
    """Return candidates for a side of `cp`: paths in a container or image after the colon; before it, their names and
    local files."""
    name, colon, path = incomplete.partition(":")
    session = session_of(ctx)
    if colon and name and "/" not in name:
        try:
            one = session.store.containers.get(name)
            image = one.manifest
        except LaminaError:
            image = name
        return [f"{name}:{found}" for found in inside(session, image, path)]
    found = [f"{name}:" for name in containers(ctx, incomplete)]
    return [*found, *_local(incomplete)] if found else [FILES]


def _local(incomplete: str) -> Iterator[str]:
    directory = incomplete[: incomplete.rfind("/") + 1]
    try:
        with os.scandir(directory or ".") as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                path = directory + entry.name
                if path.startswith(incomplete) and (incomplete or not entry.name.startswith(".")):
                    yield path + ("/" if entry.is_dir() else "")
    except OSError:
        return


def _image_filters(ctx: click.Context, incomplete: str) -> Iterator[str]:
    key, equals, value = incomplete.partition("=")
    if not equals:
        yield from ("before=", "dangling=", "label=", "reference=", "since=", "until=")
    elif key == "dangling":
        yield from ("dangling=false", "dangling=true")
    elif key in ("before", "since", "reference"):
        yield from (f"{key}={name}" for name in images(ctx, value))


def _container_filters(ctx: click.Context, incomplete: str) -> Iterator[str]:
    from lamina.run.inspection.listing import KEYS, choices

    key, equals, value = incomplete.partition("=")
    named: dict[str, Callable[[click.Context, str], Iterable[str]]] = {
        **dict.fromkeys(("before", "since", "name"), containers),
        "ancestor": images,
        "network": _networks,
        "pod": _pods,
        "volume": lambda ctx, _: volumes(ctx),
    }
    if not equals:
        yield from (f"{one}=" for one in sorted(KEYS))
    elif key in named:
        yield from (f"{key}={name}" for name in named[key](ctx, value))
    else:
        yield from (f"{key}={word}" for word in choices(key))


def _network_filters(ctx: click.Context, incomplete: str) -> Iterator[str]:
    key, equals, _ = incomplete.partition("=")
    if not equals:
        yield from ("dangling=", "driver=", "id=", "label=", "name=", "scope=", "type=", "until=")
    elif key == "name":
        yield from (f"name={name}" for name in networks(ctx))
    elif key == "dangling":
        yield from ("dangling=false", "dangling=true")
    elif key == "type":
        yield from ("type=builtin", "type=custom")


def _networks(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """Yield the kinds of networks, and the names of those of the store."""
    kind, colon, name = incomplete.partition(":")
    if colon and kind == "container":
        yield from (f"container:{one}" for one in containers(ctx, name))
        return
    yield from ("bridge", "container:", "host", "none", "pasta")
    yield from networks(ctx)


def networks(ctx: click.Context) -> list[str]:
    """Return the names of the networks that people have made."""
    try:
        store = session_of(ctx).store_if_any
        known = os.listdir(os.path.join(store.paths.root, "networks")) if store else []
    except (LaminaError, OSError):
        return []
    return sorted(name.removesuffix(".json") for name in known if name.endswith(".json"))


def pods(ctx: click.Context) -> list[str]:
    """Return the names of the pods."""
    from lamina.store.pods import Pods

    try:
        store = session_of(ctx).store_if_any
        return sorted(one.name for one in Pods(store.paths)) if store else []
    except LaminaError:
        return []


def _pods(ctx: click.Context, incomplete: str) -> list[str]:
    return pods(ctx)


def volumes(ctx: click.Context) -> list[str]:
    """Return the names of the volumes."""
    try:
        store = session_of(ctx).store_if_any
        return [one.name for one in store.volumes.every()] if store else []
    except LaminaError:
        return []  # a damaged store must not break completion


def _volumes(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """Yield sources for -v: names of volumes, and directories of this host."""
    if not incomplete.startswith(("/", ".")):
        yield from (f"{name}:" for name in volumes(ctx))
    yield from _local(incomplete)


def _kernels(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """Yield sources for --kernel: images, and files of this host."""
    yield from images(ctx, incomplete)
    yield from _local(incomplete)


def _volume_filters(ctx: click.Context, incomplete: str) -> Iterator[str]:
    key, equals, value = incomplete.partition("=")
    if not equals:
        yield from ("anonymous=", "dangling=", "driver=", "label=", "name=", "until=")
    elif key in ("anonymous", "dangling"):
        yield from (f"{key}=false", f"{key}=true")
    elif key == "name":
        yield from (f"{key}={name}" for name in volumes(ctx) if name.startswith(value))
    elif key == "driver":
        yield "driver=local"


def _outputs(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """Yield the types of --output, and directories."""
    from lamina.build.outputs import KINDS

    yield from (f"type={kind}" for kind in KINDS)
    yield from _local(incomplete)


def _stages(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """Yield the names of the stages in the Dockerfile of the command line."""
    from lamina.build.builder import NAMES
    from lamina.build.dockerfile.describe import targets
    from lamina.build.dockerfile.syntax import parse

    context = ctx.params.get("context") or "."
    file = ctx.params.get("file")
    for path in (file,) if file else (os.path.join(context, name) for name in NAMES):
        try:
            with open(path, "rb") as opened:
                yield from (one.name for one in targets(parse(opened.read(_MOST))) if one.name)
            return
        except (LaminaError, OSError):
            continue


def _platforms(ctx: click.Context, incomplete: str) -> Iterator[str]:
    yield from (
        f"linux/{name}" for name in ("386", "amd64", "arm64", "arm/v6", "arm/v7", "ppc64le", "riscv64", "s390x")
    )


def _capabilities(ctx: click.Context, incomplete: str) -> Iterator[str]:
    from lamina.run.capability import ALL

    yield "ALL"
    yield from sorted(name.removeprefix("CAP_") for name in ALL)


_NAMED: dict[str, Callable[[click.Context], list[str]]] = {"VOLUME": volumes, "NETWORK": networks, "POD": pods}
"""Words in the metavar of an argument, and the function that lists the names for it."""


_SIGNALS = ("HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2")


_Known = Callable[[click.Context, str], Iterable[str]] | tuple[str, ...]


_OPTIONS: dict[tuple[str, str], Any] = {
    # (verb, or "" for any; option): its values
    ("boot", "--kernel"): _kernels,
    ("boot", "--network"): lambda ctx, _: ["none", "pasta", *networks(ctx)],
    ("boot", "--volume"): _volumes,
    ("build", "--call"): ("build", "check", "outline", "targets"),
    ("build", "--network"): ("default", "host", "none"),
    ("build", "--output"): _outputs,
    ("build", "--progress"): ("auto", "json", "plain", "quiet", "tty"),
    ("build", "--pull"): ("false", "true"),
    ("build", "--target"): _stages,
    ("images", "--filter"): _image_filters,
    ("network create", "--driver"): ("bridge", "ipvlan", "macvlan"),
    ("network ls", "--filter"): _network_filters,
    ("pack", "--base"): images,
    ("pack", "--kernel"): lambda ctx, incomplete: _local(incomplete),
    ("ps", "--filter"): _container_filters,
    ("rebase", "--old-base"): lambda ctx, incomplete: [*images(ctx, incomplete), "scratch"],
    ("start", "--filter"): _container_filters,
    ("", "--cap-add"): _capabilities,
    ("", "--cap-drop"): _capabilities,
    ("", "--format"): ("json", "table"),
    ("", "--health-on-failure"): ("kill", "none", "restart", "stop"),
    ("", "--in"): images,
    ("", "--ipc"): ("host", "none", "private"),
    ("", "--log-driver"): ("journald", "json-file", "k8s-file", "local", "none", "passthrough"),
    ("", "--machine"): ("microvm", "pc", "q35", "virt"),
    ("", "--network"): _networks,
    ("", "--onto"): images,
    ("", "--pid"): ("host", "private"),
    ("", "--platform"): _platforms,
    ("", "--pod"): _pods,
    ("", "--requires"): containers,
    ("", "--restart"): ("always", "no", "on-failure", "unless-stopped"),
    ("", "--runtime"): ("bwrap", "crun", "runc"),
    ("", "--security-opt"): ("no-new-privileges", "seccomp=", "systempaths=unconfined"),
    ("", "--sig-proxy"): ("false", "true"),
    ("", "--signal"): _SIGNALS,
    ("", "--stop-signal"): _SIGNALS,
    ("", "--tls-verify"): ("false", "true"),
    ("", "--userns"): ("auto", "host", "keep-id"),
    ("create", "--volume"): _volumes,
    ("run", "--volume"): _volumes,
    ("", "--volumes-from"): containers,
    ("vm-disk", "--kernel"): _kernels,
    ("volume ls", "--filter"): _volume_filters,
    ("wait", "--condition"): ("created", "exited", "healthy", "paused", "running", "unhealthy"),
}
