"""Verifiers and drafters that come, go, die and return while requests run: the right tokens, nothing left behind."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.coordinator import Coordinator
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.fakes import FakeDrafter, FakeVerifier
from tests.unit.coordinator.harness import FakeFleet, asking, check, complete, coordinating

MAX_LEN = 64
Event = tuple[float, Literal["verifier", "drafter"], int, Literal["die", "leave", "join"]]

requests = st.builds(
    lambda prompt, new: asking(prompt, new, ignore_eos=True),
    st.lists(st.integers(33, 120), min_size=1, max_size=30),
    st.integers(1, 40),
)
events = st.lists(
    st.tuples(
        st.floats(0, 1.5, allow_nan=False),
        st.sampled_from(["verifier", "drafter"]),
        st.integers(0, 2),
        st.sampled_from(["die", "leave", "join"]),
    ),
    max_size=12,
)
servers = st.fixed_dictionaries(
    {"lanes": st.integers(1, 3) | st.just("auto"), "lane_size": st.integers(1, 4), "draft_tokens": st.integers(0, 4)}
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, allow_nan=False), requests), min_size=1, max_size=12),
    st.integers(1, 3),
    st.integers(0, 3),
    events,
    servers,
    st.integers(0, 2**32),
)
def test_every_request_says_what_the_target_would(
    customers: list[tuple[float, Any]], verifiers: int, drafters: int, happens: list[Event], server: dict[str, Any],
    seed: int,
) -> None:  # fmt: skip
    dice = random.Random(seed)

    def service(kind: type[Any], number: int) -> Any:
        return kind(
            delay=lambda: dice.expovariate(50), down_seconds=dice.uniform(0.01, 0.5), max_len=MAX_LEN,
            num_blocks=dice.randrange(20, 80), number=number,
        )  # fmt: skip

    async def main() -> None:
        known = {
            "verifier": [service(FakeVerifier, number) for number in range(3)],
            "drafter": [service(FakeDrafter, number) for number in range(3)],
        }
        fleet = FakeFleet(known["verifier"][:verifiers], known["drafter"][:drafters])
        async with coordinating(fleet, queue_size=100, **server) as coordinator:
            history = asyncio.create_task(_happen(fleet, known, happens))
            outputs = await asyncio.gather(*(_ask(coordinator, *customer) for customer in customers))
            await history
            for output, (_, request) in zip(outputs, customers, strict=True):
                check(output, request, MAX_LEN)

    virtual_time.run(main())


async def _ask(coordinator: Coordinator, arrives: float, request: Any) -> Any:
    await asyncio.sleep(arrives)
    return await complete(coordinator, request)


async def _happen(fleet: FakeFleet, known: dict[str, list[Any]], happens: list[Event]) -> None:
    """What is to happen, as far as it can: the last verifier stays, and who leaves has lost the connection before."""
    loop = asyncio.get_running_loop()
    for moment, kind, number, what in sorted(happens):
        await asyncio.sleep(max(0.0, moment - loop.time()))
        service = known[kind][number]
        there: list[Any] = fleet.verifiers if kind == "verifier" else fleet.drafting
        if what == "join" and service not in there:
            if service._worker is None:
                service.start()
            there.append(service)
        elif what == "die" and service in there and service.ready:
            service.die()
        elif what == "leave" and service in there and not (kind == "verifier" and len(there) == 1):
            if service.ready:
                service.die()
            there.remove(service)
        fleet.changed()
