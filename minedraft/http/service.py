"""The process around the door: a socket, uvicorn, an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from prometheus_client.registry import Collector

from minedraft.client import AsyncClient, token_in
from minedraft.config import HttpSettings
from minedraft.errors import SetupError
from minedraft.http.app import Door
from minedraft.http.certificate import DoorCertificate
from minedraft.http.keys import ApiKeys
from minedraft.http.upstream import tell_until_reached
from minedraft.http.vocabulary import Vocabulary

BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 75  # longer than clients keep idle connections, so that it is they who close them
LAST_SECONDS: Final = 2  # for answers that were ended at the end of the grace period


class HttpService:
    """One door process."""

    def __init__(self, settings: HttpSettings) -> None:
        """Raises SetupError for files that cannot be used."""
        self._settings = settings
        self._certificate = DoorCertificate.of(settings)
        self._keys = ApiKeys(Path(settings.api_key_file)) if settings.api_key_file else None
        self._vocabulary = Vocabulary.read(Path(settings.tokenizer)) if settings.tokenizer else Vocabulary()
        self._client: AsyncClient | None = None
        self._door: Door | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._beside: list[asyncio.Task[None]] = []  # what goes on beside the serving

    async def start(self) -> str:
        """Serve; return the address. Raises SetupError when the port is taken or a file of secrets cannot be used."""
        settings = self._settings
        self._client = AsyncClient(
            settings.coordinator,
            token=token_in(settings.token_file),
            ca=settings.tls_ca,
            cert=settings.tls_client_cert,
            key=settings.tls_client_key,
            server_name=settings.tls_server_name,
        )
        listener = _bind(settings.listen)
        self._warn_if_open(listener)
        self._door = Door(settings, self._client, vocabulary=self._vocabulary, keys=self._keys)
        self._server = _Server(_uvicorn_config(self._door, settings.grace_seconds, self._certificate))
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        await self._server.listening
        self._beside.append(asyncio.create_task(tell_until_reached(self._client)))
        if self._certificate is not None:
            self._beside.append(asyncio.create_task(self._certificate.follow()))
        host, _, _ = settings.listen.rpartition(":")
        return f"{host}:{listener.getsockname()[1]}"

    def collectors(self) -> Sequence[Collector]:
        """What GET /metrics tells too."""
        return [self._door.metrics.collector()] if self._door is not None else []

    async def stop(self) -> None:
        """Take no more connections, let running answers finish within the grace period, then end them."""
        for task in self._beside:
            task.cancel()
        if self._server is not None and self._serving is not None and self._door is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving}, timeout=self._settings.grace_seconds)
            self._door.leaving.set()
            await self._serving
        if self._client is not None:
            await self._client.close()

    def _warn_if_open(self, listener: socket.socket) -> None:
        if ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            return
        if self._certificate is None:
            structlog.get_logger().warning(
                "PLAINTEXT on an address that others can reach: give --tls-cert and --tls-key, or put a proxy in front",
                listen=self._settings.listen,
            )
        if self._keys is None:
            structlog.get_logger().warning(
                "ANYONE who reaches this address may use the model: give --api-key-file, or listen on 127.0.0.1",
                listen=self._settings.listen,
            )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are `minedraft.process`'s."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set_result(None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(door: Door, grace_seconds: float, certificate: DoorCertificate | None) -> uvicorn.Config:
    config = uvicorn.Config(
        door,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(grace_seconds) + LAST_SECONDS,
    )
    config.load()
    if certificate is not None:
        config.ssl = certificate.context
    return config


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SetupError(
            f"cannot listen on {listen} ({error.strerror}): stop what uses the port, or choose another by --listen"
        ) from None
