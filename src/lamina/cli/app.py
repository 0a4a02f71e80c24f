"""The command group `lamina`: its own help and options, and the lookup of verbs. The module of a verb is imported
only when the verb is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lamina.cli.verbs import VERBS, load
from lamina.spec.transport import TRANSPORTS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports one only to run it or to show its help. A word that is not a
    verb is looked up among docker's nouns (``image ls``)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load(cmd_name) if cmd_name in VERBS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if not name or name.startswith("-"):
            return super().resolve_command(ctx, args)
        if name not in VERBS or name == "manifest":
            from lamina.cli.nouns import find

            found = find(args, VERBS)
            if found is not None:
                return *found, args[1:]
        if name not in VERBS and not ctx.resilient_parsing:
            from lamina.cli.unknown import unknown

            raise unknown(name, VERBS)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from lamina.cli.candidates import verbs

        return verbs(ctx, incomplete) or super(click.Group, self).shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from lamina.cli.noun_table import NOUNS

        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, _, text) in sorted(VERBS.items())])
        with formatter.section("The same verbs as in docker, grouped by noun"):
            formatter.write_dl([(noun, ", ".join(sorted(verbs))) for noun, (_, verbs) in NOUNS.items()])


def _tell_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from lamina.version import PODMAN, __version__  # click's own way asks the package's metadata, for 15 ms

        # the last word: for clients of podman, like podman-compose, which choose by its version what they ask for
        click.echo(f"lamina, version {__version__}, command line of podman {PODMAN}")
        context.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="IMAGE is a name, ID or digest in the store; "
    + "; ".join(f"{one.usage} is {one.what}" for one in TRANSPORTS)
    + ". IMAGE~N means the lowest N layers of the image, IMAGE~N:M its layers N to M. The store is the directory "
    "where lamina keeps images.",
)
@click.option(
    "--root",
    metavar="DIR",
    help="Directory of the store (default: LAMINA_ROOT, else the setting; see `lamina info`).",
)
@click.option(
    "-v",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_tell_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, root: str | None) -> None:
    """Look into, change, move and run container images, without a daemon. An image is a stack of read-only layers;
    their union is its file system.

    \b
    Example:
      lamina run --rm -it debian:12 bash
      lamina ls -l debian:12 /etc
      lamina layers debian:12
      lamina pack sh ls -t tools     (no network: an image from programs of this host)
    """
    from lamina.cli.session import Session

    ctx.obj = Session({"root": root} if root is not None else {})
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
