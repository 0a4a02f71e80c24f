"""The verb `events`: what happened to containers, images, volumes and networks, from the journal of the store."""

from __future__ import annotations

import time
from typing import Any

import click

from lamina.cli.format.output import write
from lamina.cli.format.template_record import Record
from lamina.cli.format.text import clean
from lamina.cli.options import format_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.store.journal_reading import KEYS, Event, Filters, followed


@command(
    "events",
    "lamina events\nlamina events --since 1h --filter event=die --filter container=web\n"
    "lamina events --no-stream --format '{{.Action}} {{.Actor.Attributes.name}}'",
)
@click.option("--since", metavar="TIME", help="Also show past events from this time on: 10m, 2026-01-31T12:00:00.")
@click.option("--until", metavar="TIME", help="Show events up to this time, then end.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"Show only matching events: {', '.join(KEYS)}.",
)
@click.option("--stream/--no-stream", default=True, help="Wait for further events (default: yes).")
@click.option("--no-trunc", is_flag=True, hidden=True, expose_value=False)
@format_option
@click.pass_obj
def events(
    session: Session,
    since: str | None,
    until: str | None,
    filters: tuple[str, ...],
    stream: bool,
    format: str | None,
) -> None:
    """Show what happens to containers, images, volumes and networks, a line for each event. Without --since, --until
    and --no-stream, only new events are shown, until Ctrl-C."""
    from lamina.spec.moment import parse_moment

    now = time.time_ns()
    chosen = Filters.parse(filters)
    first = parse_moment(since, now) if since else 0
    last = parse_moment(until, now) if until else None if stream else now
    show = _shown(format)
    _ = session.store_if_any  # refuses another user's, and what is not a store
    for event in followed(session.settings.root, past=bool(since or last is not None), until=last):
        if event and first <= event.time and (last is None or event.time <= last) and chosen.match(event):
            write(show(event))


def _shown(format: str | None) -> Any:
    """Return the function from an event to its line. Raises UsageError."""
    if format in (None, "table"):
        return event_line
    if format == "json":
        from json import dumps

        return lambda event: dumps(event_record(event), separators=(",", ":"))
    from lamina.cli.format.output import table_template
    from lamina.cli.format.template import Template

    template = Template(table_template(format or "")[1])
    return lambda event: "\t".join(map(clean, template.render(event_record(event)).split("\t")))


def event_line(event: Event) -> str:
    """The line of an event in docker's form (pure, but for the time zone)."""
    from lamina.spec.moment import rfc3339

    told = ", ".join(f"{key}={value}" for key, value in sorted(event.attributes.items()))
    line = f"{rfc3339(event.time, local=True)} {event.kind} {event.action} {event.id}"
    return clean(f"{line} ({told})" if told else line)


def event_record(event: Event) -> Record:
    """The fields of an event: docker's, which JSON shows, and podman's (pure)."""
    attributes = dict(sorted(event.attributes.items()))
    older = {"status": event.action, "id": event.id} if event.kind in ("container", "image") else {}
    if event.image:
        older["from"] = event.image
    fields = {
        **older,
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": attributes},
        "scope": "local",
        "time": event.time // 1_000_000_000,
        "timeNano": event.time,
    }
    own = {
        "ID": event.id,
        "Status": event.action,
        "From": event.image,
        "Scope": "local",
        "Time": event.time // 1_000_000_000,
        "TimeNano": event.time,
        "Name": event.name,
        "Image": event.image,
        "Attributes": attributes,
    }
    return Record(fields, own)
