"""The corpus of Dockerfiles, built by lamina and by others: the same files, config and history, or a difference that
``corpus.differences`` names."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from builders import (
    Bench,
    Buildah,
    BuildKit,
    Lamina,
    Made,
    OldDocker,
    Refused,
    bench_of,
    buildah_storage,
    buildkit_daemon,
    differences,
    lamina_store,
    outline,
)
from corpus import CASES, OLD_CASES
from corpus.differences import BUILDAH, BUILDKIT, DOCKER, Known
from docker_engine import Docker

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_of(tmp_path_factory.mktemp("bench")) as made:
        yield made


@pytest.fixture(scope="module")
def ours(bench: Bench) -> Iterator[Lamina]:
    with lamina_store(bench) as made:
        yield made


@pytest.fixture(scope="module")
def buildkit(bench: Bench) -> Iterator[BuildKit]:
    with buildkit_daemon(bench) as made:
        yield made


@pytest.fixture(scope="module")
def buildah(bench: Bench) -> Iterator[Buildah]:
    with buildah_storage(bench) as made:
        yield made


@pytest.fixture(scope="module")
def old_docker(docker: Docker, bench: Bench) -> OldDocker:
    return OldDocker(docker, bench)


def compare(made: Made | Refused, theirs: Made | Refused, known: Known) -> None:
    """Fail unless the two differ as it is known, and not otherwise."""
    assert isinstance(theirs, Refused) == known.refused, theirs
    assert isinstance(made, Refused) == known.ours_refused, made
    if isinstance(made, Refused) or isinstance(theirs, Refused):
        return
    found = differences(made, theirs)
    assert len(found) == len(known.lines), "\n".join(found)
    for line, pattern in zip(found, known.lines, strict=True):
        assert re.fullmatch(pattern, line, re.DOTALL), line


@pytest.mark.parametrize("name", CASES)
def test_lamina_builds_what_buildkit_builds(name: str, bench: Bench, buildkit: BuildKit, ours: Lamina) -> None:
    case = CASES[name]
    with bench.laid(case) as place:
        compare(ours.build(place), buildkit.build(place), BUILDKIT.get(name, Known.same(case)))


@pytest.mark.parametrize("name", OLD_CASES)
def test_lamina_builds_what_buildah_builds(name: str, bench: Bench, buildah: Buildah, ours: Lamina) -> None:
    case = CASES[name]
    with bench.laid(case) as place:
        known = BUILDAH.get(name, Known.same(case))
        compare(outline(ours.build(place)), outline(buildah.build(place)), known)


@pytest.mark.parametrize("name", OLD_CASES)
def test_lamina_builds_what_docker_20_builds(name: str, bench: Bench, old_docker: OldDocker, ours: Lamina) -> None:
    case = CASES[name]
    with bench.laid(case) as place:
        known = DOCKER.get(name, Known.same(case))
        compare(outline(ours.build(place)), outline(old_docker.build(place)), known)


def test_no_difference_is_of_a_case_that_is_not_there() -> None:
    assert BUILDKIT.keys() <= CASES.keys()
    assert BUILDAH.keys() | DOCKER.keys() <= set(OLD_CASES) <= CASES.keys()
