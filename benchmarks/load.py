"""Requests that run all the time while something is done to the services."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from minedraft.client import AsyncClient
from minedraft.errors import MinedraftError
from minedraft.generation import GenerateRequest, TokenIds
from minedraft.types import SamplingParams


class Load:
    """One request at a time for each prompt; each answer is compared with what plain decoding answered before."""

    def __init__(self, client: AsyncClient, sampling: SamplingParams, seconds: float) -> None:
        """A request that takes longer than `seconds` has failed."""
        self.requests = self.wrong_tokens = 0
        self.failed: list[str] = []  # why each request that did not end well did not
        self.over = False  # set it, and no further request begins
        self._client = client
        self._sampling = sampling
        self._seconds = seconds
        self._right: dict[tuple[int, ...], tuple[int, ...]] = {}

    async def learn(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Have each prompt answered without drafts."""
        plain = [GenerateRequest(TokenIds(prompt), self._sampling, max_draft_tokens=0) for prompt in prompts]
        outputs = await asyncio.gather(*(self._client.complete(request) for request in plain))
        self._right = {prompt: output.token_ids for prompt, output in zip(prompts, outputs, strict=True)}

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the tasks end after `over` was set."""
        return [asyncio.create_task(self._run(prompt, right)) for prompt, right in self._right.items()]

    async def _run(self, prompt: tuple[int, ...], right: tuple[int, ...]) -> None:
        request = GenerateRequest(TokenIds(prompt), self._sampling)
        while not self.over:
            try:
                async with asyncio.timeout(self._seconds):
                    output = await self._client.complete(request)
            except (TimeoutError, MinedraftError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                print(self.failed[-1], flush=True)
                continue
            self.requests += 1
            differing = sum(a != b for a, b in zip(output.token_ids, right, strict=False))
            self.wrong_tokens += differing + abs(len(output.token_ids) - len(right))
