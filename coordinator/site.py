"""A verifier in use: its lanes, and the room in its KV cache."""

from __future__ import annotations

import asyncio

from coordinator.ports import DraftPort, VerifyPort
from coordinator.request import Request


class Members:
    """The requests of one lane. They join, leave and move only between rounds."""

    def __init__(self, lane: int, site: Site) -> None:
        self.lane = lane
        self.site = site
        self.drafter: DraftPort | None = None  # set by the coordinator's pairing, read at the start of a round
        self.rounds = 0
        self.active: list[Request] = []  # in the order of arrival
        self.arrivals: list[Request] = []
        self.changed = asyncio.Event()

    @property
    def load(self) -> int:
        return len(self.active) + len(self.arrivals)

    def join(self, request: Request) -> None:
        self.arrivals.append(request)
        self.changed.set()

    def leave(self, request: Request) -> None:
        for requests in (self.active, self.arrivals):
            if request in requests:
                requests.remove(request)


class Site:
    """The lanes of one verifier. Changed by admission and, where said, by the lanes' rounds."""

    def __init__(self, verifier: VerifyPort, first_lane: int, lanes: int, capacity: int) -> None:
        """`capacity` is how many requests run at most, in all lanes together; lanes in use share it evenly.

        Lanes are numbered from `first_lane` on, so that no two of the server have the same number.
        """
        self.verifier = verifier
        self.lanes = tuple(Members(first_lane + number, self) for number in range(lanes))
        self.reserved: dict[Request, int] = {}  # KV blocks that each request may come to need
        self.missed = asyncio.Event()  # set when a request would have come here, had the verifier been ready
        self.closed = False
        self._used = lanes
        self._capacity = capacity

    @property
    def ready(self) -> bool:
        return not self.closed and self.verifier.ready

    @property
    def running(self) -> int:
        return len(self.reserved)

    @property
    def vacant(self) -> int:
        """Requests that there are places for."""
        return self._capacity - self.running

    @property
    def free_blocks(self) -> int:
        """KV blocks that nobody here has reserved."""
        info = self.verifier.info
        return (info.num_blocks if info else 0) - sum(self.reserved.values())

    def spread(self, lanes: int) -> None:
        """Use so many lanes from now on. Requests of the others move at the end of the round that they are in."""
        self._used = lanes

    def uses(self, members: Members) -> bool:
        return members in self.lanes[: self._used]

    def smallest(self) -> Members:
        """The lane in use with the fewest requests."""
        return min(self.lanes[: self._used], key=lambda members: members.load)

    def blocks(self, request: Request) -> int:
        """KV blocks that a request may come to need. Drafts need none of their own: they never outnumber the tokens
        still to come."""
        info = self.verifier.info
        return -(-request.longest // info.block_size) if info else 0

    def has_room(self, request: Request, members: Members) -> bool:
        return members.load * self._used < self._capacity and self.blocks(request) <= self.free_blocks

    def wake(self) -> None:
        """Have idle lanes look again."""
        for members in self.lanes:
            members.changed.set()
