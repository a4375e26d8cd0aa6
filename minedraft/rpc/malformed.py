"""Bytes that are no message of their method get INVALID_ARGUMENT. gRPC itself says UNKNOWN, as for a server's fault."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from minedraft.errors import ProtocolError
from minedraft.rpc.endings import refuse

WRONG: Final = "request: the bytes are no message of this method"


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a message that could not be read."""


class MalformedGate(grpc.aio.ServerInterceptor):
    """Wraps every handler. To be the last of a server's interceptors, next to the handlers themselves."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Any] = {}  # method -> its handler; only methods that there are

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            known = self._wrapped[method] = _wrapped(handler)
        return known


def _wrapped(handler: Any) -> Any:
    """The handler, refusing what it cannot read. One without a reader of its own takes bytes, and stays as it is."""
    if handler.request_deserializer is None:
        return handler
    kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
    serve = getattr(handler, kind)
    if inspect.isasyncgenfunction(serve):
        guarded = _generating(serve, handler.request_streaming)
    elif inspect.iscoroutinefunction(serve):
        guarded = _answering(serve, handler.request_streaming)
    else:
        return handler
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(guarded, _tolerant(handler.request_deserializer), handler.response_serializer)


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _tolerant(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def tolerant(data: bytes) -> Any:
        try:
            return read(data)
        except Exception:  # protobuf's own DecodeError, by whatever implementation
            return Malformed()

    return tolerant


def _answering(serve: Any, streaming: bool) -> Any:
    async def answering(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await serve(_checked(request, streaming), context)
        except ProtocolError as error:
            await refuse(context, error)

    return answering


def _generating(serve: Any, streaming: bool) -> Any:
    async def generating(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in serve(_checked(request, streaming), context):
                yield response
        except ProtocolError as error:
            await refuse(context, error)

    return generating


def _checked(request: Any, streaming: bool) -> Any:
    """The request, or its stream up to the first message that cannot be read. Raises ProtocolError."""
    if streaming:
        return _readable(request)
    if isinstance(request, Malformed):
        raise ProtocolError(WRONG)
    return request


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Malformed):
            raise ProtocolError(WRONG)
        yield request
