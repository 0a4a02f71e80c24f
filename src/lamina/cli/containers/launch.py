"""`run` as it is asked for: its options, and what they say to ``run.container``. Without click (``plain``)."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from lamina.cli import say, warn
from lamina.cli.option_table import FLAG, MANY, NUMBER, WHOLE, Option
from lamina.errors import (
    AccessDenied,
    BlobNotFound,
    Cancelled,
    ContainerFailure,
    LaminaError,
    NotFound,
    ReferenceNotFound,
    RemoteFailure,
    UsageError,
)
from lamina.light import TYPE_CHECKING
from lamina.spec.name import parse_name, parse_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lamina.cli.session import Session
    from lamina.run.options import Mount, Wanted
    from lamina.source.stack import Stack
    from lamina.store.store import Store


PROCESS_OPTIONS = (
    Option(
        ("-e", "--env"), "env", "Set a variable; NAME alone copies the value of your shell.", "NAME[=VALUE]", MANY
    ),
    Option(("--env-file",), "env_file", "Read variables from a file, one a line.", "FILE", MANY),
    Option(("-w", "--workdir"), "workdir", "Working directory; it is made if it is missing.", "PATH"),
    Option(("-u", "--user"), "user", "User to run as: names of the image, or numbers.", "USER[:GROUP]"),
    Option(("-i", "--interactive"), "interactive", "Connect standard input to the program.", kind=FLAG),
    Option(("-t", "--tty"), "tty", "Give the program a terminal.", kind=FLAG),
)


_USERNS = "auto: ids of its own, root is nobody outside. keep-id[:uid=N,gid=N]: you are yourself inside."


_SECURITY = (
    "no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, label=disable, mask=PATH, unmask=PATH|ALL, "
    "systempaths=unconfined."
)


_MOUNT = "type=bind|volume|tmpfs,source=...,target=...[,readonly]."


_PULLING = ("missing", "never", "always", "newer")


OPTIONS = (
    *PROCESS_OPTIONS,
    Option(("--name",), "name", "The container's name (default: its ID's first digits).", "NAME"),
    Option(("--rm",), "remove", "Remove the container when it ends.", kind=FLAG),
    Option(("--replace",), "replace", "Remove a container with the same name first.", kind=FLAG),
    Option(("-l", "--label"), "label", "Set a label of the container.", "NAME[=VALUE]", MANY),
    Option(("--label-file",), "label_file", "Read labels from a file, one a line.", "FILE", MANY),
    Option(("--cidfile",), "cidfile", "Write the container's ID to a new file.", "FILE"),
    Option(("-v", "--volume"), "volume", "Mount a directory, a file or a volume.", "[SOURCE:]PATH[:OPTIONS]", MANY),
    Option(("--mount",), "mount", _MOUNT, "KEY=VALUE,...", MANY),
    Option(("--tmpfs",), "tmpfs", "Mount a directory in memory.", "PATH[:OPTIONS]", MANY),
    Option(("--shm-size",), "shm_size", "Size of /dev/shm (default: 64m).", "SIZE"),
    Option(("--device",), "device", "Give it a device, or a CDI device by name.", "PATH[:PATH[:rwm]]|CDI", MANY),
    Option(("--gpus",), "gpus", "Give it GPUs: the CDI devices nvidia.com/gpu=...", "all|N|device=..."),
    Option(("--entrypoint",), "entrypoint", "Run this instead of the image's entrypoint.", "PROGRAM", default=None),
    Option(("--read-only",), "read_only", "Only volumes and tmpfs can be written.", kind=FLAG),
    Option(("--network", "--net"), "network", "Default, and bridge: pasta, else none.", "pasta|none|host"),
    Option(("-h", "--hostname"), "hostname", "The host name (default: the ID's first digits).", "NAME"),
    Option(("--domainname",), "domainname", "The host's domain.", "NAME"),
    Option(("--add-host",), "add_host", "Add a line to /etc/hosts.", "NAME:ADDRESS", MANY),
    Option(("--dns",), "dns", "A name server, instead of this machine's.", "ADDRESS", MANY),
    Option(("--dns-search",), "dns_search", "A search domain; . is none.", "DOMAIN", MANY),
    Option(("--dns-option", "--dns-opt"), "dns_option", "An option for resolv.conf.", "OPTION", MANY),
    Option(("-p", "--publish"), "publish", "Only with --network host, where every port is open.", "PORT", MANY),
    Option(("--expose",), "expose", "Note that a port is used; opens nothing.", "PORT", MANY),
    Option(("--userns",), "userns", _USERNS, "host|auto|keep-id"),
    Option(("--pid",), "pid", "Namespace of processes.", "private|host"),
    Option(("--ipc",), "ipc", "Namespace of shared memory and messages; none: no /dev/shm.", "private|host|none"),
    Option(("--uts",), "uts", "Namespace of the host name.", "private|host"),
    Option(("--cgroupns",), "cgroupns", "Namespace of cgroups.", "private|host"),
    Option(("--group-add",), "group_add", "A further group of the user.", "GROUP", MANY),
    Option(("--cap-add",), "cap_add", "Add a capability, or ALL.", "CAP", MANY),
    Option(("--cap-drop",), "cap_drop", "Drop a capability, or ALL.", "CAP", MANY),
    Option(("--privileged",), "privileged", "Give it all rights that this user has. Isolates nothing.", kind=FLAG),
    Option(("--security-opt",), "security_opt", _SECURITY, "OPTION", MANY),
    Option(("--sysctl",), "sysctl", "Set a kernel setting of the container's own.", "NAME=VALUE", MANY),
    Option(("--ulimit",), "ulimit", "Set a resource limit, like nofile=1024; -1 is none.", "NAME=SOFT[:HARD]", MANY),
    Option(("--init",), "init", "Run an init (tini or its like) as the first process.", kind=FLAG),
    Option(("--stop-signal",), "stop_signal", "The signal of `stop` (default: the image's, else TERM).", "SIGNAL"),
    Option(("--stop-timeout",), "stop_timeout", "Seconds until `stop` kills it (default: 10).", "SECONDS"),
    Option(("-m", "--memory"), "memory", "Limit its memory, like 512m.", "SIZE", default=None),
    Option(("--memory-swap",), "memory_swap", "Limit memory and swap together; -1 is no limit.", "SIZE"),
    Option(("--memory-reservation",), "memory_reservation", "Memory that it keeps when there is little.", "SIZE"),
    Option(("--oom-score-adj",), "oom_score_adj", "How soon the kernel kills it when memory is out.", "-1000..1000"),
    Option(("--cpus",), "cpus", "Limit the number of processors, like 1.5.", "N", NUMBER),
    Option(("-c", "--cpu-shares"), "cpu_shares", "Its weight beside others (default: 1024).", "N"),
    Option(("--cpuset-cpus",), "cpuset_cpus", "Processors that it may use.", "0-3,7"),
    Option(("--cpuset-mems",), "cpuset_mems", "Memory nodes that it may use.", "0-1"),
    Option(("--pids-limit",), "pids_limit", "Limit the number of processes.", "N", WHOLE),
    Option(("-q", "--quiet"), "quiet", "Show no progress of a pull.", kind=FLAG),
    Option(("--runtime",), "runtime", "crun, runc, bwrap, or a path (default: as set, or what is here).", "NAME"),
    Option(
        ("--pull",),
        "pulling",
        "Whether to ask the registry (default: missing); newer: the image that is here will do.",
        default="missing",
        choices=_PULLING,
    ),
)


def launch(session: Session, image: str, words: tuple[str, ...], /, **given: Any) -> int:
    """Run a container as these options say; its exit code. Raises ContainerFailure, Cancelled, LaminaError (no
    terminal)."""
    check_terminal(given)
    try:
        return _launch(session, image, words, given)
    except Cancelled:
        raise
    except LaminaError as error:
        raise ContainerFailure(error.message, hint=error.hint) from error


def _launch(session: Session, image: str, words: tuple[str, ...], given: dict[str, Any]) -> int:
    from lamina.run.container.life import check, create, run
    from lamina.run.container.user_namespace import enter

    image = str(parse_stored(image))
    wanted = _wanted(words, given)
    runtime = given["runtime"] or session.settings.runtime
    check(wanted, runtime=runtime)
    stack = _stack(session, image, given["pulling"], quiet=given["quiet"])
    if wanted.privileged:
        warn(PRIVILEGED)
    store = session.writable_store
    with _identity_file(given["cidfile"]) as note:
        enter()
        if given["replace"] and wanted.name:
            _replace(store, wanted.name)
        made = create(
            store,
            stack,
            wanted,
            image=image,
            running=True,
            upper_dir=session.settings.upper_dir or "",
            on_warning=warn,
        )
        note(made.id)
    ended = run(store, stack, made, runtime=runtime, on_warning=warn)
    if ended.message:
        say(ended.message)
    return ended.code


PRIVILEGED = "--privileged isolates nothing: a program in this container can do all that you can do on this machine"


def check_terminal(given: dict[str, Any]) -> None:
    """docker's rule: without a terminal at standard input there is none to be connected; but a program may have one
    of its own. Raises LaminaError: docker's exit code is 1, of `run` too."""
    if given["tty"] and given["interactive"] and not sys.stdin.isatty():
        raise LaminaError("standard input is not a terminal", hint="leave out -t, or -i")


