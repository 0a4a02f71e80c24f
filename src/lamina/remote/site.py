"""Sites (pure): hosts that belong together, so that the login of a registry may be sent from one to the other.

A site is what one party has registered: the name below a public suffix. The list of all public suffixes is long and
changes weekly, so only a part is included: generic second levels of country domains, and suffixes below which
everybody can get a name. An unknown shared suffix would make strangers one site, so hosts that sell names should be
added here. If this list splits a site wrongly, the user can set ``login_hosts``.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from lamina.light import pattern
from lamina.remote.loopback import is_loopback


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AMBIGUOUS = pattern(r"[^a-z0-9._:%-]|^[^:]*%")  # programs disagree about where such a host ends
_SECOND_LEVELS = _names(
    "ac biz co com ed edu fin firm gen go gob gouv gov govt gv id ind inf info jus kr lg ltd mil ne net nhs nic nom "
    "or org plc police priv pro res sch tm web"
)
"""Second levels of two-letter country domains that are not sites: co.uk, com.au, or.jp."""
_PUBLIC_SUFFIXES = _names(
    # pages and applications of users
    "github.io gitlab.io bitbucket.io codeberg.page pages.dev workers.dev netlify.app vercel.app now.sh surge.sh "
    "readthedocs.io web.app firebaseapp.com blogspot.com wordpress.com github.dev githubpreview.dev herokuapp.com "
    "onrender.com fly.dev railway.app up.railway.app koyeb.app deno.dev ondigitalocean.app repl.co replit.app "
    "amplifyapp.com zeabur.app lovable.app webflow.io pythonanywhere.com northflank.app "
    "glitch.me gitpod.io csb.app stackblitz.io platform.sh platformsh.site hf.space streamlit.app "
    # names for anybody
    "ngrok.io ngrok.app ngrok.dev ngrok-free.app ngrok-free.dev trycloudflare.com loca.lt localtunnel.me serveo.net "
    "ts.net duckdns.org dyndns.org ddns.net no-ip.org hopto.org dynv6.net freeddns.org afraid.org mooo.com "
    "traefik.me localhost.run myfritz.net synology.me dedyn.io cloudns.cc homelinux.org homelinux.net homeip.net "
    "eu.org us.org ae.org br.com cn.com co.com de.com eu.com gr.com jpn.com mex.com ru.com sa.com uk.com us.com "
    "za.com gb.net hu.net in.net jp.net se.net uk.net com.de service.gov.uk"
)
"""Everybody can get a name below these."""
_CUSTOMER_SUFFIXES = _names(
    "amazonaws.com amazonaws.com.cn cloudfront.net elasticbeanstalk.com awsapprunner.com on.aws "
    "azurecr.io azurecr.cn azurewebsites.net azure-api.net azurecontainer.io azurecontainerapps.io azureedge.net "
    "azurefd.net azurestaticapps.net cloudapp.net cloudapp.azure.com windows.net trafficmanager.net "
    "run.app appspot.com cloudfunctions.net googleusercontent.com pkg.dev gcr.io "
    "digitaloceanspaces.com scw.cloud vultrobjects.com linodeobjects.com linode.com oraclecloudapps.com "
    "oraclecloud.com ocir.io appdomain.cloud cloud.ovh.net hosting.ovh.net openshiftapps.com rhcloud.com "
    "jfrog.io cloudsmith.io nip.io sslip.io xip.io"
)
"""Machines and services of many customers are below these, at any depth: each host is a site."""
_TOKEN_SERVERS = (
    ({"docker.io", "docker.com", "dhi.io"}, "auth.docker.io"),
    ({"scw.cloud"}, "api.scaleway.com"),
)
"""Registries below the first names use the second as their token server, although its name differs."""


def same_site(host: str, other: str) -> bool:
    """Whether the host ``other`` is on the same site as the registry ``host`` (ports are ignored): the same name, or
    both below one registered name. Each IP address and each name without a dot is a site; all loopback hosts are one
    site."""
    mine, theirs = _name(host), _name(other)
    if not mine or not theirs:
        return False
    if mine == theirs or (is_loopback(mine) and is_loopback(theirs)):
        return True
    if any(theirs == server and any(_is_below(mine, zone) for zone in zones) for zones, server in _TOKEN_SERVERS):
        return True
    site = _site(mine)
    return bool(site) and site == _site(theirs)


def may_have_login(host: str, other: str, login_hosts: Collection[tuple[str, str]]) -> bool:
    """Whether the login of the registry ``host`` may be sent to ``other`` (a host, with its port if any): on the same
    site, or allowed by the user in ``login_hosts``, as (registry, host)."""
    return same_site(host, other) or is_login_host(host, other, login_hosts)


def is_login_host(host: str, other: str, login_hosts: Collection[tuple[str, str]]) -> bool:
    """Whether the user allowed the login of ``host`` to be sent to ``other``. A host without a port means
    all ports."""
    host, other = host.lower(), other.lower()
    return bool(other) and ((host, other) in login_hosts or (host, _name(other)) in login_hosts)


def login_hosts_setting(host: str, other: str) -> str:
    """Return the setting with which the user can allow it."""
    return f"login_hosts = '{host}={other[:200]}'"


def _name(host: str) -> str:
    """Return the host name without port and brackets, in lower case; "" if it is invalid."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
    return "" if _AMBIGUOUS.search(name) else name.removesuffix(".")


def _site(name: str) -> str:
    """Return the registered name that ``name`` equals or is below; "" if it has none of its own."""
    labels = name.split(".")
    if len(labels) < 2 or not all(labels) or ":" in name or labels[-1].isdigit():
        return ""
    above = [".".join(labels[start:]) for start in range(len(labels))]
    if not _CUSTOMER_SUFFIXES.isdisjoint(above):
        return ""
    for start, suffix in enumerate(above):
        if suffix in _PUBLIC_SUFFIXES:
            return above[start - 1] if start else ""
    size = 3 if len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVELS else 2
    return ".".join(labels[-size:]) if len(labels) >= size else ""


def _is_below(name: str, zone: str) -> bool:
    return name == zone or name.endswith(f".{zone}")
