"""`build --call`: what a Dockerfile offers, and its checks, instead of a build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lamina.build.dockerfile.describe import Needed, Outline, Target, outline, targets
from lamina.cli.build.report import excerpt
from lamina.cli.format.output import emit_json, write
from lamina.cli.format.text import clean, counted

if TYPE_CHECKING:
    from lamina.build.errors import Finding
    from lamina.build.instructions import At, Dockerfile
    from lamina.build.options import BuildOptions
    from lamina.build.planning.checks import Checked
    from lamina.cli.build.values import Call
    from lamina.cli.session import Session


def answer(session: Session, context: str, options: BuildOptions, call: Call) -> int:
    """Print the answer to a call; return the exit code."""
    dockerfile, checked = _read(session, context, options)
    if call.name == "targets":
        _tell_targets(targets(dockerfile), call.format)
    elif call.name == "outline":
        _tell_outline(outline(dockerfile, options.target, options.arguments), call.format)
    else:
        _tell_findings(checked.findings, dockerfile.source, call.format)
        return 1 if checked.findings and not call.ignore_status else 0
    return 0


def _read(session: Session, context: str, options: BuildOptions) -> tuple[Dockerfile, Checked]:
    from lamina.build.builder import load_dockerfile

    with session.interruptible():
        return load_dockerfile(context, options, session.writable_store, session.network(), cancel=session.cancel)


def _tell_findings(found: Sequence[Finding], source: str, format: str) -> None:
    """Print the findings as buildx does."""
    if format == "json":
        file = found[0].at.file if found else ""
        emit_json(
            {
                "warnings": [
                    {"ruleName": one.rule, "description": one.description, "detail": one.text, **_location(one.at)}
                    for one in found
                ],
                "sources": [{"filename": file, "language": "Dockerfile", "data": _base64(source)}] if found else [],
            }
        )
        return
    if not found:
        write("Check complete, no warnings found.")
        return
    write(f"Check complete, {counted(len(found), 'warning')} {'has' if len(found) == 1 else 'have'} been found!")
    for one in found:
        write(f"\nWARNING: {one.rule}\n{clean(one.text)}")
        for line in excerpt(source, one.at):
            write(line)


def _base64(text: str) -> str:
    from base64 import b64encode

    return b64encode(text.encode("utf-8", "surrogateescape")).decode("ascii")


def _tell_targets(found: list[Target], format: str) -> None:
    if format == "json":
        emit_json({"targets": [_target(one) for one in found]})
        return
    rows = [("TARGET", "DESCRIPTION")]
    for one in found:
        mark = "(default)" if one.is_default else ""
        rows.append((" ".join(filter(None, (clean(one.name), mark))), clean(one.description)))
    _table(rows, 1)


def _tell_outline(found: Outline, format: str) -> None:
    if format == "json":
        emit_json(
            {
                **_given(name=found.name, description=found.description),
                "args": [
                    {"name": one.name, **_given(description=one.description, value=one.value), **_location(one.at)}
                    for one in found.arguments
                ],
                **_given(secrets=[*map(_needed, found.secrets)], ssh=[*map(_needed, found.agents)]),
            }
        )
        return
    head = [("TARGET:", clean(found.name) or "(default)")]
    if found.description:
        head.append(("DESCRIPTION:", clean(found.description)))
    if found.name or found.description:
        _table(head, 1)
        write("")
    if found.arguments:
        rows = [(clean(one.name), clean(one.value), clean(one.description)) for one in found.arguments]
        _table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows], 3)
        write("")
    for title, needed in (("SECRET", found.secrets), ("SSH", found.agents)):
        if needed:
            _table([(title, "REQUIRED"), *((clean(one.id), "true" if one.required else "") for one in needed)], 3)
            write("")


def _table(rows: Sequence[tuple[str, ...]], space: int) -> None:
    """Print aligned columns as BuildKit does."""
    widths = [max(map(len, column)) + space for column in zip(*rows, strict=True)]
    for row in rows:
        write("".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _target(one: Target) -> dict[str, Any]:
    return {
        **_given(
            name=one.name, default=one.is_default, description=one.description, base=one.base, platform=one.platform
        ),
        **_location(one.at),
    }


def _needed(one: Needed) -> dict[str, Any]:
    return {"name": one.id, **_given(required=one.required), **_location(one.at)}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _location(at: At) -> dict[str, Any]:
    return {"location": {"ranges": [{"start": {"line": at.line}, "end": {"line": at.last}}]}}
