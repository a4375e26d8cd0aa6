"""Where model services are: fixed addresses, and names whose every address is a replica."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from minedraft.errors import SetupError

DNS: Final = "dns:"
UNKNOWN: Final = frozenset(
    number for number in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)) if number is not None
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of `--verifier` or `--drafter`."""

    host: str
    port: int
    named: bool = False  # every address that `host` resolves to is a replica

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def read_targets(text: str, flag: str) -> tuple[Target, ...]:
    """`HOST:PORT` and `dns:NAME:PORT`, separated by commas. Raises SetupError, which names `flag`."""
    targets = []
    for entry in (part.strip() for part in text.split(",")):
        named = entry.startswith(DNS)
        host, colon, port = entry.removeprefix(DNS).removeprefix("//").rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise SetupError(f"{flag}: {entry!r} is neither HOST:PORT nor {DNS}NAME:PORT")
        targets.append(Target(host, int(port), named))
    return tuple(targets)


async def resolve(name: str, port: int) -> Sequence[str]:
    """All addresses of a name, `IP:PORT` or `[IP]:PORT`, sorted; none while the name is unknown.

    Raises OSError when the name service does not answer, which says nothing about the replicas.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in UNKNOWN:
            return []
        raise
    hosts = {str(address[0]) for *_, address in found}
    return sorted(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts)


async def addresses(targets: Sequence[Target], lookup: Resolve = resolve) -> list[str]:
    """Every replica's address, once each, in the order of the targets. Raises OSError like `resolve`."""
    found: dict[str, None] = {}
    for target in targets:
        found |= dict.fromkeys(await lookup(target.host, target.port) if target.named else [target.address])
    return list(found)
