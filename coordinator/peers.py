"""The real ports: what a lane asks of a drafter and of a verifier, over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from coordinator.connection import Peer
from minedraft.config import CoordinatorSettings
from minedraft.rpc.convert import read_tokenizer, read_welcome
from minedraft.rpc.convert_steps import (
    read_draft_reply,
    read_verify_reply,
    write_draft_step,
    write_verify_step,
)
from minedraft.types import (
    DraftItem,
    DraftReply,
    ModelInfo,
    TokenizerFiles,
    VerifyItem,
    VerifyReply,
)
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2 as drafter
from minedraft.v1 import drafter_pb2_grpc as drafter_grpc
from minedraft.v1 import verifier_pb2 as verifier
from minedraft.v1 import verifier_pb2_grpc as verifier_grpc


@dataclass(slots=True)
class Served:
    """The target of all verifiers: what requests are checked against. Set once, by the first verifier that answers."""

    target: ModelInfo | None = None
    tokenizer: TokenizerFiles | None = None


class VerifyPeer(Peer[VerifyReply]):
    """A verifier, a `VerifyPort`. Used only while it serves the target that the server serves."""

    role = "verifier"
    _request = verifier.VerifyRequest
    _read_reply = staticmethod(read_verify_reply)
    _tokenizer: TokenizerFiles | None = None

    def __init__(self, address: str, settings: CoordinatorSettings, generations: Iterator[int], served: Served) -> None:
        super().__init__(address, settings, generations)
        self._served = served

    @property
    def refusal(self) -> str:
        target = self._served.target
        if target is None or self.info is None:
            return ""
        for name in ("tokenizer_fingerprint", "model_id", "vocab_size", "max_len", "eos_token_ids"):
            if getattr(self.info, name) != getattr(target, name):
                return f"it serves another {name} than {target.model_id}: restart the coordinator to serve a new model"
        return ""

    async def verify(self, lane: int, generation: int, items: Sequence[VerifyItem]) -> VerifyReply:
        seconds = self._settings.verify_timeout_seconds
        return await self._step(generation, lambda step: write_verify_step(step, lane, items), len(items), seconds)

    def _open(self, channel: grpc.aio.Channel) -> Any:
        return verifier_grpc.VerifierServiceStub(channel).Verify()

    def _results(self, reply: VerifyReply) -> Sequence[object]:
        return reply.verdicts

    def _welcome(self, message: Any) -> None:
        welcome = read_welcome(message.welcome) if message.WhichOneof("message") == "welcome" else None
        if welcome is not None and self._served.target is None and self._tokenizer is not None:
            self._served.target, self._served.tokenizer = welcome.model, self._tokenizer
        super()._welcome(message)

    async def _before_use(self, channel: grpc.aio.Channel) -> None:
        if self._served.target is None:
            stub = verifier_grpc.VerifierServiceStub(channel)
            self._tokenizer = read_tokenizer(await stub.GetTokenizer(verifier.GetTokenizerRequest()))


class DraftPeer(Peer[DraftReply]):
    """A drafter. Used only while its tokenizer is the target's; lanes use it as a `coordinator.line.DraftLine`."""

    role = "drafter"
    _request = drafter.DraftRequest
    _read_reply = staticmethod(read_draft_reply)

    def __init__(self, address: str, settings: CoordinatorSettings, generations: Iterator[int], served: Served) -> None:
        super().__init__(address, settings, generations)
        self._served = served
        self.relays: dict[str, VerifyPeer] = {}  # where payloads of an inline channel go, by channel id

    @property
    def refusal(self) -> str:
        draft, target = self.info, self._served.target
        if draft is None or target is None:
            return ""
        if draft.tokenizer_fingerprint not in ("", target.tokenizer_fingerprint):
            return f"the tokenizer of {draft.model_id} is not that of {target.model_id}: drafts would be other words"
        if draft.vocab_size > target.vocab_size:
            return f"{draft.model_id} has {draft.vocab_size} tokens, {target.model_id} only {target.vocab_size}"
        return ""

    async def draft(self, lane: int, generation: int, items: Sequence[DraftItem], channel_id: str) -> DraftReply:
        """As `DraftPort.draft`; dense laws go over the named channel, "" for none."""
        seconds = self._settings.draft_timeout_seconds
        return await self._step(
            generation, lambda step: write_draft_step(step, lane, items, channel_id), len(items), seconds
        )

    def _forward(self, chunk: common.PayloadChunk) -> None:
        verifier = self.relays.get(chunk.channel_id)
        if verifier is not None:  # else of a channel that is closed meanwhile
            verifier.relay(chunk)

    def _open(self, channel: grpc.aio.Channel) -> Any:
        return drafter_grpc.DrafterServiceStub(channel).Draft()

    def _results(self, reply: DraftReply) -> Sequence[object]:
        return reply.proposals
