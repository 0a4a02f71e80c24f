"""docker's nouns, and verbs that lamina does not support yet: every entry of the tables works."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from lamina.cli import run
from lamina.cli.app import cli
from lamina.cli.noun_table import ABSENT, INSTEAD, NOUNS, OTHERS
from lamina.cli.nouns import Noun
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command, load

EVERY = [(noun, verb) for noun, (_, verbs) in NOUNS.items() for verb in verbs]


def said(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = run(list(words))
    return (code, *capfd.readouterr())


@pytest.mark.parametrize(("noun", "verb"), EVERY)
def test_each_verb_of_a_noun_has_help(noun: str, verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capfd, noun, verb, "--help")
    assert (code, err) == (0, "")
    assert f"lamina {noun} {verb} " in out
    assert "Example:" in out


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_the_help_of_another_name_shows_the_verb_of_lamina(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It also has a verb that lamina has only under this noun."""
    code, out, _ = said(capfd, name, "--help")
    assert code == 0
    known = name if OTHERS[name].startswith(":") else OTHERS[name]
    assert f"Usage: lamina {known} " in out


def test_the_tables_do_not_contradict_each_other() -> None:
    assert not set(ABSENT) & {*VERBS, *NOUNS, *OTHERS, *INSTEAD}
    assert not {*OTHERS, *INSTEAD} & {*VERBS, *NOUNS}
    assert set(NOUNS) & set(VERBS) == {"manifest"}
    for noun, (_, verbs) in NOUNS.items():
        assert noun == "manifest" or not set(verbs) & (set(ABSENT) - {"exists"})


@pytest.mark.parametrize("verb", sorted(ABSENT))
def test_an_unsupported_verb_says_so_in_one_line(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capfd, verb, "-f", "x")
    assert (code, out) == (2, "")
    assert err.startswith(f"lamina: lamina does not support `{verb}` yet: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (["container", "checkpoint", "web"], "lamina does not support `container checkpoint` yet"),
        (["buildx", "create", "--use"], "does not support `buildx create` yet: there are no builders"),
        (["buildx", "imagetools", "inspect", "x"], "`lamina manifest REF`"),
        (["image", "sl"], "unknown verb 'sl' of 'image'; did you mean ls?"),
        (["image", "hystory", "x"], "did you mean history?"),
        (["auth", "login"], "`lamina login`"),
        (["imags"], "did you mean images"),
        (["help", "imags"], "did you mean images"),
        (["bulid", "."], "unknown verb 'bulid'; did you mean build?"),
        (["container", "losg"], "of 'container'; did you mean logs"),
        (["container", "chekpoint"], "of 'container'; did you mean checkpoint? lamina does not support it yet: "),
    ],
)
def test_an_unknown_verb_suggests_similar_ones(words: list[str], err: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, told = said(capfd, *words)
    assert (code, out) == (2, "")
    assert err in told


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        ([], "Usage: lamina [OPTIONS]"),
        (["help"], "Usage: lamina [OPTIONS]"),
        (["help", "run"], "Usage: lamina run "),
        (["help", "image"], "Usage: lamina image "),
        (["help", "image", "ls"], "Usage: lamina image ls "),
        (["help", "manifest", "inspect"], "Usage: lamina manifest inspect "),
        (["help", "manifest"], "Usage: lamina manifest "),
        (["help", "index", "create"], "Usage: lamina index create "),
        (["list-tags", "--help"], "Usage: lamina list-tags "),
        (["catalog", "--help"], "Usage: lamina search "),
        (["image"], "Usage: lamina image "),
        (["-v"], "lamina, version"),
        (["--version"], "lamina, version"),
    ],
)
def test_help_goes_to_standard_output_with_exit_code_0(
    words: list[str], starts: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capfd, *words)
    assert (code, err) == (0, "")
    assert out.startswith(starts)


def test_the_overview_lists_every_noun(capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capfd, "help")
    for noun in NOUNS:
        assert f"\n  {noun} " in out


def test_manifest_followed_by_a_verb_name_is_a_reference() -> None:
    """`lamina manifest inspect` means an image named inspect; with one more word it is the verb of docker."""
    context = click.Context(cli)
    assert not isinstance(cli.resolve_command(context, ["manifest", "inspect"])[1], Noun)
    assert not isinstance(cli.resolve_command(context, ["manifest", "app:1"])[1], Noun)
    assert isinstance(cli.resolve_command(context, ["manifest", "inspect", "app:1"])[1], Noun)


def test_options_of_the_table_go_before_the_user_s() -> None:
    noun = Noun("image", *NOUNS["image"])
    name, _, words = noun.resolve_command(click.Context(noun), ["inspect", "--type", "container", "x"])
    assert (name, words) == ("inspect", ["--type", "image", "--type", "container", "x"])


