"""The command group: every verb with its one line, each loaded only when it is called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VERBS: dict[str, tuple[str, str, str]] = {
    # verb: (module below lamina.cli, attribute, one line for the overview)
    "append": ("make", "append", "Put a layer on top of an image."),
    "blame": ("look", "blame", "Say which layer and build step put a path there, and what it shadows."),
    "blob": ("registry", "blob", "Print a blob of a registry; its digest is checked."),
    "cat": ("look", "cat", "Print files of an image."),
    "commit": ("containers", "commit", "Make an image of what a container changed."),
    "completion": ("about", "completion", "Print the completion script of a shell."),
    "config": ("edit", "config", "Print an image's config, or make an image with another one."),
    "copy": ("move", "copy", "Copy images between store, registries, layouts and archives, digests kept."),
    "cp": ("containers", "cp", "Copy files into or out of a container."),
    "delete": ("registry", "delete", "Delete a tag or a manifest from a registry."),
    "df": ("keep", "df", "Show what the store's bytes are for, and what a delete frees."),
    "diff": ("compare", "diff", "Compare two images, containers or directories; or list what a container changed."),
    "digest": ("registry", "digest", "Print the digest that a reference has in its registry."),
    "du": ("weigh", "du", "Show what directories hold, and which layer's bytes they are."),
    "erase": ("edit", "erase", "Take paths out of every layer that has them."),
    "exec": ("containers", "exec_", "Run another program in a container."),
    "explore": ("explore", "explore", "Browse an image in the terminal: layers, union, what changed where."),
    "export": ("rootfs", "export", "Write the union as one plain tar."),
    "find": ("find", "find", "Find files in all images: by name, size, owner, content; hidden ones too."),
    "flatten": ("edit", "flatten", "Make all layers of an image one."),
    "fsck": ("keep", "fsck", "Check every byte of the store; --repair makes derived files again."),
    "ghosts": ("ghosts", "ghosts", "Show hidden files that still ship, and secrets; get hidden files back."),
    "help": ("about", "help_", "Show the help of lamina, or of a verb."),
    "history": ("images", "history", "Show the build steps of an image beside its layers."),
    "images": ("images", "images", "List the images of the store."),
    "import": ("rootfs", "import_", "Make an image of a root file system: a tar or a directory."),
    "index": ("many", "index", "Make an index of several images, or add to one."),
    "info": ("about", "info", "Show the settings and where each comes from."),
    "inspect": ("inspect", "inspect", "Show all that is known of images or containers as JSON."),
    "kill": ("containers", "kill", "Send a signal to containers."),
    "layers": ("layers", "layers", "Show the stack: what each layer adds, replaces, hides and shares."),
    "load": ("move", "load", "Bring images in from an archive or a layout."),
    "login": ("login", "login", "Log in to a registry, and keep the credential."),
    "logout": ("login", "logout", "Forget the credential of a registry."),
    "ls": ("look", "ls", "List a directory of the union."),
    "manifest": ("registry", "manifest", "Print a manifest or index as its registry has it."),
    "mount": ("views", "mount", "Mount the union as a read-only directory, nothing unpacked."),
    "mounts": ("views", "mounts", "List what is mounted."),
    "pack": ("make", "pack", "Make an image of programs and all the files that they need."),
    "packages": ("packages", "packages", "List an image's packages, and the layer that brought each; SBOMs."),
    "plan": ("wire", "plan", "Say what an operation would transfer, before it does."),
    "prune": ("keep", "prune", "Delete what no image needs."),
    "ps": ("containers", "ps", "List containers."),
    "pull": ("wire", "pull", "Bring images from a registry into the store."),
    "push": ("wire", "push", "Send an image of the store to a registry."),
    "rebase": ("edit", "rebase", "Put an image's own layers on another base, with a report first."),
    "rm": ("containers", "rm", "Remove containers."),
    "rmi": ("images", "rmi", "Remove images."),
    "run": ("containers", "run", "Run a program in a new container of an image."),
    "save": ("move", "save", "Write images to an archive."),
    "search": ("registry", "search", "List the repositories of a registry that has a catalog."),
    "serve": ("serve", "serve", "Serve the store as an OCI registry, to this machine."),
    "squash": ("edit", "squash", "Make a range of layers one; the base stays shared."),
    "stat": ("look", "stat", "Show all that is known of a path, and its layer."),
    "stop": ("containers", "stop", "Ask containers to end."),
    "sync": ("many", "sync", "Copy many images: those of a list, or of a pattern."),
    "tag": ("images", "tag", "Give an image another name."),
    "tags": ("registry", "tags", "List the tags of a repository in its registry."),
    "tree": ("look", "tree", "Draw the union, or some of it, as a tree."),
    "umount": ("views", "umount", "Unmount images."),
    "unpack": ("make", "unpack", "Write the union into a new directory."),
    "validate": ("registry", "validate", "Prove an image where it is: digests, sizes, diff_ids."),
    "version": ("about", "version", "Show lamina's version and its parts'."),
    "waste": ("weigh", "waste", "Show bytes that an image does not need: copies, rewrites, leftovers, caches."),
}


class Command(click.Command):
    """A verb. Flags may be given as docker's programs take them: ``--no-trunc=true``, ``--human=false``,
    ``--tls-verify``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._spelt_out(ctx, args)))

    def _spelt_out(self, ctx: click.Context, args: list[str]) -> Iterator[str]:
        """The words as click takes them: a flag has no value, and a ``Switch`` has one."""
        from lamina.cli.options import Switch

        known = {name: option for option in self.get_params(ctx) for name in option.opts}
        rest = iter(args)
        for word in rest:
            name, equals, value = word.partition("=")
            option = known.get(name)
            if word == "--" or (not ctx.allow_interspersed_args and not word.startswith("-")):
                yield word
                break
            if isinstance(option, Switch):
                yield word if equals else f"{word}=true"
            elif not equals or value.lower() not in ("true", "false") or not getattr(option, "is_flag", False):
                yield word
                if isinstance(option, click.Option) and not (option.is_flag or option.count or equals):
                    yield from islice(rest, option.nargs)
            elif value.lower() == "true":
                yield name
            elif option is not None and option.secondary_opts:
                yield option.secondary_opts[0]
        yield from rest


