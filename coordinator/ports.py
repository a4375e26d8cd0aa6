"""What a lane may ask of a drafter and of a verifier. The lane knows these ports, never grpc.

Tests drive lanes with ports of their own; `coordinator.peers` holds the real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from minedraft.generation import PeerInfo
from minedraft.types import DraftItem, DraftReply, ModelInfo, VerifyItem, VerifyReply


class Port(Protocol):
    """One connection to a model service, reopened for ever."""

    @property
    def generation(self) -> int:
        """Counts connections, from 1; 0 before the first. What another generation cached is void."""

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
    async def draft(self, lane: int, generation: int, items: Sequence[DraftItem]) -> DraftReply:
        """One proposal for each item, in order.

        The step is queued before the first suspension, so steps and releases keep the order in which they were called.
        Raises PeerUnavailable when the connection is gone, is of another generation, or the step is late.
        """


class VerifyPort(Port, Protocol):
    async def verify(self, lane: int, generation: int, items: Sequence[VerifyItem]) -> VerifyReply:
        """One verdict for each item, in order. Queued and raising like `DraftPort.draft`."""
