"""The verb `explore`: the stack and its union in the terminal."""

from __future__ import annotations

import sys

import click

from lamina.cli.app import command
from lamina.cli.options import image_argument, platform_option
from lamina.cli.session import Session
from lamina.errors import Unsupported, UsageError


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
        from lamina.cli.explorer import ExplorerApp
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("textual"):
            raise
        raise Unsupported("textual is not installed", hint="pip install 'lamina[explore]'") from None
    from lamina.insight.explore import Explorer

    app = ExplorerApp(Explorer(session.image(image).stack))
    app.run()
    return app.return_code or 0
