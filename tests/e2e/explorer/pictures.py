"""Make the pictures of the explorer's page in docs/images: `.venv/bin/python tests/e2e/explorer/pictures.py`. Needs
Chromium, and shows a shop of some 100 MB in a store of its own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TOP / "tests"))

WEB = "shop/web:1.4"
LOOK = ".layers li:nth-child(6) .pick"
PICTURES: tuple[tuple[str, str, str, str], ...] = (
    ("explorer-stack.png", "light", f"?image={WEB}&hidden=1&path=/srv/app/settings.toml", ""),
    ("explorer-sizes.png", "light", f"?image={WEB}&view=sizes", LOOK),
    (
        "explorer-compare.png",
        "dark",
        f"?image={WEB}&view=compare&other=shop/web:1.5&path=/srv/app/main.py",
        "",
    ),
)


def main() -> None:
    from playwright.sync_api import sync_playwright

    from explored import WATCH, write_shop
    from support import lamina, running

    with tempfile.TemporaryDirectory() as top:
        os.environ["XDG_CACHE_HOME"] = f"{top}/cache"
        write_shop(Path(top, "layout"), 1)
        lamina("load", "-i", f"{top}/layout", root=f"{top}/store").check_returncode()
        with running("serve", root=f"{top}/store") as server, sync_playwright() as playwright:
            assert server.stdout is not None
            assert b"5000" in server.stdout.readline()
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for name, theme, query, hover in PICTURES:
                page = browser.new_page(viewport={"width": 1360, "height": 800}, color_scheme=theme)
                page.add_init_script(WATCH)
                _take(page, query, hover, str(TOP / "docs/images" / name))
            browser.close()


def _take(page: Any, query: str, hover: str, target: str) -> None:
    page.goto(f"http://localhost:5000/{query}")
    page.evaluate("settled(60000)")
    page.locator(".place").evaluate("place => { place.textContent = 'the store /var/lib/lamina'; }")
    if hover:
        page.hover(hover)
    page.wait_for_timeout(600)  # what moves has arrived
    page.screenshot(path=target)


if __name__ == "__main__":
    main()
