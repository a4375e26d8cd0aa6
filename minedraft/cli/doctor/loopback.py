"""gRPC on this machine: a real server of this project's, called over loopback."""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles
from typing import Any, Final

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from minedraft.cli.doctor.finding import Finding, Scope, ok
from minedraft.config import ServiceSettings
from minedraft.rpc.server import Server

WARM_UPS: Final = 20
CALLS: Final = 300
CALL_SECONDS: Final = 5.0


def check_grpc(scope: Scope) -> list[Finding]:
    """Round trips of the smallest call, one after the other."""
    took = uvloop.run(_round_trips())
    cuts = quantiles(took, n=100)
    p50, p99 = cuts[49], cuts[98]
    found = f"round trip p50 {p50 * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us"
    return [ok("grpc", "gRPC over loopback", found, p50_seconds=p50, p99_seconds=p99, calls=CALLS)]


async def _round_trips() -> list[float]:
    server = Server(ServiceSettings(listen="127.0.0.1:0"), ())
    await server.start()
    await server.serving()
    took = []
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs have no methods
            for _ in range(WARM_UPS + CALLS):
                began = time.perf_counter()
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
                took.append(time.perf_counter() - began)
    finally:
        await server.stop(0)
        await asyncio.sleep(0)
    return took[WARM_UPS:]
