"""The door's own certificate: TLS 1.2 or later, and a renewed pair is served to the next connection."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Final

import structlog

from minedraft.config import HttpSettings
from minedraft.errors import SetupError
from minedraft.pem import check_pair
from minedraft.watched import Version, version_of, warn_if_others_read

LOOK_SECONDS: Final = 1.0


class DoorCertificate:
    """A certificate chain and its key, and the context that serves them. Used on the event loop."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises SetupError for files that are missing, unreadable, or do not belong together."""
        self._cert, self._key = cert, key
        check_pair("--tls-cert", cert, "--tls-key", key)
        warn_if_others_read("--tls-key", key)
        self._version: Version = version_of([cert, key])  # of what was tried last
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.load_cert_chain(cert, key)

    @classmethod
    def of(cls, settings: HttpSettings) -> DoorCertificate | None:
        """None without TLS. Raises SetupError for half a set-up, too."""
        if bool(settings.tls_cert) != bool(settings.tls_key):
            raise SetupError("--tls-cert and --tls-key: give both or none")
        return cls(Path(settings.tls_cert), Path(settings.tls_key)) if settings.tls_cert else None

    async def follow(self) -> None:
        """Renew whenever the files change, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.renew()

    def renew(self) -> None:
        """Serve the files as they are now. While they do not fit together the old pair holds, and the log says so."""
        try:
            version = version_of([self._cert, self._key])
            if version == self._version:
                return
            self._version = version
            check_pair("--tls-cert", self._cert, "--tls-key", self._key)  # first: a context half changed serves nobody
            self.context.load_cert_chain(self._cert, self._key)
        except (SetupError, OSError) as error:  # ssl.SSLError is an OSError
            reason = str(error) if isinstance(error, SetupError) else type(error).__name__
            structlog.get_logger().warning("certificate cannot be renewed; the old one holds", reason=reason)
        else:
            structlog.get_logger().info("certificate renewed", file=str(self._cert))
