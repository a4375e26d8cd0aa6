"""The ring of steps: pages are what a list would give, less what was forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.timeline import Timeline
from minedraft.types import DraftReply, ServiceState, StepTiming

STATE, TIMING = ServiceState("x", 0, 0), StepTiming(0, 0, 0, 0)


@given(st.integers(0, 6), st.integers(0, 20), st.integers(0, 25), st.integers(1, 9))
def test_pages(size: int, added: int, after: int, limit: int) -> None:
    ring = Timeline(size, clock=lambda: 7)
    for number in range(1, added + 1):
        ring.drafted(0, "d:1", DraftReply(1000 + number, (), TIMING, STATE))
    page = ring.page(after, limit)
    known = [number for number in range(1, added + 1) if size and number > added - size]
    assert page.newest == (added if size else 0)
    assert [step.number for step in page.steps] == [number for number in known if number > after][:limit]
    assert all(step.step_id == 1000 + step.number for step in page.steps)
    assert all(step.received_unix_ns == 7 for step in page.steps)
