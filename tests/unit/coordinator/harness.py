"""A coordinator between toy services, and clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from coordinator.coordinator import Coordinator
from coordinator.ports import DraftPort, VerifyPort
from minedraft.config import CoordinatorSettings
from minedraft.generation import GenerateRequest, Output, PeerInfo, TokenIds
from minedraft.model.byte_tokenizer import byte_tokenizer
from minedraft.types import SamplingParams
from tests.unit.coordinator.fakes import FakeDrafter, FakeVerifier
from tests.unit.coordinator.toy import VOCAB, expected

TOKENIZER = byte_tokenizer(VOCAB)


class FakeFleet:
    """Toy services that tests let come and go: a `coordinator.ports.Fleet`."""

    def __init__(self, verifiers: Sequence[FakeVerifier], drafters: Sequence[FakeDrafter] = ()) -> None:
        self.verifiers = list(verifiers)
        self.drafting = list(drafters)
        self.used: list[set[DraftPort]] = []
        self._hear: list[Callable[[], None]] = []

    def drafters(self, verifier: VerifyPort) -> Sequence[FakeDrafter]:
        assert verifier in self.verifiers
        return list(self.drafting)

    def use(self, drafters: Collection[DraftPort]) -> None:
        self.used.append(set(drafters))

    def watch(self, hear: Callable[[], None]) -> None:
        self._hear.append(hear)

    def changed(self) -> None:
        for hear in self._hear:
            hear()

    def describe_verifiers(self) -> tuple[PeerInfo, ...]:
        return tuple(verifier.describe() for verifier in self.verifiers)

    def describe_drafters(self) -> tuple[PeerInfo, ...]:
        return tuple(drafter.describe() for drafter in self.drafting)


@asynccontextmanager
async def coordinating(
    verifier: FakeVerifier | FakeFleet, drafter: FakeDrafter | None = None, **settings: Any
) -> AsyncIterator[Coordinator]:
    """Running while the context is open. Afterwards nothing may be left anywhere. 2 lanes and K=4 unless told."""
    fleet = verifier if isinstance(verifier, FakeFleet) else FakeFleet([verifier], [drafter] if drafter else [])
    target = fleet.verifiers[0].info
    assert target is not None
    settings = {"lanes": 2, "draft_tokens": 4} | settings
    coordinator = Coordinator(CoordinatorSettings(**settings), fleet, target, TOKENIZER)
    services: list[FakeVerifier | FakeDrafter] = [*fleet.verifiers, *fleet.drafting]
    for service in services:
        service.start()
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
    for site in coordinator._admission.sites:
        assert site.reserved == {}
        assert all(members.load == 0 for members in site.lanes)


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
