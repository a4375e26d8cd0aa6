"""The generations of one HTTP request, side by side at the coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, cast

from minedraft.errors import InternalError, MinedraftError, PeerUnavailable, RequestCancelled
from minedraft.generation import GenerateRequest, Output
from minedraft.http.metrics import GenerationMeter
from minedraft.http.upstream import Upstream

WAITING_PIECES: Final = 2  # of each choice, before the coordinator has to wait: it merges what waits


@dataclass(frozen=True, slots=True)
class Generations:
    """What is to be generated, and how it is followed."""

    upstream: Upstream
    requests: Sequence[GenerateRequest]
    meter: Callable[[], GenerationMeter]  # a fresh one for each choice
    translated: Callable[[MinedraftError], Exception]  # the coordinator's refusals in the client's words

    async def pieces(self) -> AsyncGenerator[tuple[int, Output]]:
        """(choice, piece) as they come, to the end of every choice. The first error ends all choices.

        Closing the generator cancels what still runs.
        """
        if len(self.requests) == 1:
            async with aclosing(self._one(self.requests[0])) as pieces:
                async for piece in pieces:
                    yield 0, piece
            return
        queue: asyncio.Queue[tuple[int, Output | Exception]] = asyncio.Queue(WAITING_PIECES * len(self.requests))
        tasks = [asyncio.create_task(self._pump(choice, queue)) for choice in range(len(self.requests))]
        running = len(tasks)
        try:
            while running:
                choice, arrived = await queue.get()
                if isinstance(arrived, Exception):
                    raise arrived
                running -= arrived.finish_reason is not None
                yield choice, arrived
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def whole(self) -> list[Output]:
        """Every choice in one piece."""
        parts: list[list[Output]] = [[] for _ in self.requests]
        async with aclosing(self.pieces()) as pieces:
            async for choice, piece in pieces:
                parts[choice].append(piece)
        return [Output.merged(part) for part in parts]

    async def _pump(self, choice: int, queue: asyncio.Queue[tuple[int, Output | Exception]]) -> None:
        try:
            async with aclosing(self._one(self.requests[choice])) as pieces:
                async for piece in pieces:
                    await queue.put((choice, piece))
        except Exception as error:
            await queue.put((choice, error))

    async def _one(self, request: GenerateRequest) -> AsyncGenerator[Output]:
        """One choice, measured, to its last piece."""
        meter = self.meter()
        finished = False
        try:
            async with aclosing(_closable(self.upstream.generate(request))) as pieces:
                async for piece in pieces:
                    meter.took(piece)
                    finished = piece.finish_reason is not None
                    yield piece
            if not finished:
                raise InternalError("the coordinator's stream ended without an end")
        except RequestCancelled as error:  # the client is still there, so it was the coordinator
            meter.failed(PeerUnavailable())
            raise PeerUnavailable(str(error) or "the coordinator has cancelled the request") from error
        except MinedraftError as error:
            meter.failed(error)
            raise self.translated(error) from error
        except BaseException as error:
            if not finished:
                meter.failed(error)
            raise


def _closable(pieces: AsyncIterator[Output]) -> AsyncGenerator[Output]:
    return cast("AsyncGenerator[Output]", pieces)
