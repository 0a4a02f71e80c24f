"""The verb `packages`: the packages in an image, and the layer that brought each."""

from __future__ import annotations

import click

from lamina.cli import warn
from lamina.cli.format.output import emit, emit_json, write
from lamina.cli.format.text import clean, json_path
from lamina.cli.options import image_argument, platform_option
from lamina.cli.session import Session
from lamina.cli.verbs import command


@command(
    "packages",
    "lamina packages debian:12\nlamina packages my/app:1 --kind npm --kind pypi\n"
    "lamina packages my/app:1 --format cyclonedx > bom.json",
)
@image_argument()
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["deb", "apk", "rpm", "pypi", "npm", "gem", "composer", "maven", "cargo", "golang", "binary"]),
    help="List only this kind; may be repeated.",
)
@click.option(
    "--programs/--no-programs",
    default=True,
    help="Read ELF programs for Rust crates, Go modules and versions (default: yes).",
)
@platform_option
@click.option(
    "--format",
    metavar="json|table|spdx|cyclonedx|TEMPLATE",
    help="Print json, a table, a bill of materials (spdx, cyclonedx) or a Go template.",
)
@click.pass_obj
def packages(session: Session, image: str, kinds: tuple[str, ...], programs: bool, format: str | None) -> None:
    """List the packages in an image, and the layer that brought each in this version: packages of Debian, Alpine,
    RPM, Python, npm, Ruby, PHP and Java, modules that Rust and Go programs were built from, and about 40 well-known
    programs that no package manager installed, by the version in the program file. Nothing of the image is run."""
    from dataclasses import replace

    from lamina.insight.packages import packages as packages_of
    from lamina.insight.sbom import FORMATS, bill

    stack = session.image(image).stack
    inventory = packages_of(stack, programs=programs)
    if kinds:
        inventory = replace(inventory, packages=tuple(one for one in inventory.packages if one.kind in kinds))
    for note in inventory.notes:
        warn(note)
    if format in FORMATS:
        write(bill(stack, inventory, format or ""))
        return
    if format == "json":
        emit_json(
            [
                {
                    "name": one.name,
                    "version": one.version,
                    "kind": one.kind,
                    "architecture": one.named.architecture or None,
                    "source": one.named.source or None,
                    "purl": one.purl,
                    **json_path(one.path),
                    "layer": one.layer,
                    "diff_id": one.diff_id,
                    "step": one.step,
                }
                for one in inventory.packages
            ]
        )
        return
    rows = [
        {
            "Name": one.name,
            "Version": one.version,
            "Kind": one.kind,
            "Architecture": one.named.architecture,
            "Source": one.named.source,
            "PURL": one.purl,
            "Layer": one.layer,
            "DiffID": one.diff_id,
            "Step": clean(one.step or ""),
            "Path": "/" + clean(one.path),
        }
        for one in inventory.packages
    ]
    columns = [("Name", "NAME"), ("Version", "VERSION"), ("Kind", "KIND"), ("Layer", "LAYER"), ("Path", "PATH")]
    emit(rows, columns, format, right=("Layer",))
