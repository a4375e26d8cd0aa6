"""Every error has OpenAI's shape, the right status, and the name of the parameter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from minedraft.errors import (
    ChannelError,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MinedraftError,
    NoSpace,
    Overloaded,
    PeerUnavailable,
    ProtocolError,
    RequestCancelled,
    SetupError,
)
from tests.http.fake_coordinator import FakeCoordinator, asking, door
from tests.http.serving import Running, serving

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
JSON = {"content-type": "application/json"}

# (route, what is wrong with an otherwise right body, the parameter that the error names)
WRONG: list[tuple[str, dict[str, Any], str | None]] = [
    (CHAT, {"messages": None}, "messages"),
    (CHAT, {"messages": "Hi"}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": [5]}, "messages[0]"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [*HI, {"role": "user", "content": 5}]}, "messages[1].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content[0].type"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "name": "bo"}]}, "messages[0].name"),
    (CHAT, {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
     "messages[0].tool_calls"),
    (CHAT, {"tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"functions": [{"name": "f"}]}, "functions"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
    (CHAT, {"reasoning_effort": "high"}, "reasoning_effort"),
    (CHAT, {"top_logprobs": 3}, "top_logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"logprobs": 5}, "logprobs"),
    (CHAT, {"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
    (CHAT, {"max_completion_tokens": 3, "min_tokens": 4}, "min_tokens"),
    (CHAT, {"echo": True}, "echo"),
    (CHAT, {"colour": "red"}, "colour"),
    (COMPLETION, {"prompt": None}, "prompt"),
    (COMPLETION, {"prompt": ""}, "prompt"),
    (COMPLETION, {"prompt": []}, "prompt"),
    (COMPLETION, {"prompt": {"text": "x"}}, "prompt"),
    (COMPLETION, {"prompt": [1, "x"]}, "prompt"),
    (COMPLETION, {"prompt": ["x", 1]}, "prompt[1]"),
    (COMPLETION, {"prompt": [[1], [True]]}, "prompt[1]"),
    (COMPLETION, {"prompt": [-1]}, "prompt"),
    (COMPLETION, {"prompt": [300]}, "prompt"),
    (COMPLETION, {"prompt": [5] * 512}, "prompt"),
    (COMPLETION, {"prompt": ["x", ""]}, "prompt[1]"),
    (COMPLETION, {"prompt": [[1], [300]]}, "prompt[1]"),
    (COMPLETION, {"prompt": [[1], [5] * 512]}, "prompt[1]"),
    (COMPLETION, {"suffix": "end"}, "suffix"),
    (COMPLETION, {"best_of": 2}, "best_of"),
    (COMPLETION, {"n": 0}, "n"),
    (COMPLETION, {"n": 129}, "n"),
    (COMPLETION, {"prompt": ["x"] * 65, "n": 2}, "n"),
    (COMPLETION, {"echo": True, "logprobs": 1}, "echo"),
    (COMPLETION, {"logprobs": 21}, "logprobs"),
    (COMPLETION, {"logprobs": True}, "logprobs"),
    (COMPLETION, {"max_tokens": 0}, "max_tokens"),
    (COMPLETION, {"max_tokens": 1.5}, "max_tokens"),
    (COMPLETION, {"max_tokens": 2**31}, "max_tokens"),
    (COMPLETION, {"max_tokens": 10**30}, "max_tokens"),
    (COMPLETION, {"temperature": "hot"}, "temperature"),
    (COMPLETION, {"temperature": True}, "temperature"),
    (COMPLETION, {"temperature": -1}, "temperature"),
    (COMPLETION, {"temperature": 10**400}, "temperature"),
    (COMPLETION, {"temperature": 1e300}, "temperature"),
    (COMPLETION, {"top_p": 0}, "top_p"),
    (COMPLETION, {"top_k": -2}, "top_k"),
    (COMPLETION, {"min_p": 2}, "min_p"),
    (COMPLETION, {"repetition_penalty": 0}, "repetition_penalty"),
    (COMPLETION, {"frequency_penalty": 3}, "frequency_penalty"),
    (COMPLETION, {"presence_penalty": -3}, "presence_penalty"),
    (COMPLETION, {"seed": 2**64}, "seed"),
    (COMPLETION, {"seed": 1.5}, "seed"),
    (COMPLETION, {"stop": 5}, "stop"),
    (COMPLETION, {"stop": ["x", 5]}, "stop"),
    (COMPLETION, {"stop": [""]}, "stop"),
    (COMPLETION, {"stop": ["x"] * 17}, "stop"),
    (COMPLETION, {"stop_token_ids": [300]}, "stop_token_ids"),
    (COMPLETION, {"stop_token_ids": 5}, "stop_token_ids"),
    (COMPLETION, {"logit_bias": [1]}, "logit_bias"),
    (COMPLETION, {"logit_bias": {"a": 1}}, "logit_bias"),
    (COMPLETION, {"logit_bias": {"5": 101}}, "logit_bias"),
    (COMPLETION, {"logit_bias": {"5": "x"}}, "logit_bias"),
    (COMPLETION, {"logit_bias": {"99999999999999": 1}}, "logit_bias"),
    (COMPLETION, {"max_draft_tokens": -1}, "max_draft_tokens"),
    (COMPLETION, {"ignore_eos": "yes"}, "ignore_eos"),
    (COMPLETION, {"stream": "yes"}, "stream"),
    (COMPLETION, {"stream_options": {"include_usage": True}}, "stream_options"),
    (COMPLETION, {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    (COMPLETION, {"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
    (COMPLETION, {"model": 5}, "model"),
]  # fmt: skip
RIGHT: dict[str, dict[str, Any]] = {CHAT: {"messages": HI}, COMPLETION: {"prompt": "Hi"}}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


class TestWrongRequests:
    @pytest.mark.parametrize(("route", "change", "param"), WRONG)
    @pytest.mark.parametrize("stream", [False, True])
    async def test_are_refused_with_their_parameter(
        self, route: str, change: dict[str, Any], param: str, stream: bool
    ) -> None:
        body = RIGHT[route] | ({"stream": True} if stream and not change.keys() & {"stream_options"} else {}) | change
        async with asking(door(FakeCoordinator())) as client:
            answer = await client.post(route, json=body)
        assert answer.status_code == 400, answer.text
        error = error_of(answer)
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"
        assert str(param) in error["message"]

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"nope", b"[1]", b'"x"', b"5", b'{"prompt": NaN}', b'{"prompt": "\xff"}', b"[" * 100_000,
         b'{"prompt": "\\ud800"}', b'{"\\ud800": 1}', b'{"seed": ' + b"9" * 5000 + b"}",
         b'\xef\xbb\xbf{"prompt": "x"}'],
    )  # fmt: skip
    async def test_what_is_no_json_object_is_refused(self, body: bytes) -> None:
        async with asking(door(FakeCoordinator())) as client:
            answer = await client.post(COMPLETION, content=body, headers=JSON)
        assert answer.status_code == 400
        assert error_of(answer)["param"] is None

    async def test_harmless_fields_are_ignored(self) -> None:
        harmless = {
            "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "tools": [],
            "tool_choice": "none", "response_format": {"type": "text"}, "parallel_tool_calls": True,
            "top_logprobs": None, "stop": None, "prediction": {"type": "content", "content": "x"},
            "logit_bias": {}, "modalities": ["text"], "n": 1,
        }  # fmt: skip
        async with asking(door(FakeCoordinator())) as client:
            answer = await client.post(CHAT, json=RIGHT[CHAT] | harmless)
        assert answer.status_code == 200, answer.text

    async def test_a_model_that_is_not_served(self) -> None:
        async with asking(door(FakeCoordinator())) as client:
            for name in ("gpt-17", ""):
                answer = await client.post(CHAT, json=RIGHT[CHAT] | {"model": name})
                assert answer.status_code == 404
                assert error_of(answer)["code"] == "model_not_found"
                assert error_of(answer)["param"] == "model"
            answer = await client.get("/v1/models/org/gpt-17")
            assert answer.status_code == 404
            assert error_of(answer)["code"] == "model_not_found"
            assert (await client.post(CHAT, json=RIGHT[CHAT] | {"model": "toy-alias"})).status_code == 200

    async def test_wrong_paths_methods_and_types(self) -> None:
        async with asking(door(FakeCoordinator())) as client:
            for path in ("/", "/v1", "/v2/models", "/v1/embeddings", "/v1/models/"):
                answer = await client.get(path)
                assert answer.status_code == 404, path
                error_of(answer)
            answer = await client.get(CHAT)
            assert answer.status_code == 405
            assert answer.headers["allow"] == "POST"
            error_of(answer)
            form = {"content-type": "application/x-www-form-urlencoded"}
            answer = await client.post(CHAT, content=json.dumps(RIGHT[CHAT]), headers=form)
            assert answer.status_code == 415
            error_of(answer)
            charset = {"content-type": "Application/JSON; charset=utf-8"}
            assert (await client.post(CHAT, content=json.dumps(RIGHT[CHAT]), headers=charset)).status_code == 200

    @pytest.mark.parametrize("told", [True, False])
    async def test_a_body_that_is_too_large(self, told: bool) -> None:
        async def pieces() -> Any:
            for _ in range(20):
                yield b" " * 100_000

        upstream = FakeCoordinator()
        async with asking(door(upstream, max_message_mib=1)) as client:
            content = b" " * 2_000_000 if told else pieces()
            answer = await client.post(CHAT, content=content, headers=JSON)
        assert answer.status_code == 413
        assert error_of(answer)["code"] == "request_too_large"
        assert upstream.requests == []


class TestTheCoordinatorsErrors:
    CASES = [  # noqa: RUF012
        (Overloaded("the queue is full"), 429, "rate_limit_exceeded", True),
        (NoSpace("no blocks"), 429, "rate_limit_exceeded", True),
        (PeerUnavailable("no server can be reached"), 503, "service_unavailable", True),
        (DeadlineExceeded("time is up"), 504, "deadline_exceeded", True),
        (InternalError("a secret"), 500, "internal_error", False),
        (ProtocolError("a secret"), 500, "internal_error", False),
        (ChannelError("a secret"), 500, "internal_error", False),
        (ZeroDivisionError("a secret"), 500, "internal_error", False),
    ]

    @pytest.mark.parametrize(("error", "status", "code", "told"), CASES)
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("n", [1, 3])
    async def test_have_a_status_each(
        self, error: Exception, status: int, code: str, told: bool, stream: bool, n: int
    ) -> None:
        upstream = FakeCoordinator()
        app = door(upstream)
        async with asking(app) as client:
            await client.post(CHAT, json=RIGHT[CHAT])  # the door knows the model from here on
            upstream.error = error
            answer = await client.post(CHAT, json=RIGHT[CHAT] | {"stream": stream, "n": n})
            assert answer.status_code == status
            assert error_of(answer)["code"] == code
            assert (str(error) in error_of(answer)["message"]) == told
            assert "secret" not in answer.text
            assert ("retry-after" in answer.headers) == (status in (429, 503))
            upstream.error = None
            assert (await client.post(CHAT, json=RIGHT[CHAT])).status_code == 200

    async def test_a_cancellation_by_the_coordinator_is_its_absence(self) -> None:
        upstream = FakeCoordinator()
        async with asking(door(upstream)) as client:
            await client.get("/v1/models")
            upstream.error = RequestCancelled("")
            assert (await client.post(CHAT, json=RIGHT[CHAT])).status_code == 503

    @pytest.mark.parametrize("error", [PeerUnavailable("gone"), InternalError("a secret"), KeyError("a secret")])
    async def test_after_the_first_token_end_the_stream(self, error: Exception) -> None:
        upstream = FakeCoordinator()
        upstream.late_error = error
        async with asking(door(upstream)) as client:
            answer = await client.post(CHAT, json=RIGHT[CHAT] | {"stream": True, "n": 2})
        assert answer.status_code == 200
        events = answer.text.removesuffix("\n\n").split("\n\n")
        assert "[DONE]" not in answer.text
        last = json.loads(events[-1].removeprefix("data: "))["error"]
        assert last["type"] == "server_error"
        assert "secret" not in answer.text
        assert upstream.running == 0

    async def test_a_stream_without_an_end_is_a_fault(self) -> None:
        upstream = FakeCoordinator()
        upstream.ends = False
        async with asking(door(upstream)) as client:
            assert (await client.post(CHAT, json=RIGHT[CHAT])).status_code == 500

    async def test_before_a_verifier_was_seen(self) -> None:
        upstream = FakeCoordinator()
        upstream.info = replace(upstream.info, target=None)
        async with asking(door(upstream)) as client:
            for answer in (await client.get("/v1/models"), await client.post(CHAT, json=RIGHT[CHAT])):
                assert answer.status_code == 503
                error_of(answer)


class TestTheRealClient:
    """What the openai package makes of it, against the real services."""

    def test_raises_its_own_errors(self, here: Running) -> None:
        client = here.openai()
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="target", messages=HI, temperature=101)
        assert refused.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="target", prompt="x" * 600)
        assert refused.value.param == "prompt"
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-17", messages=HI)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-17")
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="target", input="x")

    def test_a_full_queue_a_deadline_and_a_lost_verifier(self, pair: tuple[Path, Path]) -> None:
        with serving(
            pair[0], None, lane_size=1, lanes=1, queue_size=0, request_timeout_seconds=0.4, log_level="error"
        ) as small:
            client = small.openai()
            long: dict[str, Any] = {
                "model": "target",
                "prompt": "x",
                "max_tokens": 500,
                "extra_body": {"ignore_eos": True},
            }
            with pytest.raises(openai.RateLimitError) as full:
                client.completions.create(**long, n=4)
            assert full.value.response.headers["retry-after"] == "1"
            with pytest.raises(openai.InternalServerError) as late:
                client.completions.create(**long)
            assert late.value.status_code == 504
            with pytest.raises(openai.APIError, match="time"):
                list(client.completions.create(**long, stream=True))
            small.run(small.cluster.coordinator.stop())
            with pytest.raises(openai.InternalServerError) as gone:
                client.completions.create(**long)
            assert gone.value.status_code == 503


def test_every_error_of_the_family_has_a_status() -> None:
    tried = {type(error) for error, *_ in TestTheCoordinatorsErrors.CASES}
    elsewhere = {InvalidRequest, RequestCancelled, SetupError}
    family = {kind for kind in MinedraftError.__subclasses__() if kind.__module__ == MinedraftError.__module__}
    assert family - elsewhere <= tried
