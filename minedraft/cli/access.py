"""How the commands call a server: with which token, and believing whose certificates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from minedraft.client import AsyncClient, Client
from minedraft.rpc.tokens import first_secret

# An address to listen on everywhere is none to call.
LOCAL: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Access:
    """See `minedraft.client` for what the parts mean. Plaintext without a token by default."""

    token: str = field(default="", repr=False)
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""

    def client(self, address: str) -> Client:
        """Raises SetupError for files that cannot be used, and for a token that others could read on its way."""
        return Client(address, token=self.token, ca=self.ca, cert=self.cert, key=self.key, server_name=self.server_name)

    def async_client(self, address: str) -> AsyncClient:
        """See `client`."""
        return AsyncClient(
            address, token=self.token, ca=self.ca, cert=self.cert, key=self.key, server_name=self.server_name
        )


@dataclass(frozen=True, slots=True)
class Protection:
    """What a coordinator that is started here wants of its clients, and how this process calls it then."""

    token_file: str = ""
    cert: str = ""
    key: str = ""
    client_ca: str = ""
    ca: str = ""  # that this process believes
    client_cert: str = ""  # that this process shows
    client_key: str = ""
    server_name: str = ""

    def __bool__(self) -> bool:
        return bool(self.token_file or self.cert)

    def flags(self) -> list[str]:
        """The coordinator's."""
        given = {
            "--token-file": self.token_file,
            "--tls-cert": self.cert,
            "--tls-key": self.key,
            "--tls-client-ca": self.client_ca,
        }
        return [part for flag, value in given.items() if value for part in (flag, value)]

    def door_flags(self) -> list[str]:
        """Those of an HTTP door that calls the coordinator from this machine, as `access` does."""
        given = {
            "--token-file": self.token_file,
            "--tls-ca": self.ca,
            "--tls-client-cert": self.client_cert,
            "--tls-client-key": self.client_key,
            "--tls-server-name": self.server_name,
        }
        return [part for flag, value in given.items() if value for part in (flag, value)]

    def access(self) -> Access:
        """Raises SetupError for a token file that cannot be used."""
        token = first_secret(Path(self.token_file)) if self.token_file else ""
        return Access(token, self.ca, self.client_cert, self.client_key, self.server_name)

    def client(self, address: str) -> Client:
        """To the coordinator at `address`, from this machine."""
        return self.access().client(called(address))


def called(address: str) -> str:
    """How a process of this machine calls what listens there."""
    host, _, port = address.rpartition(":")
    return f"{LOCAL.get(host, host)}:{port}"


NO_PROTECTION: Final = Protection()
