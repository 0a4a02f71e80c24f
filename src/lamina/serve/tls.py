"""TLS of the server: its certificate, read again when it was renewed, and the certificates of clients."""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lamina.errors import LaminaError, UsageError
from lamina.host.files import failure

INTERVAL = 1.0  # seconds between two looks at the files
_HINT = "give the certificate with its chain and the key that belongs to it, both in PEM"
_log = logging.getLogger("lamina.serve")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. ``client_ca``: who signs the certificates of clients, "" for none. ``renew`` is called
    before the files are looked at: it may replace them."""

    certificate: str
    key: str
    client_ca: str = ""
    renew: Callable[[], None] | None = None


class ServerTls:
    """The TLS of a server. Connections use ``context``; each new one gets the certificate as it is by then. Broken
    files at the start raise; later the old certificate stays, with a warning in the log."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises UsageError, SystemFailure."""
        self._files = files
        self._guard = threading.Lock()
        if files.renew is not None:
            files.renew()
        self._seen = self._signature()
        self._next = time.monotonic() + INTERVAL
        self._current = self._read()
        self.context = self._read()
        self.context.sni_callback = self._at_handshake

    def reload(self) -> None:
        """Have the files read again for the next connection. Takes no lock: a signal handler may call it."""
        self._seen = []
        self._next = 0.0

    def _at_handshake(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        """OpenSSL calls this at the beginning of each connection, whether or not the client names a host."""
        if time.monotonic() >= self._next and self._guard.acquire(blocking=False):
            try:
                self._next = time.monotonic() + INTERVAL
                self._refresh()
            finally:
                self._guard.release()
        connection.context = self._current

    def _refresh(self) -> None:
        try:
            if self._files.renew is not None:
                self._files.renew()
            signature = self._signature()
            if signature != self._seen:
                self._seen = signature
                self._current = self._read()
                _log.info("the certificate %s was read again", self._files.certificate)
        except LaminaError as error:
            _log.warning("%s; the certificate that was read before stays in use", error)

    def _signature(self) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for path in filter(None, (self._files.certificate, self._files.key, self._files.client_ca)):
            try:
                status = os.stat(path)
            except OSError as error:
                raise failure(error, path) from None
            found.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        return found

    def _read(self) -> ssl.SSLContext:
        files = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(files.certificate, files.key or None, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            lacks = "it is not in PEM, or the key is encrypted"
            if not files.key:
                lacks = "without --tls-key it must have the key too, in PEM and not encrypted"
            reason = getattr(error, "reason", None) or lacks
            raise UsageError(f"{files.certificate} can't be used for TLS: {reason}", hint=_HINT) from None
        except OSError as error:
            raise failure(error, files.key or files.certificate) from None
        if files.client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL
            try:
                context.load_verify_locations(files.client_ca)
            except (ssl.SSLError, ValueError):
                raise UsageError(
                    f"{files.client_ca} has no certificates in PEM", hint="give the CA that signs those of clients"
                ) from None
            except OSError as error:
                raise failure(error, files.client_ca) from None
        return context


def _no_password() -> str:
    raise ValueError
