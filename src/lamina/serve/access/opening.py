"""Opens what protects a server: from the options of ``lamina serve`` to a policy, its files watched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from lamina.errors import UsageError
from lamina.serve.access.audit import AuditLog
from lamina.serve.access.gate import Policy
from lamina.serve.access.htpasswd import parse_htpasswd
from lamina.serve.access.identity import Constant, Current, Identifier
from lamina.serve.access.rules import DELETE, PULL, PUSH, Rules, open_rules
from lamina.serve.access.rules_file import parse_rules
from lamina.serve.access.tokens import SERVICE, Tokens, make_key_file, parse_keys
from lamina.serve.access.watched import Watched

_ALL = (PULL, PUSH, DELETE)


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """Files by path, "" for none. ``passing_key`` signs tokens where there is no ``token_key``. ``certificates``:
    clients are also known by their certificates. ``local``: the server listens on a loopback address only. ``url``:
    the address that clients use, where Host does not say it."""

    htpasswd: str = ""
    rules: str = ""
    token_key: str = ""
    passing_key: bytes = field(default_factory=partial(os.urandom, 32), repr=False)
    audit: str = ""
    anonymous_pull: bool = False
    anonymous_push: bool = False
    certificates: bool = False
    local: bool = True
    url: str = ""

    @property
    def has_users(self) -> bool:
        return bool(self.htpasswd) or self.certificates

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to check: the API can be asked without a gate."""
        return self.local and not (self.has_users or self.rules or self.audit)


@dataclass
class OpenAccess:
    """A policy and the files that it comes from."""

    policy: Policy
    watched: list[Watched[Rules] | Watched[Tokens] | Watched[dict[str, str]]] = field(default_factory=list)

    def reload(self) -> None:
        """Read all files again, and open the audit log by its name again: for SIGHUP. Broken files are reported in
        the log and change nothing."""
        for file in self.watched:
            file.reload()
        if self.policy.audit is not None:
            self.policy.audit.reopen()

    def close(self) -> None:
        if self.policy.audit is not None:
            self.policy.audit.close()


def open_access(options: AccessOptions) -> OpenAccess:
    """Read all files. Raises UsageError (a broken file, options that don't agree), SystemFailure."""
    _check(options)
    watched: list[Watched[Rules] | Watched[Tokens] | Watched[dict[str, str]]] = []
    users: Current[Mapping[str, str]] = Constant({})
    rules: Current[Rules] = Constant(_default_rules(options))
    tokens: Current[Tokens] = Constant(Tokens([options.passing_key], SERVICE))
    if options.htpasswd:
        file = Watched(options.htpasswd, parse_htpasswd)
        watched.append(file)
        users = file
    if options.rules:
        rules_file = Watched(options.rules, parse_rules)
        watched.append(rules_file)
        rules = rules_file
    if options.has_users and options.token_key:
        make_key_file(options.token_key)
        keys = Watched(options.token_key, lambda raw, path: Tokens(parse_keys(raw, path), SERVICE))
        watched.append(keys)
        tokens = keys
    audit = AuditLog(options.audit) if options.audit else None
    policy = Policy(
        rules,
        Identifier(users, tokens),
        tokens,
        has_users=options.has_users,
        local=options.local and not options.has_users,
        url=options.url,
        audit=audit,
    )
    return OpenAccess(policy, watched)


def _check(options: AccessOptions) -> None:
    if options.rules and (options.anonymous_pull or options.anonymous_push):
        raise UsageError(
            "--access can't be combined with --anonymous-pull or --anonymous-push",
            hint="write a rule for who = anonymous in the file",
        )
    if options.url and not options.url.startswith(("http://", "https://")):
        raise UsageError(f"{options.url!r:.200} is not a URL", hint="write it like https://registry.example.com")


def _default_rules(options: AccessOptions) -> Rules:
    """The rules without a file: all for everyone where there are no users; else all for users."""
    if not options.has_users:
        may_push = options.local or options.anonymous_push
        return open_rules(anonymous=_ALL if may_push else (PULL,), users=())
    anonymous = _ALL if options.anonymous_push else (PULL,) if options.anonymous_pull else ()
    return open_rules(anonymous=anonymous, users=_ALL)
