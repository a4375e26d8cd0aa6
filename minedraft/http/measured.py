"""Around every request: its id, its metrics, one line in the log."""

from __future__ import annotations

import time
import uuid
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minedraft.http.metrics import Metrics
from minedraft.http.streaming import STATUS

REQUEST_ID: Final = "minedraft.request_id"  # in the scope
HEADER: Final = "x-request-id"
LONGEST_ID: Final = 100  # the coordinator takes 128, and choices get a number
UNKNOWN_ROUTE: Final = "other"
QUIET: Final = frozenset({"/health", "/v1/health", "/metrics"})  # asked all the time: logged at level debug


class Measured:
    """An ASGI application that measures another."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        status = 500
        scope[REQUEST_ID] = request_id = _request_id(scope)

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (HEADER.encode(), request_id.encode())]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.in_flight.dec()
            self._note(scope, scope.get(STATUS, status), time.perf_counter() - begun)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_latency.labels(route).observe(seconds)
        write = self._log.debug if route in QUIET else self._log.info
        write("http request over", route=route, status=status, seconds=round(seconds, 4), request_id=scope[REQUEST_ID])


def _request_id(scope: Scope) -> str:
    """The client's own, when it is a short word of printable ASCII."""
    given = Headers(scope=scope).get(HEADER, "")
    if given and given.isascii() and given.isprintable() and len(given) <= LONGEST_ID:
        return given
    return uuid.uuid4().hex
