"""A container's life: made from an image of the store, run once, looked at, removed.

Its directory in the store holds the record, ``upper`` (all that it changed), ``work`` (the kernel's), ``rootfs``
(where the union is mounted while it runs), ``bundle`` (for the runtime) and ``volumes`` (its anonymous ones).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, NotFound, SystemFailure, Unsupported, UsageError
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run import network, writable
from lamina.run.capability import EVERY
from lamina.run.container.ending import check_running, clear, remove, settle, state_directory
from lamina.run.inside import Inside
from lamina.run.mount_targets import Shown, settled
from lamina.run.options import Mount, Node, Wanted, argv, parse_name
from lamina.run.reach import close_way, open_way
from lamina.run.runtime import (
    CANNOT_RUN,
    Ended,
    Runtime,
    delete,
    exec_process,
    find_program,
    find_runtime,
    run_bundle,
)
from lamina.run.seccomp import default_profile, seccomp
from lamina.run.spec import Place, check_words, environment, guarded, held, is_alike, places, runtime_spec
from lamina.run.supported import check_supported, tight
from lamina.run.user import User, misnamed, resolve_group, resolve_user
from lamina.source.stack import Stack
from lamina.spec.json import read_own, write_own
from lamina.spec.platform import Platform
from lamina.store.containers import EXITED, Container, Use
from lamina.store.fault import point
from lamina.store.foreign_trees import remove_tree
from lamina.store.roots import started
from lamina.view import kernel
from lamina.view.overlay.lower import MAPPED, sweep
from lamina.view.overlay.mount import Top, mount_union, unmap
from lamina.view.owners import AS_STATED, Owners

if TYPE_CHECKING:
    from typing import Any

    from lamina.scan.directory import OnWarning
    from lamina.store.store import Store

Me = tuple[int, int] | None
"""The uid and gid that the caller has inside, where that was asked for."""
_ELF_HEAD = 20  # bytes, with the machine that a program is for
_INITS = ("tini", "docker-init", "tini-static", "catatonit", "dumb-init")


def create(
    store: Store,
    stack: Stack,
    wanted: Wanted,
    *,
    image: str = "",
    running: bool = False,
    upper_dir: str = "",
    on_warning: OnWarning = lambda text: None,
) -> Container:
    """A container of the whole image; ``running``: this process is about to run it. ``upper_dir``: where it writes,
    if not in the store. Raises Conflict (the name is taken), UsageError, NotFound, Unsupported, SystemFailure."""
    identity = os.urandom(32).hex()
    config = stack.config
    where = writable.choose(store, identity, upper_dir, remove=wanted.remove, warn=on_warning)
    container = Container(
        id=identity,
        name=parse_name(wanted.name) if wanted.name else identity[:12],
        image=image or stack.name,
        manifest=str(stack.manifest.descriptor.digest),
        media_type=stack.manifest.descriptor.media_type,
        size=stack.manifest.descriptor.size,
        layers=tuple(map(str, stack.diff_ids)),
        created=time.time(),
        command=argv(wanted, config.entrypoint, config.cmd),
        top=where,
        remove=wanted.remove,
        labels=tuple({**config.labels, **wanted.labels}.items()),
        volumes=_places_of(wanted, config.volumes),
        stop_signal=wanted.stop_signal,
        stop_timeout=wanted.stop_timeout,
    )
    if running:
        container = container.looked_after()
    found = store.containers.look()
    clear(store, found)  # what can't be cleared is told by `prune`

    def undo(directory: str) -> None:
        writable.remove(store, container, directory)

    creating = store.containers.creating(container, found[0], lasting=not wanted.remove, undo=undo)
    with creating as directory, reported(directory):
        for name in ("rootfs", "bundle", "volumes"):
            os.mkdir(os.path.join(directory, name), 0o700)
        writable.make(store, container, directory)
        point("container.top-made")
    return container


def check(wanted: Wanted, *, runtime: str = "") -> None:
    """Refuse what the runtime that is here can't do, before a container is made. Raises UsageError, Unsupported,
    NotFound (no runtime)."""
    check_supported(wanted, find_runtime(runtime))


def _places_of(wanted: Wanted, declared: Sequence[str]) -> tuple[str, ...]:
    """The volumes' names and the places of all mounts, for those who look for them."""
    places = [mount.target for mount in wanted.mounts if mount.kind != "tmpfs"]
    names = [mount.source for mount in wanted.mounts if mount.source]
    return tuple(dict.fromkeys((*names, *places, *declared)))


