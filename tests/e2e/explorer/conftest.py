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


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `lamina serve` over a store with the images of `explored`."""
    top = tmp_path_factory.mktemp("explorer")
    explored.write_shop(top / "layout")
    explored.write_hostile(top / "layout")
    explored.write_many(top / "layout")
    loaded = lamina("load", "-i", str(top / "layout"), root=top / "store")
    assert loaded.returncode == 0, loaded.stderr
    shutil.rmtree(top / "layout")
    environment = {**os.environ, "XDG_CACHE_HOME": str(top / "cache")}
    with running("serve", "--port", "0", root=top / "store", env=environment) as server:
        assert server.stderr is not None
        assert server.stdout is not None
        for line in server.stdout:
            found = re.search(rb"http://127\.0\.0\.1:\d+", line)
            if found:
                yield found[0].decode()
                break
        else:
            pytest.fail(server.stderr.read().decode())


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


@pytest.fixture(scope="module")
def contexts(browser: Any) -> Iterator[Callable[..., Any]]:
    """Contexts by their options, each opened once: the files of the page stay in its cache."""
    opened: dict[str, Any] = {}

    def context(**options: Any) -> Any:
        key = json.dumps(options, sort_keys=True)
        if key not in opened:
            opened[key] = browser.new_context(**options)
            opened[key].add_init_script(explored.WATCH)
        return opened[key]

    yield context
    for one in opened.values():
        one.close()


@pytest.fixture
def visitors(browser: Any, contexts: Callable[..., Any], address: str) -> Iterator[Callable[..., Visitor]]:
    """Visitors by the options of their context. ``own``: a new context, for those who leave something in it."""
    made: list[Visitor] = []
    kept = []

    def visitor(*, own: bool = False, **options: Any) -> Visitor:
        options = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light", **options}
        if own:
            context = browser.new_context(**options)
            context.add_init_script(explored.WATCH)
            kept.append(context)
        else:
            context = contexts(**options)
        made.append(Visitor(context, address))
        return made[-1]

    yield visitor
    for one in made:
        one.page.close()
    for context in kept:
        context.close()
    assert [one.wrong for one in made if one.wrong] == []


@pytest.fixture
def visitor(visitors: Callable[..., Visitor]) -> Visitor:
    return visitors()


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
