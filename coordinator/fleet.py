"""All model services that the coordinator knows: replicas that come and go, and the channels between them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Generic, TypeVar

import structlog

from coordinator.channel import ChannelKeeper
from coordinator.connection import Peer
from coordinator.discovery import Resolve, Target, addresses, read_targets, resolve
from coordinator.line import DraftLine, describe
from coordinator.peers import DraftPeer, Served, VerifyPeer
from coordinator.ports import DraftPort, VerifyPort
from minedraft.config import CoordinatorSettings
from minedraft.generation import PeerInfo

P = TypeVar("P", bound=Peer[Any])

NO_DRAFTER: Final = "none"
SOON_SECONDS: Final = 0.5  # after a connection was lost names are asked for again, a moment later


class Replicas(Generic[P]):
    """A peer for each address of one kind of service, made and dropped as addresses come and go."""

    def __init__(
        self, targets: Sequence[Target], make: Callable[[str], P], seconds: float, lookup: Resolve = resolve
    ) -> None:
        """Names are resolved again every `seconds`."""
        self.peers: dict[str, P] = {}
        self.on_change: list[Callable[[], None]] = []  # called when a replica comes, goes, or changes its state
        self._targets = targets
        self._make = make
        self._seconds = seconds
        self._lookup = lookup
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    async def start(self) -> None:
        if any(target.named for target in self._targets):
            self._task = asyncio.create_task(self._follow())
        else:
            await self._update()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(peer.stop() for peer in self.peers.values()))

    async def _follow(self) -> None:
        """Names say who is there. One who is connected stays until the connection ends, whatever they say."""
        while True:
            self._again.clear()
            try:
                await self._update()
            except OSError as error:
                self._log.warning("names cannot be resolved", reason=str(error))
            try:
                async with asyncio.timeout(self._seconds):
                    await self._again.wait()
                await asyncio.sleep(min(SOON_SECONDS, self._seconds))
            except TimeoutError:
                pass

    async def _update(self) -> None:
        """Have a peer for each address, and none for addresses that are gone. Raises OSError."""
        found = await addresses(self._targets, self._lookup)
        fresh = [address for address in found if address not in self.peers]
        gone = [address for address, peer in self.peers.items() if address not in found and not peer.linked]
        for address in fresh:
            peer = self.peers[address] = self._make(address)
            peer.on_change.append(self._changed)
            peer.start()
        dropped = [self.peers.pop(address) for address in gone]
        if fresh or gone:
            self._tell()
        await asyncio.gather(*(peer.stop() for peer in dropped))

    def _changed(self) -> None:
        if not all(peer.linked for peer in self.peers.values()):
            self._again.set()
        self._tell()

    def _tell(self) -> None:
        for hear in list(self.on_change):
            hear()


class Fleet:
    """The services of one server, a `coordinator.ports.Fleet`. All calls are made on the event loop."""

    def __init__(self, settings: CoordinatorSettings, lookup: Resolve = resolve) -> None:
        """Raises SetupError when the settings name no addresses."""
        self.served = Served()
        self._settings = settings
        generations = itertools.count(1)
        self._verifiers = Replicas(
            read_targets(settings.verifier, "--verifier"),
            lambda address: VerifyPeer(address, settings, generations, self.served),
            settings.discovery_seconds,
            lookup,
        )
        self._drafters = Replicas(
            () if settings.drafter == NO_DRAFTER else read_targets(settings.drafter, "--drafter"),
            lambda address: DraftPeer(address, settings, generations, self.served),
            settings.discovery_seconds,
            lookup,
        )
        self._lines: dict[tuple[DraftPeer, VerifyPeer], DraftLine] = {}
        self._keepers: dict[DraftLine, ChannelKeeper] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._first = asyncio.Event()

    async def start(self) -> None:
        self._verifiers.on_change.append(self._look)
        await asyncio.gather(self._verifiers.start(), self._drafters.start())

    async def stop(self) -> None:
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()), *self._stopping)
        await asyncio.gather(self._verifiers.stop(), self._drafters.stop())

    async def first_verifier(self) -> None:
        """Return once a verifier has said what it serves."""
        await self._first.wait()

    @property
    def verifiers(self) -> Sequence[VerifyPort]:
        return list(self._verifiers.peers.values())

    def drafters(self, verifier: VerifyPort) -> Sequence[DraftLine]:
        """Every drafter that lanes of this verifier may be paired with now."""
        if not isinstance(verifier, VerifyPeer):
            return []
        lines = [self._line(drafter, verifier) for drafter in self._drafters.peers.values()]
        return [line for line in lines if line.fit]

    def use(self, drafters: Collection[DraftPort]) -> None:
        """Lanes are paired with these now: they get a channel. Channels that are needed no more are closed."""
        known_drafters, known_verifiers = set(self._drafters.peers.values()), set(self._verifiers.peers.values())
        for pair in [pair for pair in self._lines if pair[0] not in known_drafters or pair[1] not in known_verifiers]:
            self._retire(self._lines.pop(pair))
        for line in self._lines.values():
            if line in drafters and line not in self._keepers:
                keeper = self._keepers[line] = ChannelKeeper(line, self._settings)
                keeper.start()
            elif line not in drafters and not line.channel.refusal and line.drafter.linked and line.verifier.linked:
                self._retire(line)

    def watch(self, hear: Callable[[], None]) -> None:
        """`hear` is called when a service comes, goes or changes its state."""
        for replicas in (self._verifiers, self._drafters):
            replicas.on_change.append(hear)

    def describe_verifiers(self) -> tuple[PeerInfo, ...]:
        return tuple(peer.describe() for peer in self._verifiers.peers.values())

    def describe_drafters(self) -> tuple[PeerInfo, ...]:
        return tuple(
            describe(drafter, [line for line in self._lines.values() if line.drafter is drafter])
            for drafter in self._drafters.peers.values()
        )

    def _line(self, drafter: DraftPeer, verifier: VerifyPeer) -> DraftLine:
        pair = (drafter, verifier)
        if pair not in self._lines:
            self._lines[pair] = DraftLine(drafter, verifier)
        return self._lines[pair]

    def _retire(self, line: DraftLine) -> None:
        keeper = self._keepers.pop(line, None)
        if keeper is not None:
            keeper.leave()
            task = asyncio.create_task(keeper.stop())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    def _look(self) -> None:
        if any(peer.ready for peer in self._verifiers.peers.values()):
            self._first.set()
