"""The text of a Dockerfile as values. ``interop/test_dockerfile_oracle.py`` compares with BuildKit's parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build import instructions as i
from lamina.build.dockerfile.source_lines import MAX_LINE, MAX_SIZE
from lamina.build.dockerfile.statements import GRAMMARS
from lamina.build.dockerfile.syntax import MAX_INSTRUCTIONS, MAX_PAIRS, MAX_STAGES, parse, parse_instruction
from lamina.build.errors import DockerfileError

FROM = "FROM a\n"


def read(text: str) -> tuple[i.Instruction, ...]:
    """The instructions after ``FROM a``."""
    return parse((FROM + text).encode()).stages[0].instructions


def one(text: str) -> i.Instruction:
    (found,) = read(text)
    return found


def refused(text: str | bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(text.encode() if isinstance(text, str) else text)
    return caught.value


def test_stages_arguments_and_directives_are_read() -> None:
    found = parse(b"# syntax=docker/dockerfile:1\n#escape=`\nARG a=1 b\nFROM x:$a AS One\nRUN y\nFROM one\n", "D")
    assert [(one.name, one.value, one.at) for one in found.directives] == [
        ("syntax", "docker/dockerfile:1", i.At("D", 1, 1)),
        ("escape", "`", i.At("D", 2, 2)),
    ]
    assert found.escape == "`"
    assert found.arguments == (i.Arg((("a", "1"), ("b", None)), text="ARG a=1 b"),)
    assert [stage.base for stage in found.stages] == [
        i.From("x:$a", "", "one", text="FROM x:$a AS One"),
        i.From("one", text="FROM one"),
    ]
    assert found.stages[0].instructions[0].at == i.At("D", 5, 5)


def test_flags_of_run_are_read() -> None:
    found = one("RUN --mount=type=cache,target=/a --mount=type=ssh --network=none --security=insecure make -j\n")
    assert isinstance(found, i.Run)
    assert found.mounts == ("type=cache,target=/a", "type=ssh")
    assert (found.network, found.security, found.command) == ("none", "insecure", i.Command(("make -j",), True))


def test_flags_of_copy_and_add_are_read() -> None:
    assert one("COPY --from=b --chown=1:2 --chmod=u+x --link --parents --exclude=a --exclude=b x y /z/\n") == i.Copy(
        ("x", "y"),
        "/z/",
        from_="b",
        chown="1:2",
        chmod="u+x",
        link=True,
        parents=True,
        exclude=("a", "b"),
        text="COPY --from=b --chown=1:2 --chmod=u+x --link --parents --exclude=a --exclude=b x y /z/",
    )
    assert one("ADD --checksum=sha256:1 --keep-git-dir=true --unpack=false http://x /y\n") == i.Add(
        ("http://x",),
        "/y",
        checksum="sha256:1",
        keep_git_dir=True,
        unpack=False,
        text="ADD --checksum=sha256:1 --keep-git-dir=true --unpack=false http://x /y",
    )


def test_a_here_document_alone_is_the_script() -> None:
    assert one("RUN <<EOF\necho $x\nEOF\n") == i.Run(
        i.Command((), True), (i.HereDocument("EOF", "echo $x\n"),), text="RUN <<EOF"
    )


def test_here_documents_keep_the_text_with_tabs() -> None:
    found = one("RUN cat <<-A <<'B'\n\t\tone\n\n\ttwo\n\tA\n\tthree\nB\n")
    assert isinstance(found, i.Run)
    assert found.command == i.Command(("cat <<-A <<'B'",), True)
    assert found.documents == (
        i.HereDocument("A", "one\n\ntwo\n", True, "\t\tone\n\n\ttwo\n"),
        i.HereDocument("B", "\tthree\n", False),
    )


def test_an_instruction_says_where_it_begins_and_ends() -> None:
    found = read("\nRUN a \\\n  # no\n\n  b\n# c\nCOPY <<E /x\n1\nE\nCMD x")
    assert [(one.at.line, one.at.last) for one in found] == [(3, 6), (8, 10), (11, 11)]
    assert [one.comments for one in found] == [(), ("c",), ()]


def test_empty_lines_inside_an_instruction_are_noted() -> None:
    found = parse(b"FROM a\nRUN a \\\n\n b\nRUN c\n")
    assert found.blanks == (i.At("Dockerfile", 4, 4),)


def test_the_trigger_of_onbuild_has_its_here_documents() -> None:
    found = one("ONBUILD COPY <<-a <<b /x/\n\t1\n\ta\n2\nb\n")
    assert isinstance(found, i.OnBuild)
    assert found.trigger == "COPY <<-a <<b /x/\n\t1\na\n2\nb"
    trigger = parse_instruction(found.trigger, i.At("Dockerfile", 7, 7))
    assert isinstance(trigger, i.Copy)
    assert [document.content for document in trigger.documents] == ["1\n", "2\n"]
    assert trigger.at == i.At("Dockerfile", 7, 7)


MISTAKES = {
    # the text after FROM a, where, what, hint
    "RUM x": ("2:1", "unknown instruction RUM", "write RUN"),
    "  COPPY x y": ("2:3", "unknown instruction COPPY", "write COPY"),
    "ünknown": ("2:1", "unknown instruction ünknown", "begin the line with an instruction"),
    "COPY --form=b x y": ("2:6", "unknown flag --form of COPY", "write --from"),
    "COPY --link --chown x y": ("2:13", "--chown of COPY has no value", "write --chown=VALUE"),
    "COPY \\\n  --link \\\n  --frm=x a b": ("4:3", "unknown flag --frm of COPY", "write --from"),
    "COPY --from=a --from=b x y": ("2:15", "COPY has --from twice", "keep one"),
    "COPY --link=1 x y": ("2:6", "--link of COPY is '1'", "write --link or --link=false"),
    "COPY x": ("2:6", "COPY needs a source and a target", "write COPY SOURCE TARGET"),
    "COPY x <<y\ny": ("2:6", "the target of COPY is a here-document", "write a path"),
    "CMD --x y": ("2:5", "unknown flag --x of CMD", "CMD has no flags"),
    "ARG --x y": ("2:5", "unknown flag --x of ARG", "ARG has no flags"),
    "RUN --network=foo x": ("2:5", "--network of RUN is 'foo'", "choose default, none or host"),
    "RUN --security=foo x": ("2:5", "--security of RUN is 'foo'", "choose sandbox or insecure"),
    "RUN <<E\nx": ("2:1", "the here-document E has no end", "add a line that is only E"),
    'RUN ["a", 1]': ("2:5", "the JSON list of RUN contains a value that is not a string", "double quotes"),
    "SHELL a": ("2:7", "SHELL needs a JSON list", "SHELL ["),
    "ENV a": ("2:5", "ENV has no value for a", "write NAME=VALUE"),
    "ENV a=b c": ("2:5", "'c' has no =", "quotes around a value with spaces"),
    "ENV =b": ("2:5", "a name is empty", "write ENV NAME=VALUE"),
    "EXPOSE": ("2:1", "EXPOSE needs an argument", ""),
    "HEALTHCHECK x": ("2:13", "unknown form of HEALTHCHECK: x", "write CMD or NONE"),
    "HEALTHCHECK --interval=5 CMD x": ("2:13", "--interval: '5' is not a length of time", "30s"),
    "HEALTHCHECK --timeout=1us CMD x": ("2:13", "--timeout is shorter than 1ms", ""),
    "HEALTHCHECK --retries=-1 CMD x": ("2:13", "--retries is '-1'", "from 0 up"),
    "HEALTHCHECK NONE x": ("2:13", "HEALTHCHECK NONE has arguments", "remove them"),
    "ONBUILD ONBUILD RUN x": ("2:9", "ONBUILD can't be an ONBUILD trigger", "remove"),
    "ONBUILD FROM x": ("2:9", "FROM can't be an ONBUILD trigger", "remove"),
    "FROM x y": ("2:6", "FROM needs an image, or an image, AS and a name", "FROM IMAGE AS NAME"),
    "FROM x AS 1y": ("2:6", "'1y' can't name a stage", "begin with a letter"),
    "RUN a\0b": ("2:6", "a NUL character", "UTF-8"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_an_error_says_where_what_and_what_to_do(text: str) -> None:
    where, what, hint = MISTAKES[text]
    error = refused(FROM + text)
    assert error.message.startswith(f"Dockerfile:{where}: {what}"), error.message
    assert hint in (error.hint or "")
    assert error.exit_code == 2


def test_an_error_shows_the_line_made_safe() -> None:
    error = refused(b"FROM a\r\nRUM \x1b[31m" + b"x" * 200 + b"\r\n")
    assert error.message == f"Dockerfile:2:1: unknown instruction RUM; the line is: RUM \\x1b[31m{'x' * 108}..."


@pytest.mark.parametrize("line", [b"RUN \xe4", b"ONBUILD RUN \xe4", b"run a \xe4"])
def test_a_program_gets_only_utf8(line: bytes) -> None:
    error = refused(b"FROM a\n" + line)
    assert f"2:{len(line)}: a byte that is not UTF-8; the line is: {line[:-1].decode()}\\xe4" in error.message


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    found = parse(b"FROM a\nLABEL run=1 \\\n by=J\xe9r\xf4me\n")
    (label,) = found.stages[0].instructions
    assert isinstance(label, i.Label)
    assert label.items == (("run", "1"), ("by", "J\ufffdr\ufffdme"))
    assert found.notes == ("Dockerfile:3:6: a byte that is not UTF-8 is replaced",)


def test_comments_may_be_in_any_encoding() -> None:
    assert len(parse(b"# \xe4\xff\nFROM a\nRUN b \\\n# \xe4\n c\n").stages[0].instructions) == 1


def test_the_documents_of_copy_keep_their_bytes() -> None:
    (copy,) = parse(b"FROM a\nCOPY <<E /x\n\xff $a\nE\n").stages[0].instructions
    assert isinstance(copy, i.Copy)
    assert copy.documents[0].content.encode("utf-8", "surrogateescape") == b"\xff $a\n"


@pytest.mark.parametrize("name", ["RUN", "ONBUILD COPY"])
def test_other_documents_must_be_utf8(name: str) -> None:
    error = refused(f"FROM a\n{name} <<E /x\n".encode() + b"\xff\nE\n")
    assert error.message.startswith("Dockerfile:2:1: the here-document E is not UTF-8")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "1:1: no instructions"),
        ("# only\n", "1:1: no instructions"),
        ("ARG a\n", "1:1: no FROM"),
        ("ARG a\nRUN x\nFROM a\n", "2:1: RUN stands before the first FROM"),
        ("# escape=x\nFROM a\n", "1:10: the escape character is x"),
        ("# escape=`\n# escape=`\nFROM a\n", "2:1: a second directive escape"),
    ],
)
def test_a_file_without_stages_or_with_bad_directives_is_refused(text: str, what: str) -> None:
    assert refused(text).message.startswith(f"Dockerfile:{what}")


@pytest.mark.parametrize("text", ["FROM a", "RUN a\nRUN b", "", "# a"])
def test_a_trigger_is_one_instruction_and_not_from(text: str) -> None:
    with pytest.raises(DockerfileError, match="ONBUILD trigger:1:1: "):
        parse_instruction(text)


def test_sizes_are_limited() -> None:
    assert parse(FROM.encode() + b"RUN " + b"a" * (MAX_LINE - 4) + b"\n").stages[0].instructions
    assert "more than 65,535 bytes" in refused(FROM.encode() + b"RUN " + b"a" * (MAX_LINE - 3)).message
    assert "larger than 8 MiB" in refused(b"#" * (MAX_SIZE + 1)).message
    assert "more than 5,000 instructions" in refused(FROM + "RUN\n" * MAX_INSTRUCTIONS).message
    assert "more than 1,000 stages" in refused(FROM * (MAX_STAGES + 1)).message
    assert "more than 5,000 names" in refused(FROM + "ENV" + " a=b" * (MAX_PAIRS + 1)).message


HOSTILE = {
    # minutes if the time were quadratic
    "a long continuation": ("RUN " + "a \\\n" * 200_000, None),
    "many comments in a continuation": ("RUN a \\\n" + "# b\n" * 200_000, None),
    "many here-documents": ("RUN " + "<<a " * 10_000 + "\n" + "a\n" * 10_000, None),
    "nested lists": ("RUN " + "[" * 60_000, "a value that is not a string"),
    "nested lists that are whole": ("RUN " + "[" * 30_000 + "]" * 30_000, "a value that is not a string"),
    "nested variables beside a here-document": ("RUN <<a " + "${x:-" * 10_000, None),
    "many quotes": ("ENV a=" + "\"'" * 30_000, None),
    "many flags": ("COPY " + "--exclude=a " * 5_000 + "a b", None),
    "a long name of a here-document": ("RUN <<" + "a" * 60_000, "has no end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_read_or_refused(name: str) -> None:
    text, problem = HOSTILE[name]
    if problem is None:
        assert len(read(text)) == 1
    else:
        assert problem in refused(FROM + text).message


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    error = None
    try:
        parse(b"FROM a\n" + data)
    except DockerfileError as found:
        error = found
    assert error is None or (error.at.line >= 1 and error.message.isprintable())


@given(st.sampled_from(sorted(GRAMMARS)), st.text(max_size=100))
def test_any_arguments_are_read_or_refused(name: str, text: str) -> None:
    try:
        found = parse(f"FROM a\n{name} {text}".encode("utf-8", "surrogatepass"))
    except DockerfileError:
        return
    assert found.stages[0].instructions or len(found.stages) == 2
