"""Certificates on both sides of a connection, and where a connection may do without.

A server asks for its files at every handshake, so a rotated certificate is served to the next connection. A client's
files are read when its channel is made. Certificates are checked by gRPC; here only whether the files fit together,
so that a wrong set-up is told at the start and not by every client.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import structlog

from minedraft.config import DialSettings, ServiceSettings
from minedraft.errors import SetupError
from minedraft.pem import check_pair, check_roots
from minedraft.watched import Version, readable, version_of, warn_if_others_read

Options: TypeAlias = Sequence[tuple[str, Any]]
SYSTEM: Final = "system"
LOCALHOST: Final = "localhost"
# A proxy in the environment would see what is meant to stay on this machine.
NO_PROXY: Final = (("grpc.enable_http_proxy", 0),)


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT can be reached from this machine alone. Names other than localhost count as reachable."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == LOCALHOST or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ServerCertificate:
    """A server's certificate and, with `client_ca`, the authorities of its clients. For any thread."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        """Raises SetupError for files that are missing, unreadable, or do not belong together."""
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._paths = [path for path in (cert, key, client_ca) if path is not None]
        self._lock = threading.Lock()  # guards `_version` and `_tried`
        self._version: Version | None = None  # of what is served
        self._tried: Version | None = None  # of what could not be served: told once
        self._first = self._read()
        warn_if_others_read("--tls-key", key)

    @classmethod
    def of(cls, settings: ServiceSettings) -> ServerCertificate | None:
        """None without TLS. Raises SetupError for half a set-up, too."""
        cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        if bool(cert) != bool(key):
            raise SetupError("--tls-cert and --tls-key: give both or none")
        if client_ca and not cert:
            raise SetupError("--tls-client-ca: needs --tls-cert and --tls-key")
        return cls(Path(cert), Path(key), Path(client_ca) if client_ca else None) if cert else None

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`. gRPC asks `_fetch` before every handshake, on a thread of its own."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._fetch,  # type: ignore[arg-type]  # the stubs do not know that None means no change
            require_client_authentication=self._client_ca is not None,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificate for the next connections; None when it is the one they would get anyway."""
        with self._lock:
            try:
                version = version_of(self._paths)
                if version in (self._version, self._tried):
                    return None
                self._tried = version  # a file in the midst of its replacement gets another version when it is whole
                renewed = self._read()
            except (SetupError, OSError) as error:
                reason = str(error) if isinstance(error, SetupError) else type(error).__name__
                structlog.get_logger().warning("certificate cannot be renewed; the old one holds", reason=reason)
                return None
            self._tried = None
        structlog.get_logger().info("certificate renewed", file=str(self._cert))
        return renewed

    def _read(self) -> grpc.ServerCertificateConfiguration:
        cert, key = readable("--tls-cert", self._cert), readable("--tls-key", self._key)
        roots = readable("--tls-client-ca", self._client_ca) if self._client_ca else None
        version = version_of(self._paths)
        check_pair("--tls-cert", self._cert, "--tls-key", self._key)
        if self._client_ca is not None:
            check_roots("--tls-client-ca", self._client_ca)
        if version_of(self._paths) != version or readable("--tls-key", self._key) != key:
            raise SetupError("--tls-cert: the files are being replaced")
        self._version = version
        return grpc.ssl_server_certificate_configuration([(key, cert)], roots)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How to call servers. Without `ca` there is no TLS."""

    ca: str = ""  # PEM file of the authorities to believe, or "system" for those that gRPC brings along
    cert: str = ""  # PEM file to show, for servers that want one
    key: str = ""
    server_name: str = ""  # that the server's certificate must carry; "": the host that was called

    @classmethod
    def of(cls, settings: DialSettings) -> ClientTls:
        return cls(settings.tls_ca, settings.tls_client_cert, settings.tls_client_key, settings.tls_server_name)

    @property
    def encrypts(self) -> bool:
        return bool(self.ca)

    def check(self) -> None:
        """Raises SetupError for half a set-up, and for files that are missing, unreadable or do not fit."""
        if bool(self.cert) != bool(self.key):
            raise SetupError("--tls-client-cert and --tls-client-key: give both or none")
        if (self.cert or self.server_name) and not self.ca:
            raise SetupError("--tls-ca: needed for TLS, a file or `system`")
        if self.encrypts:
            self._credentials()

    def aio_channel(self, address: str, options: Options) -> grpc.aio.Channel:
        """A channel for one event loop. Raises SetupError like `check`: the files are read anew for each."""
        self.check()
        if self.encrypts:
            return grpc.aio.secure_channel(address, self._credentials(), options=self._options(address, options))
        return grpc.aio.insecure_channel(address, options=self._options(address, options))

    def channel(self, address: str, options: Options) -> grpc.Channel:
        """The same for programs without an event loop."""
        self.check()
        if self.encrypts:
            return grpc.secure_channel(address, self._credentials(), options=self._options(address, options))
        return grpc.insecure_channel(address, options=self._options(address, options))

    def _options(self, address: str, options: Options) -> list[tuple[str, Any]]:
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return [*options, *named, *(NO_PROXY if is_loopback(address) else ())]

    def _credentials(self) -> grpc.ChannelCredentials:
        roots = cert = key = None
        if self.ca != SYSTEM:
            roots = readable("--tls-ca", Path(self.ca))
            check_roots("--tls-ca", Path(self.ca))
        if self.cert:
            cert = readable("--tls-client-cert", Path(self.cert))
            key = readable("--tls-client-key", Path(self.key))
            check_pair("--tls-client-cert", Path(self.cert), "--tls-client-key", Path(self.key))
        return grpc.ssl_channel_credentials(roots, key, cert)


def may_carry_token(address: str, tls: ClientTls) -> bool:
    """Whether a token sent there stays between the two: under TLS, or without leaving the machine."""
    return tls.encrypts or is_loopback(address)
