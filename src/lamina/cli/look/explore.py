"""The verb `explore`: the layers and files of an image in the terminal."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

import click

from lamina.cli.options import image_argument, platform_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import Unsupported, UsageError

_LOOK_AGAIN = 500
"""Milliseconds. Some systems do not wake a process that polls only for a hang-up."""


@command("explore", "lamina explore my/app:1\nlamina explore docker-archive:image.tar")
@image_argument()
@platform_option
@click.pass_obj
def explore(session: Session, image: str) -> int:
    """Browse an image in the terminal. The left side shows the layers, the right side the files up to the selected
    layer, with A for added, M for modified and R for removed by that layer. The keys are the same as in dive; ? shows
    all."""
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):  # textual draws on stderr
        raise UsageError("explore needs a terminal", hint="use `lamina layers`, `tree` or `blame` instead")
    try:
        from lamina.cli.look.explorer import ExplorerApp
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("textual"):
            raise
        raise Unsupported("textual is not installed", hint="run `pip install 'lamina[explore]'`") from None
    from lamina.insight.explore_state import Explorer

    app = ExplorerApp(Explorer(session.image(image).stack))
    threading.Thread(target=_end_with_the_terminal, name="lamina-terminal", daemon=True).start()
    app.run()
    return app.return_code or 0


def _end_with_the_terminal() -> None:
    """End this process as soon as its terminal is closed. SIGHUP only goes to processes whose controlling terminal it
    is; for others, read returns end of file again and again, and textual would keep reading."""
    if not hasattr(select, "poll"):
        return
    watched = select.poll()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        watched.register(stream.fileno(), 0)  # poll always reports a hang-up
    while not any(found & select.POLLHUP for _, found in watched.poll(_LOOK_AGAIN)):
        pass
    # at once: textual blocks when it writes to the terminal, and there is nothing to clean up
    os._exit(128 + signal.SIGHUP)
