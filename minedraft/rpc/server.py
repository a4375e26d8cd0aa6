"""A grpc.aio server as this project runs them: TLS, health, reflection, limits, no shared ports, an orderly end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from minedraft.config import MIB, ServiceSettings
from minedraft.errors import SetupError
from minedraft.rpc.credentials import ServerCertificate, is_loopback
from minedraft.rpc.malformed import MalformedGate

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""What a servicer's method gets beside the request."""

ALIVE: Final = "alive"
"""A name for liveness probes: SERVING from `start` on, also while calls are not welcome yet."""

# Clients ping every second or so; without these a server answers "Too many pings" after a few.
PING_POLICY: Final = (
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
)
# A client that vanished without a word, its machine with it, is noticed within 40 s.
KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)


class Server:
    """One listening server. Health says NOT_SERVING until `serving` and again from `stop` on."""

    def __init__(
        self, settings: ServiceSettings, services: Sequence[str], guards: Sequence[grpc.aio.ServerInterceptor] = ()
    ) -> None:
        """Bind the port. `services` are full names, for health and reflection; `guards` see every call first.

        Raises SetupError when the port is taken or the certificate cannot be used.
        """
        self._certificate = ServerCertificate.of(settings)
        self.aio = grpc.aio.server(interceptors=[*guards, MalformedGate()], options=_options(settings))
        self._services = tuple(services)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.aio)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.aio)
        self.address = self._bind(settings.listen)
        _warn_if_open(settings, guarded=bool(guards))

    def add(self, register: Callable[[grpc.aio.Server], None]) -> None:
        """Register a servicer, before `start`."""
        register(self.aio)

    async def start(self) -> None:
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._health.set(ALIVE, health_pb2.HealthCheckResponse.SERVING)
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
            port = (
                self.aio.add_insecure_port(listen)
                if self._certificate is None
                else self.aio.add_secure_port(listen, self._certificate.credentials())
            )
        except RuntimeError:
            raise SetupError(
                f"cannot listen on {listen}: stop what uses the port, or choose another by --listen"
            ) from None
        return f"{host}:{port}"


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    limit = settings.max_message_mib * MIB
    times = {
        "grpc.server_handshake_timeout_ms": settings.handshake_timeout_seconds,
        "grpc.max_connection_idle_ms": settings.max_connection_idle_seconds,
        "grpc.max_connection_age_ms": settings.max_connection_age_seconds,
    }
    return [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.so_reuseport", 0),  # else two processes would share a port without a word
        *PING_POLICY,
        *KEEPALIVE,
        *((name, max(1, round(seconds * 1000))) for name, seconds in times.items() if seconds),
    ]


def _warn_if_open(settings: ServiceSettings, *, guarded: bool) -> None:
    """A line for each thing that an address which others can reach ought to have."""
    if is_loopback(settings.listen):
        return
    log = structlog.get_logger().bind(listen=settings.listen)
    if not settings.tls_cert:
        log.warning("PLAINTEXT on an address that others can reach: give --tls-cert and --tls-key")
    if not (guarded or settings.tls_client_ca):
        ways = "--token-file or --tls-client-ca" if "token_file" in type(settings).model_fields else "--tls-client-ca"
        log.warning(f"ANYONE who reaches this address may use the model: give {ways}, or listen on 127.0.0.1")
