"""Git repositories as contexts and for ADD, by the git binary.

Git gets only what it needs: no configuration of this user or machine, no hooks, no filters, no credential helpers, no
questions, and only the protocols https, http, ssh and git. A repository of this host can't be a submodule. Commits
are kept in a bare repository for each remote in the store; a checkout exists while it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from lamina.build.addresses import without_credentials
from lamina.build.files.local_tree import LocalTree
from lamina.build.files.source_storage import GIT, place, touch
from lamina.build.options import SshAgent
from lamina.build.steps import Repository
from lamina.errors import LaminaError, NotFound, RemoteFailure, Unsupported, UsageError
from lamina.host.files import make_directory, reported
from lamina.host.lock import locked_for_now
from lamina.host.temporary import TemporaryDirectory

if TYPE_CHECKING:
    from lamina.build.protocols import Inputs, Log
    from lamina.events import Cancel
    from lamina.store.store import Store

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PROTOCOLS = "https:http:ssh:git"
_PROXIES = tuple(f"{name}_proxy" for name in ("http", "https", "no", "all"))
_OFF = (
    ("protocol.allow", "never"),
    *((f"protocol.{name}.allow", "always") for name in _PROTOCOLS.split(":")),
    ("core.hooksPath", os.devnull),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", os.devnull),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("transfer.bundleURI", "false"),
    ("http.followRedirects", "initial"),
    ("core.symlinks", "true"),
    ("core.autocrlf", "false"),
)
_HELPER = (
    '!f() { test "$1" != get || '
    'printf \'username=%s\\npassword=%s\\n\' "$LAMINA_GIT_USER" "$LAMINA_GIT_PASSWORD"; }; f'
)
"""A credential helper of git: it answers with the login in its environment."""
_TIME = 3600.0
"""Seconds after which git is given up."""


class _Added(Repository):
    """A repository that a Dockerfile names. ``ssh``: what git may use to log in, as ``--ssh`` says it. The keys and
    the agent of this user are only for a context, because this user named that one."""

    ssh: SshAgent | None = None

    @classmethod
    def of(cls, source: Repository, inputs: Inputs) -> Self:
        return cls(**vars(source), ssh=inputs.ssh.get("default"))


def identity(source: Repository, inputs: Inputs) -> tuple[str, str]:
    """For the key: the address, and the commit (and the ref where .git is kept). Raises RemoteFailure, NotFound,
    UsageError."""
    name = f"repository {without_credentials(source.url)}"
    commit, ref = _resolved(_Added.of(source, inputs), inputs.cancel)
    value = commit
    if source.keep:
        value += f" {ref}"
    if source.subdirectory:
        value += f" :{source.subdirectory}"
    if not source.submodules:
        value += " without submodules"
    return name, value


@contextmanager
def checked_out(source: Repository, inputs: Inputs, log: Log) -> Iterator[LocalTree]:
    """The files of a repository; they exist while the block runs. Raises as ``identity``."""
    with checked_out_in(_Added.of(source, inputs), inputs.store, inputs.cancel, log) as tree:
        yield tree


@contextmanager
def checked_out_in(
    source: Repository, store: Store, cancel: Cancel, log: Callable[[bytes], object]
) -> Iterator[LocalTree]:
    """As ``checked_out``, for a context. All files have the time of the commit: that of the checkout would make each
    layer another one."""
    commit, ref = _resolved(source, cancel)
    with reported(store.paths.ingest), TemporaryDirectory(store.paths.ingest, "git") as scratch:
        files = os.path.join(scratch.path, "files")
        os.mkdir(files)
        _check_out(source, commit, ref, store, files, cancel, log)
        top = files
        if source.subdirectory:
            top = _inside(files, source)
        what = f"the repository {without_credentials(source.url)}"
        with LocalTree(top, what=what, cancel=cancel, mtime=_time_of(source, commit, store, cancel)) as tree:
            yield tree


def _resolved(source: Repository, cancel: Cancel) -> tuple[str, str]:
    """The commit and the ref that an address means."""
    if source.checksum and not re.fullmatch(r"[0-9a-f]{4,64}", source.checksum):
        raise UsageError(
            f"the checksum {source.checksum!r:.100} is not a commit", hint="write the commit in hexadecimal digits"
        )
    ref = source.ref or "HEAD"
    _check_ref(ref)
    if _COMMIT.fullmatch(ref):
        if source.checksum and not ref.startswith(source.checksum):
            raise _mismatch(source, ref)
        return ref, ref
    names = [ref] if ref == "HEAD" or ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}", ref]
    tags = [f"{name}^{{}}" for name in names]
    out = _git(["ls-remote", "--symref", "--", source.url, *names, *tags], source, cancel)
    found: dict[str, str] = {}
    default = ""
    for line in out.decode("utf-8", "replace").splitlines():
        value, _, name = line.partition("\t")
        if value.startswith("ref: "):
            default = value.removeprefix("ref: ")
        elif _COMMIT.fullmatch(value):
            found[name] = value
    for name in names:
        commit = found.get(f"{name}^{{}}") or found.get(name)
        if commit is not None:
            if source.checksum and not (
                commit.startswith(source.checksum) or found.get(name, "").startswith(source.checksum)
            ):
                raise _mismatch(source, commit)
            return commit, default if name == "HEAD" and default else name
    raise NotFound(
        f"{without_credentials(source.url)!r:.300} has no branch and no tag {ref!r:.100}",
        hint="check the name after #",
    )


def _mismatch(source: Repository, commit: str) -> UsageError:
    return UsageError(
        f"{without_credentials(source.url)!r:.300} is at the commit {commit}, not at {source.checksum}",
        hint="check --checksum, or the ref",
    )


def _check_ref(ref: str) -> None:
    """A ref must not be an option, a range or an expression."""
    if ref.startswith("-") or ".." in ref or "@{" in ref or re.search(r"[\x00-\x20\x7f~^:?*\[\\]", ref):
        raise UsageError(f"{ref!r:.100} is not the name of a branch, tag or commit", hint="check the name after #")


def _bare(source: Repository, store: Store) -> str:
    """The path of the bare repository for a remote."""
    name = hashlib.sha256(without_credentials(source.url).encode("utf-8", "surrogateescape")).hexdigest()[:40]
    return place(store.paths, GIT, name)


def _time_of(source: Repository, commit: str, store: Store, cancel: Cancel) -> int:
    """When the commit was made, in seconds since 1970."""
    at = ["--git-dir", _bare(source, store)]
    out = _git([*at, "log", "-1", "--no-show-signature", "--format=%ct", commit, "--"], source, cancel)
    text = out.decode("ascii", "replace").strip()
    return int(text) if text.isdigit() and len(text) < 12 else 0


def _check_out(
    source: Repository,
    commit: str,
    ref: str,
    store: Store,
    files: str,
    cancel: Cancel,
    log: Callable[[bytes], object],
) -> None:
    bare = _bare(source, store)
    with reported(bare):
        make_directory(os.path.dirname(bare))
    with locked_for_now(f"{bare}.lock"):
        try:
            _fetched(source, commit, ref, bare, cancel)
            touch(bare)
        except LaminaError:
            shutil.rmtree(bare, ignore_errors=True)  # it may be damaged: the next build starts over
            raise
        log(f"{without_credentials(source.url)} at {commit}\n".encode())
        if source.keep and not source.subdirectory:
            _with_history(source, commit, ref, bare, files, cancel)
        else:
            _git(
                ["--git-dir", bare, "--work-tree", files, "checkout", "--force", commit, "--", "."], source, cancel,
                cwd=files,
            )  # fmt: skip
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(bare, "index"))
    if source.submodules and os.path.lexists(os.path.join(files, ".gitmodules")):
        _submodules(source, commit, ref, bare, files, cancel)


def _fetched(source: Repository, commit: str, ref: str, bare: str, cancel: Cancel) -> None:
    """Bring the commit into the bare repository."""
    if not os.path.exists(os.path.join(bare, "HEAD")):
        shutil.rmtree(bare, ignore_errors=True)
        form = ["--object-format=sha256"] if len(commit) == 64 else []
        _git(["init", "--quiet", "--bare", "--template=", *form, bare], source, cancel)
    at = ["--git-dir", bare]
    if _has(at, commit, source, cancel):
        return
    fetch = [*at, "fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head"]
    kept = f"refs/lamina/{commit}"
    ways = [["--depth=1", "--", source.url, f"+{commit}:{kept}"], ["--", source.url, "+refs/*:refs/lamina-all/*"]]
    if not _COMMIT.fullmatch(ref):
        ways.insert(0, ["--depth=1", "--", source.url, f"+{ref}:{kept}"])
    for number, way in enumerate(ways):
        try:
            _git([*fetch, *way], source, cancel)
        except RemoteFailure:  # a server may give no commit by its id, or no history that is cut
            if number == len(ways) - 1:
                raise
            continue
        if _has(at, commit, source, cancel):
            return
    if not _has(at, commit, source, cancel):
        raise NotFound(
            f"{without_credentials(source.url)!r:.300} has no commit {commit}", hint="try again: the branch moved"
        )


def _has(at: Sequence[str], commit: str, source: Repository, cancel: Cancel) -> bool:
    try:
        _git([*at, "cat-file", "-e", f"{commit}^{{commit}}"], source, cancel)
    except RemoteFailure:
        return False
    return True


def _with_history(source: Repository, commit: str, ref: str, bare: str, files: str, cancel: Cancel) -> None:
    """A checkout with its .git directory, without what differs from one clone to the next."""
    form = ["--object-format=sha256"] if len(commit) == 64 else []
    _git(["init", "--quiet", "--template=", *form, files], source, cancel)
    name = f"refs/heads/{ref}" if not ref.startswith("refs/") else ref
    at = ["-C", files]
    kept = f"refs/lamina/{commit}"
    _git(["--git-dir", bare, "update-ref", kept, commit], source, cancel)
    wanted = kept if _COMMIT.fullmatch(ref) else f"+{kept}:{name}"
    fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "-u", "--", f"file://{bare}", wanted]
    _git([*at, *fetch], source, cancel, local=True)
    _git([*at, "checkout", "--quiet", "--force", "--detach", commit], source, cancel)
    _git([*at, "remote", "add", "origin", without_credentials(source.url)], source, cancel)
    for left in ("FETCH_HEAD", "ORIG_HEAD"):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(files, ".git", left))
    shutil.rmtree(os.path.join(files, ".git", "logs"), ignore_errors=True)


def _submodules(source: Repository, commit: str, ref: str, bare: str, files: str, cancel: Cancel) -> None:
    """Check out the submodules, each from its own address; none may be of this host."""
    kept = os.path.isdir(os.path.join(files, ".git"))
    at = ["-C", files]
    if not kept:
        _git(["init", "--quiet", "--template=", files], source, cancel)
        _git([*at, "remote", "add", "origin", source.url], source, cancel)
        with open(os.path.join(files, ".git", "objects", "info", "alternates"), "w", encoding="utf-8") as file:
            file.write(os.path.join(bare, "objects") + "\n")
        _git([*at, "update-ref", "--no-deref", "HEAD", commit], source, cancel)
        _git([*at, "reset", "--quiet", "--mixed"], source, cancel)
    try:
        _git([*at, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"], source, cancel)
    finally:
        if not kept:
            shutil.rmtree(os.path.join(files, ".git"), ignore_errors=True)


def _inside(files: str, source: Repository) -> str:
    """The subdirectory; no symlink may be on the way."""
    path = files
    for name in source.subdirectory.split("/"):
        path = os.path.join(path, name)
        if name in (".", "..") or os.path.islink(path) or not os.path.isdir(path):
            raise NotFound(
                f"{without_credentials(source.url)!r:.300} has no directory {source.subdirectory!r:.200}",
                hint="check the path after the ref",
            )
    return path


def _git(
    arguments: Sequence[str], source: Repository, cancel: Cancel, *, cwd: str | None = None, local: bool = False
) -> bytes:
    """Run git. Returns its stdout. Raises RemoteFailure (with what it said), Unsupported (there is no git),
    Cancelled."""
    import subprocess

    options = [word for key, value in _OFF for word in ("-c", f"{key}={value}")]
    login, secret = _login(source.url)
    options += login
    address = without_credentials(source.url)
    if login:
        arguments = [address if word == source.url else word for word in arguments]
    program, agent = _ssh(source)
    environment = {
        **secret,
        "GIT_SSH_COMMAND": program,
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.devnull,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS + (":file" if local else ""),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }
    for name in (
        *_PROXIES,
        *map(str.upper, _PROXIES),
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "GIT_SSL_CAINFO",
    ):
        if name in os.environ:
            environment[name] = os.environ[name]
    if agent:
        environment["SSH_AUTH_SOCK"] = agent
    try:
        process = subprocess.Popen(
            ["git", *options, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=cwd or os.sep,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Unsupported("git was not found", hint="install git, or fetch the files in another way") from None
    with process:
        try:
            with cancel.calling(lambda: _kill(process.pid)):
                out, said = process.communicate(timeout=_TIME)
        except subprocess.TimeoutExpired:
            _kill(process.pid)
            raise RemoteFailure(
                f"git does not end for {without_credentials(source.url)!r:.300}", hint="try again later"
            ) from None
        except BaseException:
            _kill(process.pid)
            raise
    cancel.check()
    if process.returncode:
        raise RemoteFailure(
            f"git fails for {without_credentials(source.url)!r:.300}: {_reason(said, source)}",
            hint="check the address, and that it needs no login",
        )
    return out


def _login(url: str) -> tuple[list[str], dict[str, str]]:
    """Options and variables of git for the user and password in an address: everybody can read the command line of a
    process."""
    address = without_credentials(url)
    if address == url or not address.startswith(("http://", "https://")):
        return [], {}
    parts = urlsplit(url)
    server = "://".join(urlsplit(address)[:2])
    variables = {
        "LAMINA_GIT_USER": unquote(parts.username or ""),
        "LAMINA_GIT_PASSWORD": unquote(parts.password or ""),
    }
    return ["-c", f"credential.{server}.helper={_HELPER}"], variables


def _ssh(source: Repository) -> tuple[str, str]:
    """The command for ssh, and the socket of its agent."""
    words = ["ssh", "-F", os.devnull, "-o", "BatchMode=yes"]
    own = os.environ.get("SSH_AUTH_SOCK", "")
    if not isinstance(source, _Added):
        return shlex.join(words), own
    keys = source.ssh.keys if source.ssh else ()
    words += [word for key in keys for word in ("-i", os.path.abspath(key))] or ["-o", "IdentityFile=none"]
    agent = (source.ssh.socket or own) if source.ssh and not keys else ""
    if not agent:
        words += ["-o", "IdentityAgent=none"]
    return shlex.join(words), agent


def _kill(pid: int) -> None:
    import signal

    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _reason(said: bytes, source: Repository) -> str:
    """Why git failed, without the address, which may have a password in it."""
    text = said.decode("utf-8", "replace").replace(source.url, without_credentials(source.url))
    text = re.sub(r"(://)[^/@\s]*@", r"\1", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line.removeprefix("fatal: ") for line in lines if line.startswith("fatal: ")]
    return (fatal or lines[-1:] or ["it says nothing"])[0][:300]
