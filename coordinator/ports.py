"""What a lane may ask of a drafter and of a verifier, and what there is of them. Lanes know these ports, never grpc.

Tests drive lanes with ports of their own. The real ones are in `coordinator.peers`, `coordinator.line` and
`coordinator.fleet`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from minedraft.generation import PeerInfo
from minedraft.types import DraftItem, DraftReply, ModelInfo, VerifyItem, VerifyReply


class Port(Protocol):
    """One connection to a model service, reopened for ever."""

    @property
    def address(self) -> str:
        """HOST:PORT of the service."""

    @property
    def generation(self) -> int:
        """Numbers connections, each of the server's with another number; 0 before the first.

        What was cached under another one is void.
        """

    @property
    def ready(self) -> bool:
        """Whether a step may be sent now: connected and compatible."""

    @property
    def info(self) -> ModelInfo | None:
        """The model behind the port, as of the newest connection; None before the first."""

    @property
    def free_blocks(self) -> int:
        """KV blocks that the service last reported free; 0 before the first connection."""

    def describe(self) -> PeerInfo:
        """What is known of the service, for people."""

    async def wait_ready(self) -> None:
        """Return once `ready`; immediately when it already is."""

    def release(self, generation: int, sequence_ids: Sequence[int]) -> None:
        """Free sequences in order with the steps around it. Nothing happens if the generation is over."""


class DraftPort(Port, Protocol):
    @property
    def estimates_chances(self) -> bool:
        """Whether the drafter leaves out drafts below `DraftItem.least_chance`."""

    async def draft(self, lane: int, generation: int, items: Sequence[DraftItem]) -> DraftReply:
        """One proposal for each item, in order.

        The step is queued before the first suspension, so steps and releases keep the order in which they were called.
        Raises PeerUnavailable when the connection is gone, is of another generation, or the step is late.
        """


class VerifyPort(Port, Protocol):
    async def verify(self, lane: int, generation: int, items: Sequence[VerifyItem]) -> VerifyReply:
        """One verdict for each item, in order. Queued and raising like `DraftPort.draft`."""


class Fleet(Protocol):
    """The services that are there."""

    @property
    def verifiers(self) -> Sequence[VerifyPort]:
        """Every verifier that is known, ready or not. The same object stands for it as long as it is."""

    def drafters(self, verifier: VerifyPort) -> Sequence[DraftPort]:
        """Every drafter that lanes of this verifier may be paired with now."""

    def use(self, drafters: Collection[DraftPort]) -> None:
        """Say which of them lanes are paired with."""

    def watch(self, hear: Callable[[], None]) -> None:
        """Have `hear` called whenever any of the above changes."""

    def describe_verifiers(self) -> tuple[PeerInfo, ...]:
        """What is known of each, for people."""

    def describe_drafters(self) -> tuple[PeerInfo, ...]:
        """What is known of each, for people; empty when none is wanted."""
