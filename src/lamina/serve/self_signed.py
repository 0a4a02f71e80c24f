"""Certificates that the server makes itself: a CA, kept in a directory, and a certificate for given names."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lamina.errors import UsageError
from lamina.host.files import make_directory, replace_file, reported
from lamina.host.lock import locked

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_DAYS, DAYS, RENEW_DAYS = 3650, 397, 30
"""How long the CA and a certificate are valid (more than 398 days is refused by some clients), and how long before
its end a certificate is replaced."""
_NAME = re.compile(r"(?:\*\.)?(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(?:\.[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """Files in ``directory``, for ``names`` (host names and addresses). Several processes may share it."""

    directory: str
    names: tuple[str, ...]

    @property
    def ca(self) -> str:
        """The certificate that clients have to trust."""
        return os.path.join(self.directory, "ca.crt")

    @property
    def certificate(self) -> str:
        return os.path.join(self.directory, "server.crt")

    @property
    def key(self) -> str:
        return os.path.join(self.directory, "server.key")

    @property
    def _ca_key(self) -> str:
        return os.path.join(self.directory, "ca.key")

    def renew(self) -> None:
        """Make what is missing, has other names or ends soon. The CA stays as long as it is valid, so that clients
        trust the new certificate. Raises UsageError (a damaged file), SystemFailure."""
        if self._holds():
            return
        with reported(self.directory):
            os.makedirs(os.path.dirname(self.directory), mode=0o700, exist_ok=True)
            make_directory(self.directory)
            with locked(os.path.join(self.directory, "lock")):
                if not self._holds():
                    self._make()

    def _holds(self) -> bool:
        """Whether the certificate is there with its key, for these names, signed by the CA that is there, and valid
        for long. After a kill while they were made they may not belong together."""
        found, ca = _read(self.certificate), _read(self.ca)
        if found is None or ca is None:
            return False
        return (
            _belong(self.key, found)
            and _days_left(found) > RENEW_DAYS
            and _is_signed_by(found, ca)
            and sorted(_names_of(found)) == sorted(map(_normal, self.names))
        )

    def _make(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        ca, ca_key = _read(self.ca), _read_key(self._ca_key)
        if ca is None or ca_key is None or not _belong(self._ca_key, ca) or _days_left(ca) <= DAYS:
            ca_key = ec.generate_private_key(ec.SECP256R1())
            ca = _new_ca(ca_key)
            self._write(self._ca_key, _pem_of(ca_key), 0o600)
            self._write(self.ca, _pem(ca), 0o644)
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(self.key, _pem_of(key), 0o600)
        self._write(self.certificate, _pem(_new_certificate(key, self.names, ca, ca_key)), 0o644)

    @staticmethod
    def _write(path: str, data: bytes, mode: int) -> None:
        replace_file(path, [data], mode=mode)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check host names and addresses for a certificate. Raises UsageError."""
    for name in names:
        if _address(name) is None and (len(name) > 253 or not _NAME.fullmatch(name)):
            raise UsageError(
                f"{name!r:.100} is not a host name or an address", hint="give names without a port: registry.lan"
            )
    if not names:
        raise UsageError(
            "no names for the certificate", hint="give the names that clients use: registry.lan,10.0.0.5"
        )
    return tuple(dict.fromkeys(names))


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _normal(name: str) -> str:
    address = _address(name)
    return name if address is None else str(address)


def _new_ca(key: EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    # the number in the name tells two CAs of one host apart
    number = x509.random_serial_number()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"lamina registry CA {number % 10**8:08}")])
    return (
        _builder(subject, subject, CA_DAYS, number)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _new_certificate(
    key: EllipticCurvePrivateKey, names: Sequence[str], ca: x509.Certificate, ca_key: EllipticCurvePrivateKey
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    alternatives: list[x509.GeneralName] = []
    for name in names:
        address = _address(name)
        alternatives.append(x509.DNSName(name) if address is None else x509.IPAddress(address))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    return (
        _builder(subject, ca.subject, DAYS, x509.random_serial_number())
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name, days: int, number: int) -> x509.CertificateBuilder:
    from cryptography import x509

    begin = datetime.now(UTC) - timedelta(minutes=5)  # clocks of clients may be behind
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(number)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _read(path: str) -> x509.Certificate | None:
    """A certificate; None if there is none. Raises UsageError, OSError."""
    from cryptography import x509

    try:
        with open(path, "rb") as file:
            raw = file.read(1 << 20)
    except FileNotFoundError:
        return None
    try:
        return x509.load_pem_x509_certificate(raw)
    except ValueError:
        raise UsageError(f"{path} is not a certificate", hint="remove it: the server makes a new one") from None


def _read_key(path: str) -> EllipticCurvePrivateKey | None:
    """A key; None if there is none, or another kind. Raises OSError."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with open(path, "rb") as file:
            key = load_pem_private_key(file.read(1 << 20), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _belong(key: str, certificate: x509.Certificate) -> bool:
    """Whether the key in a file is that of a certificate."""
    found = _read_key(key)
    return found is not None and found.public_key() == certificate.public_key()


def _is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names_of(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


def _days_left(certificate: x509.Certificate) -> float:
    return (certificate.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _pem_of(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
