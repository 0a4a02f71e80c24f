"""What ``help()`` shows of the library: every argument by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lamina
from lamina.settings import Settings
from lamina.spec.image_config import CHANGEABLE
from lamina.view.path import ImagePath

REFUSING = {"_refuse"}
LISTS = {"joinpath", "with_segments", "erase"}
"""These take any number of the same thing, as pathlib has them."""
BUILDS = {f"Build.{name}" for name in ("add", "build", "copy", "dockerfile_in", "expose", "shell", "volume")}
"""So do these: sources, names of the image, ports, words, paths, as in a Dockerfile."""
NAMED_BY_CALLER = {"Build.env", "Build.label"}
"""Here the names are the caller's: ``env(DEBUG="1")``."""


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in lamina.__all__:
        one = getattr(lamina, name)
        if not callable(one):
            continue
        yield name, one
        if inspect.isclass(one):
            for method, function in inspect.getmembers(one, inspect.isfunction):
                if not method.startswith("_") and function.__module__.startswith("lamina"):
                    yield f"{name}.{method}", function


CALLS = dict(public())


@pytest.mark.parametrize("name", CALLS)
def test_public_functions_have_no_star_arguments(name: str) -> None:
    function = CALLS[name]
    if getattr(function, "__name__", "") in REFUSING or name.rpartition(".")[2] in LISTS:
        return
    parameters = inspect.signature(function).parameters.values()
    stars = [one.name for one in parameters if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    many = [one.name for one in parameters if one.kind == one.VAR_POSITIONAL]
    named = [one.name for one in parameters if one.kind == one.VAR_KEYWORD]
    if name in BUILDS | NAMED_BY_CALLER:
        assert (len(many), len(named)) == ((1, 0) if name in BUILDS else (0, 1))
        return
    if inspect.isclass(function) and issubclass(function, BaseException):
        return
    assert stars == []


@pytest.mark.parametrize("name", CALLS)
def test_each_call_says_what_it_does(name: str) -> None:
    plain = {"ImagePath.is_dir", "ImagePath.is_file", "ImagePath.is_symlink"}
    function = CALLS[name]
    if not isinstance(function, type) and function.__doc__ is None:
        assert name.startswith("ImagePath.") or name in plain  # as pathlib has it
        assert hasattr(__import__("pathlib").Path, name.rpartition(".")[2])


def test_what_changes_a_config_can_change_all_of_it() -> None:
    fields = set(CHANGEABLE)
    for function in (lamina.Image.with_config, lamina.Image.append, lamina.RunResult.commit):
        named = set(inspect.signature(function).parameters)
        assert fields - named <= {"created"}, function
    assert fields <= set(inspect.signature(lamina.Image.with_config).parameters)


def test_reaching_a_registry_takes_the_same_words_everywhere() -> None:
    access = {"tls_verify", "authfile", "cert_dir", "creds"}
    for function in (lamina.pull, lamina.push, lamina.Registry, lamina.Image.push):
        assert access <= set(inspect.signature(function).parameters), function
    with pytest.raises(TypeError, match="tls_verif"):
        lamina.pull("x", tls_verif=False)  # type: ignore[call-arg]


def test_values_show_their_fields() -> None:
    assert list(inspect.signature(Settings).parameters) == ["values"]
    assert list(inspect.signature(lamina.Diff).parameters)[:3] == ["before", "after", "path"]


def test_a_path_has_all_of_pathlibs_methods_that_make_sense_in_an_image() -> None:
    from pathlib import Path

    machines = {"cwd", "home", "expanduser", "link_to", "copy", "copy_into", "move", "move_into", "info", "from_uri"}
    machines |= {"parser", "is_reserved"}
    theirs = {name for name in dir(Path) if not name.startswith("_")}
    assert theirs - machines - set(dir(ImagePath)) == set()
