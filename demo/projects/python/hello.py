#!/usr/bin/env python3
import os

import click


@click.command()
@click.argument("who")
def hello(who: str) -> None:
    click.echo(f"hello {who} from Python, version {os.environ['VERSION']}, as {os.getuid()}")


hello()
