"""Two ways to send requests. Records, judges nothing.

Closed loop: C requests in flight; when one ends the next is sent, until none is left. Open loop: requests arrive at
random moments (a Poisson process), whatever the server does, and wait there when it is slow.
"""

from __future__ import annotations

import asyncio
import random
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
    """All that was recorded."""

    traces: tuple[Trace, ...]
    before: Sample  # just before the first request was sent
    after: Sample  # just after the last one ended
    steady: tuple[Sample, Sample] | None
    """Closed loop: when all C streams had their first token, and when the first worker had nothing left to send."""


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
    """Closed loop: send all requests, `concurrency` at a time. `progress` is told of each that ended."""
    return await _ClosedLoop(client, requests, concurrency, progress).run()


async def arrive(
    client: AsyncClient,
    requests: Sequence[GenerateRequest],
    moments: Sequence[float],
    progress: Callable[[Trace], None],
) -> Load:
    """Open loop: send each request at its moment, seconds from now, rising. `progress` is told of each that ended."""
    return await _OpenLoop(client, progress).run(list(zip(moments, requests, strict=True)))


def poisson(count: int, rate: float, seed: int) -> list[float]:
    """When `count` requests arrive, in seconds, the first at 0: gaps of an exponential law, `rate` a second by mean."""
    drawn = random.Random(seed)  # noqa: S311  # a load, not a secret
    moments = [0.0]
    while len(moments) < count:
        moments.append(moments[-1] + drawn.expovariate(rate))
    return moments[:count]


class _Recorder:
    """Sends requests and keeps their traces."""

    def __init__(self, client: AsyncClient, progress: Callable[[Trace], None]) -> None:
        self._client = client
        self._progress = progress
        self.traces: list[Trace] = []

    async def send(self, request: GenerateRequest, begun: Callable[[], None]) -> None:
        """Send one and record all of it. `begun` is called with each piece."""
        trace = Trace(time.perf_counter())
        self.traces.append(trace)
        piece: Output | None = None
        try:
            async for piece in self._client.generate(request):
                if piece.token_ids:
                    trace.pieces.append((time.perf_counter(), len(piece.token_ids)))
                    begun()
            if piece is None or piece.finish_reason is None:
                raise InternalError("the server ended an answer without a reason")
            trace.last = piece
        except MinedraftError as error:
            trace.error = error
        trace.ended = time.perf_counter()
        self._progress(trace)

    async def sample(self) -> Sample:
        info = await self._client.server_info()
        return Sample(time.perf_counter(), info)


class _OpenLoop:
    def __init__(self, client: AsyncClient, progress: Callable[[Trace], None]) -> None:
        self._recorder = _Recorder(client, progress)

    async def run(self, arrivals: Sequence[tuple[float, GenerateRequest]]) -> Load:
        before = await self._recorder.sample()
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for moment, request in arrivals:
                await asyncio.sleep(begin + moment - time.perf_counter())
                tasks.create_task(self._recorder.send(request, lambda: None))
        return Load(tuple(self._recorder.traces), before, await self._recorder.sample(), None)


class _ClosedLoop:
    def __init__(
        self,
        client: AsyncClient,
        requests: Sequence[GenerateRequest],
        concurrency: int,
        progress: Callable[[Trace], None],
    ) -> None:
        self._recorder = _Recorder(client, progress)
        self._waiting: Iterator[GenerateRequest] = iter(requests)
        self._concurrency = concurrency
        self._active: set[int] = set()  # workers that have seen a token
        self._all_active = asyncio.Event()
        self._first_out = asyncio.Event()

    async def run(self) -> Load:
        before = await self._recorder.sample()
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._watch_steady())
            workers = [tasks.create_task(self._work(number)) for number in range(self._concurrency)]
            await asyncio.gather(*workers)
            self._all_active.set()  # lets the watcher end when some worker never saw a token
        return Load(tuple(self._recorder.traces), before, await self._recorder.sample(), watcher.result())

    async def _work(self, worker: int) -> None:
        for request in self._waiting:
            await self._recorder.send(request, lambda: self._begun(worker))
        self._first_out.set()

    def _begun(self, worker: int) -> None:
        self._active.add(worker)
        if len(self._active) == self._concurrency:
            self._all_active.set()

    async def _watch_steady(self) -> tuple[Sample, Sample] | None:
        await self._all_active.wait()
        if self._first_out.is_set():
            return None
        begin = await self._recorder.sample()
        await self._first_out.wait()
        return begin, await self._recorder.sample()