def enter(store: Store | None = None, container: Container | None = None) -> None:
    """Get the rights to work with containers: a plain user becomes root of a user namespace, that of the running
    ``container`` with its mounts, or a new one. For good. Raises as ``rights.become_root``."""
    if privileges.may_mount():
        return
    if container is not None and started(container.pid) == container.started is not None:
        privileges.join(container.pid)
    elif container is not None and store is not None and store.containers.is_running(container):
        # its lamina was killed: the program is in the same user namespace, with mounts of its own
        privileges.join(_program(store, container), mounts=False)
    else:
        privileges.become_root()


def _program(store: Store, container: Container) -> int:
    """The number of the container's first process. Raises SystemFailure."""
    path = store.containers.path(container.id, "bundle", "pid")
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        raise SystemFailure(f"the container {container.name} has no process yet", hint="try again") from None


def stack_of(store: Store, container: Container) -> Stack:
    """The image that the container was made of, whether or not it has a name still."""
    return store.stack_at(container.descriptor, Platform.host(), container.image)


def run(
    store: Store,
    stack: Stack,
    container: Container,
    wanted: Wanted,
    *,
    runtime: str = "",
    stays: bool = False,
    on_warning: OnWarning = lambda text: None,
) -> Ended:
    """Run the container until it ends, in the foreground. ``stays``: a container that is to be removed is left to its
    owner (``Containers.owning``) instead. Raises SystemFailure, Unsupported, NotFound where it can't even be
    tried."""
    if not hasattr(os, "geteuid"):
        raise Unsupported("only Linux runs containers", hint="look into the image with ls, cat, unpack")
    ended = Ended(CANNOT_RUN)
    if store.containers.lock_of(container.id) < 0:
        container = store.containers.look_after(container)
        store.containers.write(container, lasting=not wanted.remove)
        with store.containers.using(container):
            settle(store, container)
    try:
        found = find_runtime(runtime)
        found.check_path(store.paths.root)
        check_supported(wanted, found)
        owners, me = _owners(container, wanted, found)
        container = replace(container, users=owners.users, groups=owners.groups)
        with _mounted(store, stack, container, found, wanted) as (view, way, use):
            container = replace(container, runtime=found.program, view=view)
            ended = _run(store, stack, container, found, wanted, me, way, use, on_warning)
            if (ended.reason or ended.message) and ended.code == CANNOT_RUN and tight(wanted):
                on_warning(f"the container did not start, perhaps because of its limits: {tight(wanted)}")
            point("container.ended")
    finally:
        try:
            if wanted.remove and not stays:
                remove(store, container)
            else:
                _note_end(store, container, ended, lasting=not wanted.remove)
        finally:
            store.containers.let_go(container.id)
    return ended


def _note_end(store: Store, container: Container, ended: Ended, *, lasting: bool) -> None:
    with suppress(NotFound):  # somebody has removed it by hand
        container = store.containers.get(container.id)
        container = replace(container, status=EXITED, exit_code=ended.code, finished=time.time(), pid=0, started=None)
        store.containers.write(container, lasting=lasting)


@contextmanager
def _mounted(
    store: Store, stack: Stack, container: Container, runtime: Runtime, wanted: Wanted
) -> Iterator[tuple[str, str, Use]]:
    """The union with the container's writable top at ``rootfs``; the view that was taken, where the container itself
    reaches it, and what keeps others away until the block closes it: when the record says that it is mounted."""
    path = store.containers.path
    rootfs = path(container.id, "rootfs")
    above = _above(store, container)
    above = replace(above, devices=runtime.devices and not above.owners, volatile=wanted.remove)
    way = ""
    with store.containers.using(container) as use:
        view = mount_union(store, stack, rootfs, view=wanted.view, top=above)
        try:
            point("container.mounted")
            way = open_way(container.id, above.owners, rootfs)
            yield view, way, use
        finally:
            use.close()
            # a `cp` that works in the mount is waited for: a second mount upon the same directories would spoil both
            with store.containers.using(container):
                close_way(container.id, way)
                kernel.unmount(rootfs)
                unmap(above.scratch)
            point("container.unmounted")
            sweep(store)


