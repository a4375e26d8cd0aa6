"""A GenerationService of the tests' own on a real loopback server, for clients that must not need a model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from minedraft.config import CoordinatorSettings
from minedraft.generation import (
    Activity,
    FinishReason,
    GenerateRequest,
    LaneInfo,
    Limits,
    Output,
    PeerInfo,
    ServerInfo,
    SpeculationStats,
    TimelinePage,
    TimelineStep,
    Usage,
)
from minedraft.rpc.convert_public import read_request, write_output, write_server, write_timeline
from minedraft.rpc.server import Server
from minedraft.types import ModelInfo, TokenLogprobs
from minedraft.v1 import generation_pb2 as pb
from minedraft.v1 import generation_pb2_grpc as pb_grpc

FULL_NAME = "minedraft.v1.GenerationService"
MODEL = ModelInfo("toy", "llama", 300, "", 512, 16, 64, "float32", "cpu", "sdpa", (2,))
STATS = SpeculationStats(2, 2, 4, 1, (1, 0), (2, 2), 3)
INFO = ServerInfo(
    version="9.9.9",
    target=MODEL,
    drafters=(PeerInfo("here:2", True, replace(MODEL, model_id="toy-draft"), "", None, 1, "inline"),),
    verifiers=(PeerInfo("here:1", True, MODEL, "", None, 1, "inline"),),
    lanes=(LaneInfo(0, 0, 7), LaneInfo(1, 0, 9)),
    limits=Limits(512, 2, 16, 256, 4, 512),
    queued_requests=0,
    speculation=STATS,
    activity=Activity(),
    finished_requests=0,
    aborted_requests=0,
)


def pieces(logprobs: bool = False) -> list[Output]:
    """An answer of three tokens in two pieces."""
    entries = [TokenLogprobs(i, -0.5, (i, 9), (-0.5, -2.0)) for i in (11, 12, 2)] if logprobs else []
    return [
        Output("r1", "Hello", (11,), logprobs=tuple(entries[:1])),
        Output("r1", " world", (12, 2), tuple(entries[1:]), FinishReason.EOS, Usage(5, 3), STATS),
    ]


@dataclass
class FakeService(pb_grpc.GenerationServiceServicer):
    """Answers every request alike. Tests set the fields; the server's thread reads them."""

    info: ServerInfo = INFO
    refusal: tuple[grpc.StatusCode, str] | None = None
    refuse_from: int = 0  # the number of requests that are answered before `refusal` holds
    delay: float = 0.0  # seconds before each piece
    endless: bool = False
    activity_step: float = 0.0  # wall seconds that pass between two GetServerInfo calls
    timeline: list[TimelineStep] = field(default_factory=list)
    requests: list[GenerateRequest] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def Generate(  # noqa: N802
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(read_request(request))
        await self._refuse(context)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for piece in pieces(request.sampling.HasField("logprobs")):
                while self.endless and piece.finish_reason:
                    await asyncio.sleep(0.01)
                    yield write_output(Output("r1", "!", (33,)))
                await asyncio.sleep(self.delay)
                yield write_output(piece)
        except (asyncio.CancelledError, GeneratorExit):  # the latter when the call ends between two pieces
            self.cancelled.set()
            raise
        finally:
            self.running -= 1

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:  # noqa: N802
        self.requests.append(read_request(request.generate))
        await self._refuse(context)
        await asyncio.sleep(self.delay)
        return pb.CompleteResponse(output=write_output(Output.merged(pieces())))

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: Any
    ) -> pb.GetServerInfoResponse:
        activity = self.info.activity
        self.info = replace(
            self.info, activity=replace(activity, wall_seconds=activity.wall_seconds + self.activity_step)
        )
        return write_server(self.info)

    async def GetTimeline(  # noqa: N802
        self, request: pb.GetTimelineRequest, context: Any
    ) -> pb.GetTimelineResponse:
        steps = [step for step in self.timeline if step.number > request.after]
        newest = self.timeline[-1].number if self.timeline else 0
        return write_timeline(TimelinePage(tuple(steps[: request.limit or None]), newest))

    async def _refuse(self, context: Any) -> None:
        if self.refusal is not None and len(self.requests) > self.refuse_from:
            await context.abort(*self.refusal)


@dataclass(frozen=True)
class Serving:
    """A server on a thread of its own."""

    address: str
    service: FakeService


@contextmanager
def serving(service: FakeService | None = None, *, healthy: bool = True) -> Iterator[Serving]:
    """Serve until the block ends."""
    service = service or FakeService()
    started, leave = threading.Event(), asyncio.Event()
    where: list[Any] = []

    async def run() -> None:
        server = Server(CoordinatorSettings(listen="127.0.0.1:0"), [FULL_NAME])
        server.add(lambda aio: pb_grpc.add_GenerationServiceServicer_to_server(service, aio))
        await server.start()
        if healthy:
            await server.serving()
        where.extend((server.address, asyncio.get_running_loop()))
        started.set()
        await leave.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        if not started.wait(10):
            raise RuntimeError("the server did not start")
        yield Serving(where[0], service)
    finally:
        where[1].call_soon_threadsafe(leave.set)
        thread.join(10)
