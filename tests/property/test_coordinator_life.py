"""Any mix of requests, cancellations, deadlines and failures: the right tokens, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.coordinator import Coordinator
from minedraft.errors import DeadlineExceeded, Overloaded
from minedraft.generation import GenerateRequest, Output
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.fakes import FakeDrafter, FakeVerifier
from tests.unit.coordinator.harness import asking, check, complete, coordinating

MAX_LEN = 64
BLOCK_SIZE = 4


@dataclass(frozen=True)
class Client:
    """One request and what its client does."""

    request: GenerateRequest
    arrives: float
    cancels: float | None  # seconds after its arrival
    seconds: float | None  # its deadline


requests = st.builds(
    lambda prompt, new, cap, stop, eos, logprobs: asking(
        prompt, new, max_draft_tokens=cap, stop=stop, ignore_eos=eos, logprobs=logprobs
    ),
    st.lists(st.integers(33, 120), min_size=1, max_size=40),
    st.integers(1, 40),
    st.none() | st.integers(0, 5),
    st.lists(st.text("abcXYZ0123", min_size=1, max_size=2), max_size=3).map(tuple),
    st.booleans(),
    st.none() | st.just(0),
)
moments = st.floats(0, 0.5, allow_nan=False)
clients = st.builds(Client, requests, moments, st.none() | moments, st.none() | st.floats(0.001, 1.0) | st.just(1000.0))
troubles = st.dictionaries(
    st.integers(0, 40), st.sampled_from(["die_before", "die_after", "forget", "no_space", "late"]), max_size=5
)
servers = st.fixed_dictionaries(
    {
        "lanes": st.integers(1, 3) | st.just("auto"),
        "lane_size": st.integers(1, 4),
        "queue_size": st.integers(0, 8),
        "draft_tokens": st.integers(0, 4) | st.just("auto"),
        "prefill_chunk": st.integers(1, 24),
    }
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(clients, min_size=1, max_size=10), servers, troubles, troubles, st.integers(17, 60), st.integers(0, 2**32)
)
def test_every_request_ends_as_it_should(
    customers: list[Client],
    server: dict[str, Any],
    verifier_trouble: dict[int, Any],
    drafter_trouble: dict[int, Any],
    num_blocks: int,
    seed: int,
) -> None:
    dice = random.Random(seed)

    async def main() -> None:
        room = {"num_blocks": num_blocks, "block_size": BLOCK_SIZE, "max_len": MAX_LEN}
        verifier = FakeVerifier(trouble=verifier_trouble, delay=lambda: dice.expovariate(50), **room)
        drafter = FakeDrafter(
            trouble=drafter_trouble,
            delay=lambda: dice.expovariate(50),
            num_blocks=num_blocks // 2,
            block_size=BLOCK_SIZE,
            max_len=MAX_LEN,
        )
        async with coordinating(verifier, drafter, **server) as coordinator:
            tasks = [asyncio.create_task(_live(coordinator, customer)) for customer in customers]
            ends = await asyncio.gather(*tasks)
            info = coordinator.info()
            turned_away = sum(end == "overloaded" for end in ends)
            assert info.finished_requests + info.aborted_requests + turned_away == len(customers)

    virtual_time.run(main())


async def _live(coordinator: Coordinator, client: Client) -> str:
    """How it ended. An output that is complete is checked."""
    await asyncio.sleep(client.arrives)
    call = asyncio.create_task(complete(coordinator, client.request, client.seconds))
    if client.cancels is not None:
        asyncio.get_running_loop().call_later(client.cancels, call.cancel)
    try:
        output: Output = await call
    except asyncio.CancelledError:
        assert client.cancels is not None
        return "cancelled"
    except DeadlineExceeded:
        assert client.seconds is not None
        assert client.seconds < 100  # nothing takes that long
        return "late"
    except Overloaded:
        return "overloaded"
    check(output, client.request, MAX_LEN)
    return "finished"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_requests_a_third_of_them_cancelled(seed: int) -> None:
    dice = random.Random(seed)

    async def main() -> None:
        verifier, drafter = (
            kind(delay=lambda: dice.expovariate(100), num_blocks=400, max_len=MAX_LEN)
            for kind in (FakeVerifier, FakeDrafter)
        )
        assert isinstance(verifier, FakeVerifier)
        assert isinstance(drafter, FakeDrafter)
        customers = [
            Client(
                asking([dice.randrange(33, 120) for _ in range(dice.randrange(1, 30))], dice.randrange(1, 30)),
                arrives=dice.uniform(0, 4),
                cancels=dice.uniform(0, 0.5) if dice.random() < 1 / 3 else None,
                seconds=None,
            )
            for _ in range(1000)
        ]
        async with coordinating(verifier, drafter, queue_size=1000, lane_size=8) as coordinator:
            ends = await asyncio.gather(*(_live(coordinator, customer) for customer in customers))
        assert ends.count("finished") > 600
        assert ends.count("cancelled") > 200

    virtual_time.run(main())
