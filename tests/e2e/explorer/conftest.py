"""A real server over a real store, and Debian's Chromium, for the tests of the explorer's page."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import explored
from explored import Visitor
from support import lamina, require_tool, running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `lamina serve` over a store with the images of `explored`."""
    top = tmp_path_factory.mktemp("explorer")
    explored.write_shop(top / "layout")
    explored.write_hostile(top / "layout")
    explored.write_many(top / "layout")
    loaded = lamina("load", "-i", str(top / "layout"), root=top / "store")
    assert loaded.returncode == 0, loaded.stderr
    shutil.rmtree(top / "layout")
    os.environ["XDG_CACHE_HOME"], before = str(top / "cache"), os.environ.get("XDG_CACHE_HOME")
    try:
        with running("serve", "--port", "0", root=top / "store") as server:
            assert server.stderr is not None
            assert server.stdout is not None
            for line in server.stdout:
                found = re.search(rb"http://127\.0\.0\.1:\d+", line)
                if found:
                    yield found[0].decode()
                    break
            else:
                pytest.fail(server.stderr.read().decode())
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. Not for the session: while playwright runs, this thread has a running event loop, and no other test
    could run one."""
    require_tool("chromium")
    from playwright.sync_api import sync_playwright

    words = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=words)
        yield browser
        browser.close()


@pytest.fixture
def visitors(browser: Any, address: str) -> Iterator[Callable[..., Visitor]]:
    contexts, made = [], []

    def visitor(**options: Any) -> Visitor:
        context = browser.new_context(
            **{"viewport": {"width": 1440, "height": 900}, "color_scheme": "light", **options}
        )
        contexts.append(context)
        made.append(Visitor(context, address))
        return made[-1]

    yield visitor
    for context in contexts:
        context.close()
    for one in made:
        assert one.wrong == []


@pytest.fixture
def visitor(visitors: Callable[..., Visitor]) -> Visitor:
    return visitors()


@pytest.fixture(params=["light", "dark", "phone"])
def everywhere(request: pytest.FixtureRequest, visitors: Callable[..., Visitor]) -> Visitor:
    """In the light theme, in the dark one, and on a phone that is 360 pixels wide."""
    if request.param == "phone":
        return visitors(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    return visitors(color_scheme=request.param)


@pytest.fixture
def answer(address: str) -> Callable[..., Any]:
    """What the server says, for comparison with what the page shows."""
    import urllib.parse
    import urllib.request

    def ask(endpoint: str, **parameters: str) -> Any:
        url = f"{address}/explore/api/{endpoint}?{urllib.parse.urlencode(parameters)}"
        while True:
            with urllib.request.urlopen(url, timeout=20) as response:
                value = json.load(response)
                if response.status == 200:
                    return value

    return ask
