"""The verb `compose`: which podman-compose runs, with which lamina, and what it is told."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from lamina.cli import run
from lamina.cli.containers import compose
from lamina.errors import NotFound, Unsupported


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is executed, with a podman-compose and a lamina beside Python."""
    for name in ("python", "podman-compose", "lamina"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    found: list[list[str]] = []
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setattr(os, "execv", lambda program, words: found.append(words))
    monkeypatch.delenv("LAMINA_ROOT", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    return found


def test_words_are_passed_on_as_they_are(called: list[list[str]], tmp_path: Path) -> None:
    words = ["-f", "a.yaml", "run", "--rm", "-e", "A=1", "web", "--", "ls", "--help", "-h", ""]
    assert run(["compose", *words]) == 0
    assert called == [[str(tmp_path / "podman-compose"), "--podman-path", str(tmp_path / "lamina"), *words]]


@pytest.mark.parametrize(
    "words", [["-p", "../../x"], ["--project-name", "a b"], ["-f", "x", "--project-name=$(x)"], []]
)
def test_a_project_with_an_impossible_name_is_refused(
    called: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    if not words:
        monkeypatch.setenv("COMPOSE_PROJECT_NAME", "-rf")
    assert run(["compose", *words, "up", "-d"]) == 2
    assert "is not the name of a project" in capsys.readouterr().err
    assert called == []


def test_options_behind_the_verb_name_no_project(called: list[list[str]]) -> None:
    assert run(["compose", "-p", "My.App_1", "run", "-p", "80:80", "web"]) == 0
    assert len(called) == 1


def test_the_store_is_that_of_the_command_line(
    called: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMINA_ROOT", "/other")
    assert run(["--root", "store", "compose", "ps"]) == 0
    assert os.environ["LAMINA_ROOT"] == str(tmp_path / "store")


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_is_that_of_lamina(
    called: list[list[str]], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(["compose", *words]) == 0
    assert "lamina compose up -d" in capsys.readouterr().out
    assert called == []


def test_a_missing_podman_compose_says_what_to_install(
    called: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "podman-compose").unlink()
    monkeypatch.setattr(compose, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match="podman-compose is not installed") as caught:
        compose._podman_compose()
    assert "lamina[compose]" in str(caught.value.hint)


def test_a_program_on_the_path_is_found(
    called: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "bin"
    elsewhere.mkdir()
    for name in ("podman-compose", "lamina"):
        (tmp_path / name).rename(elsewhere / name)
    monkeypatch.setenv("PATH", str(elsewhere))
    assert run(["compose", "ps"]) == 0
    assert called == [[str(elsewhere / "podman-compose"), "--podman-path", str(elsewhere / "lamina"), "ps"]]


def test_without_a_program_lamina_nothing_is_run(
    called: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lamina").unlink()
    with pytest.raises(NotFound, match="lamina"):
        compose._own_program()


def test_the_last_word_of_the_version_is_a_version_of_podman(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version", ""]) == 0  # so does podman-compose
    assert re.fullmatch(r"5\.\d+\.\d+", capsys.readouterr().out.split()[-1])


def test_every_verb_of_podman_compose_is_completed() -> None:
    podman_compose = pytest.importorskip("podman_compose")
    assert set(compose.VERBS_OF_COMPOSE) == {*podman_compose.podman_compose.commands, "help"}
