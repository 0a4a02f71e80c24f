"""Patterns, rules and scopes, against naive models."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import UsageError
from lamina.serve.access.patterns import RepositoryPattern, glob
from lamina.serve.access.rules import ACTIONS, ANYONE, USERS, Rule, Rules
from lamina.serve.access.rules_file import parse_rules
from lamina.serve.access.scopes import Scope, granted, parse_scopes
from lamina.serve.names import familiar
from lamina.settings import parse_size

PART = st.sampled_from(["a", "ab", "team", "alice", "bob", "v1", "x-y"])
NAME = st.lists(PART, min_size=1, max_size=4).map("/".join)
PATTERN_PART = st.sampled_from(["a", "a*", "*", "**", "?b", "{user}", "team", "*i*e", "x-*"])
PATTERN = st.lists(PATTERN_PART, min_size=1, max_size=4).map("/".join)
USER = st.sampled_from(["", "alice", "bob", "carol"])


def naive_match(pattern: list[str], name: list[str], user: str) -> bool:
    """By recursion, straight from the words of the documentation."""
    if not pattern:
        return not name
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        if not rest:
            return bool(name)
        return any(naive_match(rest, name[at:], user) for at in range(len(name) + 1))
    if not name:
        return False
    fits = (bool(user) and name[0] == user) if first == "{user}" else fnmatch.fnmatchcase(name[0], first)
    return fits and naive_match(rest, name[1:], user)


@given(PATTERN, NAME, USER)
@settings(max_examples=500)
def test_a_pattern_matches_as_the_model_says(pattern: str, name: str, user: str) -> None:
    found = RepositoryPattern.parse(pattern).matches(name, user)
    assert found == naive_match(pattern.split("/"), name.split("/"), user)


@given(st.text("ab*?", max_size=8), st.text("abc", max_size=10))
@settings(max_examples=500)
def test_a_glob_matches_as_fnmatch(pattern: str, text: str) -> None:
    assert (glob(pattern).fullmatch(text) is not None) == fnmatch.fnmatchcase(text, pattern)


def test_a_glob_of_many_stars_does_not_take_exponential_time() -> None:
    assert glob("a*" * 40 + "b").fullmatch("a" * 5000) is None


@pytest.mark.parametrize(
    "text", ["", "/a", "a//b", "a**", "{name}", "a{user}", "{user", "a b", "ä", "a" * 301, None, 3]
)
def test_a_bad_pattern_is_refused(text: object) -> None:
    with pytest.raises(UsageError):
        RepositoryPattern.parse(text)


def test_the_name_of_a_user_is_never_a_pattern() -> None:
    pattern = RepositoryPattern.parse("{user}/**")
    assert not pattern.matches("bob/app", "*")
    assert not pattern.matches("bob/app", "b?b")
    assert not pattern.matches("bob/x/app", "bob/x")
    assert not pattern.matches("/app", "")


WHO = st.sets(st.sampled_from([ANYONE, USERS, "alice", "bob", "@team"]), min_size=1).map(frozenset)
SOME_ACTIONS = st.sets(st.sampled_from(sorted(ACTIONS)), min_size=1).map(frozenset)
RULE = st.builds(
    Rule, WHO, st.lists(PATTERN.map(RepositoryPattern.parse), min_size=1, max_size=2).map(tuple), SOME_ACTIONS
)


def naive_allowed(rules: Rules, user: str, repository: str) -> set[str]:
    """Each action on its own: is there a rule that gives it?"""
    gives = {
        "pull": {"pull", "push", "delete", "admin"},
        "push": {"push", "admin"},
        "delete": {"delete", "admin"},
        "admin": {"admin"},
    }
    found = set()
    for action in ACTIONS:
        for rule in rules.rules:
            means = (
                ANYONE in rule.who
                or (user and USERS in rule.who)
                or (user and user in rule.who)
                or ("@team" in rule.who and user in rules.groups["team"])
            )
            if (
                means
                and gives[action] & rule.actions
                and any(naive_match(p.text.split("/"), repository.split("/"), user) for p in rule.repositories)
            ):
                found.add(action)
    return found


@given(st.lists(RULE, max_size=4), USER, NAME)
@settings(max_examples=500)
def test_rules_allow_what_the_model_allows(rules: list[Rule], user: str, repository: str) -> None:
    all_rules = Rules(tuple(rules), {"team": frozenset({"carol", "alice"})})
    assert all_rules.allowed(user, repository) == naive_allowed(all_rules, user, repository)


def test_nothing_is_allowed_without_a_rule() -> None:
    assert Rules().allowed("alice", "app") == frozenset()
    assert Rules().allowed("", "app") == frozenset()


FILE = b"""
[groups]
dev = ["alice", "bob"]

[[rules]]
repositories = ["team/**", "{user}/*"]
who = ["@dev"]
actions = ["pull", "push"]

[[rules]]
repositories = "public/**"
who = "anonymous"
actions = "pull"

[[immutable]]
repositories = ["team/**"]
tags = ["v*"]

[[quotas]]
repositories = ["team/**"]
size = "20GB"

