"""The bundle of a sandbox: the runtime spec for what was asked, and the files that the spec names."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import Conflict, NotFound, UsageError
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, Value, field
from lamina.run import network
from lamina.run.capability import EVERY
from lamina.run.cgroups import counts_swap
from lamina.run.granted_user import Caller, find_user, granted_user
from lamina.run.mount_targets import VisibleFiles, prepare_targets
from lamina.run.runtime import find_program
from lamina.run.seccomp import default_profile, seccomp
from lamina.run.spec import (
    SHM_SIZE,
    HostResources,
    capabilities_of,
    environment,
    is_same_architecture,
    program_paths,
    runtime_spec,
    with_device_guard,
    working_directory,
)
from lamina.spec.json import read_own
from lamina.spec.platform import Platform
from lamina.view import kernel
from lamina.view.overlay.lower import MAPPED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from lamina.run.network import ContainerNetwork
    from lamina.run.options import ContainerOptions, Mount, Node
    from lamina.run.rootfs import Inside
    from lamina.run.sandbox import Sandbox
    from lamina.spec.image_config import ImageConfig

SHM = f"{MAPPED}shm"
"""The name of the directory in a bundle where a container that shares its IPC namespace has its /dev/shm. ``unmap``
unmounts what has this prefix."""
_ELF_HEAD = 20  # bytes: up to e_machine
_INITS = ("tini", "docker-init", "tini-static", "catatonit", "dumb-init")


class Joined(Value):
    """What a container shares with others. ``namespaces``: paths of namespaces by kind (pid, ipc, uts). ``files``:
    paths of files of this host, by their name in /etc. ``hostname``: of the other container, "" for this one's own.
    ``shm``: the directory for /dev/shm."""

    namespaces: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    shm: str = ""


class Task(Value):
    """A program for a sandbox. ``wanted``: what was asked. ``config``: of the image. ``command``: the words of the
    command line. ``mounts``: binds with absolute sources, and tmpfs. ``caller`` as in ``granted_user``. ``files``:
    the names in /etc of the files that describe the host and the network."""

    sandbox: Sandbox
    wanted: ContainerOptions
    config: ImageConfig
    command: tuple[str, ...]
    network: ContainerNetwork
    mounts: Sequence[Mount] = ()
    caller: Caller = None
    files: tuple[str, ...] = ("hosts", "hostname", "resolv.conf")
    joined: Joined = Joined()

    @property
    def hostname(self) -> str:
        is_hosts = self.network.kind == "host" or self.wanted.uts == "host"
        return (
            self.wanted.hostname
            or self.joined.hostname
            or (os.uname().nodename if is_hosts else self.sandbox.identity[:12])
        )

    @property
    def path(self) -> str:
        return self.sandbox.directories.bundle


def prepare_spec(task: Task, inside: Inside) -> tuple[dict[str, Any], list[str]]:
    """The runtime spec, and the mount points that had to be made in the upper directory. Its files are written into
    the bundle. Raises UsageError, NotFound, Unsupported, Conflict, SystemFailure."""
    wanted, runtime, owners = task.wanted, task.sandbox.runtime, task.sandbox.owners
    cwd = working_directory(wanted, task.config)
    user, tables = find_user(wanted.user or task.config.user, wanted, task.caller, cwd, inside)
    user = granted_user(user, inside, owners, runtime, wanted.groups, wanted.edits.groups)
    host = _host_resources(task, tables)
    env = environment(wanted, task.config.env, user.home, task.hostname)
    spec = runtime_spec(wanted, task.command, env, cwd, user, host)
    if wanted.ipc == "host":  # a host may lack one of the two places
        spec["mounts"] = [one for one in spec["mounts"] if one["type"] != "bind" or os.path.exists(one["source"])]
    if not inside.is_there(cwd):
        inside.make(cwd, directory=True, owner=owners.root)
    spec["mounts"], made = prepare_targets(spec["mounts"], inside, owners.root, host.files)
    files = VisibleFiles(inside, spec["mounts"])
    spec["process"]["cwd"] = files.working_directory(cwd)
    if runtime.is_bubblewrap:  # other runtimes make it themselves
        files.make_directory(spec["process"]["cwd"], owners.root)
    for mount in spec["mounts"]:
        runtime.check_path(mount["destination"])
        if mount["type"] == "tmpfs":
            if mount["destination"] in made:
                _open_to_all(inside, mount)
            else:
                _keep_mode(inside, mount)
    return _guarded(spec, task), made


def check_architecture(task: Task, inside: Inside) -> None:
    """Refuse a program that this host can't run, before anything is made for it. Raises Unsupported."""
    env = environment(task.wanted, task.config.env, "/", task.sandbox.identity[:12])
    process = {"args": task.command, "env": env, "cwd": working_directory(task.wanted, task.config)}
    head = next(filter(None, (inside.program_head(path, _ELF_HEAD) for path in program_paths(process))), b"")
    with open("/proc/self/exe", "rb", buffering=0) as own:
        if is_same_architecture(head, own.read(_ELF_HEAD)):
            return
    from lamina.run import architecture

    architecture.check_architecture(
        process, inside, (*(mount.target for mount in task.wanted.mounts), *task.config.volumes)
    )


