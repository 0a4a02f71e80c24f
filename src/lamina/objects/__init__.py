"""Images in object storage (S3, GCS, Azure), for registry servers without state: many servers work on one bucket at
the same time. Must not know HTTP servers, the store, or registries.

``bucket`` is the only module that talks to the storage, behind ``bucket_format``; ``keys`` and ``documents`` are
pure; ``repositories`` is what a server uses. Decision 0044 says why it is safe.
"""
