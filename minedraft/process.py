"""The main function that the three services share: settings, logs, signals, exit codes."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog
import uvloop

from minedraft import config
from minedraft.config import ProcessSettings
from minedraft.errors import SetupError
from minedraft.rpc.endings import is_departure
from minedraft.telemetry import logs

if TYPE_CHECKING:  # a process that serves no metrics does not load what serves them
    from prometheus_client.registry import Collector

    from minedraft.telemetry.metrics import MetricsEndpoint

SWITCH_SECONDS: Final = 0.0005
"""A thread that waits for the interpreter gets it after this long. The default, 5 ms, is a fifth of a verification: the
event loop would not hear of the next step while the engine thread prepares this one."""


class Service(Protocol):
    """What a process runs. All methods are called on its one event loop."""

    async def start(self) -> str:
        """Serve; return the address. Raises SetupError when it cannot."""

    def collectors(self) -> Sequence[Collector]:
        """What is to be seen at --metrics. Asked once the service serves; read by other threads."""

    async def stop(self) -> None:
        """Let running work finish within the grace period, then end."""


S = TypeVar("S", bound=ProcessSettings)


def main(program: str, kind: type[S], build: Callable[[S], Service], arguments: Sequence[str] | None = None) -> int:
    """Run one service until SIGTERM or SIGINT. Returns the exit code: 0, or 2 when it cannot start as configured."""
    try:
        settings = config.load(kind, program, sys.argv[1:] if arguments is None else arguments)
        sys.setswitchinterval(SWITCH_SECONDS)
        logs.configure(program, settings.log_level, settings.log_format)
        logs.forward("grpc", unless=is_departure)
        uvloop.run(_serve(settings, build))
    except SetupError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 2
    return 0


async def _serve(settings: S, build: Callable[[S], Service]) -> None:
    log = structlog.get_logger()
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave.set)
    service = build(settings)
    endpoint: MetricsEndpoint | None = None
    starting, leaving = asyncio.ensure_future(service.start()), asyncio.ensure_future(leave.wait())
    try:
        await asyncio.wait({starting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            address = starting.result()
            gc.collect()
            gc.freeze()  # what start-up made stays for good: later collections need not walk through it
            endpoint = _metrics_endpoint(settings, service)
            log.info("serving", address=address, metrics=endpoint.address if endpoint else None)
            if settings.announce:
                sys.stdout.write(f"listening {address}\n")
                sys.stdout.flush()
            await leaving
        log.info("leaving", grace_seconds=settings.grace_seconds)
    finally:
        starting.cancel()
        leaving.cancel()
        await service.stop()
        if endpoint is not None:
            endpoint.stop()


def _metrics_endpoint(settings: ProcessSettings, service: Service) -> MetricsEndpoint | None:
    if not settings.metrics:
        return None
    from minedraft.telemetry.metrics import MetricsEndpoint

    return MetricsEndpoint(settings.metrics, service.collectors())
