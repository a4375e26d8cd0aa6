"""The door of a server that wants tokens: calls pass it before a byte of their message is read."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

import grpc
import structlog

from minedraft.errors import Unauthenticated
from minedraft.rpc.endings import refuse
from minedraft.rpc.tokens import Tokens

# Probes of orchestrators carry no tokens, and learn only whether calls are welcome.
OPEN: Final = "/grpc.health.v1.Health/"
LOG_SECONDS: Final = 10.0  # between two lines about refused calls, however many there are

CALLER: Final[ContextVar[str]] = ContextVar("caller", default="")
"""The name of the client whose call a task serves; "" where no tokens are wanted. Set by the gate alone."""


class TokenGate(grpc.aio.ServerInterceptor):
    """Lets calls with a valid token in, under its client's name; others get UNAUTHENTICATED."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._refused = 0  # since the last log line
        self._told: float | None = None

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`. gRPC runs it and the call's handler in one task."""
        if handler_call_details.method.startswith(OPEN):
            return await continuation(handler_call_details)
        given = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        try:
            CALLER.set(self._tokens.client_of(given))
        except Unauthenticated as error:
            return self._refusal(error)
        return await continuation(handler_call_details)

    def _refusal(self, error: Unauthenticated) -> Any:
        """A handler that answers without reading, whatever kind of call it was."""

        async def answer(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
            self._tell(context.peer(), error)
            await refuse(context, error)

        return grpc.stream_stream_rpc_method_handler(answer)

    def _tell(self, peer: str, error: Unauthenticated) -> None:
        self._refused += 1
        now = time.monotonic()
        if self._told is not None and now - self._told < LOG_SECONDS:
            return
        structlog.get_logger().warning("calls refused", refused=self._refused, last_peer=peer, last_reason=str(error))
        self._told, self._refused = now, 0
