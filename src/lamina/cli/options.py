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
            self.fail(f"{value!r:.200} is not UTF-8, which is all that an image's config can hold", param, ctx)
        return value


TEXT = _Text()
"""What becomes part of an image's config."""


FORMATS = ("json", "table")


def check_format(value: str | None, more: Sequence[str] = ()) -> str | None:
    """``--format`` as it is given, before anything is done; ``more`` words are known. Raises UsageError for what is
    neither a known word nor a template, or a template that does not parse."""
    if value is None or value in FORMATS or value in more:
        return value
    if "{{" not in value:
        raise UsageError(
            f"no format {value!r:.100}", hint=f"{', '.join((*FORMATS, *more))}, or a template like '{{{{.ID}}}}'"
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
        help="json, table, or a Go template like '{{.Field}}' ('table {{...}}': under headings).",
    )


format_option = _format_option()
short_format_option = _format_option("-f")  # where docker has it
report_option: Decorator = click.option(
    "--format", type=click.Choice(["json", "table"]), help="json, or a report for people (the default)."
)
"""For verbs whose answer is no list of like things, which a template could go through."""
no_trunc_option: Decorator = click.option("--no-trunc", is_flag=True, help="Whole digests and commands.")
quiet_option: Decorator = click.option("-q", "--quiet", is_flag=True, help="No progress.")


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
    help="Take this platform of a multi-platform image (default: this machine's).",
)


view_option: Decorator = click.option(
    "--view",
    type=click.Choice(VIEWS),
    help="How to show the union (default: the setting, else the first that works here; see `lamina info`).",
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
    help="What to keep of each layer: the compressed blob, the uncompressed tar (lamina then fetches the blob from "
    "its registry when it is needed), or both.",
)


def _credentials(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    ctx.ensure_object(Session).credentials = value


class Switch(click.Option):
    """An option that is true where it stands alone, as skopeo's and podman's programs read theirs: a value is behind
    ``=``, and never the next word."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, metavar="[=true|false]", **settings)


_TLS = click.option(
    "--tls-verify",
    cls=Switch,
    expose_value=False,
    callback=_setting("tls_verify"),
    help="With =false: accept any certificate, and plain http (default: true, and http for loopback).",
)
_AUTHFILE = click.option(
    "--authfile", metavar="FILE", expose_value=False, callback=_setting("authfile"), help="File with credentials."
)
_CERT_DIR = click.option(
    "--cert-dir",
    metavar="DIR",
    expose_value=False,
    callback=_setting("cert_dir"),
    help="Directory with CAs (*.crt) and client certificates (*.cert with *.key).",
)
_CREDS = click.option(
    "--creds",
    metavar="USER[:PASSWORD]",
    expose_value=False,
    callback=_credentials,
    help="Credentials for this call (others see them in the process list: `lamina login` is better).",
)


def registry_options(function: Any) -> Any:
    """What every verb that asks a registry takes."""
    for option in (_CREDS, _CERT_DIR, _AUTHFILE, _TLS):
        function = option(function)
    return function


def web_options(function: Any) -> Any:
    """What a verb takes that fetches from any web server."""
    return _CERT_DIR(_TLS(function))


_TYPES: dict[str, dict[str, Any]] = {
    option_table.FLAG: {"is_flag": True},
    option_table.MANY: {"multiple": True},
    option_table.WHOLE: {"type": int},
    option_table.NUMBER: {"type": float},
}


def options_of(table: Sequence[option_table.Option]) -> Decorator:
    """The options of a table that is read without click too."""

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
    """A name that an image can get: said before anything is written. Raises UsageError."""
    from lamina.spec.reference import Reference

    if Reference.parse(name).digest is not None:
        raise UsageError(f"{name!r:.200} has a digest", hint="give the new image a name, like app:2")
    return name


def _checked_name(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    return checked_name(value)


new_name_option: Decorator = click.option(
    "-t", "--tag", "tag", required=True, metavar="REF", callback=_checked_name, help="The new image's name."
)


def image_argument(name: str = "image", **options: Any) -> Decorator:
    """An argument that takes an image, completed from the store's names."""
    if options.get("nargs") == -1:
        options.setdefault("metavar", "IMAGE...")
    return click.argument(name, shell_complete=_complete, **options)
