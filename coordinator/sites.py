"""The verifiers in use, and the drafters that their lanes are paired with: kept in step with the fleet."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator

import structlog

from coordinator import lane
from coordinator.admission import Admission
from coordinator.lane import Rounds
from coordinator.pairing import pair
from coordinator.ports import DraftPort, Fleet, VerifyPort
from coordinator.site import Members, Site


class Sites:
    """Opens and closes the lanes of verifiers as they come and go, and pairs lanes with drafters. On one event loop."""

    def __init__(self, fleet: Fleet, admission: Admission, rounds: Callable[[Site], Rounds], lanes: int, capacity: int):
        """Each verifier gets so many lanes, in which `capacity` requests run at most. `rounds` is what they share."""
        self._fleet = fleet
        self._admission = admission
        self._rounds = rounds
        self._lanes, self._capacity = lanes, capacity
        self._numbers = itertools.count(0, lanes)
        self._running: dict[VerifyPort, tuple[Site, Rounds]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the lanes
        self._awaiting: dict[Site, asyncio.Task[None]] = {}
        self._log = structlog.get_logger()

    def start(self) -> None:
        self._fleet.watch(self._look)
        self._look()

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._awaiting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __iter__(self) -> Iterator[tuple[Site, Rounds]]:
        return iter(list(self._running.values()))

    def _look(self) -> None:
        """Follow the fleet, pair the lanes, and place who waits."""
        verifiers = self._fleet.verifiers
        for verifier in [verifier for verifier in self._running if verifier not in verifiers]:
            site, _ = self._running.pop(verifier)
            self._awaiting.pop(site).cancel()
            self._admission.close(site)
        for verifier in verifiers:
            if verifier not in self._running:
                self._open(verifier)
        self._pair()
        for site, _ in self:
            if not site.ready:
                site.wake()  # its requests go elsewhere, if there is a place
        self._admission.place()

    def _open(self, verifier: VerifyPort) -> None:
        site = Site(verifier, next(self._numbers), self._lanes, self._capacity)
        rounds = self._rounds(site)
        self._running[verifier] = site, rounds
        self._admission.open(site)
        for members in site.lanes:
            task = asyncio.create_task(lane.run(members, rounds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._awaiting[site] = asyncio.create_task(self._await(site))

    async def _await(self, site: Site) -> None:
        """Place who waits whenever a verifier that was missed takes steps again."""
        while True:
            await site.missed.wait()
            await site.verifier.wait_ready()
            site.missed.clear()
            self._admission.place()

    def _pair(self) -> None:
        """Lanes that are likely in use come first, so that drafters share those evenly."""
        by_place = sorted(
            (members for site, _ in self for members in site.lanes),
            key=lambda members: members.lane - members.site.lanes[0].lane,
        )
        fitting = {site: list(self._fleet.drafters(site.verifier)) for site, _ in self}
        names = {port: _name(port) for ports in fitting.values() for port in ports}
        drafters = list(dict.fromkeys(names.values()))
        of = {(site, names[port]): port for site, ports in fitting.items() for port in ports}
        before = {members: _name(members.drafter) for members in by_place if members.drafter is not None}
        paired = pair(by_place, drafters, before, lambda members, drafter: (members.site, drafter) in of)
        for members in by_place:
            drafter = of[members.site, paired[members]] if members in paired else None
            if drafter is not members.drafter:
                self._tell(members, drafter)
                members.drafter = drafter
        self._fleet.use({members.drafter for members in by_place if members.drafter is not None})

    def _tell(self, members: Members, drafter: DraftPort | None) -> None:
        self._log.info("lane paired", lane=members.lane, drafter=_name(drafter) if drafter else None)


def _name(drafter: DraftPort) -> str:
    return drafter.describe().address