@pytest.mark.parametrize(
    ("words", "params"),
    [
        (["--all=true", "x"], {"all_": True, "human": True, "words": ("x",)}),
        (["--all=false", "--human=false"], {"all_": False, "human": False, "words": ()}),
        (["--human=False", "--human"], {"all_": False, "human": True, "words": ()}),
        (["--text", "--all=true"], {"all_": False, "text": "--all=true", "words": ()}),
        (["--text=true"], {"text": "true", "words": ()}),
        (["--", "--all=true"], {"all_": False, "words": ("--all=true",)}),
    ],
)
def test_flags_accept_true_and_false(words: list[str], params: dict[str, object]) -> None:
    command = Command(
        "x",
        params=[
            click.Option(["--all", "all_"], is_flag=True),
            click.Option(["--human/--no-human"], default=True),
            click.Option(["--text"]),
            click.Argument(["words"], nargs=-1),
        ],
    )
    found = command.make_context("x", list(words), obj=Session()).params
    assert {key: found[key] for key in params} == params


def test_words_after_the_program_belong_to_the_program() -> None:
    command = Command("x", params=[click.Option(["--all"], is_flag=True), click.Argument(["words"], nargs=-1)])
    command.allow_interspersed_args = False
    assert command.make_context("x", ["--all=true", "sh", "--all=false"]).params == {
        "all": True,
        "words": ("sh", "--all=false"),
    }


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["images", "--format", "json"], "[]\n"),
        (["images", "-q"], ""),
        (["ps", "-a", "--format", "json"], "[]\n"),
        (["ps", "-aq"], ""),
        (["images", "--format", "{{.ID}}"], ""),
        (["mounts", "--format", "json"], "[]\n"),
        (["find", "*.pem", "--format", "json"], "[]\n"),
        (["prune"], "freed: 0B (0 bytes)\n"),
        (["prune", "--all"], "freed: 0B (0 bytes)\n"),
        (["system", "prune", "-f"], "Total reclaimed space: 0B\n"),
        (["container", "prune", "-f"], "Total reclaimed space: 0B\n"),
        (["umount", "--all"], ""),
        (["start", "--all"], ""),
        (["restart", "--all"], ""),
        (["restart", "--running"], ""),
        (["stop", "--all"], ""),
        (["kill", "--all"], ""),
        (["pause", "--all"], ""),
        (["unpause", "--all"], ""),
        (["rm", "--all"], ""),
        (["rm", "--force", "web"], ""),
        (["rm", "--ignore", "web"], ""),
        (["stop", "--ignore", "web"], ""),
        (["wait", "--ignore", "web"], ""),
        (["pod", "rm", "--all"], ""),
        (["network", "prune", "-f"], ""),
        (["volume", "prune", "-f"], "Total reclaimed space: 0B\n"),
        (["events", "--no-stream"], ""),
        (["volume", "ls", "-q"], ""),
        (["pod", "ls", "-q"], ""),
    ],
)
def test_without_a_store_lists_are_empty(
    words: list[str], out: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said(capfd, "--root", str(tmp_path / "none"), *words) == (0, out, "")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    assert said(capfd, "--root", str(tmp_path / "empty"), *words) == (0, out, "")


def test_a_directory_that_is_not_a_store_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter").write_text("dear store")
    code, out, err = said(capfd, "--root", str(tmp_path), "images")
    assert (code, out) == (3, "")
    assert "no store at" in err


def test_df_without_a_store_is_zero(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capfd, "--root", str(tmp_path / "none"), "df")
    assert code == 0
    assert "total on disk                       0B   0 bytes" in out


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (("network", "crate"), "unknown verb 'crate' of 'network'; did you mean create?"),
        (("volume", "inspct", "x"), "unknown verb 'inspct' of 'volume'; did you mean inspect or exists?"),
        (("pod", "quux"), "unknown verb 'quux' of 'pod'"),
        (("index", "ad"), "unknown verb 'ad' of 'index'; did you mean add?"),
        (("stop",), "no containers given (name them, or give --all, --latest or --filter)"),
        (("start",), "no containers given (name them, or give --all, --latest or --filter)"),
        (("logs",), "no containers given (name them, or give "),
        (("pod", "remove"), "no pods given (name them, or give --all or --latest)"),
        (("volume", "rm", "--all", "x"), "names and --all can't be combined (say in one way which volumes you mean)"),
        (
            ("restart", "--running", "x"),
            "names and --running can't be combined (say in one way which containers you mean)",
        ),
        (("stop", "--filter", "name=x", "x"), "names and --filter can't be combined (say in one way which "),
        (
            ("generate", "systemd", "--all", "--new"),
            "--new needs a container (leave out --all, and name a container)",
        ),
    ],
)
def test_what_is_missing_or_unknown_is_said(
    words: tuple[str, ...], err: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, said_ = said(capfd, *words)
    assert (code, out) == (2, "")
    assert said_.startswith(f"lamina: {err}")
    assert said_.count("\n") == 1


@pytest.mark.parametrize("verb", sorted(verb for verb in VERBS if isinstance(load(verb), click.Group)))
def test_the_help_of_a_group_has_whole_sentences(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capfd, verb, "--help")
    assert "..." not in out.split("Verbs:")[1]
