"""Tokens a second of real lanes before services that take given times, on a clock that jumps.

The services are those of tests/unit/coordinator/timed.py; the coordinator's own work takes no virtual time.
"""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.chooser import Chooser
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.timed import ClosedLoop, Devices

ENDLESS = 1 << 40


def emitted(chance: float, drafts: int) -> float:
    """Tokens of a round by mean when each draft is kept with `chance`: E(K)."""
    return (1 - chance ** (drafts + 1)) / (1 - chance)


def rate(devices: Devices, chance: float, *, lanes: int, requests: int, drafts: int, rounds: int = 1000) -> float:
    """Tokens a second. `rounds` of each request are measured, after a twentieth of them."""

    async def main() -> float:
        chooser = Chooser([lanes], [drafts])
        loop = ClosedLoop(devices, lambda _: chance, chooser, lanes=lanes, length=lambda _: ENDLESS)
        async with loop:
            loop.load(requests)
            tokens = rounds * requests * emitted(chance, drafts)
            early, begin = await loop.until(int(0.05 * tokens))
            late, end = await loop.until(int(1.05 * tokens))
        return (late - early) / (end - begin)

    return virtual_time.run(main())


def best(
    devices: Devices, chance: float, drafts: Iterable[int], *, lanes: int, requests: int, rounds: int = 1000
) -> tuple[float, int]:
    """Tokens a second with the best K, and that K."""
    return max(
        (rate(devices, chance, lanes=lanes, requests=requests, drafts=count, rounds=rounds), count) for count in drafts
    )


def by_theory(devices: Devices, chance: float, *, lanes: int, requests: int, drafts: int) -> float:
    """Tokens a second when verifications are max(V, t, (t + V + rtt) / D) apart, rtt the trips to both services."""
    size = requests // lanes
    draft = devices.draft(size, drafts, size * drafts, size)  # t; what is fed besides does not matter to these laws
    verify = devices.verify(size, size * (drafts + 1))
    apart = max(verify, draft, (draft + verify + 2 * devices.round_trip) / lanes)
    return size * emitted(chance, drafts) / apart
