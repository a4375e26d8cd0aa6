"""Lanes between toy services: whatever happens to the services, every request says what the target would have said."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from coordinator.coordinator import Coordinator
from minedraft.errors import InternalError
from minedraft.generation import FinishReason, GenerateRequest, Output
from minedraft.types import DraftItem, ItemStatus, Proposal, Verdict, VerifyItem
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.fakes import FakeDrafter, FakeVerifier, Trouble
from tests.unit.coordinator.harness import asking, check, complete, coordinating

REQUESTS = [asking([40 + i, 50, 60 + i % 3] + [70] * (i * 7 % 23), 20 + i, ignore_eos=bool(i % 2)) for i in range(7)]


async def all_of(coordinator: Coordinator, requests: list[GenerateRequest]) -> list[Output]:
    return await asyncio.gather(*(complete(coordinator, request) for request in requests))


def served(
    verifier: FakeVerifier,
    drafter: FakeDrafter | None,
    requests: list[GenerateRequest] = REQUESTS,
    **settings: Any,
) -> list[Output]:
    """Serve requests and check every output."""

    async def main() -> list[Output]:
        async with coordinating(verifier, drafter, **settings) as coordinator:
            return await all_of(coordinator, requests)

    outputs = virtual_time.run(main())
    for output, request in zip(outputs, requests, strict=True):
        check(output, request, verifier.max_len)
    return outputs


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("drafts", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("chunk", [1, 5, 512])
def test_output_is_the_targets_own(lanes: int, drafts: int, chunk: int) -> None:
    drafter = FakeDrafter()
    outputs = served(
        FakeVerifier(), drafter, lanes=lanes, draft_tokens=drafts, prefill_chunk=chunk, lane_size=3, queue_size=9
    )
    accepted = sum(output.speculation.accepted_tokens for output in outputs if output.speculation)
    assert (accepted > 0) == (drafts > 0)
    assert bool(drafter.steps) == (drafts > 0)


@pytest.mark.parametrize("trouble", ["die_before", "die_after", "forget", "no_space", "late"])
@pytest.mark.parametrize("at", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("who", ["drafter", "verifier"])
def test_trouble_costs_no_token(who: str, trouble: Trouble, at: int) -> None:
    script: Mapping[int, Trouble] = {at: trouble, at + 3: trouble}
    verifier = FakeVerifier(trouble=script if who == "verifier" else {})
    drafter = FakeDrafter(trouble=script if who == "drafter" else {})
    served(verifier, drafter, lanes=2, draft_tokens=3, prefill_chunk=9)
    assert (verifier if who == "verifier" else drafter).started > at + 3


def test_without_a_drafter_there_is_plain_decoding() -> None:
    outputs = served(FakeVerifier(), None, draft_tokens=4)
    assert all(output.speculation and output.speculation.draft_tokens == 0 for output in outputs)


def test_a_drafter_that_returns_is_used_again() -> None:
    drafter = FakeDrafter(trouble={1: "die_before"}, down_seconds=0.3)
    served(FakeVerifier(), drafter, [asking([50] * 5, 120, ignore_eos=True)], lanes=1)
    again = drafter.steps[1]
    assert again.begin > 0.3
    item = again.items[0]
    assert isinstance(item, DraftItem)
    assert (item.base_len, item.params is not None, item.max_draft_tokens) == (0, True, 4)


def test_a_drafter_that_falls_behind_is_caught_up_in_chunks() -> None:
    drafter = FakeDrafter(trouble={1: "die_before"}, down_seconds=0.3)
    served(FakeVerifier(), drafter, [asking([50] * 5, 120, ignore_eos=True)], lanes=1, prefill_chunk=8)
    tails = [len(step.items[0].tail_token_ids) for step in drafter.steps[1:5]]
    drafts = [step.items[0].max_draft_tokens for step in drafter.steps[1:5] if isinstance(step.items[0], DraftItem)]
    assert tails[:2] == [8, 8]
    assert drafts[0] == 0
    assert drafter.steps[-5].items[0].base_len > 40


def test_one_new_token_needs_no_drafter() -> None:
    drafter = FakeDrafter()
    outputs = served(FakeVerifier(), drafter, [asking([50], 1)])
    assert drafter.steps == []
    assert outputs[0].finish_reason is FinishReason.LENGTH


def test_the_context_ends_a_request() -> None:
    verifier = FakeVerifier(max_len=32, num_blocks=8)
    outputs = served(verifier, FakeDrafter(max_len=32), [asking([50] * 20, 100, ignore_eos=True)])
    assert len(outputs[0].token_ids) == 12
    assert outputs[0].finish_reason is FinishReason.LENGTH


def test_a_request_may_cap_its_drafts() -> None:
    drafter = FakeDrafter()
    outputs = served(
        FakeVerifier(),
        drafter,
        [asking([50], 30, max_draft_tokens=2, ignore_eos=True), asking([51], 30, max_draft_tokens=0, ignore_eos=True)],
        draft_tokens=4,
    )
    stats = [output.speculation for output in outputs]
    assert stats[0] is not None
    assert stats[1] is not None
    assert len(stats[0].drafted_by_position) == 2
    assert stats[1].draft_tokens == 0
    assert {item.sequence_id for step in drafter.steps for item in step.items} == {1}


def test_a_long_prompt_goes_in_chunks_between_the_steps_of_others() -> None:
    verifier, drafter = FakeVerifier(), FakeDrafter()
    short, long = asking([50], 30, ignore_eos=True), asking([60] * 100, 4, ignore_eos=True)
    served(verifier, drafter, [short, long], lanes=1, prefill_chunk=16, draft_tokens=3)
    chunks = [item for step in verifier.steps for item in step.items if item.sequence_id == 2][:7]
    assert [len(item.tail_token_ids) for item in chunks] == [16] * 6 + [4]
    assert [item.emit for item in chunks if isinstance(item, VerifyItem)] == [False] * 6 + [True]
    # The short one had a share of every step, and until the long one emits no drafts are asked for it.
    assert all({item.sequence_id for item in step.items} == {1, 2} for step in verifier.steps[:7])
    asked = [item for step in drafter.steps for item in step.items if item.sequence_id == 2]
    assert [item.max_draft_tokens for item in asked[:7] if isinstance(item, DraftItem)] == [0] * 6 + [3]


def test_prompts_share_a_steps_budget_in_order() -> None:
    verifier = FakeVerifier()
    served(verifier, None, [asking([50] * 20, 3), asking([60] * 20, 3)], lanes=1, prefill_chunk=16)
    tails = [[len(item.tail_token_ids) for item in step.items] for step in verifier.steps[:3]]
    # 16 for the first; its last 4 are short enough for any step, 16 for the second; then its last 4.
    assert tails == [[16], [4, 16], [1, 4]]


def test_an_unexpected_fault_fails_its_requests_and_not_the_lane() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier(trouble={2: "bug"}), FakeDrafter(), lanes=1) as coordinator:
            with pytest.raises(InternalError, match="ZeroDivisionError"):
                await complete(coordinator, asking([50], 60, ignore_eos=True))
            check(await complete(coordinator, REQUESTS[0]), REQUESTS[0])
            assert coordinator.info().aborted_requests == 1

    virtual_time.run(main())


class Refusing(FakeVerifier):
    """Answers sequence 1 as told, from its second item on."""

    def __init__(self, verdict: Verdict, *, drafts_only: bool = False) -> None:
        super().__init__()
        self._verdict = verdict
        self._drafts_only = drafts_only

    def _item(self, item: VerifyItem, crowded: bool) -> Verdict:
        usual = super()._item(item, crowded)
        if item.sequence_id != 1 or item.base_len == 0 or (self._drafts_only and not item.proposal):
            return usual
        return self._verdict


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict(1, status=ItemStatus.REJECTED, reason="no such token"), "no such token"),
        (Verdict(1, accepted_len=0, next_token_id=None), "no sense"),
        (Verdict(1, accepted_len=99, next_token_id=50), "no sense"),
    ],
)
def test_a_senseless_verdict_fails_one_request_only(verdict: Verdict, words: str) -> None:
    async def main() -> None:
        async with coordinating(Refusing(verdict), FakeDrafter(), lanes=1) as coordinator:
            first = asyncio.create_task(complete(coordinator, asking([50], 60, ignore_eos=True)))
            await asyncio.sleep(0)
            outputs = await all_of(coordinator, REQUESTS)
            with pytest.raises(InternalError, match=words):
                await first
        for output, request in zip(outputs, REQUESTS, strict=True):
            check(output, request)

    virtual_time.run(main())


def test_log_probabilities_that_are_missing_fail_the_request() -> None:
    async def main() -> None:
        async with coordinating(Refusing(Verdict(1, next_token_id=50))) as coordinator:
            with pytest.raises(InternalError, match="log-prob"):
                await complete(coordinator, asking([50], 60, ignore_eos=True, logprobs=0))

    virtual_time.run(main())


def test_drafts_that_the_verifier_refuses_cost_speed_only() -> None:
    verifier = Refusing(Verdict(1, status=ItemStatus.REJECTED, reason="odd drafts"), drafts_only=True)
    drafter = FakeDrafter()
    served(verifier, drafter, [asking([50], 60, ignore_eos=True)])
    assert 0 < len(drafter.steps) < 5


class Overeager(FakeDrafter):
    """Proposes more than was asked for."""

    def _item(self, item: DraftItem, crowded: bool) -> Proposal:
        proposal = super()._item(item, crowded)
        return Proposal(proposal.sequence_id, (*proposal.token_ids, 50, 50, 50, 50, 50))


def test_more_drafts_than_asked_for_are_not_used() -> None:
    outputs = served(FakeVerifier(), Overeager())
    assert all(output.speculation and output.speculation.draft_tokens == 0 for output in outputs)


class Unwilling(FakeDrafter):
    """Rejects every item."""

    def _item(self, item: DraftItem, crowded: bool) -> Proposal:
        return Proposal(item.sequence_id, status=ItemStatus.REJECTED, reason="unwilling")


def test_a_drafter_that_rejects_a_request_is_not_asked_again() -> None:
    drafter = Unwilling()
    served(FakeVerifier(), drafter, [asking([50], 60, ignore_eos=True)])
    assert len(drafter.steps) == 1


def test_a_full_verifier_is_waited_for() -> None:
    """Somebody else's sequences fill the verifier for a while; two lanes compete for what is left."""

    async def main() -> None:
        verifier = FakeVerifier(num_blocks=40)
        verifier.foreign_blocks = 30
        async with coordinating(verifier, FakeDrafter(), lanes=2, prefill_chunk=8) as coordinator:
            requests = [asking([50 + i] * 30, 8, ignore_eos=True) for i in range(4)]
            running = asyncio.gather(*(complete(coordinator, request) for request in requests))
            await asyncio.sleep(5)
            verifier.foreign_blocks = 0
            for output, request in zip(await running, requests, strict=True):
                check(output, request)

    virtual_time.run(main())


