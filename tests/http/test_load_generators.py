"""Bodies as load generators send them: both names of the length, no stop, no end of text, usage at the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.http.fake_coordinator import FakeCoordinator, asking, door

LENGTH = 5
COMMON: dict[str, Any] = {
    "model": "toy", "max_tokens": LENGTH, "max_completion_tokens": LENGTH, "stop": None, "ignore_eos": True,
    "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}  # fmt: skip


@pytest.mark.parametrize(
    ("route", "body", "choices"),
    [
        ("/v1/completions", {"prompt": "Hi"}, 1),
        ("/v1/completions", {"prompt": [65, 66]}, 1),
        ("/v1/completions", {"prompt": [[65], [66, 67]], "min_tokens": LENGTH}, 2),
        ("/v1/completions", {"prompt": ["Hi", "Ho"]}, 2),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, 1),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "min_tokens": LENGTH}, 1),
    ],
)
async def test_are_served_and_told_the_usage(route: str, body: dict[str, Any], choices: int) -> None:
    upstream = FakeCoordinator()
    async with asking(door(upstream)) as client:
        answer = await client.post(route, json=COMMON | body)
    assert answer.status_code == 200
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == LENGTH * choices
    assert all(json.loads(event)["usage"] is None for event in events[:-2])
    for request in upstream.requests:
        sampling = request.sampling
        assert (sampling.max_new_tokens, sampling.ignore_eos, sampling.stop) == (LENGTH, True, ())
        assert sampling.min_new_tokens == body.get("min_tokens", 0)
