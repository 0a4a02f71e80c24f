"""The URL of object storage: ``s3://bucket/prefix``, ``gs://``, ``az://``, or ``memory:`` for a server that forgets
all when it ends."""

from __future__ import annotations

import os
import re
import urllib.request
from datetime import timedelta
from typing import Any

from lamina.errors import Unsupported, UsageError
from lamina.objects.bucket import Bucket, ObstoreBucket
from lamina.objects.bucket_format import FormattedBucket
from lamina.objects.failures import failure

SCHEMES = ("s3", "gs", "az", "memory")
_URL = re.compile(r"(s3|gs|az)://([A-Za-z0-9][A-Za-z0-9._-]{1,253})(?:/(.*))?")
_PREFIX = re.compile(r"[A-Za-z0-9._=-]+(?:/[A-Za-z0-9._=-]+)*")
_HINT = "write it like s3://bucket/prefix; the name of a bucket has two characters or more"


def is_storage(text: str) -> bool:
    """Whether the text is the URL of object storage."""
    scheme = text.partition(":")[0]
    return text == "memory:" or (scheme in SCHEMES and text.startswith(f"{scheme}://"))


def open_bucket(url: str) -> Bucket:
    """Open the bucket at a URL. Credentials, the region and the endpoint come from the environment, as obstore reads
    it (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...). Nothing is sent. Raises UsageError, Unsupported."""
    try:
        from obstore import exceptions, store
    except ImportError:
        raise Unsupported(
            "object storage needs obstore, which is not installed", hint="pip install 'lamina[s3]'"
        ) from None
    if url == "memory:":
        memory = store.MemoryStore()
        return FormattedBucket(ObstoreBucket(memory, memory, "memory:"))
    found = _URL.fullmatch(url)
    if found is None or "@" in url:
        raise UsageError(f"not the URL of object storage: {_shown(url)!r:.200}", hint=_HINT)
    scheme, bucket, prefix = found[1], found[2], (found[3] or "").strip("/")
    if prefix and (not _PREFIX.fullmatch(prefix) or any(part in (".", "..") for part in prefix.split("/"))):
        raise UsageError(
            f"not a prefix in a bucket: {prefix!r:.200}", hint="use letters, digits, '.', '_', '-' and '/'"
        )
    kind: Any = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}[scheme]
    location = f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else "")
    options: dict[str, Any] = {"prefix": prefix or None}
    if scheme == "s3":
        options |= _s3_options()
    try:
        stores = [
            kind(bucket, client_options=_client(scheme, large), retry_config=_RETRY, **options)
            for large in (False, True)
        ]
    except (exceptions.BaseError, ValueError) as error:
        raise failure(error, location, "its settings") from None
    direct = scheme == "s3" and is_direct()
    return FormattedBucket(ObstoreBucket(stores[0], stores[1], location, direct=direct))


_RETRY: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=15)}
"""Together with a request's own limit this must end well before ``removal.LEASE``."""


_OWN_WAYS = (
    "AWS_PROXY_URL",
    "AWS_SKIP_SIGNATURE",
    "AWS_REQUEST_PAYER",
    "AWS_S3_EXPRESS",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
)
"""Settings with which obstore sends other requests, or sends them elsewhere."""


def _client(scheme: str, large: bool) -> Any:
    options: dict[str, Any] = {"connect_timeout": "5s"}
    if large:  # a slow client may take its time for what it reads
        options |= {"timeout": "12h", "read_timeout": "60s"}
    else:
        options |= {"timeout": "15s"}
    if scheme == "s3" and _plain_allowed():
        options["allow_http"] = True
    return options


def _plain_allowed() -> bool:
    """Plain http is allowed to this machine, and where AWS_ALLOW_HTTP says so."""
    endpoint = _endpoint()
    if os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"):
        return True
    if not endpoint.startswith("http://"):
        return False
    host = re.sub(r"^http://", "", endpoint).split("/")[0]
    if not re.fullmatch(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", host):
        raise UsageError(
            f"the endpoint of the storage is plain http: {host!r:.100}",
            hint="use https, or set AWS_ALLOW_HTTP=true if the network is yours",
        )
    return True


def is_direct() -> bool:
    """Whether a signed URL and a socket are enough to read an object: no proxy is between, and the request needs no
    headers of its own."""
    proxies = urllib.request.getproxies().keys() - {"no"}
    return not proxies and not any(os.environ.get(name) for name in _OWN_WAYS)


def _s3_options() -> dict[str, Any]:
    endpoint = _endpoint()
    options: dict[str, Any] = {}
    if endpoint:
        options["endpoint"] = endpoint
        if not os.environ.get("AWS_REGION") and not os.environ.get("AWS_DEFAULT_REGION"):
            options["region"] = "us-east-1"  # servers other than Amazon's take any
    if endpoint.startswith("https://") or not endpoint:
        options["unsigned_payload"] = True  # TLS protects the bytes; hashing them again would cost time
    return options


def _endpoint() -> str:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(name):
            return os.environ[name].rstrip("/")
    return ""


def _shown(url: str) -> str:
    """Leave a user and password out of a message."""
    return re.sub(r"//[^/@]*@", "//...@", url)
