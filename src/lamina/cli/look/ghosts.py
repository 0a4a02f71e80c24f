"""The verb `ghosts`: hidden files that still ship, secrets, and recovery of hidden files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lamina.cli.format.output import emit_json, emit_template, table, write
from lamina.cli.format.text import clean, counted, human_size, json_path
from lamina.cli.options import format_option, image_argument, platform_option, registry_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError
from lamina.places import to_bytes
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from lamina.insight.ghosts import Ghost
    from lamina.insight.secret_search import FoundSecret, SecretSearch
    from lamina.source.stack import Stack

FOUND = 1


@command(
    "ghosts",
    "lamina ghosts my/app:1\n"
    "lamina ghosts my/app:1 --check --no-hidden    # for CI: exit code 1 if a secret is suspected\n"
    "lamina ghosts my/app:1 --recover 3 /root/.netrc\n"
    "lamina ghosts --recover my/app:1~3 /root/.netrc",
)
@image_argument()
@click.argument("words", nargs=-1, metavar="[[LAYER] PATH]")
@click.option(
    "--recover", is_flag=True, help="Write the hidden content of PATH (in LAYER, from 1) to standard output."
)
@click.option(
    "-n",
    "--top",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Show this many hidden paths; 0 for all.",
)
@click.option("--paths", "each", is_flag=True, help="Show every hidden path, not only the top of a hidden directory.")
@click.option("--no-hidden", is_flag=True, help="Show only secrets.")
@click.option("--no-secrets", is_flag=True, help="Do not search for secrets; no file is read.")
@click.option("--entropy", is_flag=True, help="Also suspect words that look random (many are harmless).")
@click.option("--max-file", metavar="SIZE", default="1m", show_default=True, help="Search this much of each file.")
@click.option("--check", is_flag=True, help="End with exit code 1 if a secret is suspected.")
@platform_option
@registry_options
@format_option
@click.pass_obj
def ghosts(
    session: Session,
    image: str,
    words: tuple[str, ...],
    recover: bool,
    top: int,
    each: bool,
    no_hidden: bool,
    no_secrets: bool,
    entropy: bool,
    max_file: str,
    check: bool,
    format: str | None,
) -> int:
    """Show files that an image ships although they are hidden: deleted by a whiteout, below an opaque directory, or
    replaced. Also show suspected secrets (by well-known patterns) in hidden and visible files, variables, labels and
    build steps. Secrets are masked. Binary files are not searched."""
    if recover:
        _recover(session, image, words)
        return 0
    if words:
        raise UsageError("a path needs --recover", hint="see `lamina ghosts --help`")
    from lamina.insight.ghosts import ghosts as find_ghosts
    from lamina.insight.secret_search import SecretSearch, search_secrets
    from lamina.run.options import parse_size

    limit = parse_size(max_file)
    with session.interruptible():
        stack = session.image(image).stack
        hidden = [] if no_hidden else find_ghosts(stack, each=each)
        search = SecretSearch() if no_secrets else search_secrets(stack, entropy=entropy, max_file=limit)
    if format == "json":
        emit_json(_json(stack, hidden, search))
    elif format not in (None, "table"):
        emit_template([_row(ghost) for ghost in hidden], {}, format or "")
    else:
        if not no_hidden:
            _tell_hidden(stack, hidden, top)
        if not no_secrets:
            if search.found and not no_hidden:
                write("")
            _tell_secrets(search)
    return FOUND if check and search.found else 0


def _recover(session: Session, image: str, words: tuple[str, ...]) -> None:
    from lamina.cli.format.content import write_contents
    from lamina.insight.ghosts import recover as open_hidden

    if not words or len(words) > 2 or (len(words) == 2 and not words[0].isdecimal()):
        raise UsageError("--recover needs a path", hint="use --recover IMAGE~N PATH, or IMAGE --recover LAYER PATH")
    stack = session.image(image).stack
    content = open_hidden(
        stack,
        to_bytes(words[-1]),
        layer=int(words[0][:9]) if len(words) == 2 else None,
        hidden_first=parse_name(image).whole,
    )
    write_contents([(words[-1], content)])


def _row(ghost: Ghost) -> dict[str, Any]:
    return {
        "Path": "/" + clean(ghost.path),
        "Kind": ghost.kind.name.lower(),
        "Size": ghost.size,
        "Paths": ghost.paths,
        "Layers": ",".join(map(str, ghost.layers)),
        "HiddenBy": ghost.hidden_by,
        "How": ghost.how,
    }


def _tell_hidden(stack: Stack, found: list[Ghost], top: int) -> None:
    shown = found[:top] if top else found
    rows = [
        [
            human_size(ghost.size),
            str(ghost.paths),
            _layers(ghost.layers),
            f"{ghost.how} by {ghost.hidden_by}" if ghost.how == "replaced" else f"{ghost.how} in {ghost.hidden_by}",
            f"/{clean(ghost.path)}",
        ]
        for ghost in shown
    ]
    if rows:
        table(rows, ("SIZE", "PATHS", "LAYER", "HIDDEN", "PATH"), right=(0, 1))
    if len(found) > len(shown):
        rest = found[len(shown) :]
        write(f"and {len(rest)} more with {human_size(sum(ghost.size for ghost in rest))} (--top 0 shows all)")
    total = sum(layer.index().content_size for layer in stack.layers)
    paths, size = sum(ghost.paths for ghost in found), sum(ghost.size for ghost in found)
    share = f", {100 * size / total:.1f} % of all content" if total else ""
    write(f"hidden: {paths} paths, {human_size(size)}{share}")


def _layers(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def _tell_secrets(search: SecretSearch) -> None:
    if search.found:
        rows = [[one.suspect.pattern, _state(one), _place(one), one.suspect.masked] for one in search.found]
        table(rows, ("SUSPECTED", "STATE", "WHERE", "SECRET"))
    write(
        f"secrets: {len(search.found)} suspected in {counted(search.files, 'file')}, variables, labels and steps"
        f" ({search.binary} binary, {search.cut} looked at only in part)"
    )


def _state(one: FoundSecret) -> str:
    if one.where != "file":
        return "in the config"
    if one.hidden_by is None:
        return f"visible, layer {one.layer}"
    return f"layer {one.layer}, hidden by {one.hidden_by}"


def _place(one: FoundSecret) -> str:
    if one.where == "file":
        return f"/{clean(one.path)}" + (f":{one.suspect.line}" if one.suspect.line else "")
    return f"{one.where} {clean(one.name)}".rstrip()


def _json(stack: Stack, hidden: list[Ghost], search: SecretSearch) -> dict[str, Any]:
    from lamina.insight.as_json import ghost_json

    return {
        "image": stack.name,
        "digest": str(stack.manifest.descriptor.digest),
        "hidden": {"paths": sum(ghost.paths for ghost in hidden), "size": sum(ghost.size for ghost in hidden)},
        "ghosts": [ghost_json(ghost) for ghost in hidden],
        "secrets": [
            {
                "pattern": one.suspect.pattern,
                "where": one.where,
                "name": one.name or None,
                **(json_path(one.path) if one.where == "file" else {"path": None}),
                "line": one.suspect.line or None,
                "layer": one.layer,
                "hidden_by": one.hidden_by,
                "masked": one.suspect.masked,
            }
            for one in search.found
        ],
        "read": {"files": search.files, "bytes": search.size, "binary": search.binary, "cut": search.cut},
    }
