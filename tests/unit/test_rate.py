"""The token bucket, by its laws, and what the coordinator counts by client."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.clients import Clients, client_at
from coordinator.rate import EVENT, MINUTE_NS, Bucket
from minedraft.errors import Overloaded

RATES = st.integers(1, 100_000)
PAUSES = st.lists(st.integers(0, 2 * MINUTE_NS), max_size=60)


def times(pauses: list[int]) -> list[int]:
    moments, now = [], 0
    for pause in pauses:
        now += pause
        moments.append(now)
    return moments


@given(RATES, PAUSES)
def test_no_window_holds_more_than_a_burst_and_what_time_gives(rate: int, pauses: list[int]) -> None:
    bucket, taken = Bucket.full(rate, 0), list[int]()
    for now in times(pauses):
        bucket, wait = bucket.take(rate, now)
        assert 0 <= bucket.units <= rate * EVENT
        if not wait:
            taken.append(now)
    for first, begun in enumerate(taken):
        for last in range(first, len(taken)):
            assert (last - first + 1) * EVENT <= rate * EVENT + (taken[last] - begun) * rate


@given(RATES, PAUSES)
def test_a_refusal_names_the_shortest_wait(rate: int, pauses: list[int]) -> None:
    bucket = Bucket(0, 0)
    for now in times(pauses):
        after, wait = bucket.take(rate, now)
        if wait:
            assert after.take(rate, now + wait)[1] == 0
            assert after.take(rate, now + wait - 1)[1] > 0
            assert wait <= -(-MINUTE_NS // rate)
        bucket = after


@given(st.integers(1, 200), st.integers(0, 10))
def test_a_full_bucket_gives_its_burst_at_once_and_a_minute_fills_it(rate: int, more: int) -> None:
    bucket = Bucket.full(rate, 0)
    for _ in range(2):
        granted = 0
        for _ in range(rate + more):
            bucket, wait = bucket.take(rate, bucket.at_ns)
            granted += not wait
        assert granted == rate
        bucket = bucket.at(rate, bucket.at_ns + MINUTE_NS)
        assert bucket.units == rate * EVENT


@given(RATES, st.integers(0, MINUTE_NS), st.integers(0, MINUTE_NS))
def test_a_clock_that_goes_back_gives_nothing(rate: int, now: int, back: int) -> None:
    bucket = Bucket(0, now)
    assert bucket.at(rate, now - back) == bucket


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def test_the_limits_are_each_clients_own_and_named() -> None:
    clock = Clock()
    clients = Clients(at_once=2, per_minute=3, clock=clock)
    with ExitStack() as running:
        for _ in range(2):
            running.enter_context(clients.request("a"))
        with pytest.raises(Overloaded, match=r"^max_requests_per_client: 2 requests at once"), clients.request("a"):
            pass
        with clients.request("b"):
            pass
    with clients.request("a"):  # a refused request has cost nothing
        pass
    with pytest.raises(Overloaded, match=r"^requests_per_minute: 3 requests a minute; try again in 20\.0 s"):
        clients.request("a").__enter__()
    clock.now += MINUTE_NS // 3
    with clients.request("a"):
        pass


def test_a_request_that_fails_no_longer_counts() -> None:
    clients = Clients(at_once=1)
    for _ in range(3):
        with pytest.raises(KeyError), clients.request("a"):
            raise KeyError
    with clients.request("a"):
        pass


def test_clients_are_forgotten_only_when_nothing_is_owed() -> None:
    clock = Clock()
    clients = Clients(per_minute=1, clock=clock)
    with clients.request("running"):
        for number in range(1000):
            clock.now += 1
            with clients.request(f"client {number}"):
                pass
        clock.now = MINUTE_NS
        with clients.request("late"):
            pass
        assert len(clients) == 1002
        clock.now += MINUTE_NS
        with clients.request("new"):
            pass
        assert len(clients) == 2  # the running one and the new one
    with pytest.raises(Overloaded):
        clients.request("new").__enter__()


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.1.2.3:4567", "10.1.2.3"),
        ("ipv6:%5B::1%5D:4567", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:4567", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:4567", "10.1.2.3"),
        ("unix:/run/socket", "unix"),
    ],
)
def test_a_client_without_a_token_is_its_address(peer: str, client: str) -> None:
    assert client_at(peer) == client
