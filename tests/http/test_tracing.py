"""The caller's trace context goes on to the coordinator, if it is one."""

from __future__ import annotations

import pytest

from tests.http.fake_coordinator import FakeCoordinator, asking, door

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ({}, ()),
        ({"traceparent": PARENT}, (("traceparent", PARENT),)),
        ({"traceparent": PARENT, "tracestate": "a=1"}, (("traceparent", PARENT), ("tracestate", "a=1"))),
        ({"traceparent": PARENT, "tracestate": "x" * 513}, (("traceparent", PARENT),)),
        ({"traceparent": PARENT.upper()}, ()),
        ({"traceparent": PARENT + "\u00e9"}, ()),
        ({"tracestate": "a=1"}, ()),
    ],
)
async def test_trace_headers(sent: dict[str, str], passed: tuple[tuple[str, str], ...]) -> None:
    upstream = FakeCoordinator()
    async with asking(door(upstream)) as client:
        headers = {name.encode(): value.encode("latin-1") for name, value in sent.items()}
        answer = await client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 2}, headers=headers)
    assert answer.status_code == 200
    assert [request.trace_headers for request in upstream.requests] == [passed]
