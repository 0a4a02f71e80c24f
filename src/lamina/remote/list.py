"""Lists of repositories and registries: tags, referrers, repositories.

distribution-spec, "Content Discovery". The next page is taken from the Link header, not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urljoin

from lamina.errors import InvalidDocument, LimitExceeded, NotFound, ReferenceNotFound, RemoteFailure
from lamina.remote.client import Client
from lamina.remote.http import RequestFailed, joined, target_of
from lamina.remote.link import next_page
from lamina.remote.read import RemoteReader
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import load
from lamina.spec.manifest import Index, parse

MAX_PAGES = 10_000
MAX_BYTES = 256 << 20  # of all pages of a list; the names of a million tags take a tenth
MAX_REFERRER_BYTES = 32 << 20  # the same for descriptors, which are kept with their annotations
_LIMIT = 4 << 20


class RemoteLister(RemoteReader):
    """``Lister`` and ``Referrers`` of a repository."""

    def tags(self) -> Iterator[str]:
        """Yield every tag, in the registry's order. Raises NotFound (repository not found), AccessDenied,
        RemoteFailure."""
        site = self.sites()[-1]
        what = f"the tags of {self.repository}"
        for page in pages(site.client, site.url("tags/list"), site.pull, what):
            yield from _texts(page.get("tags"), what)

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        for tag in self.tags():
            name = f"{self.repository}:{tag}"
            yield name, self.head(name)

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """List the referrers with the referrers API, or with the tag that replaces it at registries without the API
        (distribution-spec, "Listing Referrers"). Raises AccessDenied, RemoteFailure, InvalidDocument."""
        site = self.sites()[-1]
        what = f"referrers of {subject}"
        found: dict[Digest, Descriptor] = {}
        try:
            url = site.url(f"referrers/{subject}")
            for page in pages(site.client, url, site.pull, what, most=MAX_REFERRER_BYTES):
                listed = page.get("manifests") or []
                if not isinstance(listed, list):
                    raise InvalidDocument(
                        f"{what}: the answer is not a list", hint="report it to the registry's operator"
                    )
                for value in listed:
                    descriptor = Descriptor.from_json(value, what)
                    found.setdefault(descriptor.digest, descriptor)
        except NotFound:
            return list(self.referrers_tag(subject)[1])
        return list(found.values())

    def referrers_tag(self, subject: Digest) -> tuple[str, tuple[Descriptor, ...]]:
        """Return the tag that replaces the referrers API, and the descriptors in its index."""
        tag = f"{subject.algorithm[:32]}-{subject.encoded[:64]}"
        try:
            descriptor = self.resolve(f"{self.repository}:{tag}")
        except ReferenceNotFound:
            return tag, ()
        document = parse(self.manifest(descriptor), descriptor.media_type, f"{self.repository}:{tag}")
        return tag, document.manifests if isinstance(document, Index) else ()


def catalog(client: Client) -> Iterator[str]:
    """Yield every repository of a registry that lists them. Raises NotFound, AccessDenied, RemoteFailure."""
    what = f"the repositories of {client.host}"
    for page in pages(client, "/v2/_catalog", ("registry:catalog:*",), what):
        yield from _texts(page.get("repositories"), what)


def pages(
    client: Client, path: str, scopes: Sequence[str], what: str, *, most: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield each page of a list as JSON. The next page is fetched from the path in the Link header, but from the same
    host: registries behind proxies state host names and schemes that work only internally."""
    url = urljoin(client.base, path)
    seen = {url}
    size = 0
    most = MAX_BYTES if most is None else most
    for _ in range(MAX_PAGES):
        answer, raw = client.document(url, scopes=scopes, limit=_LIMIT, what=what)
        size += len(raw)
        if size > most:
            raise LimitExceeded(
                f"{what}: the list has more than {most >> 20} MiB", hint="report it to the registry's operator"
            )
        yield load(raw, what)
        found = next_page(answer.all("Link"), what)
        if found is None:
            return
        try:
            url = client.base + target_of(joined(url, found))
        except RequestFailed as error:
            raise RemoteFailure(
                f"{what}: the next page: {error}", hint="report it to the registry's operator"
            ) from None
        if url in seen:
            raise RemoteFailure(
                f"{what}: the next page is at {url[:200]!r}", hint="report it to the registry's operator"
            )
        seen.add(url)
    raise RemoteFailure(f"{what}: more than {MAX_PAGES} pages", hint="report it to the registry's operator")


def _texts(value: object, what: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InvalidDocument(
            f"{what}: the answer is not a list of names", hint="report it to the registry's operator"
        )
    return value
