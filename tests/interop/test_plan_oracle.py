"""Config and history of generated Dockerfiles are those of BuildKit. Nothing is built: its frontend says what it
would write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit_oracle import Oracle, running_oracle
from lamina.build.dockerfile.syntax import parse
from lamina.build.options import BuildOptions
from lamina.build.planning.plan import Base, plan
from lamina.build.steps import RunStep, Step
from lamina.errors import LaminaError, ReferenceNotFound
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.platform import Platform
from support import THOROUGH

pytestmark = pytest.mark.peer

LINUX = Platform("linux", "amd64")
LAYER = str(Digest.of(b"layer"))
RUNS: Mapping[str, dict[str, Any]] = {
    "plain": {"Env": ["PATH=/bin", "A=base"], "Cmd": ["sh"]},
    "rich": {
        "Env": ["A=1", "B=two words"],
        "Entrypoint": ["/start"],
        "Cmd": ["-x"],
        "WorkingDir": "/srv/app",
        "User": "web",
        "Labels": {"a": "1", "z": "2"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/v": {}},
        "Shell": ["/bin/bash", "-ec"],
        "StopSignal": "SIGQUIT",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000},
        "OnBuild": ["ENV T=$A", "LABEL t=$T", "WORKDIR sub"],
    },
}
DOCUMENTS = {
    name: {
        **LINUX.to_json(),
        "author": "someone",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [LAYER]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base"}],
    }
    for name, run in RUNS.items()
}
NAMES = {f"docker.io/library/{name}:latest": document for name, document in DOCUMENTS.items()}
Program = tuple[list[str], list[str], str, str]
"""Command line, environment, working directory and user of a RUN."""
Written = tuple[dict[str, Any], list[dict[str, Any]], str, list[Program]] | None
"""Config, history, author, programs; None: refused."""


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with running_oracle() as found:
        yield found


def resolve(name: str, _platform: Platform) -> Base:
    known = name.removeprefix("docker.io/library/").removesuffix(":latest")
    if known not in DOCUMENTS:
        raise ReferenceNotFound(f"no image {name}", hint="check the name")
    config = ImageConfig.parse(json.dumps(DOCUMENTS[known]).encode())
    return Base(f"docker.io/library/{known}:latest", str(Digest.of(known.encode())), config)


def mine(text: str, arguments: Mapping[str, str]) -> Written:
    options = BuildOptions(arguments=arguments)
    try:
        found = plan(parse(text.encode()), options, resolve, platform=LINUX, build_platform=LINUX)
    except LaminaError:
        return None
    history = [{"empty_layer": False, **one.to_json()} for one in found.history]
    return found.config.json.get("config") or {}, history, found.config.author or "", programs(found.step)


def programs(step: Step | None) -> list[Program]:
    found: list[Program] = []
    while step is not None:
        if isinstance(step, RunStep):
            found.append((list(step.words), [f"{name}={value}" for name, value in step.env], step.workdir, step.user))
        step = step.below
    return found[::-1]


def theirs(oracle: Oracle, text: str, arguments: Mapping[str, str]) -> Written:
    answer = oracle("image", data=text.encode(), Env=arguments, Images=NAMES)
    if "error" in answer:
        return None
    image = answer["Image"]
    history = [{"empty_layer": False, **one} for one in image.get("history", [])]
    runs = [(one.get("args", []), one.get("env", []), one["cwd"], one.get("user", "")) for one in answer["Runs"]]
    return {key: value for key, value in image["config"].items() if value}, history, image.get("author", ""), runs


def each(text: str) -> list[str]:
    return text.split()


WORDS = st.sampled_from(
    [*each("a b /c ./d ../e . / $A ${A} ${B:-x} ${X:-y} ${A:+z} $X '$A' \\$A a\\ b ''"), '"$B c"', '"a b"', "${A%e}"]
)
NAMES_OF_VARIABLES = st.sampled_from(each("A B C PATH X TARGETARCH BUILDPLATFORM a.b"))
PAIRS = st.builds("{}={}".format, NAMES_OF_VARIABLES, WORDS)
PORTS = st.sampled_from(each("80 80/tcp 81/UDP 8000-8003 90-90/sctp $A 1:2 127.0.0.1:3:4 x 0 65536 80/foo"))


def line(name: str, words: st.SearchStrategy[str], least: int = 1, most: int = 3) -> st.SearchStrategy[str]:
    return st.lists(words, min_size=least, max_size=most).map(lambda found: f"{name} {' '.join(found)}")


COMMANDS = [
    *each("a|b ["),
    "a $A 'b'",
    '["a", "$A", "b c"]',
    '["a"]',
    "[]",
    '["\\u0001\\n\\"é"]',
    "",
    'a \\\\ \t"b" é \u200b',
]
LINES = st.one_of(
    line("ENV", PAIRS),
    line("ENV A", WORDS, 1, 2),
    line("ARG", st.one_of(PAIRS, NAMES_OF_VARIABLES)),
    line("LABEL", PAIRS),
    line("WORKDIR", WORDS, 1, 1),
    line("USER", WORDS, 1, 1),
    line("VOLUME", WORDS),
    line("EXPOSE", PORTS),
    line("STOPSIGNAL", st.sampled_from(each("SIGTERM term 9 RTMIN+1 SIGRTMAX 64 foo $A")), 1, 1),
    st.builds("{} {}".format, st.sampled_from(each("CMD ENTRYPOINT RUN SHELL")), st.sampled_from(COMMANDS)),
    st.builds(
        "HEALTHCHECK {}{}".format,
        st.sampled_from(["", "--interval=90s ", "--timeout=1h2m3.5s --retries=3 ", "--start-period=1500us "]),
        st.sampled_from(["NONE", "CMD a $A", 'CMD ["a"]']),
    ),
    line("MAINTAINER", WORDS),
    line("ONBUILD ENV", PAIRS),
    line("ONBUILD RUN", WORDS),
    line("COPY", WORDS, 2, 3),
    line("COPY --chown=$A --chmod=644", WORDS, 2, 2),
    line("COPY --link --parents --exclude=x", WORDS, 2, 2),
    line("ADD", WORDS, 2, 2),
    st.sampled_from(
        [
            "RUN <<E\na $A\n\nb\nE",
            "RUN <<-E\n\ta\n\tE",
            "RUN cat <<E <<F\n1\nE\n2\nF",
            "RUN <<E\n#!/bin/x\na\nE",
            "COPY <<E <<'F' /x/\n$A\nE\n$A\nF",
            "RUN --mount=type=cache,target=/c --network=none a",
            "ADD https://example.org/a.tar /x",
        ]
    ),
    st.sampled_from(each("FROM_plain FROM_rich FROM_one FROM_plain_AS_one FROM_rich_AS_two FROM_scratch")).map(
        lambda text: text.replace("_", " ")
    ),
)
ARGUMENTS = st.dictionaries(st.sampled_from(each("A B X TARGETARCH HTTP_PROXY")), st.sampled_from(["1", "", "v w"]))


@settings(max_examples=800 if THOROUGH else 200, deadline=None)
@given(
    st.lists(line("ARG", st.one_of(PAIRS, NAMES_OF_VARIABLES)), max_size=2),
    st.sampled_from(["plain", "rich", "scratch", "plain AS one", "${X:-rich}"]),
    st.lists(LINES, max_size=8),
    ARGUMENTS,
)
def test_the_image_is_the_one_that_buildkit_would_write(
    oracle: Oracle, above: list[str], base: str, lines: list[str], arguments: dict[str, str]
) -> None:
    text = "\n".join([*above, f"FROM {base}", *lines]) + "\n"
    found, expected = mine(text, arguments), theirs(oracle, text, arguments)
    if expected is None and base.startswith("$") and any(one.startswith("FROM ") for one in lines):
        return  # BuildKit refuses a bad name in FROM even of a stage that nothing needs
    assert found == expected
