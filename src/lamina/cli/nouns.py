"""docker's other words for lamina's verbs: ``image ls``, ``container rm``, ``system df``; and the verbs that other
engines have and lamina has not yet. Everything follows from the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from lamina.errors import UsageError

Verbs = dict[str, str]

NOUNS: dict[str, tuple[str, Verbs]] = {
    # noun: (what it is about, {its verb: lamina's verb, and options that go with it; :name is in noun_verbs})
    "image": (
        "Images of the store.",
        {
            "cp": "copy",
            "diff": "diff",
            "exists": ":image_exists",
            "history": "history",
            "import": "import",
            "inspect": "inspect --type image",
            "list": "images",
            "load": "load",
            "ls": "images",
            "mount": "mount",
            "prune": "prune",
            "pull": "pull",
            "push": "push",
            "remove": "rmi",
            "rm": "rmi",
            "save": "save",
            "search": "search",
            "tag": "tag",
            "tree": "layers",
            "umount": "umount",
            "unmount": "umount",
        },
    ),
    "container": (
        "Containers.",
        {
            "commit": "commit",
            "cp": "cp",
            "diff": "diff",
            "exec": "exec",
            "export": "export",
            "inspect": "inspect --type container",
            "kill": "kill",
            "list": "ps",
            "ls": "ps",
            "exists": ":container_exists",
            "prune": ":container_prune",
            "ps": "ps",
            "rm": "rm",
            "remove": "rm",
            "run": "run",
            "stop": "stop",
        },
    ),
    "system": (
        "The store and this machine.",
        {"check": "fsck", "df": "df", "info": "info", "prune": ":system_prune"},
    ),
    "manifest": (
        "Manifests and indexes (`lamina manifest REF` prints one).",
        {
            "add": "index add",
            "create": "index create",
            "inspect": "manifest",
            "push": "push",
            "rm": "rmi",
        },
    ),
    "registry": (
        "What registries have.",
        {
            "blob": "blob",
            "catalog": "search",
            "config": "config",
            "delete": "delete",
            "digest": "digest",
            "login": "login",
            "logout": "logout",
            "ls": "search",
            "manifest": "manifest",
            "rm": "delete",
            "rmi": "delete",
            "search": "search",
            "serve": "serve",
            "tags": "tags",
            "validate": "validate",
        },
    ),
}
OTHERS: Verbs = {"catalog": "search", "list-tags": ":list_tags", "mutate": "config", "unmount": "umount"}
"""Verbs of podman, skopeo and crane that have another name here."""
INSTEAD: Verbs = {"auth": "`lamina login` and `lamina logout`", "context": "`--root DIR`, which chooses a store"}
"""Verbs of theirs whose words mean something else here, and what to type."""

_DETACHED = "containers run in the foreground: `lamina run` ends with its program"
_BUILDING = "`lamina append`, `commit` and `import` make images"
_NETWORKS = "`lamina run --network pasta|none|host` is what there is"
ABSENT: dict[str, str] = {
    # verb of another engine: why, or what does it here
    "attach": _DETACHED,
    "auto-update": "`lamina pull` gets the newest image",
    "bake": _BUILDING,
    "build": _BUILDING,
    "builder": _BUILDING,
    "buildx": _BUILDING,
    "cache": "`lamina prune` frees what no image needs",
    "checkpoint": _DETACHED,
    "compose": "start each container with `lamina run`",
    "create": "`lamina run` makes a container and starts it",
    "events": "`lamina ps -a` shows how containers ended",
    "exists": "`lamina image exists` and `lamina container exists` say it",
    "export-cache": _BUILDING,
    "farm": _BUILDING,
    "generate": "there are no pods",
    "healthcheck": "`lamina exec CONTAINER COMMAND` runs a check",
    "init": "`lamina run` does it",
    "kube": "there are no pods",
    "logs": "a container's output goes to the terminal of its `lamina run`",
    "machine": "there is no virtual machine: containers run on this one",
    "network": _NETWORKS,
    "node": "there is no cluster",
    "pause": "`lamina stop` and `lamina kill` are what there is",
    "play": "there are no pods",
    "plugin": "there are no plugins",
    "pod": "there are no pods",
    "port": "no ports are published; `lamina run --network host` shares the machine's",
    "rename": "`lamina run --name` names a container",
    "restart": "`lamina stop` it, and `lamina run` a new one",
    "restore": _DETACHED,
    "scout": "`lamina packages` lists what is installed, and makes SBOMs",
    "secret": "`lamina run -v FILE:PATH:ro` gives a file",
    "service": "there is no cluster",
    "sign": "`lamina copy --referrers` carries signatures along",
    "stack": "there is no cluster",
    "start": "a container runs once: `lamina run` makes a new one, `lamina commit` keeps what one changed",
    "stats": "`top` and `ps` of this machine show its processes",
    "swarm": "there is no cluster",
    "top": "`ps` of this machine shows its processes",
    "trust": "`lamina copy --referrers` carries signatures along",
    "unpause": "`lamina stop` and `lamina kill` are what there is",
    "unshare": "`lamina mount` and `lamina run` make their namespaces themselves",
    "untag": "`lamina rmi NAME` takes a name away",
    "update": "limits are given to `lamina run`",
    "volume": "`lamina run -v NAME:PATH` makes one and keeps it",
    "wait": _DETACHED,
}


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
    """What the first of the words is another name of, or the noun that it is, with what it is called in messages;
    None where it is neither. A word that is a verb too is the noun where one of the noun's verbs follows, and
    something behind that."""
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
    """The command, and the words that go before its own."""
    from lamina.cli.app import load

    name, *words = verb.split()
    if name.startswith(":"):
        from lamina.cli import noun_verbs

        return getattr(noun_verbs, name[1:]), words
    found = load(name)
    if isinstance(found, click.Group):
        return found.commands[words[0]], words[1:]
    return found, words


def _about(verb: str) -> str:
    """A line for the noun's help."""
    from lamina.cli.app import VERBS

    name = verb.split(maxsplit=1)[0]
    return f"`lamina {verb}`: {VERBS[name][2]}" if name in VERBS else _target(verb)[0].get_short_help_str()


def unknown(name: str, verbs: Mapping[str, object], *, noun: str = "") -> UsageError | click.UsageError:
    """The error for a word that is no verb: one that lamina has not yet, else what it is near to."""
    if name in ABSENT:
        return UsageError(f"lamina has no `{noun + ' ' if noun else ''}{name}` yet: {ABSENT[name]}")
    if name in INSTEAD and not noun:
        return UsageError(f"no verb {name!r}", hint=f"here it is {INSTEAD[name]}")
    from lamina.text import nearest

    near = nearest(name, verbs, most=3)
    more = f"; did you mean {' or '.join(near)}?" if near else ""
    return click.UsageError(f"no verb {name!r:.60}" + (f" of {noun!r}" if noun else "") + more)