def _above(store: Store, container: Container) -> Top:
    upper, work = (writable.path(store, container, name) for name in (writable.UPPER, writable.WORK))
    scratch = store.containers.path(container.id, "bundle")
    return Top(upper, work, owners=owners_of(container), scratch=scratch)


def _owners(container: Container, wanted: Wanted, runtime: Runtime) -> tuple[Owners, Me]:
    """The ids of the container's user namespace, and who the caller is in there, if it asked to be somebody. Raises
    Unsupported."""
    if not wanted.userns.kind:
        return AS_STATED, None
    from lamina.run import userns

    if wanted.userns.kind == "keep-id":
        return userns.keep_id(wanted.userns)
    if not privileges.is_root():
        raise Unsupported("only the machine's root may take ids of its own", hint="--userns keep-id, or leave it out")
    if runtime.is_bubblewrap:
        raise Unsupported("bubblewrap can't take ids of its own", hint="leave --userns out, or install runc or crun")
    return userns.auto(container.id), None


def _run(
    store: Store,
    stack: Stack,
    container: Container,
    runtime: Runtime,
    wanted: Wanted,
    me: Me,
    way: str,
    use: Use,
    on_warning: OnWarning,
) -> Ended:
    path = store.containers.path
    bundle, rootfs = path(container.id, "bundle"), path(container.id, "rootfs")
    config = stack.config
    check_words(container.image, (*container.command, *config.env, *config.volumes, config.working_dir, config.user))
    kind = network.choose(wanted.network, on_warning)
    names = network.machine_resolver(kind, on_warning)
    with Inside(rootfs) as inside:
        _check_machine(container, wanted, stack, inside)
    pasta = network.Pasta(bundle, forward=bool(names.forwarded)) if kind == "pasta" else None
    try:
        with Inside(rootfs) as inside:
            network_path = pasta.plain_path if pasta else ""
            spec, made = _spec(
                store, stack, container, runtime, wanted, me, inside, way, kind, network_path, names.text
            )
        container = replace(container, made=(*container.made, *made))
        store.containers.write(container, lasting=not wanted.remove)
        use.close()
        for name in ("pid", "runtime.log"):
            if os.path.exists(os.path.join(bundle, name)):
                os.unlink(os.path.join(bundle, name))
        _write(os.path.join(bundle, "config.json"), write_own(spec).encode())
        point("container.described")
        if runtime.is_bubblewrap:
            from lamina.run.bubblewrap import launch

            with Inside(rootfs) as inside:
                return launch.run(
                    runtime.program,
                    bundle,
                    container.id,
                    spec,
                    inside,
                    interactive=wanted.interactive,
                    init=wanted.init,
                    must_filter=bool(wanted.seccomp),
                    on_warning=on_warning,
                )
        state = state_directory(store)
        try:
            lock = store.containers.lock_of(container.id)
            return run_bundle(
                runtime,
                state,
                bundle,
                container.id,
                interactive=wanted.interactive,
                terminal=wanted.tty,
                held=(lock,),
            )
        finally:
            if os.path.isdir(os.path.join(state, container.id)):
                delete(runtime, state, container.id)
    finally:
        if pasta is not None:
            pasta.close()