[limits]
requests = 50
burst = 100
manifest = "1MB"
layers = 100
"""


def test_the_file_gives_the_rules() -> None:
    rules = parse_rules(FILE, "f")
    assert rules.allowed("alice", "team/x/app") == {"pull", "push"}
    assert rules.allowed("alice", "bob/app") == frozenset()
    assert rules.allowed("", "public/app") == {"pull"}
    assert rules.allowed("carol", "public/app") == {"pull"}
    assert rules.allowed("carol", "team/app") == frozenset()
    assert rules.is_immutable("team/app", "v1")
    assert not rules.is_immutable("team/app", "latest")
    assert not rules.is_immutable("app", "v1")
    assert rules.quotas[0].size == parse_size("20GB")
    assert (rules.limits.requests, rules.limits.burst, rules.limits.manifest, rules.limits.layers) == (
        50,
        100,
        1_000_000,
        100,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "unknown key 'x'"),
        ("rules = 1", "not a list of tables"),
        ('[[rules]]\nrepositories="a"\nwho="b"', "actions"),
        ('[[rules]]\nrepositories="a"\nwho="b"\nactions="write"', "unknown action 'write'"),
        ('[[rules]]\nrepositories="a"\nwho="@x"\nactions="pull"', "no group 'x'"),
        ('[[rules]]\nrepositories="a"\nwho="a:b"\nactions="pull"', "not a user name"),
        ('[[rules]]\nrepositories="a**"\nwho="b"\nactions="pull"', "entry 1 of rules"),
        ('[[rules]]\nrepositories=[]\nwho="b"\nactions="pull"', "not empty"),
        ('[[rules]]\nrepositories="a"\nwho="b"\nactions="pull"\ndeny=true', "unknown key 'deny'"),
        ('[[immutable]]\nrepositories="a"\ntags="[1]"', "not a pattern of tags"),
        ('[[quotas]]\nrepositories="a"\nsize="many"', "not a size"),
        ('[[quotas]]\nrepositories="a"\nsize=true', "not a size"),
        ('[[quotas]]\nrepositories="a"\nsize=1\neach=1', "neither true nor false"),
        ("[limits]\nrequests=0", "requests"),
        ("[limits]\nlayers=-1", "greater than 0"),
        ("groups = 1", "not a table"),
        ("[groups]\na = [1]", "list of texts"),
        ("[[rules]", "not valid TOML"),
        ("\0", "not valid TOML"),
    ],
)
def test_a_broken_file_is_refused_with_words(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        parse_rules(text.encode(), "rules.toml")
    with pytest.raises(UsageError, match="utf-8"):
        parse_rules(b"\xff", "rules.toml")


# scopes


def test_scopes_of_several_parameters_are_joined() -> None:
    found = parse_scopes(["repository:a/b:pull", "repository:a/b:push registry:catalog:*"])
    assert [str(scope) for scope in found] == ["repository:a/b:pull,push", "registry:catalog:*"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("repository:library/app:pull", ["repository:app:pull"]),
        ("repository:docker.io/library/app:pull", ["repository:app:pull"]),
        ("repository:localhost:5000/app:push,pull", ["repository:localhost:5000/app:pull,push"]),
        ("repository(plugin):a:pull", ["repository:a:pull"]),
        ("repository:A:pull", []),
        ("repository:../x:pull", []),
        ("repository:a", []),
        ("repository", []),
        ("repository::pull", []),
        ("repository:a:admin,fly,pull", ["repository:a:pull"]),
        ("repository:a:*", ["repository:a:*"]),
        ("registry:other:*", []),
        ("registry:catalog:pull", ["registry:catalog:"]),
        ('repository:a":pull', []),
        ("repository:a:pull\r\nX: y", []),
        ("x" * 2000, []),
        ("", []),
    ],
)
def test_a_scope_is_read_or_left_out(text: str, shown: list[str]) -> None:
    assert [str(scope) for scope in parse_scopes([text])] == shown


@given(st.lists(st.text(max_size=60) | st.text("repositygl:,*/ap", max_size=60), max_size=5))
@settings(max_examples=500)
def test_hostile_scopes_never_raise_and_are_safe_in_a_header(texts: list[str]) -> None:
    for scope in parse_scopes(texts):
        text = str(scope)
        assert text.isascii()
        assert text.isprintable()
        assert '"' not in text
        assert scope.actions <= {"pull", "push", "delete", "*"}


def test_many_scopes_are_cut() -> None:
    assert len(parse_scopes([" ".join(f"repository:a{n}:pull" for n in range(1000))])) == 100


def test_less_is_granted_than_was_asked() -> None:
    wanted = parse_scopes(["repository:a:pull,push,delete repository:b:pull repository:c:* registry:catalog:*"])
    allowed = {"a": frozenset({"pull"}), "c": frozenset({"pull", "push", "delete", "admin"})}
    given_ = granted(wanted, allowed, catalog=False)
    assert [str(scope) for scope in given_] == ["repository:a:pull", "repository:c:pull,push,delete"]
    assert Scope("registry", "catalog", frozenset("*")) in granted(wanted, allowed, catalog=True)


def test_one_repository_has_one_name() -> None:
    assert familiar("app") == familiar("library/app") == familiar("docker.io/library/app") == "app"
    assert familiar("app:1") == familiar("x@y") == familiar("") == ""
