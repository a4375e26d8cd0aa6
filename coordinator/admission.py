"""Who may run, and in which lane: a bounded queue, room in the verifiers' KV caches, and balance between lanes."""

from __future__ import annotations

from collections import deque
from typing import Final

from coordinator.request import Request
from coordinator.site import Members, Site
from minedraft.errors import Overloaded

UNEVEN: Final = 2  # requests by which lanes of one verifier may not differ
FAR: Final = 3  # the same for lanes of different verifiers: who moves there is prefilled again


class Admission:
    """The queue, and who is in which lane. All calls are made on the event loop."""

    def __init__(self, *, queue_size: int) -> None:
        self.sites: list[Site] = []
        self._queue_size = queue_size
        self._returning: deque[Request] = deque()  # ran already, where no verifier is any more; ahead of the others
        self._waiting: deque[Request] = deque()
        self._placed: dict[Request, Members] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._returning)

    @property
    def requests(self) -> list[Request]:
        """All that wait or run."""
        return [*self._returning, *self._waiting, *self._placed]

    def open(self, site: Site) -> None:
        """A verifier's lanes may be used."""
        self.sites.append(site)
        self.place()

    def close(self, site: Site) -> None:
        """A verifier is gone for good. Its lanes end, and their requests run elsewhere."""
        self.sites.remove(site)
        site.closed = True
        site.wake()

    def submit(self, request: Request) -> None:
        """Place a request or let it wait its turn. Raises Overloaded when the queue is full."""
        self._waiting.append(request)
        self.place()
        absent = sum(site.vacant for site in self.sites if not site.ready)  # they will run when their verifier is back
        if len(self._waiting) > self._queue_size + absent:
            self._waiting.pop()
            raise Overloaded(f"queue: {self._queue_size} requests are waiting already; try again later")

    def remove(self, request: Request) -> None:
        """A request is over. What it held goes to those that wait."""
        members = self._placed.pop(request, None)
        if members is not None:
            members.leave(request)
            members.site.reserved.pop(request)
        for queue in (self._returning, self._waiting):
            if request in queue:
                queue.remove(request)
        self.place()

    async def at_boundary(self, members: Members) -> list[Request]:
        """A lane's requests for its next round; waits while there is none. Empty when the lane is to end.

        Requests leave a lane here only: when another one has fewer, and when its verifier takes no steps now.
        """
        while True:
            members.active += members.arrivals
            members.arrivals = []
            if members.site.ready:
                self._rebalance(members)
            else:
                self._give_back(members)
            if members.active:
                members.rounds += 1
                return list(members.active)
            if members.site.closed:
                return []
            members.changed.clear()
            await members.changed.wait()

    def place(self) -> None:
        """Move requests from the head of the queue into the lanes with the least work, while there is room."""
        for queue in (self._returning, self._waiting):
            while queue:
                members = self._roomiest(queue[0])
                if members is None:
                    return
                self._join(queue.popleft(), members)

    def _roomiest(self, request: Request) -> Members | None:
        """The lane with the least work that can take a request. Verifiers that take no steps now are told of it."""
        found: list[Members] = []
        for site in self.sites:
            members = site.smallest()
            if not site.ready:
                site.missed.set()
            elif site.has_room(request, members):
                found.append(members)
        return min(found, key=lambda members: (members.load, members.site.running), default=None)

    def _join(self, request: Request, members: Members) -> None:
        members.site.reserved[request] = members.site.blocks(request)
        self._placed[request] = members
        members.join(request)

    def _move(self, request: Request, members: Members) -> None:
        former = self._placed[request]
        former.leave(request)
        former.site.reserved.pop(request)
        self._join(request, members)

    def _give_back(self, members: Members) -> None:
        """A lane without a verifier: its requests go to the head of the queue, the oldest first."""
        for request in reversed(members.active):
            self._placed.pop(request)
            members.site.reserved.pop(request)
            self._returning.appendleft(request)
        if members.active:
            members.active = []
            self.place()

    def _rebalance(self, members: Members) -> None:
        """Hand the youngest requests over while another lane has clearly fewer. A lane out of use hands over all."""
        while members.active:
            site, request = members.site, members.active[-1]
            smallest = site.smallest()
            if not site.uses(members) or members.load - smallest.load >= UNEVEN:
                self._move(request, smallest)
                continue
            far = self._roomiest(request)
            if far is None or far.site is site or members.load - far.load < FAR:
                return
            self._move(request, far)
