"""The explorer: from a request to an answer: JSON, a picture, a download, or a file of the page. Knows no sockets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from lamina.errors import (
    AccessDenied,
    InvalidContent,
    LaminaError,
    LimitExceeded,
    NotFound,
    RemoteFailure,
    Unsupported,
    UsageError,
)
from lamina.insight.ghosts import ghosts
from lamina.insight.waste import find_waste
from lamina.serve.explorer.asked import Answer, Asked, Refused
from lamina.serve.explorer.catalog import Catalogs, Listed, sharing, visible
from lamina.serve.explorer.differences import DiffTree, diff_page, diff_text
from lamina.serve.explorer.gallery import Gallery
from lamina.serve.explorer.layer_cache import LayerCache
from lamina.serve.explorer.listing import path_blame, tree_page
from lamina.serve.explorer.opened import MAX_ENTRIES, Choices, Chosen, Images, OpenImage
from lamina.serve.explorer.preview import download, picture, picture_answer, preview
from lamina.serve.explorer.search import UNFINISHED, Result, query_of, search_images, search_page
from lamina.serve.explorer.static_files import static_file
from lamina.serve.explorer.summary import image_summary, repositories_page, tags_page
from lamina.serve.explorer.weights import (
    MAX_DEPTH,
    MAX_RECTANGLES,
    ghosts_page,
    stack_report,
    treemap,
    waste_page,
)
from lamina.serve.explorer.work import FOREVER, Busy, Progress, Work, Working
from lamina.serve.failures import noted, plain
from lamina.spec.platform import Platform
from lamina.version import __version__

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

T = TypeVar("T")
API = "/explore/api/"
STATIC = "/explore/static/"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Authorization, Cookie",
}


_HERE = "this registry"


class Explorer:
    """Answers requests about the images of a gallery. ``usual``: the platform that is shown if nobody asks for
    another. ``pulls``: clients can pull from the same address. ``max_entries``: images with more are not shown.
    ``close`` stops its threads; ``cache`` stays."""

    def __init__(
        self,
        gallery: Gallery,
        cache: LayerCache,
        *,
        usual: Platform | None = None,
        pulls: bool = False,
        writable: bool = False,
        logins: bool = False,
        wait: float = 0.25,
        work: Work | None = None,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self.gallery = gallery
        self._choices = Choices(usual or Platform.host())
        self._pulls = pulls
        self._writable = writable
        self._logins = logins
        self._wait = wait
        self._work = work or Work()
        self._images = Images(gallery, cache, self._work, max_entries)
        self._catalogs = Catalogs(gallery, self._choices, self._work)
        self._pages: dict[str, Callable[[Asked], Answer | dict[str, Any]]] = {
            "": self._about,
            "about": self._about,
            "repositories": lambda asked: repositories_page(self.gallery, asked),
            "tags": lambda asked: tags_page(self.gallery, self._choices, asked),
            "image": lambda asked: image_summary(self._chosen(asked)),
            "stack": self._stack,
            "sharing": self._sharing,
            "tree": lambda asked: tree_page(self._open(asked), asked),
            "blame": self._blame,
            "diff": lambda asked: diff_page(self._diff(asked), asked),
            "diff/text": self._diff_text,
            "treemap": self._treemap,
            "waste": self._waste,
            "ghosts": self._ghosts,
            "search": self._search,
            "file": self._file,
            "raw": self._raw,
            "download": lambda asked: download(self._open(asked), asked),
        }

    def close(self) -> None:
        self._work.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answer(self, asked: Asked) -> Answer:
        """Answer a request for ``/`` or anything below ``/explore``. Never raises."""
        try:
            answer = self._answer(asked)
        except Exception as error:  # noqa: BLE001  (people get an answer, the log gets the rest)
            answer = self._failed(error, asked)
        for key, value in HEADERS.items():
            answer.headers.setdefault(key, value)
        return answer

    @staticmethod
    def serves(path: str) -> bool:
        """Whether a path is one of the explorer's."""
        return path in ("/", "/explore", "/favicon.ico") or path.startswith("/explore/")

    def _answer(self, asked: Asked) -> Answer:
        if asked.method not in ("GET", "HEAD"):
            raise Refused(405, "not_allowed", "only GET and HEAD are answered here", Allow="GET, HEAD")
        path = asked.path
        if path.startswith(API):
            page = self._pages.get(path.removeprefix(API))
            if page is None:
                raise Refused(404, "not_found", "the explorer has no such page")
            found = page(asked)
            return _tagged(Answer.of_json(found), asked) if isinstance(found, dict) else found
        known = asked.headers.get("if-none-match", "")
        if path.startswith(STATIC):
            return static_file(path.removeprefix(STATIC), known)
        if path == "/favicon.ico":
            return static_file("favicon.ico", known)
        if self.serves(path):
            self._begin(asked)
            return static_file("index.html", known)
        raise Refused(404, "not_found", "the explorer has no such page")

    def _failed(self, error: Exception, asked: Asked) -> Answer:
        match error:
            case Refused():
                return error.answer()
            case Working():
                headers = {"Cache-Control": "no-store", "Retry-After": "1"}
                return Answer.of_json({"working": error.progress.to_json()}, 202, headers)
            case Busy():
                return Refused(503, "busy", "too many people look at images", "try again", Retry_After="3").answer()
            case NotFound():
                return self._told(404, "not_found", error)
            case InvalidContent() | Unsupported():
                return self._told(422, "invalid", error)
            case UsageError():
                return self._told(400, "bad_request", error)
        ident = noted(error, f"{asked.method} {asked.path}")
        status = 502 if isinstance(error, AccessDenied | RemoteFailure) else 500
        if isinstance(error, LaminaError) and not self._pulls:  # only the user who started it looks at it
            return self._told(status, "failed", error)
        text = plain(error)[2] if isinstance(error, LaminaError) else "something went wrong here"
        return Refused(status, "failed", text, f"see the log of the server, request {ident}").answer()

    def _told(self, status: int, code: str, error: LaminaError) -> Answer:
        message, location = error.message, self.gallery.location
        if self._pulls and location:  # clients need not know the directory or the bucket
            message = message.replace(location, _HERE)
        return Refused(status, code, message, error.hint).answer()

    def _begin(self, asked: Asked) -> None:
        """Begin to open the image that the page will show, while the browser loads the page's scripts, unless others
        wait already. What fails is told when the page asks."""

        def opening(progress: Progress) -> None:
            with suppress(Refused, LaminaError):
                self._images.opened_within(self._chosen(asked), progress)

        if asked.query.get("image") and not self._work.has_waiting:
            key = ("begin", asked.query["image"], asked.query.get("platform"), asked.asker.name)
            with suppress(Working, Busy):
                self._get(key, opening, weigh=lambda value: 1000, lasts=lambda value: 0, wait=0)

    # pages

    def _about(self, asked: Asked) -> dict[str, Any]:
        return {
            "version": __version__,
            "kind": "images" if self.gallery.repositories_of_place is None else "registry",
            "location": _HERE if self._pulls else self.gallery.location,
            "images": self.gallery.first,
            "user": asked.asker.name,
            "pulls": self._pulls,
            "writable": self._writable,
            "logins": self._logins,
        }

    def _stack(self, asked: Asked) -> dict[str, Any]:
        chosen, image = self._both(asked)
        return self._get(("stack", *chosen.key), lambda progress: stack_report(image))

    def _sharing(self, asked: Asked) -> dict[str, Any]:
        return sharing(self._catalogs.all(), self._chosen(asked), asked.permit)

    def _blame(self, asked: Asked) -> dict[str, Any]:
        chosen, image = self._both(asked)
        path = asked.image_path()
        return self._get(("blame", path, *chosen.key), lambda progress: path_blame(image, asked))

    def _treemap(self, asked: Asked) -> dict[str, Any]:
        path, depth = asked.image_path(), asked.number("depth", 2, MAX_DEPTH, 1)
        limit = asked.number("limit", 400, MAX_RECTANGLES, 1)
        chosen, image = self._both(asked)
        key = ("treemap", path, depth, limit, *chosen.key)
        return self._get(key, lambda progress: treemap(image, path, depth, limit), weigh=lambda one: 1000 * limit)

    def _waste(self, asked: Asked) -> dict[str, Any]:
        chosen, image = self._both(asked)
        found = self._get(
            ("waste", *chosen.key),
            lambda progress: _begun(progress, "comparing files", lambda: find_waste(image.stack)),
            weigh=lambda one: 10_000 + 200 * (len(one.rewrites) + sum(len(copies.paths) for copies in one.copies)),
        )
        return waste_page(found, image, asked)

    def _ghosts(self, asked: Asked) -> dict[str, Any]:
        each = asked.flag("each")
        chosen, image = self._both(asked)
        found = self._get(
            ("ghosts", each, *chosen.key),
            lambda progress: ghosts(image.stack, each=each),
            weigh=lambda one: 10_000 + 300 * len(one),
        )
        return ghosts_page(found, image, asked)

    def _search(self, asked: Asked) -> dict[str, Any]:
        query = query_of(asked)
        key: tuple[Hashable, ...] = (asked.text("q"), asked.text("kind"), asked.flag("hidden"))
        search: Callable[[Progress], Result]
        if asked.text("image"):
            chosen, image = self._both(asked)
            stack = image.stack
            layers = tuple((layer.descriptor, layer.diff_id) for layer in stack.layers)
            one = Listed(
                stack.name,
                chosen.place.repository,
                chosen.manifest.descriptor.digest,
                str(stack.config.platform),
                layers,
                chosen.place.reader,
            )
            key = ("search", *key, *chosen.key)

            def search(progress: Progress) -> Result:
                return search_images([one], query, self._images, progress, first=stack.first)
        else:
            catalog = self._catalogs.all()
            images = visible(catalog, asked.permit)
            key = ("search", *key, tuple((one.image, one.digest) for one in images))

            def search(progress: Progress) -> Result:
                return search_images(images, query, self._images, progress)

        found = self._get(
            key,
            search,
            weigh=lambda one: 50_000 + 2000 * len(one.search.found),
            lasts=lambda one: UNFINISHED if one.search.unread else FOREVER,  # the next search comes further
        )
        return search_page(found, asked)

    def _file(self, asked: Asked) -> dict[str, Any]:
        chosen, image = self._both(asked)
        key = ("file", asked.image_path(), asked.text("node"), asked.text("bytes"), asked.text("image"), *chosen.key)
        return self._get(key, lambda progress: preview(image, asked), weigh=lambda one: one.size_in_memory).value

    def _raw(self, asked: Asked) -> Answer:
        chosen, image = self._both(asked)
        key = ("raw", asked.image_path(), asked.text("node"), *chosen.key)
        return picture_answer(
            self._get(key, lambda progress: picture(image, asked), weigh=lambda one: len(one[1]), wait=10.0)
        )

    def _diff_text(self, asked: Asked) -> dict[str, Any]:
        tree = self._diff(asked)
        key = ("text", asked.image_path(), *self._diff_key(asked))
        return self._get(key, lambda progress: diff_text(tree, asked), weigh=lambda one: 1 << 20)

    def _diff(self, asked: Asked) -> DiffTree:
        before, after = self._chosen(asked, "before"), self._chosen(asked, "after")

        def compared(progress: Progress) -> DiffTree:
            images = [self._images.opened_within(chosen, progress) for chosen in (before, after)]
            entries = sum(image.entries for image in images)
            if entries > self._images.max_entries:
                raise LimitExceeded(
                    f"the images have {entries} entries: at most {self._images.max_entries} are compared here",
                    hint="use `lamina diff`",
                )
            progress.begin("comparing files")
            return DiffTree(*images)

        return self._get(("diff", before.key, after.key), compared, weigh=lambda one: one.size_in_memory)

    def _diff_key(self, asked: Asked) -> tuple[Hashable, ...]:
        return self._chosen(asked, "before").key, self._chosen(asked, "after").key

    # what they need

    def _get(
        self,
        key: Hashable,
        compute: Callable[[Progress], T],
        *,
        weigh: Callable[[T], int] = lambda value: 10_000,
        lasts: Callable[[T], float] = lambda value: FOREVER,
        wait: float | None = None,
    ) -> T:
        return self._work.get(key, compute, weigh=weigh, lasts=lasts, wait=self._wait if wait is None else wait)

    def _chosen(self, asked: Asked, name: str = "image") -> Chosen:
        platform = asked.text("platform" if name == "image" else f"{name}_platform", 100)
        wanted = None
        if platform:
            try:
                wanted = Platform.parse(platform)
            except UsageError as error:
                raise Refused(400, "bad_request", error.message, error.hint) from None
        return self._choices.choose(self.gallery.find(asked.needed(name), asked.permit), wanted)

    def _both(self, asked: Asked) -> tuple[Chosen, OpenImage]:
        chosen = self._chosen(asked)
        return chosen, self._images.opened(chosen)

    def _open(self, asked: Asked) -> OpenImage:
        return self._both(asked)[1]


def _begun(progress: Progress, what: str, compute: Callable[[], T]) -> T:
    progress.begin(what)
    return compute()


def _tagged(answer: Answer, asked: Asked) -> Answer:
    tag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
    answer.headers["ETag"] = tag
    if tag in asked.headers.get("if-none-match", ""):
        return Answer(304, {"ETag": tag, "Cache-Control": answer.headers["Cache-Control"]})
    return answer
