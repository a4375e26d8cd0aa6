"""The coordinator's gRPC face, and the process around it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import structlog

import minedraft
from coordinator.clients import Clients, client_at
from coordinator.coordinator import Coordinator
from coordinator.discovery import Resolve, resolve
from coordinator.fleet import Fleet
from coordinator.memory import keep_small, trimmer
from coordinator.request import Sink
from minedraft.config import CoordinatorSettings
from minedraft.errors import InternalError, MinedraftError, PeerUnavailable, RequestCancelled
from minedraft.generation import Output, TimelinePage
from minedraft.rpc.convert_public import read_request, write_output, write_server, write_timeline
from minedraft.rpc.credentials import ClientTls
from minedraft.rpc.endings import abort, refuse
from minedraft.rpc.gate import CALLER, TokenGate
from minedraft.rpc.server import Context, Server
from minedraft.rpc.tokens import Tokens
from minedraft.telemetry.opening import tracer_of
from minedraft.v1 import generation_pb2 as pb
from minedraft.v1 import generation_pb2_grpc as pb_grpc

if TYPE_CHECKING:  # loaded only where metrics are asked for
    from prometheus_client.registry import Collector

    from coordinator.metrics import Waits
    from minedraft.telemetry.tracing import Tracer

TRACE_HEADERS: Final = ("traceparent", "tracestate")
MOST_STEPS: Final = 4096  # in one answer of GetTimeline
FULL_NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name


class GenerationServicer(pb_grpc.GenerationServiceServicer):
    """Until a verifier has been seen there is no coordinator, and requests are UNAVAILABLE."""

    def __init__(self, verifier: str, clients: Clients | None = None) -> None:
        """`clients` has the limits of each client; None: there are none."""
        self._verifier = verifier
        self._clients = Clients() if clients is None else clients
        self.coordinator: Coordinator | None = None
        self.waits: Waits | None = None  # there when somebody looks at the metrics

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_GenerationServiceServicer_to_server(self, server)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:  # noqa: N802
        with self._waiting(context) as on_its_way:
            async with _errors_as_status(context), self._running(request, context) as sink:
                last = False
                while not last:
                    piece, last = await sink.take()
                    if piece is not None:
                        on_its_way(len(piece.token_ids))
                        await context.write(write_output(piece))

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:  # noqa: N802
        pieces: list[Output] = []
        with self._waiting(context) as on_its_way:
            async with _errors_as_status(context), self._running(request.generate, context) as sink:
                last = False
                while not last:
                    piece, last = await sink.take()
                    if piece is not None:
                        on_its_way(len(piece.token_ids))
                        pieces.append(piece)
        return pb.CompleteResponse(output=write_output(Output.merged(pieces)))

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        if self.coordinator is None:
            return pb.GetServerInfoResponse(
                version=minedraft.__version__, verifiers=[pb.PeerInfo(address=self._verifier)]
            )
        return write_server(self.coordinator.info())

    async def GetTimeline(  # noqa: N802
        self, request: pb.GetTimelineRequest, context: Context
    ) -> pb.GetTimelineResponse:
        limit = min(request.limit or MOST_STEPS, MOST_STEPS)
        page = self.coordinator.timeline.page(request.after, limit) if self.coordinator else TimelinePage((), 0)
        return write_timeline(page)

    @contextmanager
    def _waiting(self, context: Context) -> Iterator[Callable[[int], None]]:
        """Takes how many tokens go to the client, whenever some do."""
        if self.waits is None:
            yield lambda _: None
            return
        wait = self.waits.begin()
        try:
            yield wait.piece
        finally:
            wait.end()
            self.waits.failed(context.code())

    @asynccontextmanager
    async def _running(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[Sink]:
        """A request that counts for its client, whose name is in every log line of this task."""
        if self.coordinator is None:
            raise PeerUnavailable(f"no verifier has been seen yet at {self._verifier}")
        name = CALLER.get()
        if name:
            structlog.contextvars.bind_contextvars(client=name)
        with self._clients.request(name or client_at(context.peer())):
            asked = replace(read_request(request), trace_headers=_trace_headers(context))
            async with self.coordinator.running(asked, context.time_remaining()) as sink:
                yield sink


class CoordinatorService:
    """One coordinator process: serve at once, be SERVING from the first verifier on."""

    def __init__(self, settings: CoordinatorSettings, lookup: Resolve = resolve) -> None:
        """`lookup` finds the addresses of `dns:` names."""
        self._settings = settings
        self._servicer = GenerationServicer(settings.verifier, Clients.of(settings))
        self._server: Server | None = None
        self._fleet = Fleet(settings, lookup)
        self._tracer: Tracer | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Serve; return the address. Raises SetupError when the port is taken or a file of secrets cannot be used."""
        ClientTls.of(self._settings).check()
        self._tracer = tracer_of(self._settings, "coordinator", uuid.uuid4().hex)
        path = self._settings.token_file
        guards = [TokenGate(Tokens(Path(path)))] if path else []
        self._server = server = Server(self._settings, [FULL_NAME], guards)
        server.add(self._servicer.register)
        await server.start()
        await self._fleet.start()
        self._opening = asyncio.create_task(self._open(server))
        if give_back := trimmer():
            self._tidying = asyncio.create_task(keep_small(give_back))
        return server.address

    def collectors(self) -> Sequence[Collector]:
        """See `minedraft.process.Service.collectors`."""
        from coordinator.metrics import Waits, server_collector

        servicer = self._servicer
        servicer.waits = servicer.waits or Waits()
        loop = asyncio.get_running_loop()
        server = server_collector(lambda: servicer.coordinator.info() if servicer.coordinator else None, loop)
        return [*servicer.waits.collectors, server]

    async def stop(self) -> None:
        """Refuse new requests, let running ones finish within the grace period, then end."""
        for task in (self._opening, self._tidying):
            if task is not None:
                task.cancel()
        if self._server is not None:
            await self._server.leaving()
            if self._servicer.coordinator is not None:
                await self._servicer.coordinator.drain(self._settings.grace_seconds)
            await self._server.stop(1.0)
        if self._servicer.coordinator is not None:
            await self._servicer.coordinator.stop()
        await self._fleet.stop()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    async def _open(self, server: Server) -> None:
        """Once a verifier is there, its model and tokenizer decide what is served."""
        await self._fleet.first_verifier()
        target, tokenizer = self._fleet.served.target, self._fleet.served.tokenizer
        if target is None or tokenizer is None:
            raise InternalError("a ready verifier has a model")
        try:
            coordinator = Coordinator(self._settings, self._fleet, target, tokenizer, self._tracer)
        except Exception:  # the tokenizers package raises bare Exception
            structlog.get_logger().exception("the verifier's tokenizer cannot be used", model=target.model_id)
            raise
        coordinator.start()
        self._servicer.coordinator = coordinator
        await server.serving()
        structlog.get_logger().info("serving a target", model=target.model_id, lanes=self._settings.lanes)


def _trace_headers(context: Context) -> tuple[tuple[str, str], ...]:
    """The caller's W3C trace context, if any."""
    metadata = context.invocation_metadata() or ()
    return tuple((key, value) for key, value in metadata if key in TRACE_HEADERS and isinstance(value, str))


@asynccontextmanager
async def _errors_as_status(context: Context) -> AsyncIterator[None]:
    """The family of errors becomes gRPC codes; anything else becomes INTERNAL, with its traceback in the log only."""
    try:
        yield
    except MinedraftError as error:
        await refuse(context, error)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.InternalError:  # of gRPC, which could not write
        await refuse(context, RequestCancelled("the client has left"))
    except Exception as error:
        structlog.get_logger().exception("request failed")
        await abort(context, grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}")
