"""Images that the explorer's page shows (two versions of a shop, hostile names, 50,000 entries in a directory), and
somebody who looks at it in a browser."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from typing import Any

from lamina.spec.descriptor import Descriptor
from support import Member, write_layout

SHELL = "/bin/sh -c "
PASSWD = b"root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
MAIN = b"""from starlette.applications import Starlette
from starlette.routing import Route

from pages import basket, front

app = Starlette(
    routes=[
        Route("/", front),
        Route("/basket", basket),
    ]
)
"""
PAGES = b"""def front(request):
\treturn render("front.html")


def basket(request):
\treturn render("basket.html")
"""
HOSTILE_NAMES = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)<",
    "javascript:alert(3)",
    '"onmouseover="alert(4)',
    "new\nline",
    "bell\x07\x1b[31mred",
    "\u202egnp.exe",
    "\u2066isolated",
    "\ud800\udcff".encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
    "zero\u200bwidth",
    "non\u00a0breaking",
    "%2e%2e%2fescape",
    "a&b=c?d#e",
    "x" * 250,
    "{{constructor.constructor('alert(5)')()}}",
    "not utf-8 \udcff\udcfe",
)
"""Names of entries in `/names` of the hostile image; the last one is not UTF-8."""


def png(width: int, height: int, seed: int = 0) -> bytes:
    """A picture: a soft gradient."""

    def colour(x: int, y: int) -> bytes:
        return bytes((x * 255 // width, min(255, y * 160 // height + seed * 30), 190))

    rows = b"".join(b"\0" + b"".join(colour(x, y) for x in range(width)) for y in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _config(steps: list[tuple[str, bool]], **more: Any) -> dict[str, Any]:
    history = [
        {
            "created": f"2026-10-{10 + at // 4:02d}T08:{at:02d}:00Z",
            "created_by": words,
            **({"empty_layer": True} if empty else {}),
        }
        for at, (words, empty) in enumerate(steps)
    ]
    return {"created": "2026-10-13T08:20:00Z", "history": history, **more}


def write_shop(directory: Path, scale: float = 0.02) -> tuple[Descriptor, Descriptor]:
    """Two versions of a shop in a layout, as `shop/web:1.4` and `shop/web:1.5`. ``scale`` 1: some 100 MB."""
    chance = random.Random(26)

    def data(size: float) -> bytes:
        return chance.randbytes(max(1, int(size * scale)))

    libraries = ("libc.so.6", "libcrypto.so.3", "libstdc++.so.6", "libssl.so.3", "libpython3.13.so.1.0", "libperl.so")
    base: list[Member] = [
        *(
            (name, None)
            for name in ("bin", "etc", "etc/apt", "root", "tmp", "usr", "usr/bin", "usr/lib", "usr/share", "var")
        ),
        ("etc/passwd", PASSWD),
        ("etc/os-release", b'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n'),
        ("etc/hostname", b"debian\n"),
        ("etc/apt/sources.list", b"deb https://deb.debian.org/debian trixie main\n"),
        ("usr/bin/bash", data(1_300_000), {"mode": 0o755}),
        ("usr/bin/perl", data(3_800_000), {"mode": 0o755}),
        *(
            (f"usr/bin/{name}", data(150_000), {"mode": 0o755})
            for name in ("cat", "chmod", "cp", "date", "dd", "df", "grep", "ls", "mv", "rm", "sed", "tar")
        ),
        ("usr/bin/sh", "-> bash"),
        *(
            (f"usr/lib/{name}", data(size * 1e6))
            for name, size in zip(libraries, (1.9, 5.1, 2.2, 0.7, 6.1, 3.8), strict=True)
        ),
        *(
            (f"usr/share/zoneinfo/Europe/{city}", data(2_000))
            for city in ("Berlin", "Lisbon", "Oslo", "Paris", "Rome")
        ),
        *((f"usr/share/doc/{name}/copyright", data(24_000)) for name in ("bash", "coreutils", "grep", "perl", "tar")),
        ("var/lib/dpkg/status", data(900_000)),
        ("var/lib/apt/lists/deb.debian.org_main_Packages", data(9_000_000)),
    ]
    runtime: list[Member] = [
        ("usr/bin/python3.13", data(6_900_000), {"mode": 0o755}),
        ("usr/bin/python3", "-> python3.13"),
        *(
            (f"usr/lib/python3.13/{name}.py", data(70_000))
            for name in ("argparse", "ast", "dataclasses", "enum", "inspect", "typing", "uuid")
        ),
        ("usr/lib/python3.13/lib-dynload/_ssl.so", data(220_000)),
        ("usr/lib/libcrypto.so.3", data(5_200_000)),
        ("var/lib/dpkg/status", data(980_000)),
        ("var/cache/apt/archives/python3.13_3.13.5-2_amd64.deb", data(4_300_000)),
    ]
    packages: list[Member] = [
        *(
            (f"srv/venv/lib/{name}/{part}", data(size))
            for name, size in (
                ("numpy", 3.1e6),
                ("pillow", 1.6e6),
                ("sqlalchemy", 1.2e6),
                ("starlette", 9e4),
                ("jinja2", 1.1e5),
            )
            for part in ("__init__.py", "core.so", "tests/fixtures.bin")
        ),
        ("root/.cache/pip/wheels/numpy.whl", data(6_400_000)),
    ]
    app: list[Member] = [
        ("srv/app/main.py", MAIN),
        ("srv/app/pages.py", PAGES),
        ("srv/app/settings.toml", b'currency = "EUR"\nworkers = 2\n'),
        ("srv/app/.env", b"DATABASE_URL=postgres://shop@db/shop\n"),
        ("srv/app/static/logo.png", png(240, 120)),
        ("srv/app/static/hero.png", png(480, 300, 3)),
        ("srv/app/static/hero-copy.png", png(480, 300, 3)),
        ("srv/app/static/app.css", data(40_000)),
        *(
            (f"srv/app/templates/{name}.html", b"<!doctype html>\n<h1>" + name.encode() + b"</h1>\n")
            for name in ("base", "front", "basket", "404")
        ),
    ]

    def user(files: list[Member]) -> list[Member]:
        """useradd, and the chown that writes all files of the app once more."""
        passwd = PASSWD + b"shop:x:1000:1000::/srv/app:/bin/sh\n"
        owned: list[Member] = [(name, content, {"uid": 1000, "gid": 1000}) for name, content, *_ in files]
        return [("etc/passwd", passwd), ("etc/group", b"root:x:0:\nshop:x:1000:\n"), *owned]

    clean: list[Member] = [
        ("var/lib/apt/.wh.lists", b""),
        ("var/cache/apt/.wh.archives", b""),
        ("root/.wh..cache", b""),
    ]
    model: list[Member] = [
        ("srv/app/models", None),
        ("srv/app/models/ranking.onnx", data(12_500_000)),
        ("srv/app/models/README.md", b"# ranking\n\nTrained on 2026-10-01.\n"),
    ]
    secret: list[Member] = [("srv/app/.wh..env", b""), ("srv/app/settings.toml", b'currency = "EUR"\nworkers = 8\n')]
    steps = [
        (SHELL + "#(nop) ADD file:rootfs.tar.xz in / ", False),
        (SHELL + '#(nop)  CMD ["bash"]', True),
        ("RUN /bin/sh -c apt-get update && apt-get install -y python3 # buildkit", False),
        ("WORKDIR /srv/app", True),
        ("RUN /bin/sh -c python3 -m venv /srv/venv && pip install -r requirements.txt # buildkit", False),
        ("RUN /bin/sh -c rm -rf /var/lib/apt/lists /var/cache/apt/archives /root/.cache # buildkit", False),
        ("COPY src/ /srv/app # buildkit", False),
        ("RUN /bin/sh -c useradd --uid 1000 shop && chown -R shop /srv/app # buildkit", False),
        ("COPY models/ /srv/app/models # buildkit", False),
        ("RUN /bin/sh -c rm .env && sed -i 's/workers = 2/workers = 8/' settings.toml # buildkit", False),
        ("USER shop", True),
        ('CMD ["python3" "-m" "uvicorn" "main:app"]', True),
    ]
    config: dict[str, Any] = {
        "User": "shop",
        "WorkingDir": "/srv/app",
        "Env": ["PATH=/srv/venv/bin:/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "PYTHONUNBUFFERED=1"],
        "Entrypoint": ["python3", "-m"],
        "Cmd": ["uvicorn", "main:app"],
        "ExposedPorts": {"8000/tcp": {}},
        "Labels": {
            "org.opencontainers.image.title": "shop",
            "org.opencontainers.image.source": "https://example.com/shop",
        },
    }
    layers = [base, runtime, packages, clean, app, user(app), model, secret]
    one = write_layout(directory, "shop/web:1.4", layers, config=_config(steps, config=config))
    more = MAIN.replace(b"basket, front", b"basket, front, search").replace(
        b"basket),\n", b'basket),\n        Route("/search", search),\n'
    )
    newer: list[Member] = [
        ("srv/app/main.py", more),
        *app[1:],
        ("srv/app/search.py", b"def search(words):\n\treturn []\n"),
    ]
    newer = [each for each in newer if each[0] != "srv/app/templates/404.html"]
    later = {"mtime": 1_700_009_000}
    bigger: list[Member] = [
        ("srv/app/models", None, later),
        ("srv/app/models/ranking.onnx", data(14_100_000)),
        ("srv/app/models/README.md", b"# ranking\n\nTrained on 2026-10-01.\n", later),
    ]
    changed = {**config, "Env": [*config["Env"], "SEARCH=on"]}
    two = write_layout(
        directory,
        "shop/web:1.5",
        [base, runtime, packages, clean, newer, user(newer), bigger, secret],
        config=_config(steps, config=changed),
    )
    write_layout(
        directory,
        "shop/jobs:1.4",
        [base, runtime, packages, [("srv/jobs/nightly.py", b"print('night')\n")]],
        config=_config([*steps[:5], ("COPY jobs/ /srv/jobs # buildkit", False)]),
    )
    write_layout(directory, "library/debian:13", [base], config=_config(steps[:2], config={"Cmd": ["bash"]}))
    return one, two


def write_hostile(directory: Path) -> Descriptor:
    """An image whose names, steps and labels try to be more than text, as `hostile:1`."""
    html = "<img src=x onerror=alert(1)>"
    layer: list[Member] = [
        ("names", None),
        *((f"names/{name}", f"content of {name!r}\n".encode()) for name in HOSTILE_NAMES),
        ("links/html", f"-> {html}"),
        ("content.html", b"<!doctype html><script>alert(document.domain)</script>\n\x1b[31m\xe2\x80\xaered\n"),
        ("picture.svg", b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'),
        ("liar.png", b"<script>alert(1)</script>"),
        ("true.png", png(32, 32)),
        ("empty", b""),
        ("program", b"\x7fELF\x02\x01\x01\x00" + bytes(range(256))),
        ("/".join(f"deep{at}" for at in range(60)) + "/end", b"the end\n"),
    ]
    above: list[Member] = [("names/.wh." + HOSTILE_NAMES[0], b""), ("content.html", b"<b>newer</b>\n")]
    steps = [(f"RUN {html} \u202edlrow", False), ("RUN <script>alert(1)</script>", False)]
    config = {"Labels": {html: "<script>alert(1)</script>\u202e"}, "Env": [f"X={html}"], "Cmd": [html]}
    return write_layout(directory, "hostile:1", [layer, above], config=_config(steps, config=config, author=html))


def write_many(directory: Path, count: int = 50_000) -> Descriptor:
    """An image with that many entries in one directory, as `many:1`."""
    layer: list[Member] = [
        ("many", None),
        *((f"many/entry-{at:05d}", b"") for at in range(count)),
        ("many/zebra", b"last\n"),
    ]
    return write_layout(directory, "many:1", [layer], config=_config([("COPY many/ /many # buildkit", False)]))


WATCH = """(() => {
  addEventListener("securitypolicyviolation", (e) => console.error("CSP", e.violatedDirective, e.blockedURI));
  const open = new Map(); // addresses that are asked for, and how many times
  const again = new Set(); // those of which the answer was not ready: they are asked for once more
  const count = (address, more) => {
    const left = (open.get(address) ?? 0) + more;
    if (left > 0) open.set(address, left);
    else open.delete(address);
  };
  const fetched = fetch;
  window.fetch = async (url, options) => {
    const address = String(url);
    let isOpen = true;
    const end = () => {
      if (isOpen) count(address, -1);
      isOpen = false;
    };
    if (!again.delete(address)) count(address, 1);
    options?.signal?.addEventListener("abort", () => (again.delete(address), end()));
    try {
      const answer = await fetched(url, options);
      if (answer.status === 202) again.add(address);
      else answer.clone().arrayBuffer().catch(() => {}).then(() => setTimeout(end));
      return answer;
    } catch (error) {
      end();
      throw error;
    }
  };
  const busy = () => open.size || document.querySelector(".waiting, [aria-busy=true]");
  window.settled = (most) => new Promise((done, fail) => {
    const until = performance.now() + most;
    let calm = 0;
    const look = () => {
      calm = busy() ? 0 : calm + 1;
      if (calm > 2) done();
      else if (performance.now() > until) fail(new Error(`still busy: ${[...open.keys()]}`));
      else requestAnimationFrame(() => setTimeout(look, 5));
    };
    look();
  });
})()"""
"""What each page runs first: it reports what the CSP refuses, and knows when all answers are there and drawn."""


class Visitor:
    """Somebody who looks at the page, in a context that runs ``WATCH``. What the page must never do is noted: errors,
    dialogs, requests elsewhere."""

    def __init__(self, context: Any, address: str) -> None:
        self.address = address
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.on("popup", lambda popup: self.wrong.append(f"popup: {popup.url}"))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        self.requests.append(request.url.removeprefix(self.address))
        if not request.url.startswith(self.address + "/"):
            self.wrong.append(f"request: {request.url}")

    def see(self, query: str = "") -> Any:
        """Go to an address of the page, and wait until all is there."""
        self.page.goto(f"{self.address}/{query}")
        self.settled()
        return self.page

    def settled(self) -> None:
        self.page.evaluate("settled(20000)")

    def image(self, image: str = "shop/web:1.4", **state: str) -> Any:
        more = "".join(f"&{key}={value}" for key, value in state.items())
        return self.see(f"?image={image}{more}")

    def focus_tree(self) -> Any:
        self.page.locator("[role=tree]").focus()
        return self.page.locator("[role=tree]")

    @property
    def at(self) -> str:
        """The row that the keys move, as text."""
        tree = self.page.locator("[role=tree]")
        row = tree.get_attribute("aria-activedescendant")
        text: str = self.page.locator(f"#{row} .what").inner_text()
        return text
