"""The table of all verbs (module, attribute, short help), and the decorator that declares a verb."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import click

VERBS: dict[str, tuple[str, str, str]] = {
    # verb: (module below lamina.cli, attribute, one line for the overview)
    "append": ("change.make", "append", "Put a layer on top of an image."),
    "attach": ("containers.living", "attach", "Connect this terminal to a running container."),
    "blame": ("look.files", "blame", "Show which layer and build step put a path there, and what it replaced."),
    "blob": ("registry.queries", "blob", "Print a blob of a registry, with its digest checked."),
    "build": ("build.build", "build", "Build an image from a Dockerfile."),
    "cat": ("look.files", "cat", "Print files of an image."),
    "commit": ("containers.verbs", "commit", "Make an image from a container and its changes."),
    "completion": ("about", "completion", "Print the completion script for a shell."),
    "compose": ("containers.compose", "compose", "Bring up and manage the services of a compose file."),
    "config": ("change.edit", "config", "Print the config of an image, or make an image with a changed config."),
    "copy": ("move.copy", "copy", "Copy images between the store, registries, layouts and archives."),
    "cp": ("containers.verbs", "cp", "Copy files into or out of a container."),
    "boot": ("containers.boot", "boot", "Run an image as a virtual machine."),
    "create": ("containers.living", "create", "Make a container without starting it."),
    "delete": ("registry.queries", "delete", "Delete a tag or a manifest from a registry."),
    "df": ("store.space", "df", "Show what uses the disk, and what removing an image frees."),
    "diff": ("look.diff", "diff", "Compare two images, containers or directories; or list what a container changed."),
    "digest": ("registry.queries", "digest", "Print the digest of a reference in its registry."),
    "du": ("look.sizes", "du", "Show the sizes of directories, layer by layer."),
    "erase": ("change.edit", "erase", "Remove paths from every layer that has them."),
    "events": ("containers.events", "events", "Show what happens to containers, images, volumes and networks."),
    "exec": ("containers.verbs", "exec_", "Run a program in a running container."),
    "explore": ("look.explore", "explore", "Browse an image in the terminal: its layers, files and changes."),
    "export": ("change.rootfs", "export", "Write the file system of an image or container as one tar."),
    "find": ("look.find", "find", "Find files in all images by name, size, owner or content."),
    "flatten": ("change.edit", "flatten", "Join all layers of an image into one."),
    "fsck": ("store.space", "fsck", "Check the store against its digests, and repair it."),
    "generate": ("containers.generate", "generate", "Print units of systemd for containers."),
    "ghosts": ("look.ghosts", "ghosts", "Show hidden files that still ship, and secrets; recover hidden files."),
    "healthcheck": ("containers.health", "healthcheck", "Run the health check of a container now."),
    "help": ("about", "help_", "Show the help of lamina or of a verb."),
    "history": ("store.images", "history", "Show the build steps of an image and their layers."),
    "images": ("store.images", "images", "List the images of the store."),
    "import": ("change.rootfs", "import_", "Make an image from a root file system (a tar or a directory)."),
    "index": ("move.index_sync", "index", "Make an index of images for several platforms, or add to one."),
    "info": ("about", "info", "Show the settings, and what this host supports."),
    "inspect": ("look.inspect", "inspect", "Show details of images or containers as JSON."),
    "kill": ("containers.verbs", "kill", "Send a signal to containers."),
    "layers": ("look.layers", "layers", "Show what each layer adds, replaces, hides and shares."),
    "load": ("move.copy", "load", "Load images from an archive or a layout into the store."),
    "login": ("registry.login", "login", "Log in to a registry."),
    "logout": ("registry.login", "logout", "Log out of a registry."),
    "logs": ("containers.logs", "logs", "Show what containers have written."),
    "ls": ("look.files", "ls", "List files of an image."),
    "manifest": ("registry.queries", "manifest", "Print a manifest or index of a registry."),
    "mount": ("store.views", "mount", "Mount an image as a read-only directory."),
    "mounts": ("store.views", "mounts", "List the mounts of images."),
    "pack": ("change.make", "pack", "Make an image from programs and all files that they need."),
    "network": ("containers.network", "network", "Networks: containers on the same one reach each other by name."),
    "packages": ("look.packages", "packages", "List installed packages and the layer that brought each; make SBOMs."),
    "passwd": ("registry.passwd", "passwd", "Add a user to a file for `lamina serve`, or change a password."),
    "pause": ("containers.changing", "pause", "Freeze all programs of containers."),
    "plan": ("move.pull_push", "plan", "Show what a pull would fetch, without fetching it."),
    "pod": ("containers.pods", "pod", "Group containers that belong together."),
    "port": ("containers.ports", "port", "Show where the ports of a container are published."),
    "prune": ("store.space", "prune", "Delete untagged images and everything that no image needs."),
    "ps": ("containers.ps", "ps", "List containers."),
    "pull": ("move.pull_push", "pull", "Pull images from a registry into the store."),
    "push": ("move.pull_push", "push", "Push an image from the store to a registry."),
    "rebase": ("change.edit", "rebase", "Move an image's own layers to another base."),
    "rename": ("containers.changing", "rename", "Give a container another name."),
    "restart": ("containers.living", "restart", "Stop containers and start them again."),
    "rm": ("containers.verbs", "rm", "Remove containers."),
    "rmi": ("store.images", "rmi", "Remove images."),
    "run": ("containers.verbs", "run", "Run a program in a new container of an image."),
    "save": ("move.copy", "save", "Write images to an archive."),
    "search": ("registry.queries", "search", "List the repositories of a registry that has a catalog."),
    "serve": ("registry.serve", "serve", "Serve the store as an OCI registry on this host."),
    "squash": ("change.edit", "squash", "Join a range of layers into one; the base stays shared."),
    "start": ("containers.living", "start", "Start containers that were created or have ended."),
    "stat": ("look.files", "stat", "Show the attributes of a path, and its layer."),
    "stats": ("containers.stats", "stats", "Show what running containers use."),
    "stop": ("containers.verbs", "stop", "Stop containers."),
    "sync": ("move.index_sync", "sync", "Copy many images, from a list, a pattern or a place."),
    "tag": ("store.images", "tag", "Give an image another name."),
    "tags": ("registry.queries", "tags", "List the tags of a repository in its registry."),
    "top": ("containers.top", "top", "Show the processes of a container."),
    "tree": ("look.files", "tree", "Show the files of an image as a tree."),
    "ui": ("registry.ui", "ui", "Show images in a browser: layers, files, differences, sizes."),
    "umount": ("store.views", "umount", "Unmount images."),
    "unpack": ("change.make", "unpack", "Unpack an image into a new directory."),
    "unpause": ("containers.changing", "unpause", "Let paused containers go on."),
    "update": ("containers.update", "update", "Change the limits and the restart policy of containers."),
    "validate": ("registry.queries", "validate", "Check an image where it is: digests, sizes, diff_ids."),
    "version": ("about", "version", "Show the version of lamina and of its libraries."),
    "vm-disk": ("containers.vm_disk", "vm_disk", "Write an image as files for virtual machine monitors."),
    "volume": ("containers.volume", "volume", "Create, list and remove volumes."),
    "wait": ("containers.living", "wait", "Wait until containers end, and print their exit codes."),
    "waste": (
        "look.sizes",
        "waste",
        "Show bytes that an image does not need: copies, rewrites, hidden files, caches.",
    ),
}


class Command(click.Command):
    """A verb. Flags may have a value, as in docker: ``--no-trunc=true``, ``--human=false``, ``--tls-verify``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._spelt_out(ctx, args)))

    def _spelt_out(self, ctx: click.Context, args: list[str]) -> Iterator[str]:
        """Yield the words in the form that click takes: a flag without a value, a ``Switch`` with one."""
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


