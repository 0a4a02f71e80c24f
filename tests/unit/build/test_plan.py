"""The plan of a build: stages and arguments, the config and the history of the image, and the steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from lamina.build.dockerfile.syntax import parse
from lamina.build.errors import DockerfileError
from lamina.build.options import BuildOptions
from lamina.build.planning.plan import Base, plan
from lamina.build.steps import (
    BaseStep,
    CopyStep,
    DirectoryStep,
    FromContext,
    FromStep,
    Inline,
    Planned,
    Remote,
    Repository,
    RunStep,
    Step,
)
from lamina.errors import ReferenceNotFound, UsageError
from lamina.spec.digest import Digest
from lamina.spec.image_config import History, ImageConfig
from lamina.spec.platform import Platform

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
LAYER = Digest.of(b"layer")
MANIFEST = str(Digest.of(b"manifest"))
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def config_of(run: dict[str, Any], platform: Platform = AMD64) -> ImageConfig:
    made = ImageConfig.build(
        platform, diff_ids=[LAYER], history=[History(created="2020-01-01T00:00:00Z", created_by="base")]
    )
    return made.with_run(run)


@dataclass
class Images:
    """``resolve`` of these configs, by name; ``asked`` lists what it was asked for."""

    configs: dict[str, ImageConfig] = field(
        default_factory=lambda: {"base": config_of({"Env": ["A=1"], "Cmd": ["sh"]})}
    )
    asked: list[tuple[str, str]] = field(default_factory=list)

    def resolve(self, name: str, platform: Platform) -> Base:
        self.asked.append((name, str(platform)))
        name = name.removeprefix("docker-image://")
        if name not in self.configs:
            raise ReferenceNotFound(f"no image {name}", hint="check the name")
        return Base(f"docker.io/library/{name}:latest", MANIFEST, self.configs[name])


def planned(text: str, options: BuildOptions | None = None, images: Images | None = None, **words: Any) -> Planned:
    words.setdefault("build_platform", AMD64)
    return plan(parse(text.encode()), options or BuildOptions(), (images or Images()).resolve, **words)


def steps_of(plan: Planned) -> list[Step]:
    """The steps of the target, bottom first."""
    found, step = [], plan.step
    while step is not None:
        found.append(step)
        step = step.below
    return found[::-1]


def last(text: str, **words: Any) -> Any:
    return planned(text, **words).step


def run_of(text: str, **words: Any) -> dict[str, Any]:
    """The ``config`` of the image, without PATH."""
    run: dict[str, Any] = dict(planned(text, **words).config.json["config"])
    run["Env"] = [line for line in run["Env"] if line != PATH]
    return run


def history_of(text: str, **words: Any) -> list[tuple[str, bool]]:
    return [(entry.created_by, entry.empty_layer) for entry in planned(text, **words).history]


CONFIGS: list[tuple[str, str, dict[str, Any]]] = [
    ("nothing", "", {"Env": ["A=1"], "Cmd": ["sh"]}),
    ("ENV keeps its place", "ENV B=2 A=3", {"Env": ["A=3", "B=2"]}),
    ("ENV sees the values before its line", "ENV A=2 B=$A", {"Env": ["A=2", "B=1"]}),
    ("CMD as a list", 'CMD ["a", "b"]', {"Cmd": ["a", "b"], "ArgsEscaped": True}),
    ("CMD for the shell", "CMD a  $B", {"Cmd": ["/bin/sh", "-c", "a  $B"], "ArgsEscaped": True}),
    ("SHELL", 'SHELL ["/bin/bash", "-ec"]\nCMD a', {"Cmd": ["/bin/bash", "-ec", "a"], "Shell": ["/bin/bash", "-ec"]}),
    ("ENTRYPOINT drops the base's CMD", 'ENTRYPOINT ["a"]', {"Entrypoint": ["a"], "Cmd": None}),
    ("ENTRYPOINT keeps its own stage's CMD", 'CMD ["c"]\nENTRYPOINT ["a"]', {"Entrypoint": ["a"], "Cmd": ["c"]}),
    ("an empty ENTRYPOINT", "ENTRYPOINT []", {"Entrypoint": None, "Cmd": None}),
    ("USER", "ARG U=me\nUSER $U:staff", {"User": "me:staff"}),
    ("WORKDIR joins", "WORKDIR /a\nWORKDIR b/../c", {"WorkingDir": "/a/c"}),
    ("WORKDIR with a variable", "WORKDIR /x$A", {"WorkingDir": "/x1"}),
    ("LABEL", 'LABEL b="x y" a=$A\nLABEL b=z', {"Labels": {"a": "1", "b": "z"}}),
    ("VOLUME", 'VOLUME ["/b", "/a"]\nVOLUME /c /d', {"Volumes": {"/a": {}, "/b": {}, "/c": {}, "/d": {}}}),
    (
        "EXPOSE",
        "EXPOSE 80 8000-8002/UDP",
        {"ExposedPorts": {port: {} for port in ("80/tcp", "8000/udp", "8001/udp", "8002/udp")}},
    ),
    ("EXPOSE a list of words", 'ARG P="1 2"\nEXPOSE $P', {"ExposedPorts": {"1/tcp": {}, "2/tcp": {}}}),
    ("EXPOSE drops the host's side", "EXPOSE 127.0.0.1:90:91", {"ExposedPorts": {"91/tcp": {}}}),
    ("STOPSIGNAL", "STOPSIGNAL SIGRTMIN+3", {"StopSignal": "SIGRTMIN+3"}),
    ("HEALTHCHECK NONE", "HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
    (
        "HEALTHCHECK",
        "HEALTHCHECK --interval=1m30s --retries=3 CMD a b",
        {"Healthcheck": {"Test": ["CMD-SHELL", "a b"], "Interval": 90 * 10**9, "Retries": 3}},
    ),
    ("HEALTHCHECK as a list", 'HEALTHCHECK CMD ["a"]', {"Healthcheck": {"Test": ["CMD", "a"]}}),
    ("ONBUILD", "ONBUILD RUN a\nONBUILD COPY b c", {"OnBuild": ["RUN a", "COPY b c"]}),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CONFIGS], ids=[case[0] for case in CONFIGS])
def test_the_config_of_each_instruction(text: str, expected: dict[str, Any]) -> None:
    found = run_of(f"FROM base\n{text}\n")
    assert {key: found.get(key) for key in expected} == expected


HISTORIES: list[tuple[str, str, bool]] = [
    ("RUN make  all", "RUN /bin/sh -c make  all # buildkit", False),
    ('RUN ["make", "a b"]', "RUN make a b # buildkit", False),
    ("ARG V=1 W\nRUN x", "RUN |2 V=1 W= /bin/sh -c x # buildkit", False),
    ("ARG V=1\nENV V=2\nRUN x", "RUN |1 V=2 /bin/sh -c x # buildkit", False),
    ("COPY --chown=1:2 --chmod=700 a b /c/", "COPY --chown=1:2 --chmod=700 a b /c/ # buildkit", False),
    ("COPY --link --exclude=x a c", "COPY a c # buildkit", False),
    ("COPY --parents a/./b c", "COPY --parents a/./b c # buildkit", False),
    ("COPY <<ONE <<TWO d/\nx\nONE\ny\nTWO", "COPY <<ONE <<TWO d/ # buildkit", False),
    ("ADD $A b", "ADD 1 b # buildkit", False),
    ("WORKDIR a", "WORKDIR /a", False),
    ("WORKDIR /", "WORKDIR /", True),
    ("ENV A=2 B='x y'", "ENV A=2 B=x y", True),
    ("ARG V=$A W", "ARG V=1 W", True),
    ("LABEL a=b c=d", "LABEL a=b c=d", True),
    ("MAINTAINER Me <me@x>", "MAINTAINER Me <me@x>", True),
    ('CMD ["a", "b\\"c\\n\\u00e9"]', 'CMD ["a" "b\\"c\\n\u00e9"]', True),
    ("ENTRYPOINT run it", 'ENTRYPOINT ["/bin/sh" "-c" "run it"]', True),
    ("EXPOSE 90/udp 80", "EXPOSE [80/tcp 90/udp]", True),
    ("VOLUME /a /b", "VOLUME [/a /b]", True),
    ("USER me", "USER me", True),
    ("STOPSIGNAL 9", "STOPSIGNAL 9", True),
    ('SHELL ["a", "b"]', "SHELL [a b]", True),
    (
        "HEALTHCHECK --timeout=1500ms CMD x",
        "HEALTHCHECK {Test:[CMD-SHELL x] Interval:0s Timeout:1.5s StartPeriod:0s StartInterval:0s Retries:0}",
        True,
    ),
    ("RUN <<EOF\na\nb\nEOF", "RUN /bin/sh -c a\nb\n # buildkit", False),
    ("RUN <<EOF\n#!/bin/x\nEOF", "RUN /bin/sh -c /dev/pipes/EOF # buildkit", False),
    ("RUN cat <<EOF\na\nEOF", "RUN /bin/sh -c cat <<EOF\na\nEOF # buildkit", False),
    ("ADD https://me:secret@host/x.tar /y", "ADD https://host/x.tar /y # buildkit", False),
]


@pytest.mark.parametrize(("text", "created_by", "empty"), HISTORIES, ids=[case[0] for case in HISTORIES])
def test_history_entries_are_those_of_buildkit(text: str, created_by: str, empty: bool) -> None:
    entry = planned(f"FROM base\n{text}\n").history[-1]
    assert (entry.created_by, entry.empty_layer, entry.comment) == (created_by, empty, "buildkit.dockerfile.v0")


def test_onbuild_makes_no_history_entry() -> None:
    assert history_of("FROM base\nONBUILD RUN x\n") == [("base", False)]


def test_scratch_has_a_path_and_a_working_directory() -> None:
    assert planned("FROM scratch\n").config.json["config"] == {"Env": [PATH], "WorkingDir": "/"}


def test_fields_of_the_base_that_docker_does_not_know_are_dropped() -> None:
    images = Images({"base": config_of({"Hostname": "x", "Image": "y", "User": "u", "Shell": ["s"]})})
    assert planned("FROM base\n", images=images).config.json["config"] == {"User": "u", "Env": [PATH], "Shell": ["s"]}


ARGUMENTS: list[tuple[str, str, dict[str, str], str]] = [
    ("a default", "FROM base\nARG V=1\nLABEL r=$V", {}, "1"),
    ("of the command line", "FROM base\nARG V=1\nLABEL r=$V", {"V": "2"}, "2"),
    ("not declared", "FROM base\nLABEL r=$V", {"V": "2"}, ""),
    ("declared later", "FROM base\nLABEL r=$V\nARG V", {"V": "2"}, ""),
    ("global, not declared in the stage", "ARG V=1\nFROM base\nLABEL r=$V", {}, ""),
    ("global, declared in the stage", "ARG V=1\nFROM base\nARG V\nLABEL r=$V", {}, "1"),
    ("global, with a default in the stage", "ARG V=1\nFROM base\nARG V=2\nLABEL r=$V", {}, "2"),
    ("global of global", "ARG V=1\nARG W=x$V\nFROM base\nARG W\nLABEL r=$W", {}, "x1"),
    ("later ones see earlier ones of one line", "FROM base\nARG V=1 W=$V\nLABEL r=$W", {}, "1"),
    ("ENV after ARG", "FROM base\nARG V=1\nENV V=2\nLABEL r=$V", {"V": "3"}, "2"),
    ("ARG after ENV", "FROM base\nENV V=2\nARG V=1\nLABEL r=$V", {}, "1"),
    ("of the stage below", "FROM base AS a\nARG V=1\nFROM a\nLABEL r=$V", {}, "1"),
    ("not of another stage", "FROM base AS a\nARG V=1\nFROM base\nLABEL r=$V", {}, ""),
    ("ENV of the stage below", "FROM base AS a\nENV V=5\nFROM a\nLABEL r=$V", {}, "5"),
    ("platform, not declared", "FROM base\nLABEL r=$TARGETARCH", {}, ""),
    ("platform", "FROM base\nARG TARGETPLATFORM\nLABEL r=$TARGETPLATFORM", {}, "linux/arm64"),
    ("build platform", "FROM base\nARG BUILDPLATFORM\nLABEL r=$BUILDPLATFORM", {}, "linux/amd64"),
    ("variant", "FROM base\nARG TARGETVARIANT\nLABEL r=x${TARGETVARIANT}x", {}, "xx"),
    ("an overridden platform", "FROM base\nARG TARGETARCH\nLABEL r=$TARGETARCH", {"TARGETARCH": "z"}, "z"),
    ("target stage", "FROM base AS out\nARG TARGETSTAGE\nLABEL r=$TARGETSTAGE", {}, "out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "given", "expected"), [case[1:] for case in ARGUMENTS], ids=[c[0] for c in ARGUMENTS]
)
def test_arguments_have_the_scope_that_the_reference_says(text: str, given: dict[str, str], expected: str) -> None:
    found = run_of(text, options=BuildOptions(arguments=given), platform=ARM64)
    assert found["Labels"] == {"r": expected}


def test_arguments_are_in_the_environment_of_run_but_not_in_the_image() -> None:
    done = planned("FROM base\nARG V=1\nRUN x\n")
    assert isinstance(done.step, RunStep)
    assert dict(done.step.env)["V"] == "1"
    assert all(not line.startswith("V=") for line in done.config.env)


def test_proxies_reach_run_without_a_declaration_and_are_hidden() -> None:
    options = BuildOptions(arguments={"http_proxy": "p", "NO_PROXY": "n"})
    step = last("FROM base\nRUN x\n", options=options)
    assert dict(step.hidden) == {"HTTP_PROXY": "p", "http_proxy": "p", "NO_PROXY": "n", "no_proxy": "n"}
    assert "p" not in dict(step.env).values()
    declared = last("FROM base\nARG http_proxy\nRUN x\n", options=options)
    assert "http_proxy" not in dict(declared.hidden)
    assert dict(declared.env)["http_proxy"] == "p"


def test_a_base_is_expanded_with_global_arguments_only() -> None:
    images = Images()
    planned("ARG N=base\nFROM ${N} AS x\nENV N=other\nFROM $N\n", images=images)
    assert images.asked == [("base", str(AMD64))]
    with pytest.raises(DockerfileError, match=r"Dockerfile:1: the name of the base is empty"):
        planned("FROM $N\n")


def test_only_the_stages_that_the_target_needs_are_planned() -> None:
    text = "FROM a AS one\nFROM b AS two\nRUN x\nFROM base AS three\nCOPY --from=one /x /\n"
    images = Images({name: config_of({}) for name in ("a", "base")})
    done = planned(text, images=images)
    assert sorted(name for name, _ in images.asked) == ["a", "base"]
    copy = done.step
    assert isinstance(copy, CopyStep)
    assert isinstance(copy.sources[0], FromStep)
    assert isinstance(copy.sources[0].step, BaseStep)
    assert copy.sources[0].step.name.endswith("/a:latest")


TEXT = "FROM base AS One\nRUN 1\nFROM base AS two\nRUN 2\nFROM base\nRUN 3\n"


@pytest.mark.parametrize(
    ("target", "words"), [("", "3"), ("one", "1"), ("ONE", "1"), ("two", "2"), ("0", "1"), ("2", "3")]
)
def test_a_target_is_named_or_counted(target: str, words: str) -> None:
    assert last(TEXT, options=BuildOptions(target=target)).words[-1] == words


def test_an_unknown_target_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="no stage 'tow'") as refused:
        planned(TEXT, options=BuildOptions(target="tow"))
    assert refused.value.hint == "did you mean 'two'?"


REFUSED: list[tuple[str, str]] = [
    (
        "FROM base AS a\nCOPY --from=later /x /\nFROM base AS later\nFROM a\n",
        "Dockerfile:2: the stage copies from a later stage",
    ),
    ("FROM base AS me\nCOPY --from=me /x /\n", "Dockerfile:2: the stage copies from itself"),
    ("FROM base\nCOPY --from=7 /x /\n", "Dockerfile:2: no stage has the number 7"),
    ("FROM base\nCOPY --from=$X /x /\n", "Dockerfile:2: --from=\\$X holds a variable"),
    ("FROM base\nCOPY https://x/y /\n", "Dockerfile:2: COPY can't fetch"),
    ("FROM base\nADD --checksum=sha256:00 a /\n", "Dockerfile:2: --checksum with 'a'"),
    ("FROM base\nRUN --security=insecure x\n", "Dockerfile:2: RUN --security=insecure is not allowed"),
    ("FROM base\nRUN --network=host x\n", "Dockerfile:2: RUN --network=host is not allowed"),
    ("FROM base\nEXPOSE 99999\n", "Dockerfile:2: not a port: '99999'"),
    ("FROM base\nEXPOSE 9-1\n", "Dockerfile:2: not a range of ports"),
    ("FROM base\nRUN []\n", r"Dockerfile:2: RUN \[\] has no program"),
    ("FROM base\nSTOPSIGNAL SIGNOT\n", "Dockerfile:2: .*SIGNOT"),
    ("FROM base\nHEALTHCHECK --interval=1us CMD x\n", "Dockerfile:2:.*interval"),
    ("FROM base\nENV A=${B:?none}\n", "Dockerfile:2: .*none"),
    ("FROM --platform=$P base\n", "Dockerfile:1: the platform is empty"),
    ("FROM --platform=what/ever/x/y base\n", "Dockerfile:1: not a platform"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_can_t_be_planned_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(text)


def test_the_error_of_an_unknown_base_has_its_line() -> None:
    with pytest.raises(ReferenceNotFound, match="Dockerfile:2: no image nothing"):
        planned("# comment\nFROM nothing\n")


def test_triggers_of_a_base_image_run_first() -> None:
    images = Images({"base": config_of({"OnBuild": ["RUN one", "ENV T=2"]})})
    done = planned("FROM base\nRUN two\n", images=images)
    assert [step.label for step in steps_of(done)][1:] == ["[2/3] ONBUILD RUN one", "[3/3] RUN two"]
    assert "OnBuild" not in done.config.json["config"]
    assert "T=2" in done.config.env


def test_a_base_with_too_many_triggers_is_refused() -> None:
    images = Images({"base": config_of({"OnBuild": ["BAD"] * 5001})})
    with pytest.raises(DockerfileError, match="Dockerfile:1: the base has more than 5,000 triggers"):
        planned("FROM base\n", images=images)


def test_triggers_of_a_stage_run_in_its_child_and_not_in_the_grandchild() -> None:
    text = "FROM base AS a\nONBUILD RUN t\nFROM a AS b\nFROM b\nRUN u\n"
    assert [step.text for step in steps_of(planned(text))][1:] == ["RUN t", "RUN u"]
    only = planned(text, options=BuildOptions(target="a"))
    assert only.config.json["config"]["OnBuild"] == ["RUN t"]
    assert isinstance(only.step, BaseStep)


def test_labels_of_steps_are_those_of_buildkit() -> None:
    text = "FROM base AS a\nWORKDIR /x\nRUN make $A\nFROM a\nCOPY --from=a /x /y\n"
    assert [step.label for step in steps_of(planned(text))] == [
        f"[a 1/3] FROM docker.io/library/base:latest@{MANIFEST}",
        "[a 2/3] WORKDIR /x",
        "[a 3/3] RUN make 1",
        "[stage-1 1/1] COPY --from=a /x /y",
    ]


def test_kinds_of_sources_of_add_are_recognized() -> None:
    text = "FROM base\nADD a b https://h/f git@h:p.git#v1:d https://h/p.git?ref=v2 c /t/\n"
    step = last(text)
    assert step.sources == (
        FromContext("", ("a", "b")),
        Remote("https://h/f"),
        Repository("git@h:p.git", "v1", "d"),
        Repository("https://h/p.git", "v2"),
        FromContext("", ("c",)),
    )
    assert step.is_add
    assert step.unpack is None


@pytest.mark.parametrize(
    ("target", "expected"), [("/a/", "/a/"), ("a", "/w/a"), (".", "/w/"), ("./", "/w/"), ("../b", "/b"), ("/", "/")]
)
def test_targets_of_copy_are_absolute(target: str, expected: str) -> None:
    assert last(f"FROM base\nWORKDIR /w\nCOPY x {target}\n").target == expected


def test_here_documents_of_copy_are_expanded_unless_quoted() -> None:
    step = last('FROM base\nCOPY <<a <<"b" /d/\n"$A"\na\n$A\nb\n')
    assert step.sources == (Inline("a", b'"1"\n'), Inline("b", b"$A\n"))


def test_workdir_belongs_to_the_user() -> None:
    step = last("FROM base\nUSER me\nWORKDIR /x\n")
    assert isinstance(step, DirectoryStep)
    assert (step.path, step.owner) == ("/x", "me")


def test_named_contexts_replace_images_and_stages() -> None:
    images = Images()
    text = "FROM alpine AS a\nFROM base\n"
    text += "COPY --from=a /x /\nCOPY --from=files /y /\nCOPY --from=docker.io/library/b /z /\n"
    options = BuildOptions(contexts={"a": "docker-image://base", "files": "/srv", "b:latest": "docker-image://base"})
    copies = steps_of(planned(text, options, images))[1:]
    assert {name for name, _ in images.asked} == {"base", "docker-image://base"}
    sources = [step.sources[0] for step in copies if isinstance(step, CopyStep)]
    assert sources[1] == FromContext("files", ("/y",))
    assert isinstance(sources[0], FromStep)
    assert isinstance(sources[2], FromStep)


def test_a_base_of_files_is_copied_whole() -> None:
    done = planned("FROM files\nENV A=1\n", BuildOptions(contexts={"files": "/srv"}))
    step = done.step
    assert isinstance(step, CopyStep)
    assert step.sources == (FromContext("files", ("/",)),)
    assert step.target == "/"
    assert [entry.empty_layer for entry in done.history] == [False, True]


def test_the_platform_of_a_stage_decides_about_its_base() -> None:
    images = Images()
    text = "FROM --platform=$BUILDPLATFORM base AS b\nRUN x\nFROM base\nCOPY --from=b /x /\n"
    options = BuildOptions(platforms=(ARM64, AMD64))
    done = planned(text, options, images, platform=ARM64)
    assert images.asked == [("base", "linux/amd64"), ("base", "linux/arm64")]
    assert str(done.platform) == "linux/arm64"
    assert done.config.architecture == "arm64"
    copy = done.step
    assert isinstance(copy, CopyStep)
    assert isinstance(copy.sources[0], FromStep)
    assert copy.sources[0].step.label == "[linux/amd64 b 2/2] RUN x"


def test_the_epoch_dates_all_new_entries() -> None:
    done = planned("FROM base\nENV B=1\n", BuildOptions(epoch=1_700_000_000))
    assert [entry.created for entry in done.history] == ["2020-01-01T00:00:00Z", "2023-11-14T22:13:20Z"]
    assert done.epoch == 1_700_000_000
    declared = planned("ARG SOURCE_DATE_EPOCH=5\nFROM base\nARG SOURCE_DATE_EPOCH\nLABEL e=$SOURCE_DATE_EPOCH\n")
    assert declared.epoch == 5
    assert declared.config.labels == {"e": "5"}
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        planned("FROM base\n", BuildOptions(arguments={"SOURCE_DATE_EPOCH": "yesterday"}))


def test_labels_of_the_command_line_come_last() -> None:
    assert run_of("FROM base\nLABEL a=1 b=2\n", options=BuildOptions(labels={"a": "x"}))["Labels"] == {
        "a": "x",
        "b": "2",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (BuildOptions(), [False, False]),
        (BuildOptions(no_cache=True), [True, True]),
        (BuildOptions(no_cache_filter=("ONE",)), [True, False]),
        (BuildOptions(no_cache_filter=("1",)), [False, True]),
    ],
)
def test_stages_without_cache(options: BuildOptions, expected: list[bool]) -> None:
    done = planned("FROM base AS one\nRUN 1\nFROM one AS two\nRUN 2\n", options)
    assert [step.no_cache for step in steps_of(done)[1:]] == expected


def test_a_syntax_directive_is_named_and_ignored() -> None:
    assert planned("# syntax=docker/dockerfile:1\nFROM base\n").notes == (
        "syntax=docker/dockerfile:1 is not fetched: lamina reads the Dockerfile itself",
    )


@pytest.mark.parametrize(
    ("text", "unused"),
    [
        ("FROM base\n", ["NAME"]),
        ("FROM base\nARG NAME\n", []),
        ("ARG NAME=1\nFROM base\n", []),
        ("FROM base AS not-built\nARG NAME\nFROM base\n", []),
        ("FROM base\nARG NAMES\n", ["NAME"]),
    ],
)
def test_a_build_argument_that_no_arg_declares_is_named(text: str, unused: list[str]) -> None:
    known = {
        "HTTPS_PROXY": "x",
        "no_proxy": "x",
        "BUILDKIT_INLINE_CACHE": "1",
        "SOURCE_DATE_EPOCH": "1",
        "TARGETARCH": "x",
    }
    options = BuildOptions(arguments={**known, "NAME": "secret"})
    assert planned(text, options).notes == tuple(
        f"--build-arg {name} is not used: no ARG declares it" for name in unused
    )


def test_mounts_name_their_stage() -> None:
    step = last(
        "FROM base AS a\nRUN 1\nFROM base\nRUN --mount=type=bind,from=a,target=x --mount=type=cache,target=/c true\n"
    )
    assert [(mount.kind, mount.target) for mount in step.mounts] == [("bind", "/x"), ("cache", "/c")]
    assert isinstance(step.mounts[0].origin, RunStep)
    assert step.mounts[1].origin is None


def test_a_thousand_stages_are_planned_without_deep_recursion() -> None:
    text = "FROM base AS s0\nRUN 0\n" + "".join(f"FROM s{n} AS s{n + 1}\nCOPY --from=s{n} /x /\n" for n in range(999))
    assert len(steps_of(planned(text))) == 1001


def test_all_words_of_a_file_are_bounded() -> None:
    text = "FROM scratch\nENV A=" + "a" * 60_000 + "\n" + "".join(f"ENV B{i}=$A$A$A$A\n" for i in range(300))
    with pytest.raises(DockerfileError, match=r"^Dockerfile:2\d\d: all words are longer than 67,108,864 characters"):
        plan(parse(text.encode()), BuildOptions(), Images().resolve)


@pytest.mark.parametrize("place", ["oci-layout:///srv/layout:base", "docker-image://base"])
@pytest.mark.parametrize(
    "text",
    [
        "FROM {}",
        "ARG A={}\nFROM $A",
        "FROM base\nCOPY --from={} /a /b",
        "FROM base\nRUN --mount=from={},target=/m true",
        "FROM base\nADD --from={} /a /b",
        "FROM onbuild",
    ],
)
def test_only_options_name_places_of_this_host(place: str, text: str) -> None:
    images = Images()
    images.configs["onbuild"] = config_of({"OnBuild": [f"COPY --from={place} /a /b"]})
    with pytest.raises(UsageError, match=r"is not the name of an image|--from"):
        planned(text.replace("{}", place), images=images)
    assert not [name for name, _ in images.asked if "://" in name]
