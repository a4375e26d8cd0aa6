"""A coordinator between toy services, and clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from coordinator.coordinator import Coordinator
from minedraft.config import CoordinatorSettings
from minedraft.generation import GenerateRequest, Output, TokenIds
from minedraft.model.byte_tokenizer import byte_tokenizer
from minedraft.types import SamplingParams
from tests.unit.coordinator.fakes import FakeDrafter, FakeVerifier
from tests.unit.coordinator.toy import VOCAB, expected

TOKENIZER = byte_tokenizer(VOCAB)


@asynccontextmanager
async def coordinating(
    verifier: FakeVerifier, drafter: FakeDrafter | None = None, **settings: Any
) -> AsyncIterator[Coordinator]:
    """Running while the context is open. Afterwards nothing may be left anywhere. 2 lanes and K=4 unless told."""
    assert verifier.info is not None
    settings = {"lanes": 2, "draft_tokens": 4} | settings
    coordinator = Coordinator(CoordinatorSettings(**settings), drafter, verifier, verifier.info, TOKENIZER)
    services = [service for service in (verifier, drafter) if service is not None]
    for service in services:
        service.start()
    free_blocks = coordinator._admission._free_blocks
    coordinator.start()
    try:
        yield coordinator
    finally:
        await coordinator.drain(0)
        for service in services:
            await service.settled()
        await coordinator.stop()
        for service in services:
            await service.stop()
    for service in services:
        assert service.faults == []
        assert service.sequences == {}
    assert coordinator._admission.requests == []
    assert coordinator._admission._free_blocks == free_blocks
    assert all(members.load == 0 for members in coordinator._admission.lanes)


def asking(
    prompt: Sequence[int], max_new_tokens: int = 24, *, max_draft_tokens: int | None = None, **sampling: Any
) -> GenerateRequest:
    return GenerateRequest(
        TokenIds(tuple(prompt)),
        SamplingParams(temperature=0, max_new_tokens=max_new_tokens, **sampling),
        max_draft_tokens=max_draft_tokens,
    )


async def complete(coordinator: Coordinator, request: GenerateRequest, seconds: float | None = None) -> Output:
    """The whole output as one piece."""
    pieces: list[Output] = []
    async with coordinator.running(request, seconds) as sink:
        last = False
        while not last:
            piece, last = await sink.take()
            pieces += [piece] if piece is not None else []
    return Output.merged(pieces)


def check(output: Output, request: GenerateRequest, max_len: int = 512) -> None:
    """The output is exactly what the target would have said by itself."""
    assert isinstance(request.prompt, TokenIds)
    prompt = request.prompt.ids
    assert (output.token_ids, output.text, output.finish_reason) == expected(prompt, request.sampling, max_len)
    assert output.usage is not None
    assert (output.usage.prompt_tokens, output.usage.completion_tokens) == (len(prompt), len(output.token_ids))
    if request.sampling.logprobs is not None:
        assert tuple(entry.token_id for entry in output.logprobs) == output.token_ids
