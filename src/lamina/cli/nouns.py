"""docker's names for the verbs of lamina: nouns as groups, and other names of verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from lamina.cli.noun_table import NOUNS, OTHERS, Verbs
from lamina.cli.unknown import unknown


class Noun(click.Group):
    """The verbs of one noun."""

    def __init__(self, name: str, about: str, verbs: Verbs) -> None:
        super().__init__(name, invoke_without_command=True, no_args_is_help=False, help=about, callback=_help)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self.verbs.get(cmd_name)
        return None if verb is None else _target(verb)[0]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name in self.verbs:
            found, words = _target(self.verbs[name])
            return name, found, [*words, *args[1:]]
        if name and not name.startswith("-") and not ctx.resilient_parsing:
            raise unknown(name, self.verbs, noun=self.name or "")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, _about(verb)) for name, verb in sorted(self.verbs.items())])


@click.pass_context
def _help(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def find(words: Sequence[str], verbs: Mapping[str, object]) -> tuple[str, click.Command] | None:
    """Find the noun, or the verb with another name, that the first word means: its name for messages, and the
    command. None: it is neither. If the word is also a verb, it counts as a noun only if one of the noun's verbs and
    a further word follow."""
    name = words[0]
    if name in NOUNS:
        about, mine = NOUNS[name]
        if name not in verbs or (len(words) > 2 and words[1] in mine):
            return name, Noun(name, about, mine)
    if name not in OTHERS:
        return None
    other = OTHERS[name]
    return name if other.startswith(":") else other, _target(other)[0]


def _target(verb: str) -> tuple[click.Command, list[str]]:
    """Return the command of a table entry, and the words to put before those of the user."""
    from lamina.cli.verbs import load

    name, *words = verb.split()
    if name.startswith(":"):
        from lamina.cli import noun_verbs

        return getattr(noun_verbs, name[1:]), words
    found = load(name)
    if isinstance(found, click.Group):
        return found.commands[words[0]], words[1:]
    return found, words


def _about(verb: str) -> str:
    """Return the short help of a verb for the help of its noun."""
    from lamina.cli.verbs import VERBS

    name = verb.split(maxsplit=1)[0]
    return f"`lamina {verb}`: {VERBS[name][2]}" if name in VERBS else _target(verb)[0].get_short_help_str()
