"""A coordinator without models for the door: it checks requests as the real one does and answers at once.

Requests pass through protobuf and back, so what the wire cannot carry fails here too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx

from coordinator.validation import Rules
from minedraft.config import CoordinatorSettings, HttpSettings
from minedraft.errors import InvalidRequest
from minedraft.generation import (
    Chat,
    FinishReason,
    GenerateRequest,
    Output,
    ServerInfo,
    SpeculationStats,
    Text,
    TokenIds,
)
from minedraft.generation import Usage as TokenUsage
from minedraft.http.app import Door
from minedraft.http.keys import ApiKeys
from minedraft.http.vocabulary import Vocabulary
from minedraft.model.byte_tokenizer import byte_tokenizer
from minedraft.rpc.convert_public import read_request, write_request
from minedraft.types import ModelInfo, TokenLogprobs
from tests.unit.cli.fake_server import INFO

VOCABULARY = byte_tokenizer(300)
TARGET = ModelInfo("toy", "llama", 300, VOCABULARY.fingerprint, 512, 16, 64, "float32", "cpu", "sdpa", (3,))
SETTINGS = CoordinatorSettings(model_name="toy-alias")
STATS = SpeculationStats(2, 2, 4, 1, (1, 0), (2, 2), 3)


class FakeCoordinator:
    """An `Upstream`. Tests set `error`, `late_error`, `held` and `info` to make it behave otherwise."""

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.error: Exception | None = None  # before the first piece
        self.late_error: Exception | None = None  # after it
        self.held: asyncio.Event | None = None  # waited for before the last piece
        self.info = replace(INFO, target=TARGET)
        self.running = 0
        self.ends = True  # False: streams just stop
        self._rules = Rules(SETTINGS, TARGET)

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:  # noqa: ASYNC109
        if self.error is not None:
            raise self.error
        return self.info

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Output]:
        """The alphabet, as many tokens as were asked for, in two pieces."""
        if self.error is not None:
            raise self.error
        try:
            request = replace(read_request(write_request(request)), trace_headers=request.trace_headers)
        except (ValueError, TypeError) as error:  # as minedraft.client says it
            raise InvalidRequest("request", str(error)) from error
        sampling = self._rules.check(request)
        prompt_ids = _tokens(request)
        self._rules.check_prompt(request, prompt_ids)
        self.requests.append(request)
        tokens = [65 + index % 26 for index in range(min(sampling.max_new_tokens, 8))]
        first = _piece(request, tokens[:1])
        last = _piece(request, tokens[1:])
        self.running += 1
        try:
            yield first
            if self.late_error is not None:
                raise self.late_error
            if self.held is not None:
                await self.held.wait()
            if self.ends:
                usage = TokenUsage(len(prompt_ids), len(tokens))
                yield replace(last, finish_reason=FinishReason.LENGTH, usage=usage, speculation=STATS)
        finally:
            self.running -= 1


def door(upstream: FakeCoordinator, *, keys: ApiKeys | None = None, **settings: Any) -> Door:
    return Door(HttpSettings(**settings), upstream, vocabulary=Vocabulary(VOCABULARY), keys=keys)


def asking(app: Door) -> httpx.AsyncClient:
    """A client of the door in this process, without sockets."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")


def _piece(request: GenerateRequest, tokens: list[int]) -> Output:
    count = request.sampling.logprobs
    alternatives = tuple(range(70, 70 + (count or 0)))
    entries = [TokenLogprobs(token, -0.5, alternatives, (-1.0,) * len(alternatives)) for token in tokens]
    return Output(
        request.request_id,
        bytes(tokens).decode(),
        tuple(tokens),
        tuple(entries) if count is not None else (),
    )


def _tokens(request: GenerateRequest) -> tuple[int, ...]:
    match request.prompt:
        case Text(text):
            return tuple(text.encode())
        case Chat(messages):
            return tuple("".join(message.role + message.content for message in messages).encode())
        case TokenIds(ids):
            return ids
