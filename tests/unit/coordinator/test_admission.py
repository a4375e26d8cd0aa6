"""Lanes that come into use and go out of it."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.admission import Admission
from coordinator.request import Request, Sink
from coordinator.site import Members, Site
from coordinator.text import TextStream
from minedraft.types import AcceptanceRule, SamplingParams, SequenceParams
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.fakes import FakeVerifier
from tests.unit.coordinator.toy import TEXT

LANES = 4


def request(number: int) -> Request:
    return Request(
        id=number,
        request_id=str(number),
        params=SequenceParams(1, 0, AcceptanceRule.MATCH, SamplingParams()),
        committed_ids=[50],
        max_draft_tokens=4,
        max_len=512,
        longest=1,
        text=TextStream(TEXT, ()),
        sink=Sink(""),
    )


def verifier_with(*, capacity: int = 64) -> tuple[Admission, Site]:
    """One verifier in use."""
    here, site = Admission(queue_size=1000), Site(FakeVerifier(), 0, LANES, capacity)
    here.open(site)
    return here, site


async def boundary(here: Admission, members: Members) -> list[Request]:
    """A lane's requests for its next round, or none if it would wait for some."""
    try:
        return await asyncio.wait_for(here.at_boundary(members), 0.001)
    except TimeoutError:
        return []


steps = st.lists(
    st.tuples(st.sampled_from(["spread", "arrive", "leave", "boundary"]), st.integers(0, 7)), min_size=1, max_size=60
)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_no_request_is_lost_or_in_two_lanes(script: list[tuple[str, int]]) -> None:
    async def main() -> None:
        (here, site), alive, made = verifier_with(), [], 0
        for act, number in script:
            if act == "spread":
                site.spread(1 + number % LANES)
            elif act == "arrive":
                made += 1
                alive.append(request(made))
                here.submit(alive[-1])
            elif act == "leave" and alive:
                here.remove(alive.pop(number % len(alive)))
            else:
                await boundary(here, site.lanes[number % LANES])
            held = [one.id for lane in site.lanes for one in (*lane.active, *lane.arrivals)]
            assert sorted(held) == sorted(one.id for one in alive)
            assert site.running == len(alive)
        site.spread(2)
        for _ in range(3):
            for lane in site.lanes:
                await boundary(here, lane)
        assert [lane.load for lane in site.lanes[2:]] == [0, 0]
        assert abs(site.lanes[0].load - site.lanes[1].load) <= 1

    virtual_time.run(main())


def test_lanes_in_use_share_the_capacity() -> None:
    async def main() -> None:
        for used, loads in ((1, [8, 0, 0, 0]), (2, [4, 4, 0, 0]), (4, [2, 2, 2, 2])):
            here, site = verifier_with(capacity=8)
            site.spread(used)
            for number in range(11):
                here.submit(request(number))
            assert [lane.load for lane in site.lanes] == loads
            assert here.waiting == 3

    virtual_time.run(main())


def test_a_lane_that_goes_out_of_use_hands_over_and_rests() -> None:
    async def main() -> None:
        here, site = verifier_with()
        site.spread(2)
        for number in range(6):
            here.submit(request(number))
        first, second = site.lanes[:2]
        assert len(await boundary(here, first)) == len(await boundary(here, second)) == 3
        site.spread(1)
        rests = asyncio.create_task(here.at_boundary(second))
        await asyncio.sleep(0)
        assert len(await boundary(here, first)) == 6
        site.spread(2)  # and takes its part again
        assert len(await boundary(here, first)) == 3
        assert len(await rests) == 3

    virtual_time.run(main())
