"""Who may run, and in which lane: a bounded queue, room in the verifier's KV cache, and balance between the lanes."""

from __future__ import annotations

import asyncio
from collections import deque

from coordinator.request import Request
from minedraft.errors import Overloaded


class Members:
    """The requests of one lane. They join, leave and move only between rounds."""

    def __init__(self, lane: int) -> None:
        self.lane = lane
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


class Admission:
    """The queue and the lanes' members. All calls are made on the event loop."""

    def __init__(self, *, lanes: int, capacity: int, queue_size: int, num_blocks: int) -> None:
        """`capacity` is how many requests run at most, in all lanes together; lanes in use share it evenly.

        `num_blocks` is what the verifier has; each request reserves the most that it can come to need.
        """
        self.lanes = tuple(Members(lane) for lane in range(lanes))
        self._used = lanes
        self._capacity = capacity
        self._queue_size = queue_size
        self._free_blocks = num_blocks
        self._waiting: deque[Request] = deque()
        self._placed: dict[Request, Members] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._placed)

    def spread(self, lanes: int) -> None:
        """Use so many lanes from now on. Requests of the others move at the end of the round that they are in."""
        self._used = lanes

    @property
    def requests(self) -> list[Request]:
        """All that wait or run."""
        return [*self._waiting, *self._placed]

    def submit(self, request: Request) -> None:
        """Place a request or let it wait its turn. Raises Overloaded when the queue is full."""
        self._waiting.append(request)
        self._place()
        if len(self._waiting) > self._queue_size:
            self._waiting.pop()
            raise Overloaded(f"queue: {self._queue_size} requests are waiting already; try again later")

    def remove(self, request: Request) -> None:
        """A request is over. What it held goes to those that wait."""
        members = self._placed.pop(request, None)
        if members is None:
            if request in self._waiting:
                self._waiting.remove(request)
        else:
            members.leave(request)
            self._free_blocks += request.blocks
        self._place()

    async def at_boundary(self, members: Members) -> list[Request]:
        """A lane's requests for its next round; waits while there is none."""
        while True:
            members.active += members.arrivals
            members.arrivals = []
            self._rebalance(members)
            if members.active:
                members.rounds += 1
                return list(members.active)
            members.changed.clear()
            await members.changed.wait()

    def _place(self) -> None:
        """Move requests from the head of the queue into the lane with the least work, while there is room."""
        while self._waiting:
            request = self._waiting[0]
            members = min(self.lanes[: self._used], key=lambda lane: lane.load)
            if members.load * self._used >= self._capacity or request.blocks > self._free_blocks:
                return
            self._waiting.popleft()
            self._free_blocks -= request.blocks
            self._placed[request] = members
            members.join(request)

    def _rebalance(self, members: Members) -> None:
        """Hand the youngest requests of this lane to the smallest one while that has at least two fewer.

        A lane that is not in use hands over all.
        """
        used = self.lanes[: self._used]
        while members.active:
            smallest = min(used, key=lambda lane: lane.load)
            if members in used and members.load - smallest.load < 2:
                return
            request = members.active.pop()
            self._placed[request] = smallest
            smallest.join(request)
