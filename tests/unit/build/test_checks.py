"""The checks of a Dockerfile. ``interop/test_checks_oracle.py`` compares the rules with BuildKit's linter."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lamina.build.dockerfile.syntax import parse
from lamina.build.planning.checks import RULES, CheckOptions, check
from lamina.errors import UsageError
from lamina.spec.image_config import ImageConfig
from lamina.spec.platform import Platform

LINUX = Platform("linux", "amd64")


def found(text: str, **options: Any) -> list[tuple[str, int]]:
    checked = check(parse(text.encode()), platform=LINUX, build_platform=LINUX, **options)
    return [(one.rule, one.at.line) for one in checked.findings]


def config(architecture: str = "amd64", **fields: Any) -> ImageConfig:
    document = {"architecture": architecture, "os": "linux", "config": fields}
    return ImageConfig.parse(json.dumps({**document, "rootfs": {"type": "layers", "diff_ids": []}}).encode())


def test_findings_are_in_the_order_of_the_file() -> None:
    text = "FROM scratch as Build\nMAINTAINER x\nENV a b\nCMD x\n"
    rules = ["FromAsCasing", "StageNameCasing", "MaintainerDeprecated", "LegacyKeyValueFormat", "JSONArgsRecommended"]
    names = [one[0] for one in found(text)]
    assert sorted(names) == sorted(rules)
    assert [one[1] for one in found(text)] == [1, 1, 2, 3, 4]


def test_each_rule_has_a_description() -> None:
    (one,) = check(parse(b"FROM scratch\nMAINTAINER x\n")).findings
    assert one.description == RULES["MaintainerDeprecated"] == "MAINTAINER is deprecated: use a label"
    assert one.text == "Maintainer instruction is deprecated in favor of using label"


def test_a_copy_of_an_ignored_file_is_found() -> None:
    text = "FROM scratch AS x\nCOPY a ./b/../c http://y/a /z/\nADD c http://y/c /\nCOPY --from=x c /\nCOPY . /\n"
    asked: list[str] = []

    def is_ignored(path: str) -> bool:
        asked.append(path)
        return path == "c"

    assert found(text, is_ignored=is_ignored) == [("CopyIgnoredFile", 2), ("CopyIgnoredFile", 3)]
    assert asked == ["a", "c", "c", "*"]
    assert found("FROM scratch\nCOPY . /\n", is_ignored=lambda _: True) == [("CopyIgnoredFile", 2)]


def test_a_base_for_another_platform_is_found() -> None:
    checked = check(parse(b"FROM a\n"), platform=LINUX, build_platform=LINUX, config_of=lambda *_: config("arm64"))
    assert [(one.rule, one.text) for one in checked.findings] == [
        (
            "InvalidBaseImagePlatform",
            'Base image a was pulled with platform "linux/arm64", expected "linux/amd64" for current build',
        )
    ]


def test_variables_of_an_unknown_base_are_not_reported() -> None:
    text = "FROM a\nENV x=$FROM_BASE\n"
    assert found(text) == []
    assert found(text, config_of=lambda *_: None) == []
    assert found(text, config_of=lambda *_: config()) == [("UndefinedVar", 2)]
    assert found(text, config_of=lambda *_: config(Env=["FROM_BASE=1"])) == []


def test_the_shell_of_a_base_counts() -> None:
    assert found("FROM a\nCMD x\n", config_of=lambda *_: config(Shell=["/bin/bash", "-c"])) == []
    assert found("FROM a\nCMD x\n", config_of=lambda *_: config()) == [("JSONArgsRecommended", 2)]


def test_triggers_of_a_base_are_checked() -> None:
    triggers = ["ENV z=$y", "MAINTAINER", "RUN <<a\n1\na", "ENV ok=1"]
    text = "FROM a\nENV k=$ok\n"
    assert found(text, config_of=lambda *_: config(OnBuild=triggers)) == [("UndefinedVar", 1)]


def test_findings_fail_only_if_asked() -> None:
    text = "FROM scratch\nMAINTAINER x\n"
    assert check(parse(text.encode())).fails is False
    assert check(parse(f"# check=error=true\n{text}".encode())).fails is True
    assert check(parse(f"# check=skip=all;error=true\n{text}".encode())).fails is False
    assert check(parse(b"# check=error=true\nFROM scratch\n")).fails is False


def test_a_build_argument_replaces_the_directive() -> None:
    text = b"# check=skip=all\nFROM scratch\nMAINTAINER x\n"
    arguments = {"BUILDKIT_DOCKERFILE_CHECK": "error=true"}
    checked = check(parse(text), arguments=arguments)
    assert [one.rule for one in checked.findings] == ["MaintainerDeprecated"]
    assert checked.fails


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", CheckOptions()),
        ("skip=A,B", CheckOptions(frozenset({"A", "B"}))),
        (" skip = A , B ; error = true ", CheckOptions(frozenset({"A", "B"}), is_error=True)),
        ("skip=all", CheckOptions(frozenset(RULES))),
        ("experimental=all;error=0", CheckOptions(experimental=frozenset(RULES))),
    ],
)
def test_options_are_read(text: str, expected: CheckOptions) -> None:
    assert CheckOptions.parse(text) == expected


@pytest.mark.parametrize("text", ["skip", "error=maybe", "foo=bar", "skip=A;;", "error"])
def test_bad_options_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an option of check"):
        CheckOptions.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "FROM $x\n",
        "FROM scratch\nENV a=${b:?no}\nMAINTAINER x\n",
        "FROM --platform=a/b/c/d scratch\n",
        "ARG a='\nFROM x\n",
    ],
)
def test_what_a_build_refuses_is_left_to_it(text: str) -> None:
    rules = {one[0] for one in found(text)}
    assert rules <= {"MaintainerDeprecated", "UndefinedArgInFrom", "UndefinedVar", "InvalidDefaultArgInFrom"}


def test_control_characters_are_escaped() -> None:
    (one,) = check(parse(b"FROM scratch\nWORKDIR \x1b[31m\n")).findings
    assert one.text == 'Relative workdir "\\x1b[31m" can have unexpected results if the base image changes'


def test_all_words_of_a_file_are_bounded() -> None:
    """4 kB become 200 MB: what stands behind the limit is left for the build to refuse."""
    text = "FROM scratch\nENV A=" + "a" * 60_000 + "\n" + "".join(f"ENV B{i}=$A$A$A$A\n" for i in range(900))
    assert found(text + "LABEL x=$A$nope\nMAINTAINER x\n") == [("MaintainerDeprecated", 904)]
