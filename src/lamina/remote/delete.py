"""Deletion from a repository (distribution-spec, "Content Management")."""

from __future__ import annotations

from lamina.errors import BlobNotFound, NotFound, ReferenceNotFound, Unsupported
from lamina.remote.read import RemoteReader
from lamina.spec.descriptor import Descriptor


class RemoteDeleter(RemoteReader):
    """``Deleter`` of a repository."""

    def untag(self, name: str) -> Descriptor:
        """Remove a tag; the manifest that it points to is kept. Raises ReferenceNotFound, Unsupported,
        AccessDenied."""
        reference = self.reference(name)
        descriptor = self.head(name)
        site = self.sites()[-1]
        url, what = site.url(f"manifests/{reference.tag}"), str(reference)
        try:
            answer = site.client.request("DELETE", url, scopes=site.delete, ok=(200, 202, 204, 400, 405), what=what)
        except NotFound as error:
            raise ReferenceNotFound(error.message, hint=error.hint) from None
        answer.release()
        if answer.status in (400, 405):  # registries before distribution-spec 1.1 can only delete digests
            raise Unsupported(
                f"{what}: {site.client.host} can't delete tags",
                hint=f"run `lamina delete {self.repository}@{descriptor.digest}` to delete it with all its tags",
            )
        return descriptor

    def delete(self, descriptor: Descriptor) -> None:
        """Remove a manifest or index with all its tags. Raises BlobNotFound, Unsupported, AccessDenied."""
        site = self.sites()[-1]
        what = f"{self.repository}@{descriptor.digest}"
        try:
            site.client.request(
                "DELETE",
                site.url(f"manifests/{descriptor.digest}"),
                scopes=site.delete,
                ok=(200, 202, 204),
                what=what,
            ).release()
        except NotFound as error:
            raise BlobNotFound(error.message, hint=error.hint) from None
        self._documents.pop(descriptor.digest, None)
