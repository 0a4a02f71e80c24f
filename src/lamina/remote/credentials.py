"""Where the secrets of registries are: containers' auth.json, docker's config.json and their helpers.

containers-auth.json(5); docker login. Secrets are never printed, nor part of a repr or a message.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.errors import NotFound, RemoteFailure, UsageError
from lamina.files import replace_file, reported

DOCKER_HUB = "https://index.docker.io/v1/"
"""The key under which docker keeps what is for docker.io."""
_HELPER = re.compile(r"[a-z0-9-]+")
_TIMEOUT = 30  # seconds a helper may take
_MAX_FILE = 1 << 20
_NOT_FOUND = "credentials not found"
IDENTITY = "<token>"
"""The user name by which a helper says that its secret is an identity token."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name and a password, or an identity token (OAuth2 refresh token)."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)


def auth_files(authfile: str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    """The files that may hold credentials, the first that knows a host wins."""
    environ = os.environ if environ is None else environ
    if authfile:
        return [authfile]
    if environ.get("REGISTRY_AUTH_FILE"):
        return [environ["REGISTRY_AUTH_FILE"]]
    home = environ.get("HOME") or os.path.expanduser("~")
    files = []
    if environ.get("XDG_RUNTIME_DIR"):
        files.append(os.path.join(environ["XDG_RUNTIME_DIR"], "containers", "auth.json"))
    elif hasattr(os, "geteuid"):
        files.append(f"/run/containers/{os.geteuid()}/auth.json")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    files.append(os.path.join(config, "containers", "auth.json"))
    files.append(_docker_file(environ))
    return files


def find(
    host: str, path: str = "", *, authfile: str | None = None, environ: Mapping[str, str] | None = None
) -> Credential | None:
    """The credential for a repository. In each file: a helper for the host, then the longest entry that fits, then
    the file's store of credentials. Raises UsageError (a file or helper that can't be understood), RemoteFailure
    (a helper that fails)."""
    for file in auth_files(authfile, environ):
        found = _find_in(file, host, path, environ)
        if found is not None:
            return found
    return None


def save(
    host: str, credential: Credential, *, authfile: str | None = None, environ: Mapping[str, str] | None = None
) -> str:
    """Keep a credential, in the helper that the file names, else in the file; where it was kept."""
    file = _writable(authfile, environ)
    value = _read(file)
    helper = _helper(value, host, file)
    if helper:
        secret = {
            "ServerURL": _key(host),
            "Username": IDENTITY if credential.identity_token else credential.username,
            "Secret": credential.identity_token or credential.password,
        }
        _ask_helper(helper, "store", json.dumps(secret), environ)
        return f"the helper docker-credential-{helper}"
    pair = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode("ascii")
    entry: dict[str, Any] = {"auth": pair}
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    value.setdefault("auths", {})[_key(host)] = entry
    _write(file, value)
    return file


def erase(
    host: str, *, authfile: str | None = None, environ: Mapping[str, str] | None = None, everything: bool = False
) -> list[str]:
    """Forget the credential of ``host``, or with ``everything`` all of them; the files and helpers that had it.
    Raises NotFound where none had."""
    places = []
    for file in auth_files(authfile, environ):
        if not os.path.exists(file):
            continue
        value = _read(file)
        auths = value.get("auths") or {}
        gone = (
            list(auths) if everything else [key for key in auths if _host_of(key) == host and "/" not in _bare(key)]
        )
        helper = _helper(value, host, file) if not everything else ""
        if helper and _from_helper(helper, host, environ) is not None:
            _ask_helper(helper, "erase", _key(host), environ)
            places.append(f"the helper docker-credential-{helper}")
        if gone:
            value["auths"] = {key: entry for key, entry in auths.items() if key not in gone}
            _write(file, value)
            places.append(file)
    if not places and not everything:
        raise NotFound(f"not logged in to {host}", hint="nothing was changed")
    return places


def _find_in(file: str, host: str, path: str, environ: Mapping[str, str] | None) -> Credential | None:
    value = _read(file)
    helpers = value.get("credHelpers") or {}
    if isinstance(helpers, dict) and any(helpers.get(key) for key in _keys(host)):
        return _from_helper(_helper(value, host, file), host, environ)
    auths = value.get("auths") or {}
    if not isinstance(auths, dict):
        raise UsageError(f"{file}: auths must be an object", hint="log in again, or mend the file")
    for key in _candidates(host, path):
        for written, entry in auths.items():
            if _bare(written) == key and isinstance(entry, dict):
                found = _entry(entry, file, written)
                if found is not None:
                    return found
    store = value.get("credsStore")
    if store:
        return _from_helper(_checked_helper(store, file), host, environ)
    return None


def _entry(entry: dict[str, Any], file: str, key: str) -> Credential | None:
    """None for an empty one: it means that the helper knows."""
    token = entry.get("identitytoken")
    token = token if isinstance(token, str) else ""
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            name, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            colon = ""
        if not colon:
            raise UsageError(f"{file}: the entry for {key!r:.200} can't be read", hint="log in again")
        return Credential(name, password.strip("\0"), token)
    user, secret = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(secret, str) and user:
        return Credential(user, secret, token)
    return Credential("", "", token) if token else None


def _candidates(host: str, path: str) -> Iterator[str]:
    """host/a/b, host/a, host: the longest first."""
    for name in _names(host):
        parts = path.split("/") if path else []
        for count in range(len(parts), 0, -1):
            yield "/".join([name, *parts[:count]])
    yield from _names(host)


def _names(host: str) -> tuple[str, ...]:
    return ("docker.io", "index.docker.io", "registry-1.docker.io") if host == "docker.io" else (host,)


def _keys(host: str) -> tuple[str, ...]:
    return (DOCKER_HUB, *_names(host)) if host == "docker.io" else (host,)


def _key(host: str) -> str:
    return DOCKER_HUB if host == "docker.io" else host


def _bare(key: str) -> str:
    """``https://host/v1/`` -> ``host``; docker wrote keys in both forms."""
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            return key.removeprefix(scheme).partition("/")[0]
    return key.rstrip("/")


def _host_of(key: str) -> str:
    host = _bare(key).partition("/")[0]
    return "docker.io" if host in _names("docker.io") else host


def _helper(value: dict[str, Any], host: str, file: str) -> str:
    helpers = value.get("credHelpers") or {}
    for key in _keys(host):
        if isinstance(helpers, dict) and helpers.get(key):
            return _checked_helper(helpers[key], file)
    return _checked_helper(value["credsStore"], file) if value.get("credsStore") else ""


def _checked_helper(name: object, file: str) -> str:
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise UsageError(f"{file}: {name!r:.100} is no name of a credential helper", hint="expected a-z, 0-9 and -")
    return name


def _from_helper(helper: str, host: str, environ: Mapping[str, str] | None) -> Credential | None:
    for key in _keys(host):
        raw = _ask_helper(helper, "get", key, environ)
        if raw is None:
            continue
        try:
            value = json.loads(raw)
            name, secret = value["Username"], value["Secret"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(f"docker-credential-{helper} gave no credential for {host}", hint="mend it") from None
        if not isinstance(name, str) or not isinstance(secret, str):
            raise UsageError(f"docker-credential-{helper} gave no credential for {host}", hint="mend it")
        return Credential("", "", secret) if name == IDENTITY else Credential(name, secret)
    return None


def _ask_helper(helper: str, action: str, text: str, environ: Mapping[str, str] | None) -> str | None:
    """What it prints; None where it knows nothing of the host."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, action],
            input=text.encode(),
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
            env=None if environ is None else dict(environ),
        )
    except FileNotFoundError:
        raise UsageError(
            f"the credential helper {program} is not installed", hint="install it, or log in again"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RemoteFailure(f"{program} {action}: {type(error).__name__}", hint="try it by hand") from None
    if done.returncode == 0:
        return done.stdout[:_MAX_FILE].decode("utf-8", "replace")
    said = (done.stdout or done.stderr)[:200].decode("utf-8", "replace").strip()
    if _NOT_FOUND in said.lower():
        return None
    raise RemoteFailure(f"{program} {action} failed: {said or done.returncode}", hint="try it by hand")


def _writable(authfile: str | None, environ: Mapping[str, str] | None) -> str:
    environ = os.environ if environ is None else environ
    return authfile or environ.get("REGISTRY_AUTH_FILE") or _docker_file(environ)


def _docker_file(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json")


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            raw = stream.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except OSError as error:
        raise UsageError(
            f"{file} can't be read: {error.strerror}", hint="mend it, or name another with --authfile"
        ) from None
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw[: _MAX_FILE + 1])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or len(raw) > _MAX_FILE:
        raise UsageError(f"{file} is no JSON object of credentials", hint="mend it, or name another with --authfile")
    return value


def _write(file: str, value: dict[str, Any]) -> None:
    target = os.path.realpath(file)  # a config that is a link to somewhere stays one
    with reported(target):
        os.makedirs(os.path.dirname(target) or ".", mode=0o700, exist_ok=True)
        replace_file(target, [json.dumps(value, indent="\t").encode() + b"\n"], mode=0o600)