def _spec(
    store: Store,
    stack: Stack,
    container: Container,
    runtime: Runtime,
    wanted: Wanted,
    me: Me,
    inside: Inside,
    way: str,
    kind: str,
    namespace: str,
    resolv: str,
) -> tuple[dict[str, Any], list[str]]:
    """The runtime spec, and the places for mounts that had to be made in the upper directory."""
    config = stack.config
    is_machines = kind == "host" or wanted.uts == "host"
    hostname = wanted.hostname or (os.uname().nodename if is_machines else container.id[:12])
    cwd = _workdir(wanted, stack)
    mounts = [*_binds(store, container, wanted, config.volumes, inside), *wanted.edits.mounts]
    user, tables = _user(wanted.user or config.user, wanted, me, cwd, inside)
    owners = owners_of(container)
    user = _named(_here(user, owners, _added(wanted, inside)), runtime, inside, wanted.groups)
    nodes, bound = _nodes(wanted, runtime, owners)
    # what is in a user namespace of its own has all of them there
    here = EVERY if owners or runtime.is_bubblewrap else privileges.capabilities("CapBnd")
    place = Place(
        rootfs=way,
        hostname=hostname,
        files=_files(store, container, wanted, hostname, resolv, tables),
        mounts=mounts,
        devices=runtime.devices,
        cgroups=runtime.cgroups,
        network="host" if kind == "host" else namespace,
        seccomp=_seccomp(wanted, runtime, here, Platform.host().architecture),
        init=_init_program() if wanted.init and not runtime.is_bubblewrap else "",
        owners=owners,
        plain=not privileges.is_root(),
        capabilities=here,
        tty_group=owners.has(0, 5) and privileges.has_id(owners.outside(0, 5)[1], group=True),
        nodes=nodes,
        bind_nodes=bound,
    )
    env = environment(wanted, config.env, user.home, hostname)
    spec = runtime_spec(wanted, container.command, env, cwd, user, place)
    if wanted.ipc == "host":  # not every machine has both places
        spec["mounts"] = [one for one in spec["mounts"] if one["type"] != "bind" or os.path.exists(one["source"])]
    if not inside.is_there(cwd):
        inside.make(cwd, directory=True, owner=owner_of(container))
    spec["mounts"], made = settled(spec["mounts"], inside, owner_of(container), place.files)
    files = Shown(inside, spec["mounts"])
    spec["process"]["cwd"] = files.working_directory(cwd)
    if runtime.is_bubblewrap:  # the others do it themselves
        files.make_directory(spec["process"]["cwd"], owner_of(container))
    for mount in spec["mounts"]:
        runtime.check_path(mount["destination"])
        if mount["type"] == "tmpfs":
            if mount["destination"] in made:
                _open_to_all(inside, mount)
            else:
                _as_it_was(inside, mount)
    return _guarded(spec, runtime, store.containers.path(container.id, "bundle")), made


def _nodes(wanted: Wanted, runtime: Runtime, owners: Owners) -> tuple[list[Node], bool]:
    """The devices that the container gets besides those of every container; and whether the machine's own are shown,
    because nobody can make others in its user namespace. Raises NotFound, UsageError, Unsupported."""
    plain = runtime.is_bubblewrap or bool(owners) or not privileges.is_root()
    if not (wanted.devices or wanted.edits.nodes or wanted.privileged):
        return [], plain
    from lamina.run.devices import check_places, completed, every_node, nodes_of

    found = [*nodes_of(wanted.devices), *(completed(node) for node in wanted.edits.nodes)]
    check_places(found, guarded=runtime.devices and not plain, plain=plain)
    if wanted.privileged:
        given = {node.path for node in found}
        found += [
            node
            for node in every_node()
            if node.path not in given and not (plain and not os.access(node.source, os.R_OK | os.W_OK))
        ]
    return found, plain


def _check_machine(container: Container, wanted: Wanted, stack: Stack, inside: Inside) -> None:
    """Refuse what this machine can't run before anything is made for it. Raises Unsupported."""
    config = stack.config
    env = environment(wanted, config.env, "/", container.id[:12])
    process = {"args": container.command, "env": env, "cwd": _workdir(wanted, stack)}
    head = next(filter(None, (inside.program_head(path, _ELF_HEAD) for path in places(process))), b"")
    with open("/proc/self/exe", "rb", buffering=0) as own:
        if is_alike(head, own.read(_ELF_HEAD)):
            return
    from lamina.run.machine import check_machine

    check_machine(process, inside, (*(mount.target for mount in wanted.mounts), *config.volumes))


