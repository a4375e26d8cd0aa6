"""The life of requests: waiting, deadlines, cancellation, slow clients, the end of the server."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from coordinator.coordinator import Coordinator
from minedraft.errors import DeadlineExceeded, InvalidRequest, Overloaded, PeerUnavailable
from minedraft.generation import GenerateRequest, Output
from minedraft.types import AcceptanceRule
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.fakes import FakeDrafter, FakeVerifier
from tests.unit.coordinator.harness import asking, check, complete, coordinating

LONG = asking([50] * 4, 400, ignore_eos=True)


async def begun(coordinator: Coordinator, request: GenerateRequest = LONG) -> asyncio.Task[Output]:
    task = asyncio.create_task(complete(coordinator, request))
    await asyncio.sleep(0.1)
    return task


async def cancelled(task: asyncio.Task[Output]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_full_queue_turns_requests_away() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier(), lanes=2, lane_size=1, queue_size=1) as coordinator:
            running = [await begun(coordinator) for _ in range(3)]
            assert coordinator.info().queued_requests == 1
            with pytest.raises(Overloaded, match="1 requests are waiting"):
                await complete(coordinator, LONG)
            await cancelled(running[2])  # leaves its place in the queue to another
            assert coordinator.info().queued_requests == 0
            running[2] = await begun(coordinator, asking([60], 5))
            for task in running:
                await task

    virtual_time.run(main())


def test_queue_size_counts_waiting_requests_only() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier(), lanes=1, lane_size=2, queue_size=0) as coordinator:
            running = [await begun(coordinator), await begun(coordinator)]
            with pytest.raises(Overloaded):
                await complete(coordinator, LONG)
            for task in running:
                check(await task, LONG)

    virtual_time.run(main())


def test_requests_start_in_the_order_of_arrival() -> None:
    async def main() -> None:
        verifier = FakeVerifier()
        async with coordinating(verifier, lanes=1, lane_size=1) as coordinator:
            await asyncio.gather(*(complete(coordinator, asking([50 + i], 3)) for i in range(6)))
        first_seen = list(dict.fromkeys(step.items[0].sequence_id for step in verifier.steps))
        assert first_seen == [1, 2, 3, 4, 5, 6]

    virtual_time.run(main())


def test_requests_wait_for_room_in_the_kv_cache() -> None:
    async def main() -> None:
        verifier = FakeVerifier(num_blocks=10, block_size=4, max_len=40)
        async with coordinating(verifier, FakeDrafter(max_len=40), lanes=2, lane_size=8) as coordinator:
            requests = [asking([50 + i] * 8, 12, ignore_eos=True) for i in range(6)]  # 5 blocks each
            running = [asyncio.create_task(complete(coordinator, request)) for request in requests]
            await asyncio.sleep(0.001)
            assert coordinator.info().queued_requests == 4
            for task, request in zip(running, requests, strict=True):
                check(await task, request)
        # Room was reserved for the most that could be needed, so there was always a block when one was needed.
        assert all(len(step.items) <= 2 for step in verifier.steps)

    virtual_time.run(main())


def test_a_request_that_fills_the_cache_exactly_is_served() -> None:
    async def main() -> None:
        verifier = FakeVerifier(num_blocks=10, block_size=4, max_len=40)
        async with coordinating(verifier, FakeDrafter(max_len=40)) as coordinator:
            check(await complete(coordinator, request := asking([50] * 8, 32, ignore_eos=True)), request, 40)

    virtual_time.run(main())


def test_a_request_that_can_never_fit_is_refused() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier(num_blocks=10, block_size=4, max_len=512)) as coordinator:
            with pytest.raises(InvalidRequest, match=r"sampling\.max_new_tokens: .* 41 tokens; the KV cache holds 40"):
                await complete(coordinator, asking([50] * 8, 33))

    virtual_time.run(main())


def test_deadlines_hold_while_running_waiting_and_without_a_verifier() -> None:
    async def main() -> None:
        verifier = FakeVerifier(down_seconds=30)
        async with coordinating(verifier, FakeDrafter(), lanes=1, lane_size=1) as coordinator:
            running = asyncio.create_task(complete(coordinator, LONG, seconds=5))
            waiting = asyncio.create_task(complete(coordinator, LONG, seconds=0.5))
            await asyncio.sleep(0.2)
            verifier.die()
            for task in (waiting, running):
                with pytest.raises(DeadlineExceeded):
                    await task
            assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.01)
            check(await complete(coordinator, asking([50], 9)), asking([50], 9))  # waited for the verifier
            info = coordinator.info()
            assert (info.finished_requests, info.aborted_requests) == (1, 2)

    virtual_time.run(main())


def test_the_servers_own_limit_on_time() -> None:
    async def main() -> None:
        verifier = FakeVerifier(delay=lambda: 1.0)
        async with coordinating(verifier, request_timeout_seconds=2.5) as coordinator:
            for seconds in (None, 100.0):
                with pytest.raises(DeadlineExceeded, match=r"2\.5 s"):
                    await complete(coordinator, LONG, seconds)

    virtual_time.run(main())


def test_cancelling_frees_both_services_at_once() -> None:
    async def main() -> None:
        verifier, drafter = FakeVerifier(), FakeDrafter()
        async with coordinating(verifier, drafter) as coordinator:
            task = await begun(coordinator)
            assert verifier.sequences
            assert drafter.sequences
            await cancelled(task)
            await asyncio.sleep(0.05)  # the steps in flight, no more
            assert verifier.sequences == drafter.sequences == {}
            assert coordinator.info().aborted_requests == 1

    virtual_time.run(main())


def test_a_slow_client_gets_everything_in_one_piece() -> None:
    async def main() -> None:
        async with (
            coordinating(FakeVerifier(), FakeDrafter()) as coordinator,
            coordinator.running(LONG) as sink,
        ):
            first, last = await sink.take()
            assert not last
            await asyncio.sleep(100)
            rest, last = await sink.take()
            assert last
            assert first is not None
            assert rest is not None
            check(Output.merged([first, rest]), LONG)

    virtual_time.run(main())


def test_output_streams_as_it_is_committed() -> None:
    async def main() -> None:
        verifier = FakeVerifier()
        async with coordinating(verifier) as coordinator, coordinator.running(LONG) as sink:
            last, pieces = False, []
            while not last:
                piece, last = await sink.take()
                assert piece is not None
                pieces.append(piece)
        assert [len(piece.token_ids) for piece in pieces] == [1] * 400
        assert all(piece.usage is None and piece.finish_reason is None for piece in pieces[:-1])
        check(Output.merged(pieces), LONG)

    virtual_time.run(main())


def test_drain_lets_running_requests_finish_and_takes_no_more() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier()) as coordinator:
            task = await begun(coordinator, request := asking([50], 100))
            draining = asyncio.create_task(coordinator.drain(60))
            await asyncio.sleep(0)
            with pytest.raises(PeerUnavailable, match="shutting down"):
                await complete(coordinator, LONG)
            await draining
            check(await task, request)
            assert asyncio.get_running_loop().time() < 60

    virtual_time.run(main())


def test_drain_ends_what_outlives_its_grace() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier(), lanes=1, lane_size=1) as coordinator:
            tasks = [await begun(coordinator), await begun(coordinator)]
            await coordinator.drain(0.5)
            for task in tasks:
                with pytest.raises(PeerUnavailable, match="shutting down"):
                    await task

    virtual_time.run(main())


def test_a_seed_is_used_with_the_rule_that_makes_it_mean_something() -> None:
    async def main() -> None:
        verifier = FakeVerifier()
        async with coordinating(verifier) as coordinator:
            await complete(coordinator, asking([50], 2, seed=2**64 - 1))
            for _ in range(2):
                await complete(coordinator, asking([50], 2))
        params = [step.items[0].params for step in verifier.steps if step.items[0].params]
        assert [one.rule for one in params] == [AcceptanceRule.MATCH] + [AcceptanceRule.REJECTION] * 2
        assert params[0].seed == 2**64 - 1
        assert len({one.seed for one in params}) == 3

    virtual_time.run(main())


def test_the_servers_default_length() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier(), default_max_new_tokens=7) as coordinator:
            output = await complete(coordinator, asking([50], 0, ignore_eos=True))
            assert len(output.token_ids) == 7

    virtual_time.run(main())


def test_information_sums_up_what_happened() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier(), FakeDrafter(), lanes=2, draft_tokens=3) as coordinator:
            requests = [asking([50 + i], 40, ignore_eos=True) for i in range(5)]
            outputs = await asyncio.gather(*(complete(coordinator, request) for request in requests))
            info = coordinator.info()
        assert info.finished_requests == 5
        assert info.queued_requests == 0
        assert info.target is not None
        assert info.target.model_id == "toy"
        assert info.verifier.connected
        assert info.drafter.connected
        stats = [output.speculation for output in outputs if output.speculation]
        total = info.speculation
        for name in ("rounds", "drafted_rounds", "draft_tokens", "accepted_tokens", "emitted_tokens"):
            assert getattr(total, name) == sum(getattr(one, name) for one in stats)
        assert sum(total.accepted_by_position) == total.accepted_tokens
        assert sum(total.drafted_by_position) == total.draft_tokens
        assert total.emitted_tokens == total.rounds + total.accepted_tokens
        assert all(a <= d for a, d in zip(total.accepted_by_position, total.drafted_by_position, strict=True))
        assert info.activity.verifications == sum(lane.rounds for lane in info.lanes)
        assert info.activity.verifier_forward_seconds == pytest.approx(0.01 * info.activity.verifications)

    virtual_time.run(main())


def test_a_request_keeps_its_name() -> None:
    async def main() -> None:
        async with coordinating(FakeVerifier()) as coordinator:
            named = await complete(coordinator, replace(asking([50], 2), request_id="mine"))
            unnamed = [await complete(coordinator, asking([50], 2)) for _ in range(2)]
        assert named.request_id == "mine"
        assert len({output.request_id for output in unnamed} - {""}) == 2

    virtual_time.run(main())
