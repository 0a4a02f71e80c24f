"""Completion in bash, zsh and fish: the scripts, and what stands behind a word.

The script asks lamina with the words up to the cursor; each line of the answer is one candidate, or ``#file`` or
``#dir`` where the shell knows better. Names come out of images and archives: what a shell could take for an order is
quoted, and what can't be typed is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, ShellComplete, _resolve_context, _resolve_incomplete

from lamina.errors import LaminaError

if TYPE_CHECKING:
    from lamina.cli.session import Session

VARIABLE = "_LAMINA_COMPLETE"
_FILES, _DIRECTORIES = "#file", "#dir"
_OPEN = ("/", ":", "=")
"""How a candidate ends behind which more is to come: no space is put there. fish has the same rule."""
_MOST = 2000
_FEW = 16
"""Links up to which each is followed by itself; a whole merge is cheaper for more."""

_BASH = """\
_lamina_completion() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            '#file') type compopt >/dev/null 2>&1 && compopt -o default +o nospace ;;
            '#dir') type compopt >/dev/null 2>&1 && compopt -o dirnames +o nospace ;;
            *) COMPREPLY+=("$line") ;;
        esac
    done < <(LAMINA_LINE="${COMP_LINE:0:COMP_POINT}" LAMINA_BREAKS="$COMP_WORDBREAKS" \\
        _LAMINA_COMPLETE=bash_complete "$1" 2>/dev/null)
}
complete -o nospace -F _lamina_completion lamina
"""
_ZSH = """\
#compdef lamina
_lamina() {
    local line
    local -a closed open
    while IFS= read -r line; do
        case $line in
            '#file') _files; return ;;
            '#dir') _files -/; return ;;
            *[/:=]) open+=("$line") ;;
            *) closed+=("$line") ;;
        esac
    done < <(LAMINA_WORDS="${(@pj:\\n:)${(@Q)words[1,CURRENT-1]}}" LAMINA_WORD="${(Q)words[CURRENT]}" \\
        _LAMINA_COMPLETE=zsh_complete "${(Q)words[1]}" 2>/dev/null)
    (( $#closed )) && compadd -U -- "${closed[@]}"
    (( $#open )) && compadd -U -S '' -- "${open[@]}"
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _lamina "$@"
else
    compdef _lamina lamina
fi
"""
_FISH = """\
function __lamina_complete
    set -lx _LAMINA_COMPLETE fish_complete
    set -lx LAMINA_WORDS (commandline -opc | string collect)
    set -lx LAMINA_WORD (commandline -ct)
    set -l command (commandline -opc)[1]
    for line in ($command 2>/dev/null)
        switch $line
            case '#file'
                __fish_complete_path (commandline -ct)
            case '#dir'
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete --no-files --command lamina --arguments '(__lamina_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """The completion script of a shell: "bash", "zsh" or "fish"."""
    return _SCRIPTS[shell]


def answer(instruction: str) -> int:
    """What a script asked for, to stdout; the exit code. Nothing is said of what goes wrong: the user is typing."""
    from lamina.cli.app import cli

    shell, _, what = instruction.partition("_")
    if shell not in _SCRIPTS:
        return 1
    if what == "source":
        click.echo(script(shell), nl=False)
        return 0
    if shell == "bash":
        words, word, quote = split(os.environ.get("LAMINA_LINE", ""))
    else:
        words, word, quote = os.environ.get("LAMINA_WORDS", "").split("\n"), os.environ.get("LAMINA_WORD", ""), ""
    try:
        found = _Completion(cli, {}, "lamina", VARIABLE).get_completions(words[1:], word)
    except (LaminaError, OSError, click.ClickException):
        return 0
    for line in told(shell, [str(item.value) for item in found], word, quote, os.environ.get("LAMINA_BREAKS", "")):
        click.echo(line)
    return 0


def split(line: str) -> tuple[list[str], str, str]:
    """The whole words of a shell's line, the one at its end that is not whole, and how that one is quoted: "", or the
    quotation mark that is open (pure)."""
    words: list[str] = []
    word, quote, inside, at = "", "", False, 0
    while at < len(line):
        letter = line[at]
        if letter == "\\" and quote != "'" and at + 1 < len(line):
            at += 1
            word, inside = word + line[at], True
        elif quote:
            quote, word = ("", word) if letter == quote else (quote, word + letter)
        elif letter in "\"'":
            quote, inside = letter, True
        elif letter.isspace():
            if inside:
                words.append(word)
            word, inside = "", False
        else:
            word, inside = word + letter, True
        at += 1
    return words, word, quote


_SAFE = re.compile(r"[\w@%+=:,./^~-]*")


def told(shell: str, values: Iterable[str], word: str, quote: str, breaks: str) -> Iterator[str]:
    """The lines of the answer for values that ``word`` may become (pure)."""
    option, equals, _ = word.partition("=")
    head = option + equals if word.startswith("--") and equals else ""
    cut = 0
    if shell == "bash" and not quote:
        # bash takes for the word only what stands behind the last of these letters
        cut = max((number + 1 for number, letter in enumerate(word) if letter in breaks), default=0)
    for value in list(dict.fromkeys(values))[:_MOST]:
        if value in (_FILES, _DIRECTORIES):
            yield value
            continue
        if not value.isprintable() or not _is_utf8(value):
            continue
        whole = value if not head or value.startswith(head) else head + value
        if shell != "bash":
            yield whole
            continue
        safe = _SAFE.fullmatch(value) is not None and not value.startswith("~")
        if quote and not safe:
            continue
        text = whole[cut:]
        yield (text if safe else re.sub(r"([^\w@%+=:,./^-])", r"\\\1", text)) + ("" if value.endswith(_OPEN) else " ")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def verbs(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The verbs and nouns that begin so; none of them is loaded."""
    from lamina.cli.app import VERBS
    from lamina.cli.nouns import NOUNS

    names = sorted({*VERBS, *NOUNS})
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class _Completion(ShellComplete):
    """click's own, with what parameters stand for."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        ctx = _resolve_context(self.cli, self.ctx_args, self.prog_name, args)
        if isinstance(ctx.command, click.Group) and (ctx.args or vars(ctx).get("_protected_args")):
            return []  # a verb that there is not
        at, incomplete = _resolve_incomplete(ctx, args, incomplete)
        found = at.shell_complete(ctx, incomplete)
        if found or not isinstance(at, click.Parameter):
            return found
        return [CompletionItem(value) for value in _values(ctx, at, incomplete)]


def _values(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    verb = ctx.command.name or ""
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
    elif "CONTAINER" in metavar or (verb, name) in _CONTAINERS:
        return list(containers(ctx, incomplete, running=verb in ("exec", "stop", "kill")))
    elif name in ("path", "paths") or (verb == "run" and name == "words" and incomplete.startswith("/")):
        image = ctx.params.get("image") or ctx.params.get("before")
        return list(inside(session_of(ctx), image, incomplete)) if isinstance(image, str) else []
    elif verb == "umount":
        return list(_mounted(ctx, incomplete))
    elif name in ("image", "images", "patterns") or "IMAGE" in metavar:
        return image_words(ctx, incomplete)
    if "FILE" in metavar:
        return [_FILES]
    return [_DIRECTORIES] if "DIR" in metavar or (verb, name) in _PLACES else []


_CONTAINERS = {(verb, "names") for verb in ("rm", "stop", "kill")}
_PLACES = {("mount", "target"), ("unpack", "directory")}
_BOTH = ("diff", "export", "inspect")
"""Verbs that take images and containers."""


def image_words(ctx: click.Context, incomplete: str) -> list[str]:
    """What an argument that names an image may be."""
    found = list(images(ctx, incomplete))
    return [*found, *containers(ctx, incomplete)] if ctx.command.name in _BOTH else found


def _mounted(ctx: click.Context, incomplete: str) -> Iterator[str]:
    from lamina.view.mount import mounts

    try:
        store = session_of(ctx).store_if_any
        yield from (one.target for one in mounts(store) if one.target.startswith(incomplete)) if store else ()
    except LaminaError:
        return


def session_of(ctx: click.Context) -> Session:
    """The session of the line that is being typed."""
    from lamina.cli.session import Session

    root = ctx.find_root().params.get("root")
    return Session({"root": root} if root else {})


def images(ctx: click.Context, incomplete: str = "") -> Iterator[str]:
    """The names in the store that begin so."""
    from lamina.spec.reference import Reference

    try:
        store = session_of(ctx).store_if_any
        names = [Reference.parse(name).familiar for name, _ in store.names() if name] if store else []
    except LaminaError:
        return  # a broken store must not break the shell's line
    yield from sorted(name for name in names if name.startswith(incomplete))


def containers(ctx: click.Context, incomplete: str = "", *, running: bool = False) -> Iterator[str]:
    """The names of containers that begin so, or, where none does, their IDs."""
    try:
        store = session_of(ctx).store_if_any
        every = store.containers.every() if store else []
        if store and running:
            every = [one for one in every if store.containers.state(one) == "running"]
    except LaminaError:
        return
    names = [one.name for one in every if one.name.startswith(incomplete)]
    yield from sorted(names or [one.id[:12] for one in every if incomplete and one.id.startswith(incomplete)])


def inside(session: Session, image: str, incomplete: str) -> Iterator[str]:
    """The paths in an image that begin so; directories end with a slash. Of what is on this machine: nobody who types
    wants layers from a registry, or what he types next read as an archive."""
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
            stack.union()  # from here on each is looked up in it
        for name, child in sorted(children.items()):
            is_directory = union.is_directory(child)
            if name in links:
                with suppress(LaminaError):  # it leads nowhere
                    found, target = stack.lookup(union.path(child), follow=True)
                    is_directory = found.is_directory(target)
            yield directory + os.fsdecode(name) + ("/" if is_directory else "")
    except LaminaError:
        return


def _copied(ctx: click.Context, incomplete: str) -> list[str]:
    """One side of `cp`: paths in a container or image behind its colon, else their names, and files of this
    machine."""
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
    return [*found, *_local(incomplete)] if found else [_FILES]


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
    key, equals, value = incomplete.partition("=")
    if not equals:
        yield from ("ancestor=", "before=", "exited=", "id=", "label=", "name=", "since=", "status=", "volume=")
    elif key == "status":
        yield from (f"status={state}" for state in ("created", "damaged", "exited", "running"))
    elif key in ("before", "since", "name"):
        yield from (f"{key}={name}" for name in containers(ctx, value))
    elif key == "ancestor":
        yield from (f"{key}={name}" for name in images(ctx, value))


def _volumes(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """A source for -v: a volume's name, or a directory of this machine."""
    if not incomplete.startswith(("/", ".")):
        try:
            store = session_of(ctx).store_if_any
            known = sorted(os.listdir(os.path.join(store.paths.root, "volumes"))) if store else []
        except (LaminaError, OSError):
            known = []
        yield from (f"{name}:" for name in known)
    yield from _local(incomplete)


def _platforms(ctx: click.Context, incomplete: str) -> Iterator[str]:
    yield from (
        f"linux/{name}" for name in ("386", "amd64", "arm64", "arm/v6", "arm/v7", "ppc64le", "riscv64", "s390x")
    )


def _capabilities(ctx: click.Context, incomplete: str) -> Iterator[str]:
    from lamina.run.capability import ALL

    yield "ALL"
    yield from sorted(name.removeprefix("CAP_") for name in ALL)


_Known = Callable[[click.Context, str], Iterable[str]] | tuple[str, ...]
_OPTIONS: dict[tuple[str, str], Any] = {
    # (verb, "" for any; option): its values
    ("images", "--filter"): _image_filters,
    ("ps", "--filter"): _container_filters,
    ("", "--cap-add"): _capabilities,
    ("", "--cap-drop"): _capabilities,
    ("", "--format"): ("json", "table"),
    ("", "--in"): images,
    ("", "--network"): ("bridge", "host", "none", "pasta"),
    ("", "--onto"): images,
    ("", "--platform"): _platforms,
    ("", "--runtime"): ("bwrap", "crun", "runc"),
    ("", "--security-opt"): ("no-new-privileges", "seccomp=", "systempaths=unconfined"),
    ("", "--signal"): ("HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2"),
    ("", "--tls-verify"): ("false", "true"),
    ("", "--userns"): ("auto", "host", "keep-id"),
    ("run", "--volume"): _volumes,
}
