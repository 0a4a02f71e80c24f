"""Options of `run` and `create` from podman: what a container belongs to and needs."""

from __future__ import annotations

from lamina.cli.option_table import FLAG, MANY, Option
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    Option(("--pod",), "pod", "Put the container into a pod; new: makes the pod.", "[new:]NAME"),
    Option(("--requires",), "requires", "Start these containers before this one.", "CONTAINER,...", MANY),
    Option(("--no-hosts",), "no_hosts", "Leave the /etc/hosts of the image as it is.", kind=FLAG),
    Option(("--http-proxy",), "http_proxy", "Pass the proxy variables of your environment.", kind=FLAG),
    Option(("--annotation",), "annotation", "Set an annotation for the runtime.", "NAME=VALUE", MANY),
    Option(("--init-path",), "init_path", "Accepted as in podman; --init uses the init of this host.", "PATH"),
)
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


def parsed(given: dict[str, Any]) -> dict[str, Any]:
    """Raises UsageError."""
    from lamina.errors import UsageError

    if given["no_hosts"] and given["add_host"]:
        raise UsageError("--no-hosts and --add-host exclude each other", hint="leave one of them out")
    from lamina.run.options import parse_labels

    return {
        "pod": given["pod"],
        "requires": given["requires"],
        "no_hosts": given["no_hosts"],
        "annotations": tuple(parse_labels(given["annotation"]).items()),
    }


def proxy_variables(environment: dict[str, str]) -> list[tuple[str, str]]:
    """The variables that name a proxy, in both spellings (pure)."""
    names = (*PROXIES, *(name.upper() for name in PROXIES))
    return [(name, environment[name]) for name in names if name in environment]
