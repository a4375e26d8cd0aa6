"""What the drafter's and the verifier's processes share: a server, an engine thread, and the way they start and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import grpc
import structlog

from minedraft.config import EngineSettings
from minedraft.engine.stepper import Stepper, Worker
from minedraft.engine.thread import EngineThread
from minedraft.errors import PeerUnavailable
from minedraft.rpc.server import Server
from minedraft.telemetry.activity import Role
from minedraft.telemetry.opening import tracer_of
from minedraft.types import ModelInfo

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from minedraft.telemetry.tracing import Tracer

Item = TypeVar("Item")
Result = TypeVar("Result")
W = TypeVar("W", bound=Worker[Any, Any])

CLOSE_SECONDS: Final = 10.0
STEP_NAMES: Final = {Role.DRAFTER: "draft", Role.VERIFIER: "verify"}  # of spans


class ModelServicer(Protocol):
    """A gRPC servicer over a stepper."""

    def register(self, server: grpc.aio.Server) -> None: ...

    def goodbye(self, reason: str) -> None:
        """Tell every stream that it is about to end."""


class ModelService(Generic[Item, Result, W]):
    """One model service: bind, load the model on the engine thread, serve, say goodbye."""

    def __init__(
        self,
        settings: EngineSettings,
        full_name: str,
        role: Role,
        make_worker: Callable[[], W],
        make_servicer: Callable[[Stepper[Item, Result], W], ModelServicer],
        close_worker: Callable[[W], None] | None = None,
    ) -> None:
        self._settings = settings
        self._full_name = full_name
        self._role = role
        self._make_worker = make_worker
        self._make_servicer = make_servicer
        self._close_worker = close_worker
        self._thread = EngineThread(threads=settings.threads)
        self._server: Server | None = None
        self._servicer: ModelServicer | None = None
        self._worker: W | None = None
        self._stepper: Stepper[Item, Result] | None = None
        self._tracer: Tracer | None = None

    async def start(self) -> str:
        """Serve; return the address. Raises SetupError when the port is taken or the model cannot be loaded."""
        self._server = server = Server(self._settings, [self._full_name])
        self._thread.start()
        self._worker = worker = await self._thread.submit(self._make_worker)
        self._stepper = stepper = Stepper(self._thread, worker)
        self._tracer = tracer_of(self._settings, self._role.value, stepper.newest_state.instance_id)
        if self._tracer is not None:
            stepper.on_step = partial(self._tracer.steps, STEP_NAMES[self._role])
        structlog.get_logger().info("model ready", **_summary(stepper.info))
        self._servicer = self._make_servicer(stepper, worker)
        server.add(self._servicer.register)
        await server.start()
        await server.serving()
        return server.address

    def collectors(self) -> Sequence[Collector]:
        """See `minedraft.process.Service.collectors`."""
        from minedraft.engine.metrics import step_collector

        return [] if self._stepper is None else [step_collector(self._stepper)]

    async def stop(self) -> None:
        """Say goodbye on every stream, give them the grace period, then end."""
        if self._server is not None and self._servicer is not None:
            await self._server.leaving()
            self._servicer.goodbye("the service is shutting down")
            await self._server.stop(self._settings.grace_seconds)
        worker, close, self._worker = self._worker, self._close_worker, None
        if worker is not None and close is not None:
            # The engine may hang in a step; the process ends all the same.
            with suppress(TimeoutError, PeerUnavailable):
                await asyncio.wait_for(self._thread.submit(lambda: close(worker)), CLOSE_SECONDS)
        self._thread.stop()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)


def _summary(info: ModelInfo) -> dict[str, object]:
    return {
        "model": info.model_id,
        "architecture": info.architecture,
        "dtype": info.dtype,
        "device": info.device,
        "attention": info.attention_backend,
        "max_len": info.max_len,
        "kv_blocks": info.num_blocks,
        "block_size": info.block_size,
    }
