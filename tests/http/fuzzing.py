"""Random bodies for the door: right ones, changed at random places. Shared with benchmarks/fuzz_http.py."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.http.fake_coordinator import FakeCoordinator, asking, door

ROUTES: Final = ("/v1/chat/completions", "/v1/completions")
STATUSES: Final = frozenset({200, 400, 404, 413, 415})
JSON_TYPE: Final = "application/json"

texts = st.text(max_size=12) | st.sampled_from(["", "Hi", "\u2028", "\x00", "\U0001f600", "<|end|>", "toy", "user"])
integers = st.integers(-3, 320) | st.integers() | st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**400, -(2**63)])
numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-2, 2) | integers
scalars = st.none() | st.booleans() | integers | numbers | texts
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
tokens = st.lists(st.integers(0, 299), min_size=1, max_size=8)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": texts | parts}
)
options: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["toy", "toy-alias"]),
    "stream": st.booleans(),
    "n": st.integers(1, 3),
    "max_tokens": st.integers(1, 40),
    "max_completion_tokens": st.integers(1, 40),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 50),
    "min_p": st.floats(0, 1),
    "seed": st.integers(-(2**63), 2**64 - 1),
    "stop": texts | st.lists(texts, max_size=4),
    "stop_token_ids": st.lists(st.integers(0, 299), max_size=4),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0.5, 2),
    "logit_bias": st.dictionaries(st.integers(0, 299).map(str), st.floats(-100, 100), max_size=4),
    "min_tokens": st.integers(0, 5),
    "ignore_eos": st.booleans(),
    "max_draft_tokens": st.integers(0, 8),
    "user": texts,
    "metadata": st.dictionaries(texts, texts, max_size=2),
}
chats = st.fixed_dictionaries(
    {"messages": st.lists(message, min_size=1, max_size=3)},
    optional=options
    | {"logprobs": st.booleans(), "top_logprobs": st.integers(0, 20), "tools": anything, "response_format": anything},
)
completions = st.fixed_dictionaries(
    {"prompt": texts | st.lists(texts, min_size=1, max_size=3) | tokens | st.lists(tokens, min_size=1, max_size=3)},
    optional=options
    | {"logprobs": st.integers(0, 20), "echo": st.booleans(), "best_of": st.integers(1, 3), "suffix": texts},
)
stream_options = st.fixed_dictionaries({}, optional={"include_usage": st.booleans(), "include_obfuscation": anything})


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """(route, body): half of them right, most others wrong in a place or two, some no JSON at all."""
    route = draw(st.sampled_from(ROUTES))
    body: Any = draw(chats if route == ROUTES[0] else completions)
    if draw(st.booleans()):
        body["stream"], body["stream_options"] = True, draw(stream_options)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        body = draw(changed(body))
    encoded = json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(encoded)))
        encoded = encoded[:place] + draw(st.binary(max_size=6)) + encoded[place + draw(st.integers(0, 6)) :]
    return route, encoded


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """The value with one place in it replaced, removed, renamed or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(sorted(value)))
        rest = {key: field for key, field in value.items() if key != name}
        match draw(st.integers(0, 5)):
            case 0:
                return rest
            case 1:
                return rest | {draw(texts): value[name]}
            case 2:
                return value | {draw(texts | st.sampled_from(sorted(options))): draw(anything)}
            case _:
                return value | {name: draw(changed(value[name]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(changed(value[place])), *value[place + 1 :]]
    return draw(anything)


@dataclass
class Fuzz:
    """A door over a fake coordinator, and what it has answered so far."""

    statuses: Counter[int] = field(default_factory=Counter)
    upstream: FakeCoordinator = field(default_factory=FakeCoordinator)

    async def ask(self, client: httpx.AsyncClient, route: str, body: bytes) -> None:
        """Raises AssertionError unless the answer is one that a client could expect."""
        answer = await client.post(route, content=body, headers={"content-type": JSON_TYPE})
        self.statuses[answer.status_code] += 1
        assert answer.status_code in STATUSES, (answer.status_code, answer.text)
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert error["type"] == "invalid_request_error"
            assert error["message"]
        elif answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.text.endswith("data: [DONE]\n\n"), answer.text
            for event in answer.text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]:
                assert "error" not in json.loads(event.removeprefix("data: "))
        else:
            assert answer.json()["choices"]
        assert self.upstream.running == 0
        self.upstream.requests.clear()

    def run(self, examples: int, progress: Callable[[int], None] = lambda done: None) -> Counter[int]:
        """Ask with `examples` random bodies; returns how often each status was answered."""
        app = door(self.upstream, max_choices=12)
        with asyncio.Runner() as runner:
            client = asking(app)

            @settings(
                max_examples=examples, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(bodies())
            def one(example: tuple[str, bytes]) -> None:
                runner.run(self.ask(client, *example))
                progress(sum(self.statuses.values()))

            one()
            assert runner.run(client.get("/health")).status_code == 200
            runner.run(client.aclose())
        return self.statuses
