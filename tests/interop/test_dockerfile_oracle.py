"""Dockerfiles and words are read as BuildKit's own packages read them: on a table and on generated text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit_oracle import Oracle, running_oracle
from corpus import CASES
from lamina.build import instructions as i
from lamina.build.dockerfile.syntax import parse, parse_instruction
from lamina.build.dockerfile.words import BadExpansion, document_expansion, expand_words, expansion
from lamina.build.errors import DockerfileError
from support import THOROUGH

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with running_oracle() as found:
        yield found


# --- words

VALUES = {
    "x": "abcabc",
    "e": "",
    "p": "/usr/local/bin/a.tar.gz",
    "w": "two words",
    "s": "a*b?c\\d",
    "n": "one\ntwo\nthree",
    "_a1": "$0-$$-${0}",
}
WORDS = [
    "",
    "plain",
    "$x",
    "${x}",
    "$x$e$p",
    "a${x}b",
    "$",
    "$$",
    "$1a",
    "$0",
    "$@ $* $# $? $- $!",
    "${1}",
    "${x",
    "${}",
    "${ x}",
    "${:x}",
    "${{x}}",
    "${x:}",
    "${x!y}",
    "${x:/a/b}",
    "${x:#a}",
    "${x:%a}",
    "${y:-z}",
    "${y-z}",
    "${e:-z}",
    "${e-z}",
    "${x:-z}",
    "${y:+z}",
    "${x:+z}",
    "${e+z}",
    "${e:+z}",
    "${y:?}",
    "${y:?message here}",
    "${y?}",
    "${e?}",
    "${e:?}",
    "${x:?}",
    "${y:-${z:-${x}}}",
    '${y:-"a b"}',
    "${y:-'a}b'}",
    "${y:-a\\}b}",
    "${x#a}",
    "${x#*b}",
    "${x##*b}",
    "${x%c}",
    "${x%b*}",
    "${x%%b*}",
    "${p##*/}",
    "${p%.*}",
    "${p%%.*}",
    "${p#/usr}",
    "${p#?usr}",
    "${s#a\\*}",
    "${s%\\\\d}",
    "${s#'a*b'}",
    "${s#a*b\\?}",
    '${s%"\\d"}',
    "${s%'\\d'}",
    "${x#\\q}",
    "${x#a\\}",
    "${x/b/Q}",
    "${x//b/Q}",
    "${x//b}",
    "${x/b}",
    "${x///Q}",
    "${x//*/Q}",
    "${x//?/Q}",
    "${x/a*b/Q}",
    "${p/\\//:}",
    "${p//\\//:}",
    "${x//b/\\$0}",
    "${x//b/$_a1}",
    "${x/b/$_a1}",
    "${x//b/\\}}",
    '${x/b/"a\\b"}',
    "${n#*two}",
    "${n##*t}",
    "${n%t*}",
    "${n//o*/Q}",
    "${n/n?t/Q}",
    "${y#a}",
    "${y/a/b}",
    "'$x'",
    '"$x"',
    "'a\"b'",
    '"a\'b"',
    '"a\\"b"',
    '"a\\$x"',
    '"a\\nb"',
    '"a\\\\b"',
    "'a",
    '"a',
    '"a\\',
    "a\\",
    "a\\ b",
    "\\$x",
    "\\\\$x",
    "\\'x\\'",
    "a  b\tc",
    " a ",
    "$w",
    "a$w-b",
    '"$w"',
    "${y:-$w}",
    "a '' b",
    "<<EOF",
    "<< EOF a",
    "<a",
    "\ufeffx",
    "é$xé",
    "$é",
    "80-90/tcp",
    "${x}${x//a/${e:-$p}}",
]


def one_word(kind: str, text: str, escape: str) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    try:
        found = document_expansion(text, VALUES.get) if kind == "document" else expansion(text, VALUES.get, escape)
    except BadExpansion:
        return None
    return found.text, tuple(sorted(found.found)), tuple(sorted(found.missing))


def asked_word(
    oracle: Oracle, kind: str, text: str, escape: str
) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    answer = oracle(kind, Text=text, Escape=escape, Env=VALUES)
    if "error" in answer:
        return None
    return answer["Text"], tuple(answer["Found"]), tuple(answer["Missing"])


@pytest.mark.parametrize("escape", ["\\", "`"])
@pytest.mark.parametrize("kind", ["word", "document"])
def test_a_word_is_expanded_as_buildkit_expands_it(oracle: Oracle, kind: str, escape: str) -> None:
    texts = [text.replace("\\", escape) for text in WORDS] + WORDS
    different = {
        text: (mine, theirs)
        for text in texts
        if (mine := one_word(kind, text, escape)) != (theirs := asked_word(oracle, kind, text, escape))
    }
    assert not different


def each(text: str) -> list[str]:
    return text.split()


PIECES = st.sampled_from(
    [
        *each("$ { } x y e p s n w _a1 :- :+ :? - + ? # ## % %% / // * \\ ` ' a b < << 0 $$"),
        *("${x", "${y:-", "${p%", "${s#", "${x/", "${n//", '"', " "),
    ]
)
TEXTS = st.lists(PIECES, max_size=14).map("".join)


@settings(max_examples=1500 if THOROUGH else 300, deadline=None)
@given(TEXTS, st.sampled_from(["\\", "`"]), st.sampled_from(["word", "document"]))
def test_generated_words_are_expanded_as_buildkit_expands_them(
    oracle: Oracle, text: str, escape: str, kind: str
) -> None:
    assert one_word(kind, text, escape) == asked_word(oracle, kind, text, escape)


@settings(max_examples=1000 if THOROUGH else 100, deadline=None)
@given(TEXTS, st.sampled_from(["\\", "`"]))
def test_generated_text_is_split_as_buildkit_splits_it(oracle: Oracle, text: str, escape: str) -> None:
    answer = oracle("words", Text=text, Escape=escape, Env=VALUES)
    try:
        mine = expand_words(text, VALUES.get, escape)
    except BadExpansion:
        mine = None
    if mine is not None and "error" not in answer and "${" in text:
        return  # BuildKit loses what stands before ${x:-y} in the same word: see the test below
    assert mine == (None if "error" in answer else answer["Words"] or [])


def test_a_word_keeps_the_text_before_a_default(oracle: Oracle) -> None:
    """BuildKit 0.34 loses it (EXPOSE 80${x:-80} exposes 80)."""
    assert expand_words("80${y:-80} 1", VALUES.get) == ["8080", "1"]
    assert oracle("words", Text="80${y:-80} 1", Escape="\\", Env=VALUES)["Words"] == ["80", "1"]


# --- Dockerfiles


def contents(documents: tuple[i.HereDocument, ...]) -> list[tuple[str, str, bool]]:
    """The oracle answers in JSON, which can't hold the bytes that are not UTF-8."""
    return [(one.name, re.sub("[\udc80-\udcff]", "\ufffd", one.content), one.expand) for one in documents]


