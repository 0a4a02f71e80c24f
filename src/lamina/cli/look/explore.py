"""The verb `explore`: the stack and its union in the terminal."""

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
"""Milliseconds; not every system wakes who waits for a hang-up alone."""


@command("explore", "lamina explore my/app:1\nlamina explore docker-archive:image.tar")
@image_argument()
@platform_option
@click.pass_obj
def explore(session: Session, image: str) -> int:
    """Browse an image in the terminal: its layers on the left, on the right the union up to the selected one,
    with what that layer added (A), modified (M) and removed (R). The keys are dive's; ? shows them all."""
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):  # textual draws on stderr
        raise UsageError("explore needs a terminal", hint="`lamina layers`, `tree` and `blame` print what it shows")
    try:
        from lamina.cli.look.explorer import ExplorerApp
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("textual"):
            raise
        raise Unsupported("textual is not installed", hint="pip install 'lamina[explore]'") from None
    from lamina.insight.explore_state import Explorer

    app = ExplorerApp(Explorer(session.image(image).stack))
    threading.Thread(target=_end_with_the_terminal, name="lamina-terminal", daemon=True).start()
    app.run()
    return app.return_code or 0


def _end_with_the_terminal() -> None:
    """Ends this process as soon as its terminal goes away. Who has it as controlling terminal is told by SIGHUP;
    to all others reads say the end over and over, and textual goes on with them."""
    if not hasattr(select, "poll"):
        return
    watched = select.poll()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        watched.register(stream.fileno(), 0)  # of a hang-up one is always told
    while not any(found & select.POLLHUP for _, found in watched.poll(_LOOK_AGAIN)):
        pass
    # at once: writing to the terminal blocks textual, and there is nothing to bring in order any more
    os._exit(128 + signal.SIGHUP)
