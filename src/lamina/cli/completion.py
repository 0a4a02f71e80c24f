"""Completion in bash, zsh and fish: the scripts, and the answers to them.

The script calls lamina with the words up to the cursor. Each line of the answer is one candidate, or ``#file`` or
``#dir`` to let the shell complete files. Names come from images and archives: characters with a meaning in the shell
are quoted, and names that can't be typed are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

import click
from click.shell_completion import CompletionItem, ShellComplete, _resolve_context, _resolve_incomplete

from lamina.cli.candidates import DIRECTORIES, FILES, values
from lamina.errors import LaminaError

VARIABLE = "_LAMINA_COMPLETE"


_OPEN = ("/", ":", "=")
"""No space is added after a candidate that ends with one of these, because more follows. fish has the same rule."""


_MAX_CANDIDATES = 2000


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
    """Return the completion script for "bash", "zsh" or "fish"."""
    return _SCRIPTS[shell]


def answer(instruction: str, cli: click.Group) -> int:
    """Print the answer to a script; return the exit code. Errors are not shown, because the user is typing."""
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
    for line in answer_lines(
        shell, [str(item.value) for item in found], word, quote, os.environ.get("LAMINA_BREAKS", "")
    ):
        click.echo(line)
    return 0


def split(line: str) -> tuple[list[str], str, str]:
    """Split the line of a shell (pure): the complete words, the incomplete word at the end, and its quoting ("" or
    the open quotation mark)."""
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


def answer_lines(shell: str, values: Iterable[str], word: str, quote: str, breaks: str) -> Iterator[str]:
    """Yield the lines of the answer for the candidates of ``word`` (pure)."""
    option, equals, _ = word.partition("=")
    head = option + equals if word.startswith("--") and equals else ""
    cut = 0
    if shell == "bash" and not quote:
        # bash replaces only the part of the word after the last of these characters
        cut = max((number + 1 for number, letter in enumerate(word) if letter in breaks), default=0)
    for value in list(dict.fromkeys(values))[:_MAX_CANDIDATES]:
        if value in (FILES, DIRECTORIES):
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


class _Completion(ShellComplete):
    """Completion of click, with candidates for our arguments and options."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        ctx = _resolve_context(self.cli, self.ctx_args, self.prog_name, args)
        if isinstance(ctx.command, click.Group) and (ctx.args or vars(ctx).get("_protected_args")):
            return []  # an unknown verb
        at, incomplete = _resolve_incomplete(ctx, args, incomplete)
        found = at.shell_complete(ctx, incomplete)
        if found or not isinstance(at, click.Parameter):
            return found
        return [CompletionItem(value) for value in values(ctx, at, incomplete)]