def described(one: i.Instruction) -> list[Any]:
    """What of an instruction both can say."""
    found: list[Any] = [one.text, list(one.comments), one.at.line, one.at.last]
    match one:
        case i.From():
            found += [one.image, one.platform, one.name]
        case i.Arg():
            found += [list(map(list, one.items))]
        case i.Env() | i.Label():
            found += [list(map(list, one.items)), one.old_form]
        case i.Maintainer() | i.User():
            found += [one.name]
        case i.Copy():
            found += [list(one.sources), one.target, list(map(list, contents(one.documents))), one.from_, one.chown]
            found += [one.chmod, one.link, one.parents, list(one.exclude)]
        case i.Add():
            found += [list(one.sources), one.target, list(map(list, contents(one.documents))), one.chown, one.chmod]
            found += [one.link, list(one.exclude), one.checksum, one.keep_git_dir, one.unpack]
        case i.Run():
            found += [*command(one.command), len(one.mounts), one.network or "default", one.security or "sandbox"]
            found += [[[d.name, d.content if d.written is None else d.written] for d in one.documents]]
        case i.Shell():
            found += [list(one.words)]
        case i.Workdir():
            found += [one.path]
        case i.Volume():
            found += [list(one.paths)]
        case i.Expose():
            found += [list(one.ports)]
        case i.StopSignal():
            found += [one.signal]
        case i.Healthcheck():
            found += [health(one)]
        case i.Entrypoint() | i.Cmd():
            found += command(one.command)
        case i.OnBuild():
            found += [one.trigger]
        case _:
            raise AssertionError(one)
    return found


