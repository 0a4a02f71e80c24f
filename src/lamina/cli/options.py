"""Options and arguments that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import option_table
from lamina.cli.session import Session
from lamina.errors import UsageError
from lamina.settings import KEEPS, VIEWS

Decorator = Callable[[Any], Any]
if TYPE_CHECKING:
    _Param = click.ParamType[str]
else:
    _Param = click.ParamType  # generic only since click 8.3


class _Text(_Param):
    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r:.200} is not UTF-8; the config of an image can hold only UTF-8", param, ctx)
        return value


TEXT = _Text()
"""The type of options whose value goes into the config of an image."""


def name_and_value(text: str, what: str) -> tuple[str, str]:
    """Split NAME=VALUE. ``what``: the option or instruction that has it. Raises UsageError."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"{what}: {text!r:.200} is not NAME=VALUE", hint="write NAME=VALUE")
    return name, value


def named_once(named: bool, things: str = "containers", **options: bool) -> None:
    """Check that a command line says in one way which things a verb works on: by names, or by one of the options
    (``all=``, ``latest=`` ..., each whether it was given). Raises UsageError."""
    ways = [f"--{option}" for option, given in options.items() if given]
    if named:
        ways.insert(0, "names")
    if len(ways) > 1:
        raise UsageError(f"{' and '.join(ways)} can't be combined", hint=f"say in one way which {things} you mean")
    if not ways:
        *first, last = (f"--{option}" for option in options)
        hint = f"name them, or give {', '.join(first)}{' or ' if first else ''}{last}"
        raise UsageError(f"no {things} given", hint=hint)


FORMATS = ("json", "table")


def check_format(value: str | None, more: Sequence[str] = ()) -> str | None:
    """Check the value of ``--format`` before anything is done; return it. ``more``: further words that are allowed.
    Raises UsageError if it is neither an allowed word nor a valid template."""
    if not value:  # docker: an empty one is none
        return None
    if value in FORMATS or value in more:
        return value
    if "{{" not in value:
        raise UsageError(
            f"unknown format {value!r:.100}",
            hint=f"use {', '.join((*FORMATS, *more))}, or a template like '{{{{.ID}}}}'",
        )
    from lamina.cli.format.output import table_template
    from lamina.cli.format.template import Template

    Template(table_template(value)[1])
    return value


def _format(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return check_format(value)


def _format_option(*names: str) -> Decorator:
    return click.option(
        *names,
        "--format",
        metavar="json|table|TEMPLATE",
        callback=_format,
        help="Print json, a table, or a Go template like '{{.Field}}' ('table {{...}}' adds headings).",
    )


format_option = _format_option()
short_format_option = _format_option("-f")  # for verbs where docker has -f
report_option: Decorator = click.option(
    "--format", type=click.Choice(["json", "table"]), help="Print json, or a report (the default)."
)
"""For verbs whose output is not a list of similar rows, so that a template does not fit."""
no_trunc_option: Decorator = click.option("--no-trunc", is_flag=True, help="Show full digests and commands.")
quiet_option: Decorator = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")


referrers_option: Decorator = click.option(
    "--referrers", is_flag=True, help="Also copy signatures, attestations and SBOMs of the image."
)


def _platform(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).flags["platform"] = value


platform_option: Decorator = click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    expose_value=False,
    callback=_platform,
    help="Use this platform of a multi-platform image (default: this host's).",
)


view_option: Decorator = click.option(
    "--view",
    type=click.Choice(VIEWS),
    help="How to mount the image (default: the setting, else the first that works here; see `lamina info`).",
)


def _setting(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def keep(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.ensure_object(Session).flags[name] = value

    return keep


keep_option: Decorator = click.option(
    "--keep",
    type=click.Choice(KEEPS),
    expose_value=False,
    callback=_setting("keep"),
    help="What to keep of each layer: the compressed blob, the uncompressed tar (lamina fetches the blob from its "
    "registry again when it is needed), or both.",
)


def _credentials(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    ctx.ensure_object(Session).credentials = value


class Switch(click.Option):
    """An option that is true without a value, as in skopeo and podman. A value needs ``=``; the next word is never
    its value."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, metavar="[=true|false]", **settings)


_TLS = click.option(
    "--tls-verify",
    cls=Switch,
    expose_value=False,
    callback=_setting("tls_verify"),
    help="=false: do not check certificates, and allow plain http (default: true; http for loopback hosts).",
)
_AUTHFILE = click.option(
    "--authfile",
    metavar="FILE",
    expose_value=False,
    callback=_setting("authfile"),
    help="Read credentials from this file.",
)
_CERT_DIR = click.option(
    "--cert-dir",
    metavar="DIR",
    expose_value=False,
    callback=_setting("cert_dir"),
    help="Read CAs (*.crt) and client certificates (*.cert with *.key) from this directory.",
)
_CREDS = click.option(
    "--creds",
    metavar="USER[:PASSWORD]",
    expose_value=False,
    callback=_credentials,
    help="Credentials for this call. Others can see them in the process list; `lamina login` is safer.",
)


def registry_options(function: Any) -> Any:
    """Add the options of every verb that asks a registry."""
    for option in (_CREDS, _CERT_DIR, _AUTHFILE, _TLS):
        function = option(function)
    return function


def web_options(function: Any) -> Any:
    """Add the options of a verb that downloads from a web server."""
    return _CERT_DIR(_TLS(function))


_TYPES: dict[str, dict[str, Any]] = {
    option_table.FLAG: {"is_flag": True},
    option_table.MANY: {"multiple": True},
    option_table.WHOLE: {"type": int},
    option_table.NUMBER: {"type": float},
}


def options_of(table: Sequence[option_table.Option]) -> Decorator:
    """Add the options of ``table``, which ``cli.plain`` reads too."""

    def decorate(function: Any) -> Any:
        for one in reversed(table):
            more = _TYPES.get(one.kind, {"default": one.default})
            if one.choices:
                more = {**more, "type": click.Choice(one.choices)}
            function = click.option(*one.names, one.argument, metavar=one.metavar, help=one.help, **more)(function)
        return function

    return decorate


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from lamina.cli.candidates import image_words

    return image_words(ctx, incomplete)


def checked_name(name: str) -> str:
    """Check, before anything is written, that an image can have this name. Raises UsageError."""
    from lamina.spec.reference import Reference

    if Reference.parse(name).digest is not None:
        raise UsageError(f"a new image can't be named by digest: {name!r:.200}", hint="give it a name like app:2")
    return name


def _checked_name(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    return checked_name(value)


new_name_option: Decorator = click.option(
    "-t", "--tag", "tag", required=True, metavar="REF", callback=_checked_name, help="Name of the new image."
)


def image_argument(name: str = "image", **options: Any) -> Decorator:
    """Add an argument for an image; the shell completes it with the names in the store."""
    if options.get("nargs") == -1:
        options.setdefault("metavar", "IMAGE...")
    return click.argument(name, shell_complete=_complete, **options)
