"""A drafter as the lanes of one verifier use it: its steps, and the tensor channel between the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from coordinator.peers import DraftPeer, VerifyPeer
from minedraft.errors import PeerUnavailable
from minedraft.generation import PeerInfo
from minedraft.types import ChannelKind, Dense, DraftItem, DraftReply, ModelInfo, TopM


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The tensor channel of a line at this moment."""

    channel_id: str = ""  # "" while none is open
    kind: ChannelKind | None = None
    note: str = ""  # why it is this one, or why there is none; "" while one is being opened
    generation: int = 0
    refusal: str = ""  # why the drafter must not be used: the channel that was asked for cannot work


NO_CHANNEL: Final = ChannelState()


class DraftLine:
    """A `DraftPort`. One for each pair of drafter and verifier."""

    def __init__(self, drafter: DraftPeer, verifier: VerifyPeer) -> None:
        self.drafter, self.verifier = drafter, verifier
        self.channel = NO_CHANNEL  # kept by `coordinator.channel`
        self.payloads = 0  # dense laws that went over the channel
        self.payloads_replaced = 0

    @property
    def address(self) -> str:
        return self.drafter.address

    @property
    def generation(self) -> int:
        return self.drafter.generation

    @property
    def ready(self) -> bool:
        return self.drafter.ready and not self.channel.refusal

    @property
    def fit(self) -> bool:
        """Whether lanes may be paired with it: a step that is late changes nothing."""
        return self.drafter.connected and not self.channel.refusal

    @property
    def estimates_chances(self) -> bool:
        welcome = self.drafter.welcome
        return welcome is not None and welcome.estimates_chances

    @property
    def info(self) -> ModelInfo | None:
        return self.drafter.info

    @property
    def free_blocks(self) -> int:
        return self.drafter.free_blocks

    def describe(self) -> PeerInfo:
        return describe(self.drafter, [self])

    async def wait_ready(self) -> None:
        await self.drafter.wait_ready()

    def release(self, generation: int, sequence_ids: Sequence[int]) -> None:
        self.drafter.release(generation, sequence_ids)

    async def draft(self, lane: int, generation: int, items: Sequence[DraftItem]) -> DraftReply:
        if self.channel.refusal:
            raise PeerUnavailable(self.channel.refusal)
        reply = await self.drafter.draft(lane, generation, items, self.channel.channel_id)
        self._count(reply)
        return reply

    def _count(self, reply: DraftReply) -> None:
        """Whether dense laws really go over the channel must be seen."""
        laws = [proposal.law for proposal in reply.proposals if proposal.token_ids]
        self.payloads += sum(isinstance(law, Dense) for law in laws)
        welcome = self.drafter.welcome
        if welcome is not None and welcome.payload_bytes_per_draft > 0:
            self.payloads_replaced += sum(isinstance(law, TopM) for law in laws)


def describe(drafter: DraftPeer, lines: Sequence[DraftLine]) -> PeerInfo:
    """What is known of a drafter and of its channels to all verifiers, for people."""
    info = drafter.describe()
    refusals = [line.channel.refusal for line in lines if line.channel.refusal]
    refusal = info.refusal or (refusals[0] if len(refusals) == len(lines) and refusals else "")
    kinds = sorted({line.channel.kind.value for line in lines if line.channel.kind})
    notes = dict.fromkeys(line.channel.note for line in lines if line.channel.note)
    return replace(
        info,
        connected=info.connected and not refusal,
        refusal=refusal,
        channel=", ".join(kinds),
        channel_note="; ".join(notes),
        channel_generation=sum(line.channel.generation for line in lines),
        payloads=sum(line.payloads for line in lines),
        payloads_replaced=sum(line.payloads_replaced for line in lines),
    )