def command(one: i.Command) -> list[Any]:
    return [list(one.words), one.is_shell]


def health(one: i.Healthcheck) -> list[str]:
    if one.command is None:
        return ["NONE"]
    return ["CMD-SHELL" if one.command.is_shell else "CMD", *one.command.words]


def theirs(one: dict[str, Any]) -> list[Any]:
    name = one["Instruction"]
    lines = [place["Start"]["Line"] for place in one["Location"]]
    found: list[Any] = [one["SourceCode" if name == "FROM" else "Text"], one["Comments"] or [], lines[0], lines[-1]]
    files = [[file["Path"], file["Data"], file["Expand"]] for file in one.get("SourceContents") or []]
    match name:
        case "FROM":
            found += [one["BaseName"], one["Platform"], one["Name"]]
        case "ARG":
            found += [[[pair["Key"], pair["Value"]] for pair in one["Args"]]]
        case "ENV" | "LABEL":
            items = one["Env" if name == "ENV" else "Labels"]
            found += [[[pair["Key"], pair["Value"]] for pair in items], items[0]["NoDelim"]]
        case "MAINTAINER":
            found += [one["Maintainer"]]
        case "USER":
            found += [one["User"]]
        case "COPY":
            found += [one["SourcePaths"] or [], one["DestPath"], files, one["From"], one["Chown"]]
            found += [one["Chmod"], one["Link"], one["Parents"], one["ExcludePatterns"] or []]
        case "ADD":
            found += [one["SourcePaths"] or [], one["DestPath"], files, one["Chown"], one["Chmod"], one["Link"]]
            found += [one["ExcludePatterns"] or [], one["Checksum"], bool(one["KeepGitDir"]), one["Unpack"]]
        case "RUN":
            found += [*their_command(one), one["Mounts"], one["Network"], one["Security"]]
            found += [[[file["Name"], file["Data"]] for file in one["Files"] or []]]
        case "SHELL":
            found += [one["Shell"]]
        case "WORKDIR":
            found += [one["Path"]]
        case "VOLUME":
            found += [one["Volumes"]]
        case "EXPOSE":
            found += [one["Ports"]]
        case "STOPSIGNAL":
            found += [one["Signal"]]
        case "HEALTHCHECK":
            found += [one["Health"]["Test"]]
        case "ENTRYPOINT" | "CMD":
            found += their_command(one)
        case "ONBUILD":
            found += [one["Expression"]]
        case _:
            raise AssertionError(one)
    return found


def their_command(one: dict[str, Any]) -> list[Any]:
    words = one["CmdLine"] or []
    if one["PrependShell"]:
        words = [] if one.get("Script") else words or [""]
    return [words, one["PrependShell"]]


Read = tuple[str, list[list[Any]]] | None
"""The escape character and the instructions; None: refused."""


def mine(data: bytes) -> Read:
    try:
        found = parse(data)
    except DockerfileError:
        return None
    every: list[i.Instruction] = [*found.arguments]
    for stage in found.stages:
        every += [stage.base, *stage.instructions]
    return found.escape, [described(one) for one in every]


def asked(oracle: Oracle, data: bytes) -> Read:
    answer = oracle("parse", data=data)
    if "error" in answer:
        return None
    return answer["Escape"], [theirs(one) for one in answer["Instructions"]]


