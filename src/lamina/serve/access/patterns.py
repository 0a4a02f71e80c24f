"""Patterns of repositories (``team/**``, ``{user}/*``) and of tags (``v*``) (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from lamina.errors import UsageError

MAX_PATTERN = 300
USER = "{user}"
_LETTERS = re.compile(r"[a-zA-Z0-9._:*?\[\]/{}-]+")


@dataclass(frozen=True, slots=True)
class RepositoryPattern:
    """A pattern of repository names as people write them (``app``, ``team/app``, ``ghcr.io/me/app``).

    It is compared component by component. ``*`` stands for any characters within a component, ``?`` for one, ``**``
    as a whole component for one or more components (for none or more before others), and ``{user}`` as a whole
    component for the name of the user who asks."""

    text: str

    @classmethod
    def parse(cls, text: object) -> RepositoryPattern:
        """Parse a pattern. Raises UsageError."""
        if not isinstance(text, str) or not text or len(text) > MAX_PATTERN:
            raise UsageError(
                f"{text!r:.100} is not a pattern of repositories", hint="write it like app, team/** or {user}/*"
            )
        for part in text.split("/"):
            if not part:
                raise _bad(text, "it has an empty component")
            if "**" in part and part != "**":
                raise _bad(text, "** must be a whole component, as in team/**")
            if ("{" in part or "}" in part) and part != USER:
                raise _bad(text, "only {user} is known, as a whole component")
            if not _LETTERS.fullmatch(part):
                raise _bad(text, "it has characters that no repository has")
        return cls(text)

    def matches(self, repository: str, user: str = "") -> bool:
        """Whether a repository matches when ``user`` asks ("" is anonymous, for whom ``{user}`` matches nothing)."""
        return _match(self.text.split("/"), repository.split("/"), user)


def _match(pattern: list[str], name: list[str], user: str) -> bool:
    """Compare components; the positions in the name that are reachable are kept, so the time is bounded by
    length times length."""
    reachable = {0}
    for at, part in enumerate(pattern):
        if part == "**":
            least = 1 if at == len(pattern) - 1 else 0
            reachable = set(range(min(reachable) + least, len(name) + 1))
        else:
            reachable = {
                position + 1 for position in reachable if position < len(name) and _fits(part, name[position], user)
            }
        if not reachable:
            return False
    return len(name) in reachable


def _fits(part: str, component: str, user: str) -> bool:
    if part == USER:
        return bool(user) and component == user
    return glob(part).fullmatch(component) is not None


@lru_cache(maxsize=4096)
def glob(text: str) -> re.Pattern[str]:
    """``*`` and ``?`` as a regular expression; everything else is literal. Runs of stars count once, and each star is
    possessive up to the next literal, so that no pattern takes exponential time."""
    pieces = re.split(r"\*+", text)
    first, *others = [re.escape(piece).replace(r"\?", ".") for piece in pieces]
    if not others:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>.*?{piece})" for piece in others[:-1])  # the first place that fits is as good as any later
    return re.compile(f"{first}{middle}.*{others[-1]}", re.DOTALL)


def is_tag_pattern(text: object) -> bool:
    """Whether ``text`` can match a tag."""
    return isinstance(text, str) and re.fullmatch(r"[a-zA-Z0-9_.*?-]{1,128}", text) is not None


def _bad(text: str, why: str) -> UsageError:
    return UsageError(
        f"{text!r:.100} is not a pattern of repositories: {why}", hint="write it like app, team/** or {user}/*"
    )