@contextmanager
def _identity_file(path: str) -> Iterator[Callable[[str], object]]:
    """The file for ``--cidfile``, new; gone again where the block makes no container. Raises UsageError."""
    if not path:
        yield lambda identity: None
        return
    from lamina.host.files import reported, write_all

    path = os.path.abspath(path)  # the working directory may be another one in a user namespace's mounts
    with reported(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise UsageError(
                f"the file for the container's ID is there already: {path!r:.200}", hint="remove it, or name another"
            ) from None
    try:
        yield lambda identity: write_all(descriptor, identity.encode())
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _replace(store: Store, name: str) -> None:
    from lamina.run.container.ending import remove

    try:
        found = store.containers.get(name, damaged=True)
    except NotFound:
        return
    if found.name == name:
        remove(store, found, force=True)


def _stack(session: Session, name: str, pulling: str, *, quiet: bool) -> Stack:
    """``name``: without docker://."""
    parsed = parse_name(name)
    if parsed.transport or not parsed.whole:
        if parsed.transport:
            hint = f"`lamina pull {name:.200}` brings it in and says its name; then run that"
        else:
            hint = "name the image without ~: a container has all of its layers"
        raise UsageError(f"{name!r:.200} can't be run: run takes whole images of the store", hint=hint)
    if pulling not in ("always", "newer"):
        try:
            return session.stack(name)
        except (ReferenceNotFound, BlobNotFound):  # nothing here has the name, or what has it is for other platforms
            if pulling == "never":
                raise
    from lamina.cli.format.progress import Progress
    from lamina.transfer.pull_push import pull

    with Progress(quiet=quiet) as progress, session.interruptible():
        store, network = session.writable_store, session.network(progress)
        asked = session.settings.asked_platform()
        try:
            pull(parsed.name, store, network, platform=asked, on_event=progress, cancel=session.cancel)
        except (RemoteFailure, AccessDenied, NotFound) as error:
            if pulling != "newer":
                raise
            try:
                return session.stack(name)
            except (ReferenceNotFound, BlobNotFound):
                raise error from None
    from lamina.places import open_named

    return open_named(name, session.settings)  # what pull has warned of is not said again


def _wanted(words: tuple[str, ...], given: dict[str, Any]) -> Wanted:
    from lamina.run import options

    security = _security(given["security_opt"])
    network = given["network"]
    _check_ports(given["publish"], given["expose"], network)
    return options.Wanted(
        command=words,
        entrypoint=given["entrypoint"],
        env=environment(given),
        mounts=(
            *(options.parse_volume(word) for word in given["volume"]),
            *_mounts(given["mount"]),
            *(options.parse_tmpfs(word) for word in given["tmpfs"]),
        ),
        workdir=options.parse_workdir(given["workdir"]),
        user=given["user"],
        read_only=given["read_only"],
        network=network,
        hostname=options.parse_hostname(given["hostname"]),
        userns=options.parse_userns(given["userns"]),
        name=given["name"],
        interactive=given["interactive"],
        tty=given["tty"],
        cap_add=given["cap_add"],
        cap_drop=given["cap_drop"],
        init=given["init"],
        memory=options.parse_memory(given["memory"]) if given["memory"] else None,
        cpus=options.parse_cpus(given["cpus"]),
        pids=options.parse_pids(given["pids_limit"]),
        remove=given["remove"],
        view=given.get("view") or "",
        add_hosts=tuple(options.parse_host(word, network) for word in given["add_host"]),
        privileged=given["privileged"],
        groups=given["group_add"],
        **security,
        **_more(given),
    )


_SELDOM = (
    "label", "label_file", "device", "gpus", "shm_size", "domainname", "dns", "dns_search", "dns_option", "pid",
    "ipc", "uts", "cgroupns", "sysctl", "ulimit", "stop_signal", "stop_timeout", "memory_swap", "memory_reservation",
    "oom_score_adj", "cpu_shares", "cpuset_cpus", "cpuset_mems",
)  # fmt: skip


def _more(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``Wanted`` for options that few ask for: what reads them is loaded then."""
    if not any(given[name] for name in _SELDOM):
        return {}
    from lamina.cli.containers.run_flags import fields

    return fields(given, warn)


def _mounts(words: tuple[str, ...]) -> list[Mount]:
    if not words:
        return []
    from lamina.run.mount_option import parse_mount

    return [parse_mount(word) for word in words]


def _check_ports(published: tuple[str, ...], exposed: tuple[str, ...], network: str) -> None:
    if exposed:
        from lamina.run.options import parse_port

        for word in exposed:
            parse_port(word)
    if not published:
        return
    if network != "host":
        raise UsageError(
            "ports can't be published yet (--publish)", hint="take --network host: there every port is this machine's"
        )
    warn("with --network host every port is this machine's: --publish does nothing")


def environment(given: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The variables of --env-file and --env. Raises UsageError, SystemFailure."""
    from lamina.run.options import parse_env, parse_env_file

    found: list[tuple[str, str]] = []
    for path in given["env_file"]:
        from lamina.cli.containers import run_flags

        found += parse_env_file(run_flags.text_of(path), os.environ)
    return (*found, *parse_env(given["env"], os.environ))


def _security(words: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            key, _, value = word.partition(":")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            found["no_new_privileges"] = value != "false"
        elif key == "seccomp" and value:
            found["seccomp"] = value
        elif (key, value) in (("systempaths", "unconfined"), ("unmask", "ALL"), ("unmask", "all")):
            found["unmask"] = True
        elif key in ("mask", "unmask") and value.startswith("/"):
            found[f"{key}ed"] = (*found.get(f"{key}ed", ()), *value.split(":"))
        elif key == "apparmor" and value:
            found["apparmor"] = "" if value == "unconfined" else value
        elif key == "label" and value:
            _check_label(value)
        else:
            raise UsageError(f"no security option {word!r:.100}", hint=_SECURITY.rstrip("."))
    return found


def _check_label(value: str) -> None:
    """SELinux: containers get no label of their own, so there is none to be turned off. Raises Unsupported."""
    if value == "disable":
        return
    if os.path.exists("/sys/fs/selinux/enforce"):
        from lamina.errors import Unsupported

        raise Unsupported("containers get no SELinux label yet", hint="take label=disable, or leave it out")
    warn(f"this machine has no SELinux: label={value} does nothing")