FROM = "FROM a\n"
DOCKERFILES = {
    "nothing": "",
    "only comments": "# a\n\n# b\n",
    "only ARG": "ARG a=b\n",
    "a mark of byte order": "\ufeff# escape=`\nFROM a\nRUN a `\n b\n",
    "Windows line ends": "FROM a\r\nRUN a \\\r\n  b\r\nCOPY <<E /x\r\n1\r\nE\r\n",
    "no line end": "FROM a\nRUN x",
    "continuation": "FROM a\nRUN a \\\n  b \\  \n\tc\nRUN d\n",
    "comment in a continuation": "FROM a\nRUN a \\\n  # no\n  b\n",
    "empty lines in a continuation": "FROM a\nRUN a \\\n\n\n  b\n",
    "comment at the end of a continuation": "FROM a\nRUN a \\\n# no",
    "two escapes at the end": "FROM a\nRUN a \\\\\nRUN b\n",
    "three escapes at the end": "FROM a\nRUN a \\\\\\\nRUN b\n",
    "only an escape": "FROM a\n\\\nRUN b\n",
    "only an escape at the end": "FROM a\n\\\n",
    "continuation in a word": "FR\\\nOM a\n",
    "indented": "  FROM a\n\tRUN b\n",
    "names in any case": "from a as B\nrUn c\nFrom b\n",
    "syntax": "# syntax=docker/dockerfile:1\nFROM a\n",
    "directives in any case": "#  ESCAPE =  ` \nFROM a\nRUN b `\n c\n",
    "a directive twice": "# escape=`\n# escape=`\nFROM a\n",
    "a directive after a comment": "# hey\n# escape=`\nFROM a\nRUN b `\n",
    "a directive after an empty line": "\n# escape=`\nFROM a\nRUN b `\n",
    "an unknown directive ends them": "# foo=bar\n# escape=`\nFROM a\nRUN b `\n",
    "a bad escape": "# escape=x\nFROM a\n",
    "two directives": "# check=skip=all\n# escape=`\nFROM a\nRUN b `\n c\n",
    "a shebang": "#!/usr/bin/env docker\n# escape=`\nFROM a\nRUN b `\n",
    "comments above": "# one\n# two\nFROM a\n# three\n\n# four\nRUN b\n# five\n#\nRUN c\n",
    "FROM forms": "FROM a\nFROM a AS b\nFROM --platform=linux/amd64 a as C-1_x.y\n",
    "FROM with two words": "FROM a b\n",
    "FROM with a bad AS": "FROM a ASS b\n",
    "FROM with a bad name": "FROM a AS 1b\n",
    "FROM alone": "FROM\n",
    "FROM with an unknown flag": "FROM --form=x a\n",
    "FROM with a flag twice": "FROM --platform=x --platform=y a\n",
    "before FROM": "RUN a\nFROM a\n",
    "ARG before FROM": "ARG a=b c d=\nARG e\nFROM a\n",
    "unknown": FROM + "RUM a\n",
    "ENV forms": FROM
    + 'ENV a=b\nENV a b  c\nENV a=b c="d e" f=\'g h\' i=j\\ k l=\nENV a= b=c\nENV a "b"\nENV a=b\\\nc=d',
    "ENV alone": FROM + "ENV\n",
    "ENV without value": FROM + "ENV a\n",
    "ENV with a word without =": FROM + "ENV a=b c\n",
    "ENV with an empty name": FROM + "ENV =b\n",
    "ENV with a quote that does not end": FROM + 'ENV a="b c\n',
    "ENV with an escape at the end": FROM + "ENV a=b\\ c=d \\",
    "ENV in the old form with a tab": FROM + "ENV a\tb c\n",
    "LABEL forms": FROM + 'LABEL a=b "c d"="e f" g=h\nLABEL a b c\n',
    "ARG forms": FROM + 'ARG a\nARG a=b c="d e" f\n',
    "ARG alone": FROM + "ARG\n",
    "ARG with an empty name": FROM + "ARG =a\n",
    "MAINTAINER": FROM + "MAINTAINER A B <c@d>\n",
    "MAINTAINER alone": FROM + "MAINTAINER\n",
    "RUN forms": FROM + 'RUN a "b c" && d\nRUN ["a", "b c"]\nRUN []\nRUN\nRUN [ "a" ] b\nRUN ["a", ]\nRUN [\'a\']\n',
    "RUN with other things": FROM + 'RUN ["a", 1]\n',
    "RUN with null": FROM + 'RUN ["a", null]\n',
    "RUN with a list in a list": FROM + 'RUN [["a"]]\n',
    "RUN with lists nested deeply": FROM + "RUN " + "[" * 3000 + "]" * 3000 + "\n",
    "RUN with a number too large": FROM + "RUN [1e999]\n",
    "RUN with NaN": FROM + "RUN [NaN]\n",
    "RUN with escapes": FROM + 'RUN ["\\u00e9\\ud83d\\ude00", "\\ud800", "a\\nb"]\n',
    "RUN with a control character": FROM + 'RUN ["a\x01"]\n',
    "RUN flags": FROM
    + "RUN --mount=type=cache,target=/x --mount=type=tmpfs,target=/y --network=none --security=insecure a --b\n",
    "RUN flags in quotes": FROM
    + "RUN --mount=\"type=cache,target=/a b\" --network='host' c\nRUN --network=h\\ost a\n",
    "RUN with --": FROM + "RUN -- --mount=x\n",
    "RUN with a dash": FROM + "RUN -x --mount=x\n",
    "RUN with an unknown flag": FROM + "RUN --mont=type=cache a\n",
    "RUN with a bad network": FROM + "RUN --network=foo a\n",
    "RUN with a bad security": FROM + "RUN --security=foo a\n",
    "RUN with a flag without value": FROM + "RUN --network a\n",
    "RUN with a flag twice": FROM + "RUN --network=none --network=none a\n",
    "CMD forms": FROM + 'CMD a b\nCMD ["a", "b"]\nCMD []\nCMD\n',
    "CMD with a flag": FROM + "CMD --a b\n",
    "ENTRYPOINT forms": FROM + 'ENTRYPOINT a b\nENTRYPOINT ["a", "b"]\nENTRYPOINT []\nENTRYPOINT\n',
    "SHELL": FROM + 'SHELL ["a", "-c"]\n',
    "SHELL without list": FROM + "SHELL a -c\n",
    "SHELL with an empty list": FROM + "SHELL []\n",
    "COPY forms": FROM
    + 'COPY a b\nCOPY a b c/\nCOPY ["a b", "c"]\nCOPY --from=x --chown=1:2 --chmod=755 --link a b\n',
    "COPY flags": FROM
    + "COPY --parents --link=false --exclude=a --exclude=b* a b\nCOPY --link=TRUE --parents=False a b\n",
    "COPY with a bad bool": FROM + "COPY --link=1 a b\n",
    "COPY with an empty bool": FROM + "COPY --link= a b\n",
    "COPY with one word": FROM + "COPY a\n",
    "COPY with a flag twice": FROM + "COPY --from=a --from=b c d\n",
    "ADD forms": FROM
    + "ADD a b\nADD --checksum=sha256:1 --keep-git-dir --unpack=false --exclude=x --link http://a b\n"
    + "ADD --unpack a b\n",
    "ADD with --from": FROM + "ADD --from=a b c\n",
    "COPY of documents": FROM + 'COPY <<a <<-"b" c /d/\n1 $x\na\n\t2\n\t\tb\n',
    "COPY of a document in a list": FROM + 'COPY ["<<a", "/b"]\n',
    "COPY of a document to a document": FROM + "COPY a <<b\nb\n",
    "COPY of a document twice": FROM + "COPY <<a <<a /b\n1\na\n2\na\n",
    "COPY of a quoted document": FROM + 'COPY "<<a" /b\n',
    "COPY of a document after a space": FROM + "COPY << a /b\n1\na\n",
    "a document with a number": FROM + "RUN 3<<a cat\n1\na\n",
    "a document without end": FROM + "RUN <<a\n1\n",
    "a document with an escape at the end of a line": FROM + "RUN <<a\nx \\\ny\n# z\n\na\n",
    "a document that looks like an instruction": FROM + "RUN <<a\nFROM b\na\nRUN c\n",
    "RUN with a script": FROM + "RUN <<a\n1\na\nRUN <<'a'\n1\na\nRUN  <<-a \n\t1\n\ta\n",
    "RUN with documents": FROM + "RUN cat <<a <<-b > c\n1\na\n\t2\n\tb\n",
    "RUN with a shift": FROM + "RUN echo $((1<<2))\nRUN a <<<b\nRUN a<<b\n",
    "RUN with a shift after a space": FROM + "RUN echo $((1 <<${n:-2}))\n",
    "RUN with a quoted document": FROM + "RUN echo '<<a'\nRUN echo \"<<a\"\nRUN echo \\<<a\n",
    "RUN with a quote that does not end": FROM + "RUN echo ' <<a\n",
    "RUN with a document name with a quote inside": FROM + "RUN <<a'b'\n1\nab\nRUN <<a\\ b\n1\na b\n",
    "RUN with an empty document name": FROM + "RUN cat <<''\n",
    "RUN with a document name with a variable": FROM + "RUN cat <<$x\n1\n$x\n",
    "RUN list with a document": FROM + 'RUN ["a", "<<b"]\n',
    "document in Windows escapes": "# escape=`\nFROM a\nRUN cat <<a`\n <<b\n1\na\n2\nb\n",
    "VOLUME forms": FROM + 'VOLUME a b\nVOLUME ["a b", " c "]\n',
    "VOLUME empty": FROM + 'VOLUME [""]\n',
    "VOLUME alone": FROM + "VOLUME\n",
    "EXPOSE": FROM + "EXPOSE 80 22/tcp  $x\t1-2\n",
    "EXPOSE alone": FROM + "EXPOSE\n",
    "USER": FROM + "USER a b\n",
    "USER alone": FROM + "USER \n",
    "WORKDIR": FROM + 'WORKDIR /a b\nWORKDIR "/c"\n',
    "STOPSIGNAL": FROM + "STOPSIGNAL SIGTERM\n",
    "HEALTHCHECK forms": FROM
    + 'HEALTHCHECK NONE\nhealthcheck none\nHEALTHCHECK CMD a b\nHEALTHCHECK cmd ["a", "b"]\n',
    "HEALTHCHECK flags": FROM
    + "HEALTHCHECK --interval=1h1.5m --timeout=.5s --start-period=500ms --start-interval=0 --retries=+3 CMD a\n",
    "HEALTHCHECK alone": FROM + "HEALTHCHECK\n",
    "HEALTHCHECK with a bad form": FROM + "HEALTHCHECK a\n",
    "HEALTHCHECK without command": FROM + "HEALTHCHECK CMD\n",
    "HEALTHCHECK with an empty list": FROM + "HEALTHCHECK CMD []\n",
    "HEALTHCHECK NONE with arguments": FROM + "HEALTHCHECK NONE a\n",
    "HEALTHCHECK with a number": FROM + "HEALTHCHECK --interval=5 CMD a\n",
    "HEALTHCHECK too short": FROM + "HEALTHCHECK --interval=5us CMD a\n",
    "HEALTHCHECK with bad retries": FROM + "HEALTHCHECK --retries=-1 CMD a\n",
    "HEALTHCHECK with many retries": FROM + "HEALTHCHECK --retries=2147483648 CMD a\n",
    "ONBUILD forms": FROM + 'ONBUILD RUN a b\nonbuild copy a b\nONBUILD   CMD ["a"]\nONBUILD RUN a \\\n b\n',
    "ONBUILD with documents": FROM + "ONBUILD RUN <<-a\n\t1\n\ta\nONBUILD COPY <<b <<c /d/\n1\nb\n2\nc\n",
    "ONBUILD alone": FROM + "ONBUILD\n",
    "ONBUILD ONBUILD": FROM + "ONBUILD ONBUILD RUN a\n",
    "ONBUILD FROM": FROM + "ONBUILD FROM a\n",
    "ONBUILD MAINTAINER": FROM + "ONBUILD MAINTAINER a\n",
    "ONBUILD with a bad list": FROM + 'ONBUILD RUN ["a", 1]\n',
    "ONBUILD with an unknown flag inside": FROM + "ONBUILD COPY --foo a b\n",
    "ONBUILD with a bad ENV": FROM + "ONBUILD ENV a\n",
    "ONBUILD of nothing known": FROM + "ONBUILD RUM a\n",
    "a line of the greatest length": FROM + "RUN " + "a" * (65535 - 4) + "\n",
    "a line that is too long": FROM + "RUN " + "a" * (65536 - 4) + "\n",
    "spaces of Unicode": FROM + "RUN a\u00a0b\u2003\n\u00a0RUN c\n",
    "letters of Unicode": FROM + 'ENV é=ü\nLABEL a="日本 語"\n',
    "a carriage return in a line": FROM + "RUN a\rb\nENV a\rb\n",
    "form feeds": FROM + "ENV\fa=b\vc=d\n",
}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_is_read_as_buildkit_reads_it(oracle: Oracle, name: str) -> None:
    data = DOCKERFILES[name].encode()
    assert mine(data) == asked(oracle, data)


