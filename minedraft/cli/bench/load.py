"""A closed loop: C requests in flight; when one ends the next is sent, until none is left. Records, judges nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from minedraft.client import AsyncClient
from minedraft.errors import InternalError, MinedraftError
from minedraft.generation import GenerateRequest, Output, ServerInfo


@dataclass(slots=True)
class Trace:
    """One request as its client saw it. Mutated by the worker that sends it, until it ends. Times: perf_counter."""

    sent: float
    pieces: list[tuple[float, int]] = field(default_factory=list)  # (when it came, its tokens > 0)
    ended: float = 0.0
    last: Output | None = None  # the final piece; None when the request failed
    error: MinedraftError | None = None

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.pieces)


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at a moment of the client's clock."""

    when: float
    info: ServerInfo


@dataclass(frozen=True, slots=True)
class Load:
    """All that a closed loop recorded."""

    traces: tuple[Trace, ...]
    before: Sample  # just before the first request was sent
    after: Sample  # just after the last one ended
    steady: tuple[Sample, Sample] | None
    """When all C streams had their first token, and when the first worker had nothing left to send."""


async def warm_up(client: AsyncClient, requests: Sequence[GenerateRequest], concurrency: int) -> None:
    """Send requests that nothing is recorded of. Raises what they raise."""
    waiting = iter(requests)

    async def work() -> None:
        for request in waiting:
            await client.complete(request)

    async with asyncio.TaskGroup() as workers:
        for _ in range(min(concurrency, len(requests))):
            workers.create_task(work())


async def run(
    client: AsyncClient, requests: Sequence[GenerateRequest], concurrency: int, progress: Callable[[Trace], None]
) -> Load:
    """Send all requests, `concurrency` at a time. `progress` is told of each that ended."""
    loop = _ClosedLoop(client, requests, concurrency, progress)
    return await loop.run()


class _ClosedLoop:
    def __init__(
        self,
        client: AsyncClient,
        requests: Sequence[GenerateRequest],
        concurrency: int,
        progress: Callable[[Trace], None],
    ) -> None:
        self._client = client
        self._waiting: Iterator[GenerateRequest] = iter(requests)
        self._concurrency = concurrency
        self._progress = progress
        self._traces: list[Trace] = []
        self._active: set[int] = set()  # workers that have seen a token
        self._all_active = asyncio.Event()
        self._first_out = asyncio.Event()

    async def run(self) -> Load:
        before = await self._sample()
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._watch_steady())
            workers = [tasks.create_task(self._work(number)) for number in range(self._concurrency)]
            await asyncio.gather(*workers)
            self._all_active.set()  # lets the watcher end when some worker never saw a token
        return Load(tuple(self._traces), before, await self._sample(), watcher.result())

    async def _work(self, worker: int) -> None:
        for request in self._waiting:
            trace = Trace(time.perf_counter())
            self._traces.append(trace)
            await self._send(worker, request, trace)
            self._progress(trace)
        self._first_out.set()

    async def _send(self, worker: int, request: GenerateRequest, trace: Trace) -> None:
        piece: Output | None = None
        try:
            async for piece in self._client.generate(request):
                if piece.token_ids:
                    trace.pieces.append((time.perf_counter(), len(piece.token_ids)))
                    self._begun(worker)
            if piece is None or piece.finish_reason is None:
                raise InternalError("the server ended an answer without a reason")
            trace.last = piece
        except MinedraftError as error:
            trace.error = error
        trace.ended = time.perf_counter()

    def _begun(self, worker: int) -> None:
        self._active.add(worker)
        if len(self._active) == self._concurrency:
            self._all_active.set()

    async def _watch_steady(self) -> tuple[Sample, Sample] | None:
        await self._all_active.wait()
        if self._first_out.is_set():
            return None
        begin = await self._sample()
        await self._first_out.wait()
        return begin, await self._sample()

    async def _sample(self) -> Sample:
        info = await self._client.server_info()
        return Sample(time.perf_counter(), info)
