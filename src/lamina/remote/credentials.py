"""Stored credentials of registries: containers' auth.json, docker's config.json and credential helpers.

containers-auth.json(5); docker login. Secrets are never printed, and never part of a repr or a message.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lamina.errors import Conflict, LaminaError, NotFound, RemoteFailure, SystemFailure, UsageError
from lamina.host.files import check_replaceable, remove, replace_file, reported
from lamina.light import Value, pattern
from lamina.spec.json import read_own

DOCKER_HUB = "https://index.docker.io/v1/"
"""The key that docker uses for docker.io."""
_HELPER = pattern(r"[a-z0-9-]+")
_TIMEOUT = 30  # seconds that a helper may take
_PATIENCE = 10  # seconds to wait for another login
_STALE = 60.0  # seconds after which a lock counts as abandoned
_MAX_FILE = 1 << 20
_NOT_FOUND = "credentials not found"
IDENTITY = "<token>"
"""The user name with which a helper marks its secret as an identity token."""


class Credential(Value):
    """A user name and a password, or an identity token (OAuth2 refresh token)."""

    username: str
    password: str
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credential(username={self.username!r})"


def auth_files(authfile: str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    """List the files that may have credentials; the first one with the host wins."""
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
    """Find the credential for a repository. Within each file: a helper for the host, then the longest matching entry,
    then the file's default helper. Raises UsageError (invalid file or helper), RemoteFailure (the helper fails)."""
    for file in auth_files(authfile, environ):
        found = _find_in(file, host, path, environ)
        if found is not None:
            return found
    return None


def save(
    host: str, credential: Credential, *, authfile: str | None = None, environ: Mapping[str, str] | None = None
) -> str:
    """Store a credential in the helper that the file names, else in the file; returns where. Raises UsageError,
    RemoteFailure (the helper fails), Conflict (another login does not end), SystemFailure."""
    file = _writable(host, authfile, environ)
    helper = _helper(_read(file, must=True), host, file)
    entry: dict[str, Any] = {}  # an empty entry is docker's mark for "the helper has it"
    place = file
    if helper:
        secret = {
            "ServerURL": _key(host),
            "Username": IDENTITY if credential.identity_token else credential.username,
            "Secret": credential.identity_token or credential.password,
        }
        _ask_helper(helper, "store", json.dumps(secret), environ)
        place = f"the helper docker-credential-{helper}"
    else:
        pair = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode("ascii")
        entry["auth"] = pair
        if credential.identity_token:
            entry["identitytoken"] = credential.identity_token
    with _locked(file):
        value = _read(file, must=True)
        # remove other entries for the host: one of them would be found first
        auths = {key: kept for key, kept in _object(value, "auths", file).items() if not _is_for(key, host)}
        value["auths"] = {**auths, _key(host): entry}
        _write(file, value)
    return place


def erase(
    host: str, *, authfile: str | None = None, environ: Mapping[str, str] | None = None, everything: bool = False
) -> list[str]:
    """Remove the credential of ``host``, or with ``everything`` all credentials; returns the files and helpers that
    had one. Raises NotFound if none had."""
    places: list[str] = []
    failed: LaminaError | None = None
    for file in auth_files(authfile, environ):
        if not os.path.exists(file):
            continue
        value = _read(file)
        auths, helpers = _object(value, "auths", file), _object(value, "credHelpers", file)
        wanted = [key for key in (*auths, *helpers) if everything or _is_for(key, host)]
        hosts = dict.fromkeys([_host_of(key) for key in wanted] if everything else [host])
        for name in hosts:
            try:
                helper = _helper(value, name, file)
                if helper and _erase_from(helper, name, wanted, environ):
                    places.append(f"the helper docker-credential-{helper}")
            except LaminaError as error:  # remove the others all the same
                failed = failed or error
        if any(key in auths for key in wanted):
            with _locked(file):
                value = _read(file, must=True)
                kept = _object(value, "auths", file)
                value["auths"] = {key: entry for key, entry in kept.items() if key not in wanted}
                _write(file, value)
            places.append(file)
    if failed is not None:
        raise failed
    if not places and not everything:
        raise NotFound(f"not logged in to {host}", hint="check the name of the host")
    return list(dict.fromkeys(places))


def _erase_from(helper: str, host: str, written: list[str], environ: Mapping[str, str] | None) -> bool:
    """Erase under every name of the host; returns whether there was one."""
    found = False
    for key in dict.fromkeys((*_keys(host), *(key for key in written if _host_of(key) == host))):
        if _ask_helper(helper, "get", key, environ) is not None:
            _ask_helper(helper, "erase", key, environ)
            found = True
    return found


def _find_in(file: str, host: str, path: str, environ: Mapping[str, str] | None) -> Credential | None:
    value = _read(file)
    helpers = _object(value, "credHelpers", file)
    if any(helpers.get(key) for key in _keys(host)):
        return _from_helper(_helper(value, host, file), host, environ)
    auths = _object(value, "auths", file)
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
    """Read an entry. None for an empty one, which means that the helper has the credential."""
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
    """Yield host/a/b, host/a, host: the longest first."""
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
    """Normalise ``https://host/v1/`` to ``host``; docker wrote keys in both forms."""
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            return key.removeprefix(scheme).partition("/")[0]
    return key.rstrip("/")


