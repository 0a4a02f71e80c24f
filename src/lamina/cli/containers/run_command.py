"""The verb `run` without click (see ``plain``): its options, and how they become calls of ``run.container``."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from lamina.cli import say, warn
from lamina.cli.containers.families import FAMILIES, volumes
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
from lamina.light import TYPE_CHECKING, replace
from lamina.settings import LOG_DRIVERS
from lamina.spec.name import parse_name, parse_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lamina.cli.session import Session
    from lamina.run.options import ContainerOptions
    from lamina.source.stack import Stack
    from lamina.store.containers import Container
    from lamina.store.store import Store


PROCESS_OPTIONS = (
    Option(
        ("-e", "--env"),
        "env",
        "Set a variable; NAME alone copies the value from your environment.",
        "NAME[=VALUE]",
        MANY,
    ),
    Option(("--env-file",), "env_file", "Read variables from a file, one per line.", "FILE", MANY),
    Option(("-w", "--workdir"), "workdir", "Working directory; created if it is missing.", "PATH"),
    Option(("-u", "--user"), "user", "User to run as (names from the image, or numbers).", "USER[:GROUP]"),
    Option(("-i", "--interactive"), "interactive", "Connect standard input to the program.", kind=FLAG),
    Option(("-t", "--tty"), "tty", "Give the program a terminal.", kind=FLAG),
)


NOT_EXECUTABLE, NOT_FOUND = 126, 127


_USERNS = (
    "User namespace. auto: separate IDs; root of the container has no rights outside. "
    "keep-id[:uid=N,gid=N]: your own ID."
)


_SECURITY = (
    "no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, label=disable, mask=PATH, unmask=PATH|ALL, "
    "systempaths=unconfined."
)


_MOUNT = "type=bind|volume|tmpfs|image,source=...,target=...[,readonly]."


_PULLING = ("missing", "never", "always", "newer")


OPTIONS = (
    *PROCESS_OPTIONS,
    Option(("--name",), "name", "Name of the container (default: the first digits of its ID).", "NAME"),
    Option(("--rm",), "remove", "Remove the container when it ends.", kind=FLAG),
    Option(("--replace",), "replace", "Remove an existing container with the same name first.", kind=FLAG),
    Option(("-l", "--label"), "label", "Set a label on the container.", "NAME[=VALUE]", MANY),
    Option(("--label-file",), "label_file", "Read labels from a file, one per line.", "FILE", MANY),
    Option(("--cidfile",), "cidfile", "Write the ID of the container to a new file.", "FILE"),
    Option(
        ("-v", "--volume"), "volume", "Mount a directory, a file or a named volume.", "[SOURCE:]PATH[:OPTIONS]", MANY
    ),
    Option(("--mount",), "mount", _MOUNT, "KEY=VALUE,...", MANY),
    Option(("--tmpfs",), "tmpfs", "Mount a directory in memory.", "PATH[:OPTIONS]", MANY),
    Option(("--shm-size",), "shm_size", "Size of /dev/shm (default: 64m).", "SIZE"),
    Option(("--device",), "device", "Add a device, or a CDI device by name.", "PATH[:PATH[:rwm]]|CDI", MANY),
    Option(("--gpus",), "gpus", "Add GPUs (the CDI devices nvidia.com/gpu=...).", "all|N|device=..."),
    Option(("--entrypoint",), "entrypoint", "Run this instead of the image's entrypoint.", "PROGRAM", default=None),
    Option(
        ("--read-only",),
        "read_only",
        "Make the root file system read-only; volumes and tmpfs stay writable.",
        kind=FLAG,
    ),
    Option(("-h", "--hostname"), "hostname", "Host name (default: the first digits of the ID).", "NAME"),
    Option(("--domainname",), "domainname", "Domain name of the host.", "NAME"),
    Option(("--add-host",), "add_host", "Add a line to /etc/hosts.", "NAME:ADDRESS", MANY),
    Option(("--dns",), "dns", "Use this name server instead of those of this host.", "ADDRESS", MANY),
    Option(("--dns-search",), "dns_search", "Use this search domain; . means none.", "DOMAIN", MANY),
    Option(("--dns-option", "--dns-opt"), "dns_option", "Add an option to resolv.conf.", "OPTION", MANY),
    Option(("--userns",), "userns", _USERNS, "host|auto|keep-id"),
    Option(("--pid",), "pid", "PID namespace.", "private|host"),
    Option(("--ipc",), "ipc", "IPC namespace; none: without /dev/shm.", "private|host|none"),
    Option(("--uts",), "uts", "UTS namespace (host name).", "private|host"),
    Option(("--cgroupns",), "cgroupns", "Cgroup namespace.", "private|host"),
    Option(("--group-add",), "group_add", "Add a supplementary group.", "GROUP", MANY),
    Option(("--cap-add",), "cap_add", "Add a capability, or ALL.", "CAP", MANY),
    Option(("--cap-drop",), "cap_drop", "Drop a capability, or ALL.", "CAP", MANY),
    Option(
        ("--privileged",),
        "privileged",
        "Give the container all rights of this user. This isolates nothing.",
        kind=FLAG,
    ),
    Option(("--security-opt",), "security_opt", _SECURITY, "OPTION", MANY),
    Option(("--sysctl",), "sysctl", "Set a kernel parameter in the container.", "NAME=VALUE", MANY),
    Option(
        ("--ulimit",),
        "ulimit",
        "Set a resource limit, like nofile=1024; -1 means no limit.",
        "NAME=SOFT[:HARD]",
        MANY,
    ),
    Option(("--init",), "init", "Run an init (like tini) as the first process.", kind=FLAG),
    Option(
        ("--stop-signal",), "stop_signal", "Signal that `stop` sends (default: the image's, else TERM).", "SIGNAL"
    ),
    Option(("--stop-timeout",), "stop_timeout", "Seconds until `stop` kills the container (default: 10).", "SECONDS"),
    Option(("-m", "--memory"), "memory", "Limit the memory, like 512m.", "SIZE", default=None),
    Option(("--memory-swap",), "memory_swap", "Limit memory plus swap; -1 means no limit.", "SIZE"),
    Option(
        ("--memory-reservation",), "memory_reservation", "Keep this much memory when the host runs short.", "SIZE"
    ),
    Option(
        ("--oom-score-adj",),
        "oom_score_adj",
        "Preference of the kernel to kill the container when memory runs out.",
        "-1000..1000",
    ),
    Option(("--cpus",), "cpus", "Limit the processor time, like 1.5 processors.", "N", NUMBER),
    Option(("--cpu-period",), "cpu_period", "Length of a turn, for --cpu-quota (default: 100000).", "MICROSECONDS"),
    Option(("--cpu-quota",), "cpu_quota", "Limit the processor time in each turn.", "MICROSECONDS"),
    Option(("-c", "--cpu-shares"), "cpu_shares", "Weight for processor time (default: 1024).", "N"),
    Option(("--cpuset-cpus",), "cpuset_cpus", "Use only these processors.", "0-3,7"),
    Option(("--cpuset-mems",), "cpuset_mems", "Use only these memory nodes.", "0-1"),
    Option(("--pids-limit",), "pids_limit", "Limit the number of processes.", "N", WHOLE),
    Option(("-q", "--quiet"), "quiet", "Do not show the progress of a pull.", kind=FLAG),
    Option(
        ("--runtime",),
        "runtime",
        "Runtime: crun, runc, bwrap, or a path (default: the setting, else the first installed).",
        "NAME",
    ),
    Option(
        ("--pull",),
        "pulling",
        "When to pull the image (default: missing). newer: pull, but use the image in the store if that fails.",
        default="missing",
        choices=_PULLING,
    ),
    *(option for family in FAMILIES for option in family.OPTIONS),
)
"""Of `run` and of `create`."""


RUN_OPTIONS = (
    *OPTIONS,
    Option(("-d", "--detach"), "detach", "Run it in the background, and print its ID.", kind=FLAG),
    Option(("--sig-proxy",), "sig_proxy", "Pass signals on to the program (default: true).", "BOOL", default="true"),
)


def run_container(session: Session, image: str, words: tuple[str, ...], /, **given: Any) -> int:
    """Run a container with these options; return its exit code. Raises ContainerFailure, Cancelled, LaminaError (no
    terminal)."""
    if given["detach"] and given["attach"]:
        raise ContainerFailure("--detach and --attach exclude each other", hint="leave one of them out")
    if not given["detach"]:
        check_terminal(given)
    try:
        return _run_container(session, image, words, given)
    except (Cancelled, ContainerFailure):
        raise
    except LaminaError as error:
        failure = ContainerFailure(error.message, hint=error.hint)
        if error.exit_code in (NOT_EXECUTABLE, NOT_FOUND):
            failure.exit_code = error.exit_code
        raise failure from error


def _run_container(session: Session, image: str, words: tuple[str, ...], given: dict[str, Any]) -> int:
    made, stack, wanted, runtime = _created(session, image, words, given, running=True)
    store = session.writable_store
    if given["detach"] or _needs_monitor(wanted) or runtime == "machine" or (made.wanted or {}).get("requires"):
        from lamina.cli.containers import monitored

        told = _unsaid if given["quiet"] and runtime == "machine" else warn  # that it runs by emulation
        if given["detach"]:
            return monitored.run_behind(store, stack, made, runtime, told)
        return monitored.run_in_front(store, stack, made, runtime, wanted, told, forward=given["sig_proxy"])
    from lamina.run.container.life import run

    ended = run(store, stack, made, runtime=runtime, on_warning=warn)
    if ended.message:
        say(ended.message)
    return ended.code


def _unsaid(text: str) -> None:
    del text


def create_container(session: Session, image: str, words: tuple[str, ...], given: dict[str, Any]) -> Container:
    """Make a container with these options. Raises LaminaError."""
    return _created(session, image, words, given, running=False)[0]


def _created(
    session: Session, image: str, words: tuple[str, ...], given: dict[str, Any], *, running: bool
) -> tuple[Container, Stack, ContainerOptions, str]:
    """A new container, its image, its options and its runtime."""
    from lamina.run.container.life import check, create, resolved
    from lamina.run.container.user_namespace import enter_for

    image = str(parse_stored(image))
    wanted = replace(
        container_options(words, given),
        create_command=spelt_out(image, words, given),
        detached=given.get("detach", False),
        cidfile=given["cidfile"],
    )
    if wanted.log_options or session.settings.log_driver != LOG_DRIVERS[0]:
        from lamina.run.logs.drivers import chosen

        wanted = chosen(wanted, session.settings.log_driver)
    if wanted.ports or wanted.publish_all:
        wanted = replace(wanted, publish_address=session.settings.publish_address)
    runtime = given["runtime"] or session.settings.runtime
    check(wanted, runtime=runtime)
    stack = replace(image_of(session, image, given["pulling"], quiet=given["quiet"]), name=image)
    if wanted.privileged:
        warn(PRIVILEGED)
    store = session.writable_store
    with identity_file(given["cidfile"]) as note:
        wanted = resolved(store, wanted)
        enter_for(store, wanted, starts=running, on_warning=warn)
        if given["replace"] and wanted.name:
            replace_container(store, wanted.name)
        with _left_if_it_fails(store, wanted):
            made = create(
                store,
                stack,
                wanted,
                running=running,
                runtime=runtime,
                upper_dir=session.settings.upper_dir or "",
                on_warning=warn,
            )
        note(made.id)
    return made, stack, wanted, runtime


@contextmanager
def _left_if_it_fails(store: Store, wanted: ContainerOptions) -> Iterator[None]:
    """End a plain user's namespace for networks again, if nothing else needs it."""
    try:
        yield
    except BaseException:
        if wanted.networks:
            from lamina.run.networks.connection import leave

            leave(store)
        raise


