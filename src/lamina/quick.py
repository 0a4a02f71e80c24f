"""The short way (beside the floors): ``tags``, ``digest`` and ``manifest`` of a registry on this machine, answered
before anything else is loaded. Scripts ask them in loops, and loading the house takes ten times as long.

It decides nothing: only the plainest question and the plainest answer go this way. Whatever else comes up (an option,
a setting, a redirect, a password, a page, an error) makes ``answer`` return None, and the long way does it all.
"""

import sys

_ACCEPT = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)
_VERBS = ("tags", "digest", "manifest")
_LOCAL = ("127.0.0.1", "localhost")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._/-")
_TAG = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_SETTINGS = ("LAMINA_TLS_VERIFY", "LAMINA_PLATFORM", "DOCKER_DEFAULT_PLATFORM", "CONTAINERS_REGISTRIES_CONF")
_LIMIT = 4 << 20


def answer(words: list[str]) -> bytes | None:
    """What to print, or None: go the long way."""
    if len(words) != 2 or words[0] not in _VERBS:
        return None
    verb, name = words
    host, _, rest = name.removeprefix("docker://").partition("/")
    address, _, port = host.partition(":")
    repository, _, tag = rest.partition(":")
    if address not in _LOCAL or not port.isdecimal() or not _plain(repository, tag) or not _unset():
        return None
    if verb == "tags":
        return None if tag else _tags(address, port, repository)
    found = _ask(
        address, port, "HEAD" if verb == "digest" else "GET", f"/v2/{repository}/manifests/{tag or 'latest'}"
    )
    if found is None or found[0].get("content-type", "") not in _ACCEPT.split(", "):
        return None
    headers, body = found
    digest = headers.get("docker-content-digest", "")
    if not digest.startswith("sha256:") or len(digest) != 71:
        return None
    if verb == "digest":
        return digest.encode() + b"\n"
    return body if _sha256(body) == digest[7:] else None


def _plain(repository: str, tag: str) -> bool:
    """Names that need no second look; odd ones are legal too, but are the long way's."""
    parts = repository.split("/")
    separators = ("..", "__", "--", "._", "_.", "-.", ".-", "_-", "-_")
    return (
        set(repository) <= _NAME
        and len(repository) < 200
        and all(part and part[0].isalnum() and part[-1].isalnum() for part in parts)
        and not any(pair in repository for pair in separators)
        and set(tag) <= _TAG
        and len(tag) <= 128
        and (not tag or tag[0] not in ".-")
    )


def _unset() -> bool:
    """Whether nothing on this machine says how to reach registries."""
    import os

    environ = os.environ
    home = environ.get("HOME", "")
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    if not home or any(environ.get(name) for name in _SETTINGS):
        return False
    if os.path.exists("/etc/lamina/config.toml") or os.path.exists(f"{config}/lamina/config.toml"):
        return False
    files = ["/etc/containers/registries.conf", f"{config}/containers/registries.conf"]
    for directory in ("/etc/containers/registries.conf.d", f"{config}/containers/registries.conf.d"):
        try:
            files += [f"{directory}/{name}" for name in os.listdir(directory)]
        except OSError:
            continue
    for path in files:
        try:
            with open(path, "rb", buffering=0) as file:
                lines = file.read(1 << 20).split(b"\n")
            if any(line.lstrip().startswith((b"[[registry", b"[registries")) for line in lines):
                return False
        except OSError:
            continue
    return True


def _tags(address: str, port: str, repository: str) -> bytes | None:
    found = _ask(address, port, "GET", f"/v2/{repository}/tags/list")
    if found is None or "link" in found[0] or found[1].count(b"[") + found[1].count(b"{") > 2:
        return None
    import json

    try:
        tags = json.loads(found[1])["tags"]
        lines = [tag for tag in tags if isinstance(tag, str) and tag and set(tag) <= _TAG]
    except (ValueError, KeyError, TypeError):
        return None
    return "".join(f"{tag}\n" for tag in lines).encode() if len(lines) == len(tags) else None


def _ask(address: str, port: str, method: str, path: str) -> tuple[dict[str, str], bytes] | None:
    """Headers (keys in lower case) and body of a 200; None for everything else."""
    import _socket
    import time

    deadline = time.monotonic() + 5.0
    try:
        connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            connection.settimeout(5.0)
            connection.connect(("127.0.0.1", int(port)))
            connection.send(
                f"{method} {path} HTTP/1.0\r\nHost: {address}:{port}\r\nAccept: {_ACCEPT}\r\n"
                "User-Agent: lamina\r\n\r\n".encode()
            )
            data = b""
            while piece := connection.recv(1 << 16):
                data += piece
                if len(data) > _LIMIT or time.monotonic() > deadline:
                    return None
        finally:
            connection.close()
    except (OSError, ValueError, OverflowError):
        return None
    head, gap, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not gap or lines[0].split(" ")[1:2] != ["200"]:
        return None
    headers = {}
    for line in lines[1:]:
        key, _, value = line.partition(":")
        headers[key.strip().lower()] = value.strip()
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or "warning" in headers or (method == "GET" and length != str(len(body))):
        return None
    return headers, body


def _sha256(data: bytes) -> str:
    """Without hashlib, which loads all that OpenSSL has."""
    try:
        from _sha2 import sha256
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            return ""
    digest: str = sha256(data).hexdigest()
    return digest


def main() -> bool:
    """Whether the command line was answered this way."""
    try:
        if sys.argv[1] == "manifest" and sys.stdout.isatty():
            return False  # the long way shows there only what drives no terminal
        found = answer(sys.argv[1:])
        if found is None:
            return False
        sys.stdout.buffer.write(found)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (OSError, AttributeError):  # a full disk, a closed stdout: the long way says it
        return False
    return True
