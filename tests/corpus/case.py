"""One Dockerfile of the corpus, and what is around it."""

from __future__ import annotations

import os
import tarfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from support import make_tar

OLD = 1_710_000_000
Files = Mapping[str, Any]
"""Paths and what they are, as ``support.make_tar`` has them; a pair adds attributes: ``(b"x", {"mode": 0o600})``."""


@dataclass(frozen=True)
class Case:
    """``files``: of the context; ``contexts``: of ``--build-context``. ``flags``: of ``docker build``; ``{d}`` in them is
    the directory that holds the context, the contexts and ``beside`` (secrets); ``{http}`` and ``{git}`` here and in
    the Dockerfile are servers of the files of ``served``. ``fails``: every builder must refuse it."""

    dockerfile: str | bytes
    files: Files = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    contexts: Mapping[str, Files] = field(default_factory=dict)
    beside: Files = field(default_factory=dict)
    fails: bool = False


def build(dockerfile: str, files: Files | None = None, *flags: str, **more: Any) -> Case:
    """A Dockerfile that may be indented as the code around it."""
    return Case(textwrap.dedent(dockerfile).lstrip("\n"), files or {}, flags, **more)


def on_base(instructions: str, files: Files | None = None, *flags: str, **more: Any) -> Case:
    """Instructions below ``FROM base``."""
    return build("FROM base\n" + textwrap.dedent(instructions).lstrip("\n"), files, *flags, **more)


def refused(dockerfile: str, files: Files | None = None, *flags: str, **more: Any) -> Case:
    return build(dockerfile, files, *flags, fails=True, **more)


def lay(files: Files, directory: Path, time: int = OLD) -> None:
    """Make the files, with their attributes; ``time``: in seconds, of files for which no time is given."""
    directory.mkdir(parents=True, exist_ok=True)
    members, extended = [], {}
    for name, value in files.items():
        content, attributes = value if isinstance(value, tuple) else (value, {})
        extended[name] = attributes.get("xattrs", {})
        rest = {key: one for key, one in attributes.items() if key != "xattrs"}
        members.append((name, content, {"mtime": time, **rest}))
    with tarfile.open(fileobj=BytesIO(make_tar(members))) as tar:
        tar.extractall(directory, filter="fully_trusted")
    for name, attributes in extended.items():
        for key, value in attributes.items():
            os.setxattr(directory / name, key, value, follow_symlinks=False)
    for top, directories, _ in os.walk(directory, topdown=False):
        for one in (*(os.path.join(top, name) for name in directories), top):
            if not os.path.islink(one):
                os.utime(one, (time, time))
