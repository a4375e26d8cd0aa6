"""The real ports: what a lane asks of a drafter and of a verifier, over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from coordinator.connection import Peer
from minedraft.config import CoordinatorSettings
from minedraft.errors import PeerUnavailable
from minedraft.rpc.convert import read_tokenizer
from minedraft.rpc.convert_steps import (
    read_draft_reply,
    read_verify_reply,
    write_draft_step,
    write_verify_step,
)
from minedraft.types import DraftItem, DraftReply, ModelInfo, TokenizerFiles, VerifyItem, VerifyReply
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


class DraftPeer(Peer[DraftReply]):
    """The drafter, a `DraftPort`. Used only while its tokenizer is the target's."""

    role = "drafter"
    _request = drafter.DraftRequest
    _read_reply = staticmethod(read_draft_reply)

    def __init__(self, address: str, settings: CoordinatorSettings, target: VerifyPeer) -> None:
        super().__init__(address, settings)
        self._target = target

    @property
    def refusal(self) -> str:
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
        return await self._step(generation, lambda step: write_draft_step(step, lane, items), len(items), seconds)

    def _open(self, channel: grpc.aio.Channel) -> Any:
        return drafter_grpc.DrafterServiceStub(channel).Draft()

    def _results(self, reply: DraftReply) -> Sequence[object]:
        return reply.proposals