class LazyGroup(click.Group):
    """Knows the verbs by name; imports one only to run it or to show its help. What is no verb is looked for among
    the nouns of docker's (``image ls``)."""

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
            from lamina.cli.nouns import unknown

            raise unknown(name, VERBS)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from lamina.cli.completion import verbs

        return verbs(ctx, incomplete) or super(click.Group, self).shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from lamina.cli.nouns import NOUNS

        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, _, text) in sorted(VERBS.items())])
        with formatter.section("The same verbs by what they are for, as docker has them"):
            formatter.write_dl([(noun, ", ".join(sorted(verbs))) for noun, (_, verbs) in NOUNS.items()])


def load(verb: str) -> click.Command:
    """The command of a verb."""
    module, attribute, _ = VERBS[verb]
    found: click.Command = getattr(importlib.import_module(f"lamina.cli.{module}"), attribute)
    return found


def command(name: str, example: str, **settings: Any) -> Callable[[Any], click.Command]:
    """A click command whose help ends with an example, and whose first line is the overview's. ``settings``: of
    click."""

    def decorate(function: Any) -> click.Command:
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or VERBS[name][2])}\n\n\b\nExample:\n" + "\n".join(
            f"  {line}" for line in example.splitlines()
        )
        settings.setdefault("short_help", VERBS[name][2] if name in VERBS else "")
        return click.command(name, cls=Command, **settings)(function)

    return decorate


def _tell_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from lamina.version import __version__  # click's own way asks the package's metadata, for 15 ms

        click.echo(f"lamina, version {__version__}")
        context.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="IMAGE is a name in the store, an ID or digest, docker://REF in a registry, oci:DIR[:REF], "
    "oci-archive:FILE[:REF] or docker-archive:FILE[:REF]; IMAGE~N is the union of its lowest N layers, "
    "IMAGE~N:M that of layers N to M.",
)
@click.option("--root", metavar="DIR", help="The store's directory (else LAMINA_ROOT, the config, the default).")
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
    """Container images as what they are: a stack of immutable layers seen as one filesystem.

    \b
    Example:
      lamina pack sh ls -t tools
      lamina ls tools /
      lamina blame tools /bin/sh
    """
    from lamina.cli.session import Session

    ctx.obj = Session({"root": root} if root is not None else {})
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
