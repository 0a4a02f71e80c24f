"""What the checks of a Dockerfile find is what BuildKit's linter finds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import pytest

from buildkit_oracle import Oracle, running_oracle
from lamina.build.dockerfile.syntax import parse
from lamina.build.planning.checks import EXPERIMENTAL, RULES, check
from lamina.spec.image_config import ImageConfig
from lamina.spec.platform import Platform

pytestmark = pytest.mark.peer

LINUX = Platform("linux", "amd64")
IMAGES = {"docker.io/library/a:latest": ["FROMBASE=1"], "docker.io/library/b:1": []}
Found = set[tuple[str, str, int, int]]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with running_oracle() as found:
        yield found


def config_of(name: str, platform: Platform) -> ImageConfig | None:
    known = {"a": "docker.io/library/a:latest", "b:1": "docker.io/library/b:1"}
    document = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Env": IMAGES[known[name]]},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    return ImageConfig.parse(json.dumps(document).encode())


def mine(text: str, arguments: Mapping[str, str]) -> Found:
    checked = check(
        parse(text.encode()), arguments=arguments, platform=LINUX, build_platform=LINUX, config_of=config_of
    )
    return {(one.rule, one.text, one.at.line, one.at.last) for one in checked.findings}


def theirs(oracle: Oracle, text: str, arguments: Mapping[str, str]) -> Found:
    images = {name: {**LINUX.to_json(), "config": {"Env": env}} for name, env in IMAGES.items()}
    answer = oracle("lint", data=text.encode(), Env=arguments, Images=images)
    return {(one["Rule"], one["Text"], one["First"], one["Last"]) for one in answer["Warnings"]}


ASKED = "# check=experimental=all\n"
CASES: Sequence[tuple[str, str, dict[str, str]]] = [
    ("clean", "FROM a\nWORKDIR /x\nCMD ['a']\n", {}),
    ("StageNameCasing", "FROM a AS Build\nFROM build AS c\n", {}),
    ("FromAsCasing", "FROM a as x\nfrom a AS y\nFrom a As z\nFROM a aS w\n", {}),
    ("NoEmptyContinuation", "FROM a\nRUN x \\\n\n  y\nRUN x \\\n# no\n y\n", {}),
    ("ConsistentInstructionCasing", "FROM a\nRUN x\nrun y\nRuN z\n", {}),
    ("ConsistentInstructionCasing lower", "from a\nrun x\nrun y\nRUN z\nonbuild RUN x\n", {}),
    ("DuplicateStageName", "FROM a AS x\nFROM a AS X\nFROM a AS x\n", {}),
    ("ReservedStageName", "FROM a AS scratch\nFROM a AS context\n", {}),
    ("JSONArgsRecommended", "FROM a\nCMD x\nENTRYPOINT y\n", {}),
    ("JSONArgsRecommended with SHELL", 'FROM a\nSHELL ["x"]\nCMD x\nENTRYPOINT y\n', {}),
    ("JSONArgsRecommended lower", "from a\ncmd x\n", {}),
    ("MaintainerDeprecated", "FROM a\nMAINTAINER x\n", {}),
    ("UndefinedArgInFrom", "ARG one=a\nFROM $one\nFROM ${ones:-a}\nFROM ${x:-a}\n", {}),
    ("UndefinedArgInFrom platform", "FROM --platform=${TARGETPLATFORMS:-linux/amd64} a\n", {}),
    ("UndefinedArgInFrom declared without value", "ARG one\nFROM a$one\n", {}),
    ("WorkdirRelativePath", "FROM a\nWORKDIR x\nWORKDIR y\nFROM a\nWORKDIR /x\nWORKDIR y\n", {}),
    ("WorkdirRelativePath of a stage", "FROM a AS x\nWORKDIR /x\nFROM x\nWORKDIR y\n", {}),
    ("UndefinedVar", "FROM a\nENV Name=x\nCOPY $Nam ${name} $Q /y\nLABEL l=$FROMBAS k=$FROMBASE p=$PATH\n", {}),
    ("UndefinedVar of each instruction", "FROM a\nUSER $a\nVOLUME /$b\nSTOPSIGNAL ${c:-1}\nWORKDIR /$d\n", {}),
    ("UndefinedVar in flags", "FROM a\nCOPY --chown=$a --chmod=${b:-1} x y\nADD --checksum=$c http://x/a y\n", {}),
    ("UndefinedVar in RUN", "FROM a\nRUN --mount=type=cache,target=$a,id=x$b echo $c\n", {}),
    ("UndefinedVar in EXPOSE", "FROM a\nEXPOSE 80$a\n", {}),
    ("UndefinedVar in documents", "FROM a\nCOPY <<x <<'y' /z/\n$a\nx\n$b\ny\n", {}),
    ("UndefinedVar and ARG", "FROM a\nARG b\nENV c=$b$d\nARG d=$e\nARG f=$g h=$f\n", {"f": "1"}),
    ("UndefinedVar and a global ARG", "ARG b=1\nFROM a\nENV c=$b\nARG b\nENV d=$b\n", {}),
    ("UndefinedVar of a stage", "FROM a AS x\nARG b=1\nENV c=1\nFROM x\nENV d=$b$c$d\n", {}),
    ("UndefinedVar of scratch", "FROM scratch\nENV d=$b$PATH\n", {}),
    ("UndefinedVar of platforms", "FROM a\nENV d=$TARGETARCH\nARG TARGETARCH\nENV d=$TARGETARCH\n", {}),
    ("UndefinedVar and the value of an ARG", "FROM a\nARG x=$y\n", {"x": "1"}),
    ("UndefinedVar in nested defaults", "FROM a\nENV x=${y:-${z:-1}}\n", {}),
    ("UndefinedVar in a trigger", "FROM a AS x\nONBUILD ENV z=$y\nONBUILD MAINTAINE\nFROM a\n", {}),
    ("a trigger runs in the next stage", "FROM a AS x\nONBUILD ENV zz=$y\nFROM x\nENV k=$zzz\n", {}),
    ("MultipleInstructionsDisallowed", 'FROM a\nCMD ["a"]\nCMD ["b"]\nENTRYPOINT ["a"]\nENTRYPOINT ["b"]\n', {}),
    ("MultipleInstructionsDisallowed checks", "FROM a\nHEALTHCHECK CMD a\nHEALTHCHECK NONE\nhealthcheck NONE\n", {}),
    ("MultipleInstructionsDisallowed stages", 'FROM a AS x\nCMD ["a"]\nFROM x\nCMD ["b"]\n', {}),
    ("LegacyKeyValueFormat", "FROM a\nENV a b\nLABEL a b\nENV a=b\nenv c d\n", {}),
    ("RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM a\nFROM --platform=${TARGETPLATFORM:-x} a\n", {}),
    ("RedundantTargetPlatform not", "FROM --platform=$BUILDPLATFORM a\nFROM --platform=linux/$TARGETARCH a\n", {}),
    ("SecretsUsedInArgOrEnv", "FROM a\nARG API_KEY\nENV PASSWORD=x public_key=y mytoken=z DB_TOKEN_1=a\n", {}),
    ("SecretsUsedInArgOrEnv global", "ARG API_KEY\nFROM a\nENV keys=1 key=2 AUTH=3\n", {}),
    ("InvalidDefaultArgInFrom", "ARG tag\nARG img=a\nFROM b:${tag}\nFROM $img\n", {"tag": "1"}),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/amd64 a\nFROM --platform=linux/amd64 a AS amd64-x\n",
        {},
    ),
    (
        "FromPlatformFlagConstDisallowed name",
        "FROM --platform=linux/amd64 a AS x\nFROM --platform=linux a AS mylinux\n",
        {},
    ),
    (
        "InvalidDefinitionDescription",
        ASKED + "# foo\nARG x=1\n# x is it\nARG y=$x\n# z\nFROM a AS z\n# q\nARG k l\n",
        {},
    ),
    ("InvalidDefinitionDescription not asked", "# foo\nARG x=1\n# bar\nFROM a AS z\n", {}),
    ("InvalidDefinitionDescription apart", ASKED + "# foo\n#\nARG x=1\nFROM a\n# b\nRUN x\nARG z\n", {}),
    ("ExposeProtoCasing", "FROM a\nEXPOSE 80/TCP 81/tcp 82/Udp\n", {}),
    ("ExposeInvalidFormat", "FROM a\nEXPOSE 80:81 127.0.0.1:80:81 [::1]:80:81/tcp 90\n", {}),
    ("skipped", "# check=skip=StageNameCasing,FromAsCasing\nFROM a as Build\nMAINTAINER x\n", {}),
    ("all skipped", "# check=skip=all\nFROM a as Build\nMAINTAINER x\n", {}),
    ("skipped after a space", "# check=skip=StageNameCasing, FromAsCasing\nFROM a as Build\nMAINTAINER x\n", {}),
    ("skipped for one instruction", "FROM a\n# check=skip=UndefinedVar\nENV a=$b\nENV c=$d\n", {}),
    ("skipped for one FROM", "# hello\n# check=skip=FromAsCasing\nFROM a as Build\nFROM a as Build\n", {}),
    ("skipped in lower case", "FROM a\n# CHECK = skip=UndefinedVar\nENV a=$b\n# check=foo=1\nENV c=$d\n", {}),
    ("asked for one instruction", "# check=experimental=InvalidDefinitionDescription\n# x\nARG y=1\nFROM a\n", {}),
    ("a shebang above", "#!/bin/x\n# check=skip=all\nFROM a as Build\n", {}),
]


@pytest.mark.parametrize(("text", "arguments"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_the_checks_find_what_buildkit_finds(oracle: Oracle, text: str, arguments: dict[str, str]) -> None:
    assert mine(text, arguments) == theirs(oracle, text, arguments)


def test_the_table_has_every_rule(oracle: Oracle) -> None:
    """Unit tests have these two: they need an ignore file and a foreign image."""
    seen = {one[0] for _, text, arguments in CASES for one in mine(text, arguments)}
    assert set(RULES) - seen == {"CopyIgnoredFile", "InvalidBaseImagePlatform"}
    assert seen >= EXPERIMENTAL
