"""The verb `compose`: podman-compose, which calls this lamina in the place of podman."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command
from lamina.errors import NotFound, Unsupported, UsageError
from lamina.store.volumes import is_name

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VERBS_OF_COMPOSE = (
    *("build", "config", "down", "exec", "help", "images", "kill", "logs", "pause", "port", "ps", "pull", "push"),
    *("restart", "run", "start", "stats", "stop", "systemd", "unpause", "up", "version", "wait"),
)
_PROGRAM = "podman-compose"


class _Compose(Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Only a first --help is lamina's."""
        if args[:1] not in (["--help"], ["-h"]):
            args = ["--", *args]
        return super().parse_args(ctx, args)


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(verb) for verb in VERBS_OF_COMPOSE if verb.startswith(incomplete)]


@click.command("compose", cls=_Compose, short_help=VERBS["compose"][2])
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[WORD]...", shell_complete=_complete)
@click.pass_obj
def compose(session: Session, words: tuple[str, ...]) -> None:
    """Bring up and manage the services of a compose file. This runs podman-compose with all words that follow, and
    with this lamina in the place of podman. The exit code is that of podman-compose. See docs/compose.md.

    \b
    Example:
      lamina compose up -d
      lamina compose -f compose.yaml -p site logs -f web
      lamina compose down -v
    """
    for name in _project_names(words):
        check_project_name(name)
    command = [*_podman_compose(), "--podman-path", _own_program(), *words]
    if "root" in session.flags:
        os.environ["LAMINA_ROOT"] = os.path.abspath(session.flags["root"])
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)


def _project_names(words: tuple[str, ...]) -> list[str]:
    """The names of projects that the options before the verb give, and the environment."""
    found = [os.environ.get("COMPOSE_PROJECT_NAME", "")]
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word in VERBS_OF_COMPOSE:
            break
        if word in ("-p", "--project-name"):
            found.append(following)
        elif word.startswith("--project-name="):
            found.append(word.partition("=")[2])
    return [name for name in found if name]


def check_project_name(name: str) -> None:
    """Volumes, networks and containers of a project have names that begin with its name. podman-compose shows a
    traceback for one that lamina refuses. Raises UsageError."""
    if not is_name(name):
        raise UsageError(
            f"{name!r:.100} is not the name of a project",
            hint="use letters, digits, _ . and -; begin with a letter or digit",
        )


def _podman_compose() -> list[str]:
    """The command line of podman-compose: the one beside this Python, else the one on the PATH. Raises
    Unsupported."""
    beside = os.path.join(os.path.dirname(sys.executable), _PROGRAM)
    found = beside if os.access(beside, os.X_OK) else shutil.which(_PROGRAM)
    if found:
        return [found]
    if find_spec("podman_compose") is not None:
        return [sys.executable, "-m", "podman_compose"]
    raise Unsupported(f"{_PROGRAM} is not installed", hint="run `pip install 'lamina[compose]'`")


def _own_program() -> str:
    """The file of the program `lamina`. Raises NotFound."""
    beside = os.path.join(os.path.dirname(sys.executable), "lamina")
    for path in (sys.argv[0], beside, shutil.which("lamina") or ""):
        if os.path.basename(path) == "lamina" and os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    raise NotFound("the program `lamina` was not found", hint="add its directory to PATH")
