"""The real ports: what a lane asks of a drafter and of a verifier, over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc

from coordinator.connection import Peer
from minedraft.config import CoordinatorSettings
from minedraft.errors import PeerUnavailable
from minedraft.generation import PeerInfo
from minedraft.rpc.convert import read_tokenizer
from minedraft.rpc.convert_steps import (
    read_draft_reply,
    read_verify_reply,
    write_draft_step,
    write_verify_step,
)
from minedraft.types import (
    ChannelKind,
    Dense,
    DraftItem,
    DraftReply,
    ModelInfo,
    TokenizerFiles,
    TopM,
    VerifyItem,
    VerifyReply,
)
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2 as drafter
from minedraft.v1 import drafter_pb2_grpc as drafter_grpc
from minedraft.v1 import verifier_pb2 as verifier
from minedraft.v1 import verifier_pb2_grpc as verifier_grpc


class VerifyPeer(Peer[VerifyReply]):
    """The verifier, a `VerifyPort`."""

    role = "verifier"
    _request = verifier.VerifyRequest
    _read_reply = staticmethod(read_verify_reply)

    def __init__(self, address: str, settings: CoordinatorSettings) -> None:
        super().__init__(address, settings)
        self._tokenizer: TokenizerFiles | None = None
        self._served: ModelInfo | None = None  # of the first connection: what requests were checked against

    @property
    def tokenizer(self) -> TokenizerFiles:
        """The target's tokenizer, as of the first connection. Raises PeerUnavailable before it."""
        if self._tokenizer is None:
            raise PeerUnavailable(f"no verifier has been seen yet at {self.address}")
        return self._tokenizer

    @property
    def refusal(self) -> str:
        if self._served is None or self.info is None:
            return ""
        for name in ("tokenizer_fingerprint", "model_id", "vocab_size", "max_len", "eos_token_ids"):
            if getattr(self.info, name) != getattr(self._served, name):
                return f"the verifier came back with another {name}: restart the coordinator to serve the new model"
        return ""

    async def verify(self, lane: int, generation: int, items: Sequence[VerifyItem]) -> VerifyReply:
        seconds = self._settings.verify_timeout_seconds
        return await self._step(generation, lambda step: write_verify_step(step, lane, items), len(items), seconds)

    def _open(self, channel: grpc.aio.Channel) -> Any:
        return verifier_grpc.VerifierServiceStub(channel).Verify()

    def _results(self, reply: VerifyReply) -> Sequence[object]:
        return reply.verdicts

    def _welcome(self, message: Any) -> None:
        super()._welcome(message)
        self._served = self._served or self.info

    async def _before_use(self, channel: grpc.aio.Channel) -> None:
        if self._served is None:
            stub = verifier_grpc.VerifierServiceStub(channel)
            self._tokenizer = read_tokenizer(await stub.GetTokenizer(verifier.GetTokenizerRequest()))


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The tensor channel to the verifier at this moment."""

    channel_id: str = ""  # "" while none is open
    kind: ChannelKind | None = None
    note: str = ""  # why it is this one, or why there is none; "" while one is being opened
    generation: int = 0
    refusal: str = ""  # why the drafter must not be used: the channel that was asked for cannot work


NO_CHANNEL: Final = ChannelState()


class DraftPeer(Peer[DraftReply]):
    """The drafter, a `DraftPort`. Used only while its tokenizer is the target's."""

    role = "drafter"
    _request = drafter.DraftRequest
    _read_reply = staticmethod(read_draft_reply)

    def __init__(self, address: str, settings: CoordinatorSettings, target: VerifyPeer) -> None:
        super().__init__(address, settings)
        self._target = target
        self.channel = NO_CHANNEL  # to the verifier; kept by `coordinator.channel`
        self._payloads = 0
        self._replaced = 0

    @property
    def refusal(self) -> str:
        if self.channel.refusal:
            return self.channel.refusal
        draft, target = self.info, self._target.info
        if draft is None or target is None:
            return ""
        if draft.tokenizer_fingerprint not in ("", target.tokenizer_fingerprint):
            return f"the tokenizer of {draft.model_id} is not that of {target.model_id}: drafts would be other words"
        if draft.vocab_size > target.vocab_size:
            return f"{draft.model_id} has {draft.vocab_size} tokens, {target.model_id} only {target.vocab_size}"
        return ""

    async def draft(self, lane: int, generation: int, items: Sequence[DraftItem]) -> DraftReply:
        seconds = self._settings.draft_timeout_seconds
        channel_id = self.channel.channel_id
        reply = await self._step(
            generation, lambda step: write_draft_step(step, lane, items, channel_id), len(items), seconds
        )
        self._count(reply)
        return reply

    def describe(self) -> PeerInfo:
        channel = self.channel
        return replace(
            super().describe(),
            channel=channel.kind.value if channel.kind else "",
            channel_note=channel.note,
            channel_generation=channel.generation,
            payloads=self._payloads,
            payloads_replaced=self._replaced,
        )

    def _count(self, reply: DraftReply) -> None:
        """Whether dense laws really go over the channel must be seen."""
        laws = [proposal.law for proposal in reply.proposals if proposal.token_ids]
        self._payloads += sum(isinstance(law, Dense) for law in laws)
        if self.welcome is not None and self.welcome.payload_bytes_per_draft > 0:
            self._replaced += sum(isinstance(law, TopM) for law in laws)

    def _forward(self, chunk: common.PayloadChunk) -> None:
        self._target.relay(chunk)

    def _open(self, channel: grpc.aio.Channel) -> Any:
        return drafter_grpc.DrafterServiceStub(channel).Draft()

    def _results(self, reply: DraftReply) -> Sequence[object]:
        return reply.proposals