def _host_of(key: str) -> str:
    host = _bare(key).partition("/")[0]
    return "docker.io" if host in _names("docker.io") else host


def _is_for(key: str, host: str) -> bool:
    """Whether an entry is for the host as a whole."""
    return _host_of(key) == host and "/" not in _bare(key)


def _object(value: dict[str, Any], key: str, file: str) -> dict[str, Any]:
    found = value.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{file}: {key} must be an object", hint="fix it, or name another with --authfile")
    return found


def _helper(value: dict[str, Any], host: str, file: str) -> str:
    helpers = _object(value, "credHelpers", file)
    for key in _keys(host):
        if helpers.get(key):
            return _checked_helper(helpers[key], file)
    return _checked_helper(value["credsStore"], file) if value.get("credsStore") else ""


def _checked_helper(name: object, file: str) -> str:
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise UsageError(
            f"{file}: {name!r:.100} is not the name of a credential helper", hint="use only a-z, 0-9 and -"
        )
    return name


def _from_helper(helper: str, host: str, environ: Mapping[str, str] | None) -> Credential | None:
    for key in _keys(host):
        raw = _ask_helper(helper, "get", key, environ)
        if raw is None:
            continue
        try:
            value = read_own(raw)
            name, secret = value["Username"], value["Secret"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"docker-credential-{helper} gave no credential for {host}", hint="check the helper"
            ) from None
        if not isinstance(name, str) or not isinstance(secret, str):
            raise UsageError(f"docker-credential-{helper} gave no credential for {host}", hint="check the helper")
        if not name and not secret:
            continue  # the answer of some helpers for an unknown host
        return Credential("", "", secret) if name == IDENTITY else Credential(name, secret)
    return None


def _ask_helper(helper: str, action: str, text: str, environ: Mapping[str, str] | None) -> str | None:
    """Run a credential helper; returns its output, or None if it does not know the host."""
    import subprocess

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
        raise RemoteFailure(f"{program} {action}: {type(error).__name__}", hint="run it by hand") from None
    if done.returncode == 0:
        return done.stdout[:_MAX_FILE].decode("utf-8", "replace")
    said = (done.stdout or done.stderr)[:200].decode("utf-8", "replace").strip()
    if _NOT_FOUND in said.lower():
        return None
    raise RemoteFailure(f"{program} {action} failed: {said or done.returncode}", hint="run it by hand")


def _writable(host: str, authfile: str | None, environ: Mapping[str, str] | None) -> str:
    """Return the file for a login: docker's, unless another file that is searched first already has the host."""
    environ = os.environ if environ is None else environ
    files = auth_files(authfile, environ)
    for file in files:
        if any(_is_for(key, host) for key in _object(_read(file), "auths", file)):
            return file
    return files[-1]


def _docker_file(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json")


@contextmanager
def _locked(file: str) -> Iterator[None]:
    """Lock a file between reading and writing it, among processes and threads of lamina. Raises Conflict."""
    lock = f"{os.path.realpath(file)}.lock"
    end = time.monotonic() + _PATIENCE
    with reported(lock):
        os.makedirs(os.path.dirname(lock) or ".", mode=0o700, exist_ok=True)
        while True:
            try:
                os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                break
            except FileExistsError:
                if _age(lock) > _STALE:
                    remove(lock)  # left by a killed login: writing takes no time
                    continue
                if time.monotonic() > end:
                    raise Conflict(
                        f"another login is writing {file}", hint=f"delete {lock} if none is running"
                    ) from None
                time.sleep(0.05)
    try:
        yield
    finally:
        with reported(lock):
            remove(lock)


def _age(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _read(file: str, *, must: bool = False) -> dict[str, Any]:
    """Read a file of credentials. ``must``: a file that can't be read for lack of permission is an error, because
    treating it as empty would overwrite it."""
    try:
        with open(file, "rb") as stream:
            raw = stream.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        if not must:
            return {}
        raise SystemFailure(
            f"{file} can't be read: permission denied", hint="check owner and mode, or name another with --authfile"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{file} can't be read: {error.strerror}", hint="fix it, or name another with --authfile"
        ) from None
    if not raw.strip():
        return {}
    try:
        value = read_own(raw[: _MAX_FILE + 1])
    except ValueError:
        value = None
    if not isinstance(value, dict) or len(raw) > _MAX_FILE:
        raise UsageError(
            f"{file} is not a JSON object of credentials", hint="fix it, or name another with --authfile"
        )
    return value


def _write(file: str, value: dict[str, Any]) -> None:
    target = os.path.realpath(file)  # a symlink stays one
    with reported(target):
        check_replaceable(target)
        os.makedirs(os.path.dirname(target) or ".", mode=0o700, exist_ok=True)
        replace_file(target, [json.dumps(value, indent="\t").encode() + b"\n"], mode=0o600)
