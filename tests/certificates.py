"""Certificates for tests, made on the spot: an authority, what it signs, and files of both."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
ADDRESSES = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key, as settings want them."""

    cert: Path
    key: Path
    serial: int

    def server(self, client_ca: Path | None = None) -> dict[str, str]:
        """Settings of a service that shows this certificate."""
        shown = {"tls_cert": str(self.cert), "tls_key": str(self.key)}
        return shown | ({"tls_client_ca": str(client_ca)} if client_ca else {})

    def caller(self, ca: Path) -> dict[str, str]:
        """Settings of a process that calls others."""
        return {"tls_ca": str(ca), "tls_client_cert": str(self.cert), "tls_client_key": str(self.key)}

    def client(self, ca: Path) -> dict[str, str]:
        """Options of a Python client."""
        return {"ca": str(ca), "cert": str(self.cert), "key": str(self.key)}


class Authority:
    """Signs certificates and writes them into a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key(), timedelta(days=2))
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self._cert = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._cert.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        lifetime: timedelta = DAY,
        hosts: tuple[str, ...] = ("localhost",),
        addresses: tuple[str, ...] = ADDRESSES,
        password: bytes = b"",
    ) -> Pair:
        """A pair in NAME.pem and NAME.key. A negative lifetime is over already."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(host) for host in hosts]
        places = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        builder = _builder(subject, self._name, key.public_key(), lifetime)
        cert = builder.add_extension(x509.SubjectAlternativeName([*names, *places]), critical=False).sign(
            self._key, SHA256()
        )
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key", cert.serial_number)
        encryption: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
        pair.cert.write_bytes(cert.public_bytes(Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return pair


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * DAY)
        .not_valid_after(now + lifetime)
    )
