"""A grpc.aio server as this project runs them: health, reflection, limits, no shared ports, an orderly end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from minedraft.config import MIB, ServiceSettings
from minedraft.errors import SetupError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""What a servicer's method gets beside the request."""

# Clients ping every second or so; without these a server answers "Too many pings" after a few.
PING_POLICY: Final = (
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
)


class Server:
    """One listening server. Health says NOT_SERVING until `serving` and again from `stop` on."""

    def __init__(self, settings: ServiceSettings, services: Sequence[str]) -> None:
        """Bind the port. `services` are full names, for health and reflection. Raises SetupError when it is taken."""
        limit = settings.max_message_mib * MIB
        self.aio = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.so_reuseport", 0),  # else two processes would share a port without a word
                *PING_POLICY,
            ]
        )
        self._services = tuple(services)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.aio)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.aio)
        self.address = self._bind(settings.listen)

    def add(self, register: Callable[[grpc.aio.Server], None]) -> None:
        """Register a servicer, before `start`."""
        register(self.aio)

    async def start(self) -> None:
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.aio.start()

    async def serving(self) -> None:
        """Tell health checks that calls are welcome."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def leaving(self) -> None:
        """Tell health checks, for good, that calls are no longer welcome; running ones go on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give running ones their grace, then end them."""
        await self.leaving()
        await self.aio.stop(grace_seconds)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *self._services):
            await self._health.set(name, status)

    def _bind(self, listen: str) -> str:
        host, _, _ = listen.rpartition(":")
        try:
            port = self.aio.add_insecure_port(listen)
        except RuntimeError:
            raise SetupError(
                f"cannot listen on {listen}: stop what uses the port, or choose another by --listen"
            ) from None
        return f"{host}:{port}"