def test_two_lanes_overlap_and_one_does_not() -> None:
    """With 20 ms of drafting and 25 of verification, two lanes keep the verifier busy without a break."""

    def service_times(lanes: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        verifier, drafter = FakeVerifier(delay=lambda: 0.025), FakeDrafter(delay=lambda: 0.020)
        requests = [asking([50 + i], 60, ignore_eos=True) for i in range(4)]
        served(verifier, drafter, requests, lanes=lanes)
        return [(s.begin, s.end) for s in verifier.steps], [(s.begin, s.end) for s in drafter.steps]

    verified, drafted = service_times(lanes=1)
    assert not any(max(a, c) < min(b, d) - 1e-9 for a, b in verified for c, d in drafted)

    verified, drafted = service_times(lanes=2)
    gaps = [later[0] - earlier[1] for earlier, later in itertools.pairwise(verified)]
    assert max(gaps[1:20]) < 1e-6  # after the first rounds one verification follows the other
    overlap = sum(max(0.0, min(b, d) - max(a, c)) for a, b in verified for c, d in drafted)
    assert overlap > 0.9 * sum(d - c for c, d in drafted[1:20])


def test_lanes_are_balanced_when_one_empties() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier(), FakeDrafter(), lanes=2, lane_size=8) as coordinator:
            # Placement alternates: the short ones all go to lane 0, the long ones to lane 1.
            requests = [asking([50 + i], 200 if i % 2 else 2, ignore_eos=True) for i in range(8)]
            running = asyncio.gather(*(complete(coordinator, request) for request in requests))
            await asyncio.sleep(0.5)
            assert [lane.requests for lane in coordinator.info().lanes] == [2, 2]
            for output, request in zip(await running, requests, strict=True):
                check(output, request)

    virtual_time.run(main())