@pytest.mark.parametrize("name", CASES)
def test_the_corpus_is_read_as_buildkit_reads_it(oracle: Oracle, name: str) -> None:
    text = CASES[name].dockerfile
    data = text if isinstance(text, bytes) else text.encode()
    found, expected = mine(data), asked(oracle, data)
    if b" #" in data:
        found, expected = without_comments(found), without_comments(expected)
    assert found == (None if name in REFUSED_LATER else expected)


REFUSED_LATER = {"refusing: a NUL", "refusing: text that is not UTF-8, of a program"}
"""The image gets it, or the step fails."""

LINES = st.sampled_from(
    [
        *each("RUN COPY ADD ENV LABEL CMD ENTRYPOINT SHELL USER WORKDIR VOLUME EXPOSE HEALTHCHECK ONBUILD"),
        "MAINTAINER",
        *("FROM a", "FROM a AS b", "ARG x=1", "RUN a", "HEALTHCHECK CMD", "ONBUILD RUN", "ONBUILD COPY"),
    ]
)
TOKENS = st.sampled_from(
    [
        *each("a b /c a=b = x= 'c' ' \\ ` <<E <<-E $x ${x} ${x:-y} [ ] [1] , é --from=a --chown=1 --link"),
        *each("--x -- NONE CMD \udcff"),
        *('"', '"a b"', '<<"E"', '["a"]', '["a", "b"]', "--mount=type=cache", "--interval=1s", "<< E", " ", "\t"),
        *("\\\n", "\\ \n", "`\n", "\n", "\n\n", "\r\n", "# a\n", "\n# b\n", "\nE\n", "\n\tE\n", "\nE"),
    ]
)
BODIES = st.lists(st.tuples(LINES, st.lists(TOKENS, max_size=6)), min_size=1, max_size=5)


