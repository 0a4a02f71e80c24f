"""Files that `pip install` brings besides the modules: manual pages, completion scripts; and the page on PyPI."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from lamina.cli import manual
from lamina.cli.app import cli
from lamina.cli.verbs import VERBS, load

TOP = Path(__file__).parents[2]
REQUESTS = (".TH ", ".SH ", ".TP", ".PP", ".nf", ".fi", ".EX", ".EE")
HOME = "https://github.com/lamina-oci/lamina"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    place = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-W", "ignore", "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    made = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (found,) = place.glob("*.whl")
    return zipfile.ZipFile(found)


def shared(wheel: zipfile.ZipFile) -> dict[str, str]:
    """Return the files that are installed below share/."""
    inside = {name: name.partition(".data/data/share/")[2] for name in wheel.namelist()}
    return {short: wheel.read(name).decode() for name, short in inside.items() if short}


def test_every_verb_has_a_manual_page(wheel: zipfile.ZipFile) -> None:
    files = shared(wheel)
    pages = {name.removeprefix("man/man1/"): text for name, text in files.items() if name.startswith("man/")}
    # those whose -h is something else, as du's is --human
    own = {f"lamina-{verb}.1" for verb in VERBS if any("-h" in parameter.opts for parameter in load(verb).params)}
    assert {"lamina.1", *(f"lamina-{verb}.1" for verb in VERBS)} <= set(pages)
    for name, page in pages.items():
        titles = re.findall(r"^\.SH (.*)", page, re.MULTILINE)
        assert titles[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"], name
        assert "EXAMPLES" in titles, name
        assert page.isascii()
        for line in page.splitlines():
            assert not line.startswith((".", "'")) or line.startswith(REQUESTS), (name, line)
        assert "\b" not in page
        assert (r"\fB\-h\fR, \fB\-\-help\fR" in page) == (name not in own), name
        assert "\n.TP\nIMAGE\n" not in page
    for verb in VERBS:
        escaped = verb.replace("-", r"\-")
        assert rf"\fBlamina\-{escaped}\fR(1)" in pages["lamina.1"]
    assert "LAMINA_ROOT" in pages["lamina.1"]
    assert re.search(r"^\\fBlamina image\\fR VERB\n.*\bls\b", pages["lamina.1"], re.MULTILINE)
    assert ".TP\n127\nrun, boot, exec: the program was not found" in pages["lamina.1"]


def test_a_manual_page_has_each_option_of_its_verb(wheel: zipfile.ZipFile) -> None:
    files = shared(wheel)
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        page = files[f"man/man1/lamina-{verb}.1"]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                for name in (*parameter.opts, *parameter.secondary_opts):
                    assert rf"\fB{name.replace('-', chr(92) + '-')}\fR" in page, (verb, name)


def test_shells_find_their_completion(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    files = shared(wheel)
    assert files["zsh/site-functions/_lamina"].startswith("#compdef lamina\n")
    assert "complete " in files["fish/vendor_completions.d/lamina.fish"]
    script = tmp_path / "lamina"
    script.write_text(files["bash-completion/completions/lamina"])
    done = subprocess.run(
        ["bash", "-c", f"source {script}; complete -p lamina"], capture_output=True, text=True, check=True
    )
    assert re.search(r"-F _lamina\w+ lamina$", done.stdout)


def test_links_on_pypi_are_absolute(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme = metadata.get_payload()
    links = re.findall(r"\]\(([^)]*)\)", readme)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert f"{HOME}/blob/main/docs/exit-codes.md" in links
    for link in links:
        path = link.partition(f"{HOME}/blob/main/")[2].partition("#")[0]
        assert not path or (TOP / path).exists(), link
    urls = dict(text.split(", ", 1) for text in metadata.get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Changelog", "Issues", "Source"} == set(urls)
    assert all(url.startswith(HOME) for url in urls.values())


def test_pages_are_made_with_click_alone(tmp_path: Path) -> None:
    """The build environment has only click, and may be on Windows."""
    code = (
        "import os, sys\n"
        "for name in ('fcntl', 'pwd', 'grp', 'termios', 'tty', 'pty', 'resource'): sys.modules[name] = None\n"
        "for name in ('getxattr', 'listxattr', 'setxattr', 'geteuid', 'fork'): delattr(os, name)\n"
        "from lamina.cli import manual\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "assert manual.pages() and [manual.completion(shell) for shell in manual.SHELLS]\n"
        "after = {name.partition('.')[0] for name in sys.modules} - before\n"
        "print(*sorted(after - sys.stdlib_module_names))"
    )
    env = {**os.environ, "PYTHONPATH": str(TOP / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert set(done.stdout.split()) <= {"click", "lamina"}


def test_text_with_roff_control_characters_is_escaped() -> None:
    @click.command("odd", short_help="Take odd words.")
    @click.option("--to-root", metavar="A-B", help=r"C:\dir, .hidden, ~ and ^; 'quoted'")
    def odd() -> None:
        """.begins with a dot

        'begins with a quote: é

        \b
        Example:
          lamina odd --to-root ~/x
          .sh
        """

    page = manual._page(click.Context(odd, info_name="odd"), [])
    assert "\n\\&.begins with a dot\n" in page
    assert "\n\\&\\(aqbegins with a quote: \\[u00E9]\n" in page
    assert "\\fB\\-\\-to\\-root\\fR A\\-B\nC:\\edir, .hidden, \\(ti and \\(ha; \\(aqquoted\\(aq\n" in page
    assert ".EX\nlamina odd \\-\\-to\\-root \\(ti/x\n\\&.sh\n.EE\n" in page
