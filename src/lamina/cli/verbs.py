"""Every verb with its one line and the module that it is loaded from; and how a verb is declared."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    pass


VERBS: dict[str, tuple[str, str, str]] = {
    # verb: (module below lamina.cli, attribute, one line for the overview)
    "append": ("change.make", "append", "Put a layer on top of an image."),
    "blame": ("look.files", "blame", "Say which layer and build step put a path there, and what it shadows."),
    "blob": ("registry.look", "blob", "Print a blob of a registry; its digest is checked."),
    "cat": ("look.files", "cat", "Print files of an image."),
    "commit": ("containers.verbs", "commit", "Make an image of what a container changed."),
    "completion": ("about", "completion", "Print the completion script of a shell."),
    "config": ("change.edit", "config", "Print an image's config, or make an image with another one."),
    "copy": ("move.copy", "copy", "Copy images between store, registries, layouts and archives, digests kept."),
    "cp": ("containers.verbs", "cp", "Copy files into or out of a container."),
    "delete": ("registry.look", "delete", "Delete a tag or a manifest from a registry."),
    "df": ("store.keep", "df", "Show what the store's bytes are for, and what a delete frees."),
    "diff": ("look.diff", "diff", "Compare two images, containers or directories; or list what a container changed."),
    "digest": ("registry.look", "digest", "Print the digest that a reference has in its registry."),
    "du": ("look.weigh", "du", "Show what directories hold, and which layer's bytes they are."),
    "erase": ("change.edit", "erase", "Take paths out of every layer that has them."),
    "exec": ("containers.verbs", "exec_", "Run another program in a container."),
    "explore": ("look.explore", "explore", "Browse an image in the terminal: layers, union, what changed where."),
    "export": ("change.rootfs", "export", "Write the union as one plain tar."),
    "find": ("look.find", "find", "Find files in all images: by name, size, owner, content; hidden ones too."),
    "flatten": ("change.edit", "flatten", "Make all layers of an image one."),
    "fsck": ("store.keep", "fsck", "Check every byte of the store; --repair makes derived files again."),
    "ghosts": ("look.ghosts", "ghosts", "Show hidden files that still ship, and secrets; get hidden files back."),
    "help": ("about", "help_", "Show the help of lamina, or of a verb."),
    "history": ("store.images", "history", "Show the build steps of an image beside its layers."),
    "images": ("store.images", "images", "List the images of the store."),
    "import": ("change.rootfs", "import_", "Make an image of a root file system: a tar or a directory."),
    "index": ("move.many", "index", "Make an index of several images, or add to one."),
    "info": ("about", "info", "Show the settings and where each comes from."),
    "inspect": ("look.inspect", "inspect", "Show all that is known of images or containers as JSON."),
    "kill": ("containers.verbs", "kill", "Send a signal to containers."),
    "layers": ("look.layers", "layers", "Show the stack: what each layer adds, replaces, hides and shares."),
    "load": ("move.copy", "load", "Bring images in from an archive or a layout."),
    "login": ("registry.login", "login", "Log in to a registry, and keep the credential."),
    "logout": ("registry.login", "logout", "Forget the credential of a registry."),
    "ls": ("look.files", "ls", "List a directory of the union."),
    "manifest": ("registry.look", "manifest", "Print a manifest or index as its registry has it."),
    "mount": ("store.views", "mount", "Mount the union as a read-only directory, nothing unpacked."),
    "mounts": ("store.views", "mounts", "List what is mounted."),
    "pack": ("change.make", "pack", "Make an image of programs and all the files that they need."),
    "packages": ("look.packages", "packages", "List an image's packages, and the layer that brought each; SBOMs."),
    "plan": ("move.pull_push", "plan", "Say what an operation would transfer, before it does."),
    "prune": ("store.keep", "prune", "Delete what no image needs."),
    "ps": ("containers.verbs", "ps", "List containers."),
    "pull": ("move.pull_push", "pull", "Bring images from a registry into the store."),
    "push": ("move.pull_push", "push", "Send an image of the store to a registry."),
    "rebase": ("change.edit", "rebase", "Put an image's own layers on another base, with a report first."),
    "rm": ("containers.verbs", "rm", "Remove containers."),
    "rmi": ("store.images", "rmi", "Remove images."),
    "run": ("containers.verbs", "run", "Run a program in a new container of an image."),
    "save": ("move.copy", "save", "Write images to an archive."),
    "search": ("registry.look", "search", "List the repositories of a registry that has a catalog."),
    "serve": ("registry.serve", "serve", "Serve the store as an OCI registry, to this machine."),
    "squash": ("change.edit", "squash", "Make a range of layers one; the base stays shared."),
    "stat": ("look.files", "stat", "Show all that is known of a path, and its layer."),
    "stop": ("containers.verbs", "stop", "Ask containers to end."),
    "sync": ("move.many", "sync", "Copy many images: those of a list, or of a pattern."),
    "tag": ("store.images", "tag", "Give an image another name."),
    "tags": ("registry.look", "tags", "List the tags of a repository in its registry."),
    "tree": ("look.files", "tree", "Draw the union, or some of it, as a tree."),
    "umount": ("store.views", "umount", "Unmount images."),
    "unpack": ("change.make", "unpack", "Write the union into a new directory."),
    "validate": ("registry.look", "validate", "Prove an image where it is: digests, sizes, diff_ids."),
    "version": ("about", "version", "Show lamina's version and its parts'."),
    "waste": ("look.weigh", "waste", "Show bytes that an image does not need: copies, rewrites, leftovers, caches."),
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