_PATHS = ("env_file", "label_file", "pidfile")


def spelt_out(image: str, words: tuple[str, ...], given: dict[str, Any]) -> tuple[str, ...]:
    """The words of a `run` or `boot` with these options, for a unit of systemd: paths are absolute."""
    is_machine = given["runtime"] == "machine" and "kernel" in given
    found = ["boot" if is_machine else "run"]
    for name in ("kernel", "append", "machine") if is_machine else ():
        found += [f"--{name}={given[name]}"] if given[name] else []
    for option in OPTIONS:
        if option.argument == "runtime" and is_machine:
            continue
        value = given[option.argument]
        if value == option.start:
            continue
        name = next((name for name in option.names if name.startswith("--")), option.names[0])
        if option.kind == FLAG:
            found.append(name)
            continue
        for one in value if option.kind == MANY else (value,):
            is_path = option.argument in _PATHS or (option.argument == "volume" and one.startswith("."))
            source, colon, rest = one.partition(":") if option.argument == "volume" else (one, "", "")
            found.append(f"{name}={os.path.abspath(source) if is_path else source}{colon}{rest}")
    return (*found, image, *words)


def _needs_monitor(wanted: ContainerOptions) -> bool:
    """Whether more than its exit code is asked of a container that runs in front: something can be read, or attached,
    as long as it exists; with ``--rm`` that is not after its end."""
    default = type(wanted)()
    more = (wanted.health, wanted.log_driver, wanted.detach_keys)
    return not wanted.remove or (wanted.tty and wanted.interactive) or more != (default.health, "", "")