def _host_resources(task: Task, tables: dict[str, bytes]) -> HostResources:
    """What this host gives to the program. ``tables``: files for /etc, by name."""
    wanted, runtime, owners = task.wanted, task.sandbox.runtime, task.sandbox.owners
    nodes, bound = _nodes(task)
    # a process has all capabilities in a user namespace of its own
    here = EVERY if owners or runtime.is_bubblewrap else privileges.capabilities("CapBnd")
    return HostResources(
        rootfs=task.sandbox.way,
        hostname=task.hostname,
        files=_files(task, tables),
        mounts=[*task.mounts, *wanted.edits.mounts],
        devices=runtime.devices,
        cgroups=runtime.cgroups,
        network="host" if task.network.kind == "host" else task.network.namespace,
        user_namespace=task.network.user_namespace,
        seccomp=_seccomp(task, here),
        init=_init_program() if wanted.init and not runtime.is_bubblewrap else "",
        owners=owners,
        plain=not privileges.is_root(),
        capabilities=here,
        tty_group=owners.has(0, 5) and privileges.has_id(owners.outside(0, 5)[1], group=True),
        nodes=nodes,
        bind_nodes=bound,
        namespaces=task.joined.namespaces,
        swap=not wanted.memory or counts_swap(),
        shm=task.joined.shm or (_shared_memory(task) if wanted.ipc == "shareable" else ""),
    )


def _nodes(task: Task) -> tuple[list[Node], bool]:
    """The devices that were asked for; and whether the host's device files are bind-mounted, because nobody can make
    device files in the container's user namespace. Raises NotFound, UsageError, Unsupported."""
    wanted, runtime = task.wanted, task.sandbox.runtime
    plain = runtime.is_bubblewrap or bool(task.sandbox.owners) or not privileges.is_root()
    if not (wanted.devices or wanted.edits.nodes or wanted.privileged):
        return [], plain
    from lamina.run.devices import all_host_devices, check_usable, nodes_of, with_host_numbers

    found = [*nodes_of(wanted.devices), *(with_host_numbers(node) for node in wanted.edits.nodes)]
    check_usable(found, guarded=runtime.devices and not plain, plain=plain)
    if wanted.privileged:
        given = {node.path for node in found}
        found += [
            node
            for node in all_host_devices()
            if node.path not in given and not (plain and not os.access(node.source, os.R_OK | os.W_OK))
        ]
    return found, plain


def _guarded(spec: dict[str, Any], task: Task) -> dict[str, Any]:
    """The spec for a runtime that would give root access to the host's devices. Raises NotFound, SystemFailure."""
    if not (task.sandbox.runtime.forgets_devices and privileges.is_root()):
        return spec
    if "uidMappings" not in spec["linux"]:
        shell, program = find_program("sh"), find_program("mount")
        if not (shell and program):
            raise NotFound(
                "crun can't close the host's devices to the container without mount(8)",
                hint="install runc or mount(8)",
            )
        return with_device_guard(spec, shell, program)
    # a user namespace opens no device of its root file system; but a bind mount keeps the attributes of its source
    for number, mount in enumerate(spec["mounts"]):
        if mount["type"] == "bind" and "nodev" in mount["options"] and os.path.isdir(mount["source"]):
            place = os.path.join(task.path, f"{MAPPED}volume{number}")  # ``unmap`` unmounts what has this prefix
            with reported(place):
                os.mkdir(place)
            kernel.bind(mount["source"], place, attributes=kernel.NO_DEVICES)
            mount["source"] = place
    return spec


