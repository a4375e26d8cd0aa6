"""What the drafter's and the verifier's processes share: a server, an engine thread, and the way they start and end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import grpc
import structlog

from minedraft.config import EngineSettings
from minedraft.engine.stepper import Stepper, Worker
from minedraft.engine.thread import EngineThread
from minedraft.rpc.server import Server
from minedraft.types import ModelInfo

Item = TypeVar("Item")
Result = TypeVar("Result")
W = TypeVar("W", bound=Worker[Any, Any])


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
        make_worker: Callable[[], W],
        make_servicer: Callable[[Stepper[Item, Result], W], ModelServicer],
    ) -> None:
        self._settings = settings
        self._full_name = full_name
        self._make_worker = make_worker
        self._make_servicer = make_servicer
        self._thread = EngineThread(threads=settings.threads)
        self._server: Server | None = None
        self._servicer: ModelServicer | None = None

    async def start(self) -> str:
        """Serve; return the address. Raises SetupError when the port is taken or the model cannot be loaded."""
        self._server = server = Server(self._settings, [self._full_name])
        self._thread.start()
        worker = await self._thread.submit(self._make_worker)
        stepper: Stepper[Item, Result] = Stepper(self._thread, worker)
        structlog.get_logger().info("model ready", **_summary(stepper.info))
        self._servicer = self._make_servicer(stepper, worker)
        server.add(self._servicer.register)
        await server.start()
        await server.serving()
        return server.address

    async def stop(self) -> None:
        """Say goodbye on every stream, give them the grace period, then end."""
        if self._server is not None and self._servicer is not None:
            await self._server.leaving()
            self._servicer.goodbye("the service is shutting down")
            await self._server.stop(self._settings.grace_seconds)
        self._thread.stop()


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