PRIVILEGED = (
    "--privileged isolates nothing: a program in this container can do everything that you can do on this host"
)


def check_terminal(given: dict[str, Any]) -> None:
    """Check docker's rule: -it needs a terminal as standard input; -t alone does not. Raises LaminaError, whose exit
    code is 1, as in docker."""
    if given["tty"] and given["interactive"] and not given.get("detach") and not sys.stdin.isatty():
        raise LaminaError("standard input is not a terminal", hint="leave out -t or -i")


@contextmanager
def identity_file(path: str) -> Iterator[Callable[[str], object]]:
    """Create the file of ``--cidfile``; remove it if the block fails. Yields the function that writes the ID. Raises
    UsageError if the file exists."""
    if not path:
        yield lambda identity: None
        return
    from lamina.host.files import reported, write_all

    path = os.path.abspath(path)  # in a user namespace the working directory may be a different one
    with reported(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise UsageError(
                f"the file for the container ID already exists: {path!r:.200}",
                hint="remove it, or choose another name",
            ) from None
    try:
        yield lambda identity: write_all(descriptor, identity.encode())
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def replace_container(store: Store, name: str) -> None:
    from lamina.run.container.ending import remove

    try:
        found = store.containers.get(name, damaged=True)
    except NotFound:
        return
    if found.name == name:
        remove(store, found, force=True)


def image_of(session: Session, name: str, pulling: str, *, quiet: bool) -> Stack:
    """Open the image, and pull it before if ``pulling`` says so. ``name``: without docker://."""
    parsed = parse_name(name)
    if parsed.transport or not parsed.whole:
        if parsed.transport:
            hint = f"`lamina pull {name:.200}` loads it into the store and prints its name; then run that name"
        else:
            hint = "leave out ~N: a container has all layers of its image"
        raise UsageError(f"run needs a whole image in the store, not {name!r:.200}", hint=hint)
    if pulling not in ("always", "newer"):
        try:
            return session.stack(name)
        except (ReferenceNotFound, BlobNotFound):  # no such name, or an image for other platforms
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
            _suggest_stored(error, name, store)
            if pulling != "newer":
                raise
            try:
                return session.stack(name)
            except (ReferenceNotFound, BlobNotFound):
                raise error from None
    from lamina.places import open_named

    return open_named(name, session.settings)  # without check_platform: pull has warned already


def _suggest_stored(error: LaminaError, name: str, store: Store) -> None:
    """Add to an error of a pull the image of the store that may be meant, if the store has no image ``name``."""
    from lamina.store.read import nearest_name

    try:
        store.resolve(name)
    except ReferenceNotFound:
        near = nearest_name(name, store.refs.entries())
        if near is not None:
            error.suggest(f"did you mean {near!r} of the store?")
    except LaminaError:
        pass  # the error of the pull is the one to report


def wanted_by(**given: Any) -> ContainerOptions:
    """The options of a container by the arguments of OPTIONS; those that are left out have their defaults."""
    return container_options((), {**{option.argument: option.start for option in OPTIONS}, **given})


def container_options(words: tuple[str, ...], given: dict[str, Any]) -> ContainerOptions:
    from lamina.run import options

    security = _security(given["security_opt"])
    network = given["network"][-1] if given["network"] else ""
    return options.ContainerOptions(
        **_program(given["entrypoint"], words),
        env=environment(given),
        mounts=tuple(volumes.mounts(given)),
        workdir=options.parse_workdir(given["workdir"]),
        user=given["user"],
        read_only=given["read_only"],
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
        **{name: given[name] for name in ("kernel", "append", "machine") if given.get(name)},
        **security,
        **_more(given),
        **_of_families(given),
    )


def _program(entrypoint: str | None, words: tuple[str, ...]) -> dict[str, Any]:
    """The command line. ``entrypoint``: a program, or as in podman a JSON list of a program and its first words.
    Raises UsageError."""
    if entrypoint is None or not entrypoint.startswith("["):
        return {"entrypoint": entrypoint, "command": words}
    from lamina.spec.json import read_own

    try:
        found = read_own(entrypoint)
    except ValueError:
        return {"entrypoint": entrypoint, "command": words}
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise UsageError(
            f"--entrypoint {entrypoint!r:.100} is not a list of words", hint='write it like ["sh", "-c"]'
        )
    program, *first = found or [""]
    return {"entrypoint": program, "command": (*first, *words)}


def _of_families(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family in FAMILIES:
        if any(given[option.argument] != option.start for option in family.OPTIONS):
            found |= family.parsed(given)
    return found


_RARE_OPTIONS = (
    "label", "label_file", "device", "gpus", "shm_size", "domainname", "dns", "dns_search", "dns_option", "pid",
    "ipc", "uts", "cgroupns", "sysctl", "ulimit", "stop_signal", "stop_timeout", "memory_swap", "memory_reservation",
    "oom_score_adj", "cpu_period", "cpu_quota", "cpu_shares", "cpuset_cpus", "cpuset_mems",
)  # fmt: skip


def _more(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of ``ContainerOptions`` for rarely used options; ``run_flags`` is imported only if one is given."""
    if not any(given[name] for name in _RARE_OPTIONS):
        return {}
    from lamina.cli.containers.run_flags import fields

    return fields(given, warn)


def environment(given: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Read the variables of --env-file and --env. Raises UsageError, SystemFailure."""
    from lamina.run.options import parse_env, parse_env_file

    found: list[tuple[str, str]] = []
    for path in given["env_file"]:
        from lamina.cli.containers import run_flags

        found += parse_env_file(run_flags.text_of(path), os.environ)
    if given.get("http_proxy"):
        from lamina.cli.containers.families.together import proxy_variables

        found = [*proxy_variables(dict(os.environ)), *found]
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
            raise UsageError(f"unknown --security-opt {word!r:.100}", hint="use " + _SECURITY.rstrip("."))
    return found


def _check_label(value: str) -> None:
    """Check a SELinux label: containers get none, so only label=disable is possible. Raises Unsupported."""
    if value == "disable":
        return
    if os.path.exists("/sys/fs/selinux/enforce"):
        from lamina.errors import Unsupported

        raise Unsupported("SELinux labels are not supported yet", hint="use label=disable, or leave it out")
    warn(f"this host has no SELinux: label={value} has no effect")
