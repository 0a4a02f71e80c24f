"""Verbs about lamina itself: info, version, help, completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from lamina.cli.format.output import emit_json, emit_template, table, write
from lamina.cli.format.text import clean, counted
from lamina.cli.options import format_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError
from lamina.version import __version__

SHELLS = ("bash", "zsh", "fish")


@command("info", "lamina info")
@format_option
@click.pass_obj
def info(session: Session, format: str | None) -> None:
    """Show the settings, where each comes from, and what this host supports: the runtime, views, checkpoints."""
    from lamina.settings import meaning
    from lamina.spec.platform import Platform

    settings = session.settings
    state = "there"
    images = None
    try:
        images = sum(1 for _ in session.store.names())
    except LaminaError as error:
        state = error.message
    value: dict[str, Any] = {
        "version": __version__,
        "python": sys.version.split()[0],
        "platform": str(Platform.host()),
        "store": {"root": settings.root, "state": state, "images": images},
        "settings": {
            name: {"value": setting.value, "origin": setting.origin, "meaning": meaning(name)}
            for name, setting in settings.values.items()
        },
        "views": _views(settings.root),
        "checkpoints": {"gzip": _checkpoints()},
        "containers": _containers(),
        "runtime": _runtime(settings.runtime),
    }
    if format == "json":
        emit_json(value)
    elif format not in (None, "table"):
        emit_template([value], {}, format or "")
    else:
        write(f"lamina {__version__} on Python {value['python']}, {value['platform']}")
        write(f"store: {settings.root} ({state if images is None else counted(images, 'name')})")
        runtime = value["runtime"]
        if runtime["name"]:
            write(f"runtime: {runtime['name']} {clean(runtime['version'])} ({clean(runtime['program'])})")
            for line in runtime["missing"]:
                write(f"  {clean(line)}")
            for other in runtime["others"]:
                words = f"{other['name']} ({other['program']}) is not used: {other['why']}"
                write(f"  {clean(words)}")
        for what in ("views", "containers", "checkpoints"):
            for name, refusal in value[what].items():
                if name == "runtime" and not refusal:
                    continue  # printed above
                name = "checkpoints of gzip layers (keep=blob)" if what == "checkpoints" else name
                write(f"{name}: {'works' if not refusal else 'no: ' + clean(refusal)}")
        write("")
        rows = [
            [name, "" if setting.value is None else str(setting.value), setting.origin, meaning(name)]
            for name, setting in settings.values.items()
        ]
        table(rows, ["SETTING", "VALUE", "FROM", "MEANING"])


def _checkpoints() -> str:
    """Return "" if gzip layers can have checkpoints, else the reason why not."""
    from lamina.layer.checkpoints.libz import refusal

    return refusal()


def _views(root: str) -> dict[str, str]:
    """Return for each view "" if it works here, else the reason why not."""
    from lamina.view.probe import probe

    directory = root
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    inside = os.path.join(directory, "ingest")
    return probe(inside if os.path.isdir(inside) else directory)


def _containers() -> dict[str, str]:
    """Return for each part that containers need "" if it is available, else the reason why not."""
    from lamina.run.bubblewrap.bpf import load
    from lamina.run.network import choose
    from lamina.run.runtime import find_runtime

    found = {}
    attempts: dict[str, Callable[[], object]] = {"runtime": find_runtime, "pasta": lambda: choose("pasta")}
    attempts["seccomp with bubblewrap"] = load
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = ""
        except LaminaError as error:
            found[name] = error.message
    return found


def _runtime(wanted: str) -> dict[str, Any]:
    """What runs containers here, its version, and what is missing with it; "" and nothing where there is none."""
    from lamina.run.runtime_info import runtime_facts

    try:
        return runtime_facts(wanted)
    except LaminaError:
        return {"name": "", "version": "", "program": "", "missing": [], "others": []}


@command("version", "lamina version --format json")
@format_option
def version(format: str | None) -> None:
    """Show the version of lamina, of Python and of the libraries that lamina uses."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    parts = {"lamina": __version__, "python": sys.version.split()[0]}
    for name in ("isal", "backports.zstd", "urllib3", "pyyaml", "click", "rich", "fsspec", "pyelftools"):
        try:
            parts[name] = installed(name)
        except PackageNotFoundError:
            continue
    if format == "json":
        emit_json(parts)
    elif format not in (None, "table"):
        emit_template([parts], {}, format or "")
    else:
        table([[name, number] for name, number in parts.items()])


@command("help", "lamina help\nlamina help run\nlamina help image ls")
@click.argument("verbs", nargs=-1, metavar="[VERB]...")
@click.pass_context
def help_(ctx: click.Context, verbs: tuple[str, ...]) -> None:
    """Show the help of lamina, or of a verb (the same as VERB --help)."""
    at = ctx.find_root()
    words = list(verbs)
    while words:
        group = at.command
        if not isinstance(group, click.Group):
            break  # `help run debian` is about `run`
        # append a word, because a noun that is also a verb is recognized by the words after it
        name, found, rest = group.resolve_command(at, [*words, "--help"])
        assert found is not None
        words = [word for word in rest if word != "--help" and not word.startswith("-")]
        at = click.Context(found, parent=at, info_name=name)
    click.echo(at.command.get_help(at))


@command(
    "completion", 'eval "$(lamina completion bash)"\nlamina completion fish > ~/.config/fish/completions/lamina.fish'
)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print the completion script for a shell (default: the shell in $SHELL)."""
    from lamina.cli.completion import script

    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    if name not in SHELLS:
        raise click.UsageError(f"no completion for {name or 'an unknown shell'!r}; use {', '.join(SHELLS)}")
    click.echo(script(name), nl=False)