def test_a_drafter_keeps_what_the_verifier_still_reads() -> None:
    """Cancelled while it is verified, a request has its payload's slot until that is over."""
    verifier, drafter = FakeVerifier(delay=lambda: 1.0), FakeDrafter()
    released: dict[str, float] = {}

    def listen(service: FakeVerifier | FakeDrafter, name: str) -> None:
        forward = service.release

        def release(generation: int, sequence_ids: Sequence[int]) -> None:
            released.setdefault(name, asyncio.get_running_loop().time())
            forward(generation, sequence_ids)

        service.release = release  # type: ignore[method-assign]

    async def main() -> float:
        listen(verifier, "verifier")
        listen(drafter, "drafter")
        async with coordinating(verifier, drafter, lanes=1, draft_tokens=4) as coordinator:
            asked = asyncio.create_task(complete(coordinator, asking([50], 30, ignore_eos=True)))
            while verifier.started < 3:
                await asyncio.sleep(0.01)
            asked.cancel()
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(2.0)
        return began

    cancelled = virtual_time.run(main())
    items = verifier.steps[-1].items[0]
    assert isinstance(items, VerifyItem)
    assert items.proposal is not None
    assert released["verifier"] == pytest.approx(cancelled)
    assert released["drafter"] == pytest.approx(verifier.steps[-1].end)
    assert released["drafter"] > cancelled + 0.5
