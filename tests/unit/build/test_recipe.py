"""Builds without a Dockerfile give the same plan as the Dockerfile that says the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NoReturn

import pytest

from lamina.build import instructions as i
from lamina.build.dockerfile.syntax import parse
from lamina.build.options import BuildOptions
from lamina.build.planning.plan import Base, plan
from lamina.build.recipe import Recipe
from lamina.build.steps import Step
from lamina.errors import UsageError
from lamina.source.stack import Stack
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.platform import Platform

HOST = Platform("linux", "amd64")


def resolve(name: str, platform: Platform) -> Base:
    config = ImageConfig.build(platform, diff_ids=[Digest.of(b"layer")], env=["PATH=/bin"])
    return Base(name, str(Digest.of(name.encode())), config)


def no_stack(name: str) -> NoReturn:
    raise AssertionError(f"{name} was opened")


def no_page(url: str) -> Mapping[str, object]:
    raise AssertionError(f"{url} was read")


def planned(dockerfile: i.Dockerfile) -> tuple[Any, ...]:
    made = plan(dockerfile, BuildOptions(), resolve, platform=HOST, build_platform=HOST)
    return chain(made.step), made.config.json, list(made.history)


def chain(step: Step | None) -> list[dict[str, Any]]:
    """The steps as values, without what only people read."""
    found = []
    while step is not None:
        values = {one.name: getattr(step, one.name) for one in dataclasses.fields(step)}
        for name in ("below", "at", "text", "label", "stage"):
            values.pop(name)
        values["sources"] = [
            (chain(source.step), source.patterns) if hasattr(source, "step") else source
            for source in values.get("sources", ())
        ]
        found.append({"kind": type(step).__name__, **values})
        step = step.below
    return found


@pytest.mark.parametrize(
    ("recipe", "dockerfile"),
    [
        (
            Recipe("b").copy("a", "b*", to="/x/", owner="me", mode="644"),
            "FROM b\nCOPY --chown=me --chmod=644 a b* /x/",
        ),
        (Recipe("b").copy("a", to="/x", exclude=["*.pyc"]), "FROM b\nCOPY --exclude=*.pyc a /x"),
        (Recipe("b").copy("$a", to='/"q"/'), "FROM b\nCOPY \\$a '/\"q\"/'"),
        (Recipe("b").copy("x", to="/y", from_="other:1", link=True), "FROM b\nCOPY --from=other:1 --link x /y"),
        (Recipe("b").run("echo $HOME > /x"), "FROM b\nRUN echo $HOME > /x"),
        (Recipe("b").run(["echo", "$HOME"]), 'FROM b\nRUN ["echo", "$HOME"]'),
        (
            Recipe("b").run("make", mounts=["type=cache,target=/c"], network="none"),
            "FROM b\nRUN --mount=type=cache,target=/c --network=none make",
        ),
        (Recipe("b").env(A="1 2", B="it's $A"), "FROM b\nENV A='1 2' B=\"it's \\$A\""),
        (
            Recipe("b").env({"A": "1"}).run("x").workdir("d").user("me:us"),
            "FROM b\nENV A=1\nRUN x\nWORKDIR d\nUSER me:us",
        ),
        (Recipe("b").label({"a.b": "c d"}), "FROM b\nLABEL a.b='c d'"),
        (Recipe("b").expose(80, "53/udp").volume("/data"), "FROM b\nEXPOSE 80 53/udp\nVOLUME /data"),
        (Recipe("b").entrypoint(["/x", "y"]).cmd(["z"]), 'FROM b\nENTRYPOINT ["/x", "y"]\nCMD ["z"]'),
        (Recipe("b").shell("/bin/ash", "-c").cmd("x"), 'FROM b\nSHELL ["/bin/ash", "-c"]\nCMD x'),
        (Recipe("b").stop_signal("TERM"), "FROM b\nSTOPSIGNAL TERM"),
        (
            Recipe("b").healthcheck(["x"], interval="5s", retries=2),
            'FROM b\nHEALTHCHECK --interval=5s --retries=2 CMD ["x"]',
        ),
        (Recipe("b").healthcheck(None), "FROM b\nHEALTHCHECK NONE"),
        (Recipe().write("/etc/x", "a $b\n"), "FROM scratch\nCOPY <<'x' /etc/x\na $b\nx\n"),
        (Recipe("b").add("a.tar", to="/", unpack=False), "FROM b\nADD --unpack=false a.tar /"),
        (
            Recipe("b").copy("/out", to="/in", from_=Recipe("builder").run("make")),
            "FROM builder AS one\nRUN make\nFROM b\nCOPY --from=one /out /in",
        ),
        (Recipe(Recipe("b").run("x")).run("y"), "FROM b AS one\nRUN x\nFROM one\nRUN y"),
    ],
)  # fmt: skip
def test_a_recipe_is_planned_as_the_dockerfile_that_says_the_same(recipe: Recipe, dockerfile: str) -> None:
    ours = planned(recipe.dockerfile(HOST, no_stack, no_page))
    theirs = planned(parse(dockerfile.encode(), "Dockerfile"))
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    assert [one.created_by for one in ours[2]] == [one.created_by for one in theirs[2]]


def test_a_recipe_that_two_others_use_is_one_stage() -> None:
    tools = Recipe("builder").run("make")
    app = Recipe(tools).copy("/a", to="/a", from_=tools).copy("/b", to="/b", from_=Recipe(tools).run("more"))
    stages = app.dockerfile(HOST, no_stack, no_page).stages
    assert [stage.base.image for stage in stages] == ["builder", "recipe-1", "recipe-1"]
    assert isinstance(stages[2].instructions[0], i.Copy)
    assert [one.from_ for one in stages[2].instructions if isinstance(one, i.Copy)] == ["recipe-1", "recipe-2"]


def test_each_method_returns_a_new_recipe() -> None:
    base = Recipe("b").run("x")
    assert base.run("y") != base.run("z")
    assert len(base.items) == 1


def test_what_can_not_be_said_is_an_error() -> None:
    with pytest.raises(UsageError, match="is not a file"):
        Recipe("b").write("/etc/", "x")
    with pytest.raises(UsageError, match="wheels need a base image"):
        Recipe(Recipe("b")).wheels("uv.lock").dockerfile(HOST, no_stack, no_page)


def test_a_base_is_opened_only_for_wheels() -> None:
    opened: list[str] = []

    def stack(name: str) -> Stack:
        opened.append(name)
        raise UsageError("enough")

    with pytest.raises(UsageError, match="enough"):
        Recipe("python:3").run("x").wheels("uv.lock").dockerfile(HOST, stack, no_page)
    assert opened == ["python:3"]