@settings(max_examples=1500 if THOROUGH else 400, deadline=None)
@given(st.sampled_from(["", "# escape=`\n", "# syntax=x\n# escape=\\\n"]), BODIES, st.booleans())
def test_generated_dockerfiles_are_read_as_buildkit_reads_them(
    oracle: Oracle, head: str, body: list[tuple[str, list[str]]], spaced: bool
) -> None:
    lines = [(" " if spaced else "").join([first, " ", *rest]) for first, rest in body]
    data = (head + FROM + "\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
    found, expected = mine(data), asked(oracle, data)
    if found is None and expected is not None and any(is_stricter(line) for line in data.split(b"\n")):
        return
    if b" #" in data:  # an indented comment: BuildKit takes its # for text
        found, expected = without_comments(found), without_comments(expected)
    assert found == expected


def without_comments(read: Read) -> Read:
    return read and (read[0], [one[:1] + one[2:] for one in read[1]])


def is_stricter(line: bytes) -> bool:
    """Where lamina refuses what BuildKit drops or passes on: flags of ARG, STOPSIGNAL and HEALTHCHECK NONE; in RUN,
    bytes that are not UTF-8."""
    return b"--" in line or b"\xff" in line


TRIGGERS = [
    "RUN a",
    "COPY <<a /b\n1\na",
    "ENV a=b",
    "FROM a",
    "ONBUILD RUN a",
    "RUN a\nRUN b",
    "",
    "RUM a",
    "COPY a",
    "ARG a",
]


@pytest.mark.parametrize("text", TRIGGERS)
def test_a_trigger_is_read_as_buildkit_reads_it(oracle: Oracle, text: str) -> None:
    try:
        found: Any = [described(parse_instruction(text))]
    except DockerfileError:
        found = None
    answer = oracle("trigger", data=text.encode())
    assert found == (None if "error" in answer else [theirs(one) for one in answer["Instructions"]])