def _open_to_all(inside: Inside, mount: dict[str, Any]) -> None:
    """docker's rule for a tmpfs on a new mount point: everyone may write to it, unless a mode was given. The mount
    point gets the mode too, because runc before 1.2 copies it from there. Raises SystemFailure, UsageError."""
    options = mount["options"]
    asked = [option.partition("=")[2] for option in options if option.startswith("mode=")]
    try:
        mode = int(asked[-1], 8) if asked else 0o1777
    except ValueError:
        raise UsageError(
            f"{asked[-1]!r:.60} is not a mode for a tmpfs", hint="write it in octal, like 1777"
        ) from None
    if not asked:
        options.append("mode=1777")
    with reported(mount["destination"]):
        place = inside.open(mount["destination"], os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fchmod(place, mode & 0o1777)
        finally:
            os.close(place)


def _keep_mode(inside: Inside, mount: dict[str, Any]) -> None:
    """docker's rule for a tmpfs over a directory of the image: it gets the directory's mode. Only runc does so by
    itself."""
    if any(option.startswith("mode=") for option in mount["options"]):
        return
    with suppress(OSError):  # the directory is in a volume
        place = inside.open(mount["destination"], os.O_PATH | os.O_DIRECTORY, links=False)
        try:
            mount["options"].append(f"mode={os.fstat(place).st_mode & 0o7777:o}")
        finally:
            os.close(place)


def _files(task: Task, tables: dict[str, bytes]) -> dict[str, str]:
    """Write hosts, hostname, resolv.conf and ``tables`` into the bundle: their paths by their place in the
    container."""
    wanted, resolv = task.wanted, task.network.resolv
    names = f"{task.hostname}.{wanted.domainname} {task.hostname}" if wanted.domainname else task.hostname
    if wanted.dns or wanted.dns_search or wanted.dns_options:
        from lamina.run.dns import with_dns

        resolv = with_dns(resolv, wanted.dns, wanted.dns_search, wanted.dns_options)
    added = network.added_hosts(wanted, task.network)
    texts = {
        "hosts": network.hosts_file(names, added, task.network.addresses).encode(),
        "hostname": task.hostname.encode() + b"\n",
        "resolv.conf": resolv.encode(),
    }
    found = {}
    for name, text in {**{name: texts[name] for name in _of_host(task)}, **tables}.items():
        file = os.path.join(task.path, name)
        _write(file, text, task.sandbox.owners.root)
        found[f"/etc/{name}"] = file
    for name, path in task.joined.files.items():
        if not (name == "hosts" and wanted.no_hosts):
            found[f"/etc/{name}"] = path
    return found


def _of_host(task: Task) -> Iterator[str]:
    without = {*task.joined.files, *(["hosts"] if task.wanted.no_hosts else [])}
    return (name for name in task.files if name not in without)


def _shared_memory(task: Task) -> str:
    """Mount a /dev/shm in the bundle, where the mounts of other containers reach it. Raises SystemFailure."""
    place = os.path.join(task.path, SHM)
    with reported(place):
        os.makedirs(place, mode=0o700, exist_ok=True)
    size = task.wanted.shm_size or SHM_SIZE
    uid, gid = task.sandbox.owners.root
    options = [("mode", "1777"), ("size", str(size)), ("uid", str(uid)), ("gid", str(gid))]
    attributes = kernel.NO_SETUID | kernel.NO_DEVICES | kernel.NO_PROGRAMS
    kernel.mount("tmpfs", options, place, attributes=attributes)
    return place


def _write(path: str, text: bytes, owner: tuple[int, int]) -> None:
    """Without fsync: each start writes the bundle anew."""
    with reported(path), open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        if owner != (0, 0):
            os.fchown(file.fileno(), *owner)
        file.write(text)


def _seccomp(task: Task, here: int) -> dict[str, Any] | None:
    """``here``: the capabilities that this process can give away."""
    wanted = task.wanted
    if wanted.seccomp == "unconfined" or (wanted.privileged and not wanted.seccomp):
        return None
    if wanted.seccomp:
        with reported(wanted.seccomp), open(wanted.seccomp, "rb") as file:
            try:
                profile = read_own(file.read().decode("utf-8-sig"))
            except ValueError:
                raise Conflict(
                    f"{wanted.seccomp} is not a seccomp profile",
                    hint="write it as JSON, in the format of docker's profiles",
                ) from None
    else:
        profile = default_profile()
    return seccomp(profile, capabilities_of(wanted, task.sandbox.runtime.devices, here), Platform.host().architecture)


def _init_program() -> str:
    """The path of an init that runs in any container: a static program, as the host's libraries are not there. Raises
    NotFound."""
    from lamina.run.architecture import is_dynamic

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
    raise NotFound("no init program was found for --init", hint="install tini (its tini-static) or catatonit")
