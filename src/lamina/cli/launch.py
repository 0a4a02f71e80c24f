"""`run` as it is asked for: its options, and what they say to ``run.container``. Without click (``plain``)."""

from __future__ import annotations

import os
import sys

from lamina.cli import say, warn
from lamina.cli.plain import FLAG, MANY, NUMBER, WHOLE, Option
from lamina.errors import Cancelled, ContainerFailure, LaminaError, ReferenceNotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.session import Session
    from lamina.image import Image
    from lamina.run.options import Wanted

PROCESS_OPTIONS = (
    Option(("-e", "--env"), "env", "Set a variable; NAME alone: as here.", "NAME[=VALUE]", MANY),
    Option(("--env-file",), "env_file", "Variables, a line each.", "FILE", MANY),
    Option(("-w", "--workdir"), "workdir", "Where it runs (made where it is missing).", "PATH"),
    Option(("-u", "--user"), "user", "As whom: names of the image, or numbers.", "USER[:GROUP]"),
    Option(("-i", "--interactive"), "interactive", "Give it this command's standard input.", kind=FLAG),
    Option(("-t", "--tty"), "tty", "Give it a terminal.", kind=FLAG),
)
_USERNS = "auto: ids of its own, root is nobody outside. keep-id[:uid=N,gid=N]: you are yourself inside."
_SECURITY = "no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined."
_PULLING = ("missing", "never", "always")
OPTIONS = (
    *PROCESS_OPTIONS,
    Option(("--name",), "name", "The container's name (default: its ID's first digits).", "NAME"),
    Option(("--rm",), "remove", "Remove the container when it ends.", kind=FLAG),
    Option(("-v", "--volume"), "volume", "A directory, file or volume.", "[SOURCE:]PATH[:ro]", MANY),
    Option(("--tmpfs",), "tmpfs", "A directory in memory.", "PATH[:OPTIONS]", MANY),
    Option(("--entrypoint",), "entrypoint", "Run this instead of the image's entrypoint.", "PROGRAM", default=None),
    Option(("--read-only",), "read_only", "Nothing but volumes and tmpfs can be written.", kind=FLAG),
    Option(("--network", "--net"), "network", "Default: pasta, else none.", "pasta|none|host"),
    Option(("--userns",), "userns", _USERNS, "host|auto|keep-id"),
    Option(("--hostname",), "hostname", "Default: the ID's first digits.", "NAME"),
    Option(("--add-host",), "add_host", "A line for /etc/hosts.", "NAME:ADDRESS", MANY),
    Option(("--cap-add",), "cap_add", "Add a capability, or ALL.", "CAP", MANY),
    Option(("--cap-drop",), "cap_drop", "Drop a capability, or ALL.", "CAP", MANY),
    Option(("--security-opt",), "security_opt", _SECURITY, "WORD", MANY),
    Option(("--init",), "init", "An init (tini or its like) as the first process.", kind=FLAG),
    Option(("-m", "--memory"), "memory", "At most this much, like 512m.", "SIZE", default=None),
    Option(("--cpus",), "cpus", "At most so many processors, like 1.5.", "N", NUMBER),
    Option(("--pids-limit",), "pids_limit", "At most so many processes.", "N", WHOLE),
    Option(("--runtime",), "runtime", "crun, runc, or a path (default: what is here).", "NAME"),
    Option(
        ("--pull",),
        "pulling",
        "Whether to ask the registry (default: missing).",
        default="missing",
        choices=_PULLING,
    ),
)


def launch(session: Session, image: str, words: tuple[str, ...], /, **given: Any) -> int:
    """Run a container as these options say; its exit code. Raises ContainerFailure, Cancelled."""
    try:
        return _launch(session, image, words, given)
    except Cancelled:
        raise
    except LaminaError as error:
        raise ContainerFailure(error.message, hint=error.hint) from error


def _launch(session: Session, image: str, words: tuple[str, ...], given: dict[str, Any]) -> int:
    from lamina.run import container as containers

    wanted = _wanted(words, given)
    if wanted.tty and not sys.stdin.isatty():
        raise UsageError("standard input is no terminal", hint="leave out -t")
    found = _image(session, image, given["pulling"])
    store = session.writable_store
    containers.enter()
    made = containers.create(
        store,
        found.stack,
        wanted,
        image=image,
        running=True,
        upper_dir=session.settings.upper_dir or "",
        on_warning=warn,
    )
    ended = containers.run(store, found.stack, made, wanted, runtime=given["runtime"], on_warning=warn)
    if ended.message:
        say(ended.message)
    return ended.code


def _image(session: Session, name: str, pulling: str) -> Image:
    parsed = parse_name(name)
    if parsed.transport or not parsed.whole:
        raise UsageError(f"{name!r:.200} is no image of the store", hint="`lamina pull`, `load` or `copy` it first")
    if pulling != "always":
        try:
            return session.image(name)
        except ReferenceNotFound:
            if pulling == "never":
                raise
    from lamina.cli.progress import Progress
    from lamina.transfer.wire import pull

    with Progress(quiet=False) as progress, session.interruptible():
        store, network = session.writable_store, session.network(progress)
        asked = session.settings.asked_platform()
        pull(parsed.name, store, network, platform=asked, on_event=progress, cancel=session.cancel)
    from lamina.image import open_with

    return open_with(name, session.settings)  # what pull has warned of is not said again


def _wanted(words: tuple[str, ...], given: dict[str, Any]) -> Wanted:
    from lamina.run import options

    security = _security(given["security_opt"])
    return options.Wanted(
        command=words,
        entrypoint=given["entrypoint"],
        env=environment(given),
        mounts=(
            *(options.parse_volume(word) for word in given["volume"]),
            *(options.parse_tmpfs(word) for word in given["tmpfs"]),
        ),
        workdir=options.parse_workdir(given["workdir"]),
        user=given["user"],
        read_only=given["read_only"],
        network=given["network"],
        hostname=options.parse_hostname(given["hostname"]),
        userns=options.parse_userns(given["userns"]),
        name=given["name"],
        interactive=given["interactive"],
        tty=given["tty"],
        cap_add=given["cap_add"],
        cap_drop=given["cap_drop"],
        init=given["init"],
        memory=options.parse_size(given["memory"]) if given["memory"] else None,
        cpus=options.parse_cpus(given["cpus"]),
        pids=options.parse_pids(given["pids_limit"]),
        remove=given["remove"],
        view=given.get("view") or "",
        add_hosts=tuple(options.parse_host(word) for word in given["add_host"]),
        **security,
    )


_LINES = "--env-file takes KEY=VALUE, a line each"


def environment(given: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The variables of --env-file and --env. Raises UsageError, SystemFailure."""
    from lamina.files import reported
    from lamina.run.options import parse_env, parse_env_file

    found: list[tuple[str, str]] = []
    for path in given["env_file"]:
        with reported(path), open(path, "rb") as file:
            data = file.read()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path!r:.200} is no text: byte {error.start} is not UTF-8", hint=_LINES) from None
        found += parse_env_file(text, os.environ)
    return (*found, *parse_env(given["env"], os.environ))


def _security(words: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        key, _, value = word.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            found["no_new_privileges"] = value != "false"
        elif key == "seccomp" and value:
            found["seccomp"] = value
        elif (key, value) in (("systempaths", "unconfined"), ("unmask", "ALL")):
            found["unmask"] = True
        else:
            raise UsageError(
                f"no security option {word!r:.100}",
                hint="no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined",
            )
    return found
