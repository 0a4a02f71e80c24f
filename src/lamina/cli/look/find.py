"""The verb `find`: search for files in all images in the store."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import warn
from lamina.cli.format.output import emit, emit_json_list
from lamina.cli.format.text import clean, counted, human_size, mode_text, some
from lamina.cli.look.files import KIND, LETTER
from lamina.cli.options import format_option, no_trunc_option, platform_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, UsageError
from lamina.insight.as_json import entry_json

if TYPE_CHECKING:
    from lamina.layer.entry import Entry, Kind
    from lamina.source.search import Words
    from lamina.source.search_hits import Found, Occurrence
    from lamina.spec.digest import Digest

_REMEMBERED = 1000


@command(
    "find",
    "lamina find 'log4j-core-*.jar'\nlamina find --perm /6000 --type f --in debian:12\n"
    "lamina find -E '\\.(pem|key)$' --ghosts --format json",
)
@click.argument("pattern", required=False)
@click.option(
    "-E", "--regex", is_flag=True, help="PATTERN is a regular expression; it may match any part of the name."
)
@click.option(
    "--in", "images", multiple=True, metavar="IMAGE", help="Search only this image in the store; may be repeated."
)
@click.option("--digest", default="", metavar="sha256:HEX", help="Find files with this content.")
@click.option(
    "--type",
    "type_",
    default="",
    metavar="f|d|l|c|b|p",
    help="Find only files, directories, symlinks, devices (c, b) or FIFOs.",
)
@click.option(
    "--size", default="", metavar="[+-]N[kMGT]", help="Find files that are larger (+) or smaller (-) than N."
)
@click.option(
    "--perm",
    default="",
    metavar="[/-]MODE",
    help="Find by mode bits (octal): exactly, all of (-), or any of (/) these.",
)
@click.option("--owner", default="", metavar="UID[:GID]", help="Find by owner, in numbers.")
@click.option("--ghosts", is_flag=True, help="Also find files that a later layer hides.")
@no_trunc_option
@platform_option
@format_option
@click.pass_obj
def find(
    session: Session,
    pattern: str | None,
    regex: bool,
    images: tuple[str, ...],
    digest: str,
    type_: str,
    size: str,
    perm: str,
    owner: str,
    ghosts: bool,
    no_trunc: bool,
    format: str | None,
) -> None:
    """Find files in all images in the store, and show in which layers of which images they are. PATTERN is a glob for
    the base name; with a slash in it, for the whole path ('*' also matches slashes, as in find -path)."""
    from lamina.source.search import Query, Search
    from lamina.spec.name import parse_stored

    if pattern is None and not (digest or type_ or size or perm or owner):
        raise UsageError(
            "no pattern and no condition", hint="give a pattern, --digest, --type, --size, --perm or --owner"
        )
    names = []
    for image in images:
        parsed = parse_stored(image)
        if parsed.transport or not parsed.whole:
            raise UsageError(f"--in needs a whole image in the store, not {image!r:.200}", hint="see `lamina images`")
        names.append(parsed.name)
    words: Words = {
        "regex": regex,
        "digest": digest,
        "type": type_,
        "size": size,
        "perm": perm,
        "owner": owner,
        "ghosts": ghosts,
    }
    if session.store_if_any is None and not names:
        Query.of(pattern, **words)  # reports invalid conditions even without a store
        search = Search((), ())
    else:
        search = session.store.find(pattern, images=names, platform=session.platform, **words)
    columns = [
        ("Mode", "MODE"),
        ("Owner", "OWNER"),
        ("Size", "SIZE"),
        ("Layer", "LAYER"),
        ("Digest", "DIFF ID"),
        ("State", "STATE"),
        ("Path", "PATH"),
        ("Images", "IMAGES"),
    ]
    if not ghosts:
        columns = [column for column in columns if column[0] != "State"]
    if format == "json":
        emit_json_list(map(_found_json, search.found), checked=True)
    else:
        groups = _Groups(no_trunc)
        rows = (row for found in search.found for row in _rows(found, groups))
        emit(rows, columns, format, right=("Size", "Layer"))
    for name, why in search.unread:
        warn(f"{_shown(name)} was skipped: {why}")
    if search.unread:
        raise LaminaError(
            f"{counted(len(search.unread), 'image')} could not be read", hint="check the store with `lamina fsck`"
        )


def _rows(found: Found, groups: _Groups) -> list[dict[str, Any]]:
    """One row for each layer number and state that the entry has in some image."""
    entry = found.entry
    own = _attributes(entry.kind, entry.mode, entry.uid, entry.gid, entry.size)
    digest, path = _digest(found.diff_id, groups.no_trunc), _path(entry)
    return [{**own, "Digest": digest, "Path": path, **group} for group in groups.of(found.places)]


@lru_cache(maxsize=10_000)
def _attributes(kind: Kind, mode: int, uid: int, gid: int, size: int) -> dict[str, Any]:
    """Return some fields of a row. Many files have the same ones; the cache lets them share the strings."""
    return {
        "Mode": mode_text(LETTER[kind], mode),
        "Owner": f"{uid}:{gid}",
        "Size": human_size(size),
        "Bytes": size,
        "Kind": KIND[kind],
    }


@lru_cache(maxsize=1000)
def _digest(digest: Digest, no_trunc: bool) -> str:
    return str(digest) if no_trunc else digest.short


class _Groups:
    """Places grouped by layer number and state, as fields of a row. Most entries have the same places as others."""

    def __init__(self, no_trunc: bool) -> None:
        self.no_trunc = no_trunc
        self._known: dict[int, tuple[tuple[Occurrence, ...], list[dict[str, Any]]]] = {}

    def of(self, places: tuple[Occurrence, ...]) -> list[dict[str, Any]]:
        """Return for each group the layer, the state, the images and their number."""
        known = self._known.get(id(places))  # the id stays valid because _known holds the tuple
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[id(places)] = places, self._made(places)
        return known[1]

    def _made(self, places: tuple[Occurrence, ...]) -> list[dict[str, Any]]:
        groups: dict[tuple[int, str, int | None], list[Occurrence]] = {}
        for place in places:
            groups.setdefault((place.layer, place.state, place.by), []).append(place)
        found = []
        for (layer, state, by), alike in groups.items():
            names = [_name(place) for place in alike]
            shown = some(names, len(names) if self.no_trunc else 3)
            text = state if by is None else f"{state} by {by}"
            found.append({"Layer": layer, "State": text, "Images": shown, "Count": len(names)})
        return found


def _path(entry: Entry) -> str:
    path = "/" + clean(entry.path)
    return f"{path} -> {clean(entry.link)}" if entry.link and KIND[entry.kind] == "symlink" else path


def _found_json(found: Found) -> dict[str, Any]:
    return {
        **entry_json(found.entry),
        "diff_id": str(found.diff_id),
        "images": [
            {
                "name": place.name or None,
                "digest": str(place.digest),
                "layer": place.layer,
                "visible": place.by is None,
                "state": place.state,
                "hidden_by": place.by,
            }
            for place in found.places
        ],
    }


def _name(place: Occurrence) -> str:
    return _shown(place.name) if place.name else _short(place.digest)


def _short(digest: Digest) -> str:
    return f"<none>@{digest.short}"


@cache
def _shown(name: str) -> str:
    """Return the short form of a name, for a terminal; a digest stays a digest."""
    from lamina.spec.reference import familiar

    return clean(familiar(name))