_OTHER_NAMES = {"list": "ls", "remove": "rm"}


class Group(click.Group):
    """A verb with verbs of its own, like `network`. `list` and `remove` mean `ls` and `rm`, as in docker and podman.
    The help has whole sentences, and the error for an unknown verb names similar ones."""

    command_class = Command

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        return found or super().get_command(ctx, _OTHER_NAMES.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            from lamina.cli.unknown import unknown

            raise unknown(name, self.commands, noun=self.name or "")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(
                [(name, one.get_short_help_str(_WHOLE)) for name, one in sorted(self.commands.items())]
            )


_WHOLE = 1000  # click would cut the help of a verb at 45 characters


def load(verb: str) -> click.Command:
    """Import the module of a verb and return its command."""
    module, attribute, _ = VERBS[verb]
    found: click.Command = getattr(importlib.import_module(f"lamina.cli.{module}"), attribute)
    return found


def command(name: str, example: str, **settings: Any) -> Callable[[Any], click.Command]:
    """Declare a verb: a click command whose help ends with ``example``. Without a docstring its help is the line of
    ``VERBS``. ``settings`` are passed to click."""

    def decorate(function: Any) -> click.Command:
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or VERBS[name][2])}\n\n\b\nExample:\n" + "\n".join(
            f"  {line}" for line in example.splitlines()
        )
        settings.setdefault("short_help", VERBS[name][2] if name in VERBS else "")
        return click.command(name, cls=Command, **settings)(function)

    return decorate
