"""What each client may have running at once, and how often it may begin. Everything here runs on the event loop."""

from __future__ import annotations

import ipaddress
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from coordinator.rate import MINUTE_NS, Bucket
from minedraft.config import CoordinatorSettings
from minedraft.errors import Overloaded

IPV6_SITE: Final = 64  # bits that a provider gives to one customer
NS: Final = 1e9


@dataclass(slots=True)
class _Use:
    """One client's use. Mutated by `Clients` alone."""

    running: int
    bucket: Bucket


class Clients:
    """Counts requests by client. One that asked for nothing for a minute is forgotten: its bucket is full again."""

    def __init__(self, at_once: int = 0, per_minute: int = 0, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`at_once` and `per_minute` are 0 for no limit; `clock` counts nanoseconds."""
        self._at_once, self._per_minute, self._clock = at_once, per_minute, clock
        self._uses: dict[str, _Use] = {}
        self._swept_ns = clock()

    @classmethod
    def of(cls, settings: CoordinatorSettings) -> Clients:
        return cls(settings.max_requests_per_client, settings.requests_per_minute)

    def __len__(self) -> int:
        """How many clients are remembered."""
        return len(self._uses)

    @contextmanager
    def request(self, client: str) -> Iterator[None]:
        """Around one request of `client`. Raises Overloaded, which names the limit, on the way in."""
        use = self._begin(client)
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1

    def _begin(self, client: str) -> _Use:
        now = self._clock()
        if now - self._swept_ns >= MINUTE_NS:
            self._sweep(now)
        use = self._uses.get(client)
        if use is None:
            use = self._uses[client] = _Use(0, Bucket.full(self._per_minute, now))
        if self._at_once and use.running >= self._at_once:
            raise Overloaded(
                f"max_requests_per_client: {self._at_once} requests at once; try again when one of them has ended"
            )
        if self._per_minute:
            use.bucket, wait = use.bucket.take(self._per_minute, now)
            if wait:
                raise Overloaded(
                    f"requests_per_minute: {self._per_minute} requests a minute; try again in {wait / NS:.1f} s"
                )
        return use

    def _sweep(self, now: int) -> None:
        self._swept_ns = now
        self._uses = {
            client: use for client, use in self._uses.items() if use.running or use.bucket.at_ns > now - MINUTE_NS
        }


def client_at(peer: str) -> str:
    """The client behind gRPC's name for a connection: its address without the port; of IPv6 the /64 that it is in."""
    kind, _, place = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    host = urllib.parse.unquote(place).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_SITE), strict=False))
    return str(address)