def _workdir(wanted: Wanted, stack: Stack) -> str:
    return wanted.workdir or os.path.join("/", stack.config.working_dir or "")


def _guarded(spec: dict[str, Any], runtime: Runtime, bundle: str) -> dict[str, Any]:
    """The spec for a runtime that would open the machine's devices to root. Raises NotFound, SystemFailure."""
    if not (runtime.forgets_devices and privileges.is_root()):
        return spec
    if "uidMappings" not in spec["linux"]:
        shell, program = find_program("sh"), find_program("mount")
        if not (shell and program):
            raise NotFound("crun leaves devices open here, and mount(8) is not installed", hint="install runc")
        return guarded(spec, shell, program)
    # nobody can open those of the root file system from a user namespace; but what is bound into it comes as it is
    for number, mount in enumerate(spec["mounts"]):
        if mount["type"] == "bind" and "nodev" in mount["options"] and os.path.isdir(mount["source"]):
            place = os.path.join(bundle, f"{MAPPED}volume{number}")  # goes with the others of that name
            with reported(place):
                os.mkdir(place)
            kernel.bind(mount["source"], place, attributes=kernel.NO_DEVICES)
            mount["source"] = place
    return spec


def _open_to_all(inside: Inside, mount: dict[str, Any]) -> None:
    """docker's rule: a tmpfs where the image has nothing is everybody's, where no mode was asked for; one over a
    directory has its mode. runc before 1.2 looks at the directory in any case. Raises SystemFailure, UsageError."""
    options = mount["options"]
    asked = [option.partition("=")[2] for option in options if option.startswith("mode=")]
    try:
        mode = int(asked[-1], 8) if asked else 0o1777
    except ValueError:
        raise UsageError(f"{asked[-1]!r:.60} is not a mode for a tmpfs", hint="in octal, like 1777") from None
    if not asked:
        options.append("mode=1777")
    with reported(mount["destination"]):
        place = inside.open(mount["destination"], os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fchmod(place, mode & 0o1777)
        finally:
            os.close(place)


def _as_it_was(inside: Inside, mount: dict[str, Any]) -> None:
    """The other half of docker's rule, which only runc knows by itself: over a directory of the image a tmpfs has the
    mode of that."""
    if any(option.startswith("mode=") for option in mount["options"]):
        return
    with suppress(OSError):  # it is in a volume
        place = inside.open(mount["destination"], os.O_PATH | os.O_DIRECTORY, links=False)
        try:
            mount["options"].append(f"mode={os.fstat(place).st_mode & 0o7777:o}")
        finally:
            os.close(place)


def _added(wanted: Wanted, inside: Inside) -> frozenset[int]:
    """The groups that were asked for besides the user's own. Raises NotFound, UsageError."""
    if not (wanted.groups or wanted.edits.groups):
        return frozenset()
    table = inside.read("/etc/group")
    return frozenset((*(resolve_group(word, table) for word in wanted.groups), *wanted.edits.groups))


def _user(word: str, wanted: Wanted, me: Me, cwd: str, inside: Inside) -> tuple[User, dict[str, bytes]]:
    """Who the program runs as; and the tables of users that the container is to have instead of its image's, by name
    in /etc: the caller, who is ``me`` inside, gets a line."""
    passwd, group = inside.read("/etc/passwd"), inside.read("/etc/group")
    if me is None:
        return resolve_user(word, passwd, group), {}
    from lamina.run import userns

    name = "" if wanted.userns.uid is not None else userns.caller()
    more = userns.with_caller(passwd, group, me, name, cwd)
    user = resolve_user(word or f"{me[0]}:{me[1]}", *more)
    if word and me[1] != user.gid:  # podman's rule: what is the caller's group's stays in reach
        user = replace(user, groups=tuple(sorted({*user.groups, me[1]})))
    changed = {"passwd": (passwd, more[0]), "group": (group, more[1])}
    return user, {name: new for name, (old, new) in changed.items() if old != new}


def _here(user: User, owners: Owners, added: Collection[int] = ()) -> User:
    """The user with the ``added`` groups, and with those further ones that this process can give away, as runc has
    it. Its own group is one of them, as docker has it: else a set-group-id program could drop it, and reach what is
    closed to the group (CVE-2022-36109). Raises Unsupported where the user, or an added group, is not there."""
    further = tuple(sorted({*user.groups, *added} - {user.gid}))
    user = replace(user, groups=(user.gid, *further))
    if privileges.is_root() and not owners:
        return user

    def is_there(gid: int) -> bool:
        outside = owners.outside(user.uid, gid)
        return (
            owners.has(user.uid, gid) and privileges.has_id(outside[0]) and privileges.has_id(outside[1], group=True)
        )

    if not is_there(user.gid):
        raise privileges.no_such_ids(user.uid, user.gid)
    kept = tuple(filter(is_there, user.groups)) if privileges.may_set_groups() else ()
    lost = sorted({*added} - {*kept, user.gid})
    if lost:
        raise Unsupported(
            f"the group {lost[0]} can't be added here: this user has no such id to give away",
            hint="leave --group-add out, or give this user more ids in /etc/subgid",
        )
    return replace(user, groups=kept)


def _named(user: User, runtime: Runtime, inside: Inside, asked: Collection[str] = ()) -> User:
    """The user without the groups that the runtime would take for others. Raises Unsupported where one was asked
    for."""
    if runtime.is_bubblewrap:
        return user
    table = inside.read("/etc/group")
    lost = misnamed(user.groups, table)
    if lost & {resolve_group(word, table) for word in asked}:
        raise Unsupported(
            f"the group {min(lost)} can't be added: the image names another group so", hint="correct its /etc/group"
        )
    return replace(user, groups=tuple(gid for gid in user.groups if gid not in lost))


def owner_of(container: Container) -> tuple[int, int]:
    """The container's root, as its files have it."""
    return owners_of(container).root


def owners_of(container: Container) -> Owners:
    return Owners(container.users, container.groups)


def _binds(
    store: Store, container: Container, wanted: Wanted, declared: tuple[str, ...], inside: Inside
) -> Sequence[Mount]:
    if not wanted.mounts and not declared:
        return ()
    from lamina.run.container.volumes import binds

    own = store.containers.path(container.id, "volumes")
    return binds(store, own, wanted.mounts, declared, inside, owner_of(container), lasting=not wanted.remove)


def _files(
    store: Store, container: Container, wanted: Wanted, hostname: str, resolv: str, tables: dict[str, bytes]
) -> dict[str, str]:
    """hosts, hostname and resolv.conf, and ``tables``, by their place in the container."""
    names = f"{hostname}.{wanted.domainname} {hostname}" if wanted.domainname else hostname
    if wanted.dns or wanted.dns_search or wanted.dns_options:
        from lamina.run.dns import with_dns

        resolv = with_dns(resolv, wanted.dns, wanted.dns_search, wanted.dns_options)
    texts = {
        "hosts": network.hosts_file(names, wanted.add_hosts).encode(),
        "hostname": hostname.encode() + b"\n",
        "resolv.conf": resolv.encode(),
        **tables,
    }
    found = {}
    for name, text in texts.items():
        file = store.containers.path(container.id, "bundle", name)
        _write(file, text, owner_of(container))
        found[f"/etc/{name}"] = file
    return found


def _write(path: str, text: bytes, owner: tuple[int, int] = (0, 0)) -> None:
    """A file of the bundle: made anew for each start, so nothing is lost with it."""
    with reported(path), open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        if owner != (0, 0):
            os.fchown(file.fileno(), *owner)
        file.write(text)


def _seccomp(wanted: Wanted, runtime: Runtime, here: int, architecture: str) -> dict[str, Any] | None:
    if wanted.seccomp == "unconfined" or (wanted.privileged and not wanted.seccomp):
        return None
    if wanted.seccomp:
        with reported(wanted.seccomp), open(wanted.seccomp, "rb") as file:
            try:
                profile = read_own(file.read().decode("utf-8-sig"))
            except ValueError:
                raise Conflict(f"{wanted.seccomp} is not a seccomp profile", hint="JSON, as docker has it") from None
    else:
        profile = default_profile()
    return seccomp(profile, held(wanted, runtime.devices, here), architecture)


def _init_program() -> str:
    """The path of an init that runs in any container: the machine's libraries are not there."""
    from lamina.run.machine import is_dynamic

    dynamic = ""
    for name in _INITS:
        found = find_program(name)
        if found:
            with reported(found), open(found, "rb") as file:
                if not is_dynamic(file):
                    return found
            dynamic = dynamic or found
    if dynamic:
        raise NotFound(f"{dynamic} can't run in a container: it is not a static program", hint="install catatonit")
    raise NotFound("no init program here", hint="install tini (its tini-static) or catatonit")


@contextmanager
def opened(store: Store, stack: Stack, container: Container) -> Iterator[Inside]:
    """The container's root file system, mounted for the while where it does not run. One at a time mounts it; where
    it runs, its end waits for those who are in there. Raises NotFound, Conflict (it is mounted where this process
    can't see it), SystemFailure."""
    rootfs = store.containers.path(container.id, "rootfs")
    while True:
        with store.containers.using(container, shared=True):
            if store.containers.is_running(container) and os.path.ismount(rootfs):
                with Inside(rootfs) as inside:
                    yield inside
                return
        with store.containers.using(container):
            container = store.containers.get(container.id)
            if store.containers.is_running(container):
                if os.path.ismount(rootfs):
                    continue  # it was mounted while we waited
                if container.view:
                    raise Conflict(
                        f"the container {container.name} runs in another mount namespace",
                        hint="run this command there, or stop the container",
                    )
            else:
                settle(store, container)
            with _mounted_for_a_look(store, stack, container) as inside:
                yield inside
            return


@contextmanager
def _mounted_for_a_look(store: Store, stack: Stack, container: Container) -> Iterator[Inside]:
    rootfs = store.containers.path(container.id, "rootfs")
    above = _above(store, container)
    remove_tree(above.work)  # a lost --rm container's says that the upper directory may not be whole: only a crash of
    os.mkdir(above.work, 0o700)  # the machine makes it so
    mount_union(store, stack, rootfs, view=container.view, top=above)
    try:
        point("container.opened")
        with Inside(rootfs) as inside:
            yield inside
    finally:
        kernel.unmount(rootfs)
        unmap(above.scratch)
        sweep(store)


def execute(store: Store, container: Container, wanted: Wanted) -> int:
    """Run ``wanted.command`` in the running container; its exit code. Raises Conflict, NotFound."""
    check_running(store, container)
    runtime = find_runtime(container.runtime)
    bundle = store.containers.path(container.id, "bundle")
    with reported(bundle), open(os.path.join(bundle, "config.json"), "rb") as file:
        process = read_own(file.read().decode())["process"]
    process |= {"args": list(wanted.command), "terminal": wanted.tty}
    with Inside(store.containers.path(container.id, "rootfs")) as inside:
        if wanted.user:
            user = resolve_user(wanted.user, inside.read("/etc/passwd"), inside.read("/etc/group"))
            user = _named(_here(user, owners_of(container)), runtime, inside)
            process["user"] = _user_of(user)
            mine = process["capabilities"]["bounding"] if user.uid == 0 else []
            process["capabilities"] |= {"effective": mine, "permitted": mine}
    if wanted.workdir:
        process["cwd"] = wanted.workdir
    process["env"] = environment(wanted, process["env"], "/", container.id[:12])
    if runtime.is_bubblewrap:
        from lamina.run.bubblewrap import launch

        return launch.execute(bundle, container.id, process, interactive=wanted.interactive)
    return exec_process(
        runtime,
        state_directory(store),
        container.id,
        write_own(process).encode(),
        interactive=wanted.interactive,
        terminal=wanted.tty,
    )


def _user_of(user: User) -> dict[str, Any]:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}
