"""Calls that a server ends with an error, with a client that is still there and with one that is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import pytest

from minedraft.config import ServiceSettings
from minedraft.errors import Overloaded
from minedraft.rpc.endings import is_departure, refuse
from minedraft.rpc.server import Server
from tests.cluster import ANYWHERE

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = Callable[[bytes, Context], Awaitable[None]]
FULL = Overloaded("too much")


async def refusing(request: bytes, context: Context) -> None:
    await refuse(context, FULL)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Any]:
    """What calls the handler, over loopback."""
    server = Server(ServiceSettings(listen=ANYWHERE, grace_seconds=0), [])
    methods: dict[str, Any] = {"Call": grpc.unary_stream_rpc_method_handler(handler)}
    server.aio.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests.Endings", methods),))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield channel.unary_stream("/tests.Endings/Call")
    finally:
        await server.stop(0)


async def test_a_client_that_waits_is_told() -> None:
    async with serving(refusing) as call:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call(b""):
                pass
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")


async def raised_after_departure(end: Handler) -> BaseException:
    """What `end` raises in a handler whose client has left, so that nothing can be sent any more."""

    async def handler(request: bytes, context: Context) -> None:
        came.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await end(request, context)
            except BaseException as error:
                raised.set_result(error)
                raise

    came = asyncio.Event()
    raised: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    async with serving(handler) as call:
        running = call(b"")
        await came.wait()
        running.cancel()
        async with asyncio.timeout(10):
            return await raised


async def test_that_a_client_has_left_is_no_fault() -> None:
    error = await raised_after_departure(refusing)
    assert type(error) is asyncio.CancelledError


async def test_grpcs_own_complaint_is_known() -> None:
    """Should gRPC's own `abort` not fail there any more one day, `refuse` need not catch it."""
    error = await raised_after_departure(lambda _, context: context.abort(grpc.StatusCode.INTERNAL, "too much"))
    complaint = logging.LogRecord("grpc", logging.ERROR, "", 0, "", (), (type(error), error, None))
    assert isinstance(error, Exception)
    assert is_departure(complaint)
    assert not is_departure(logging.LogRecord("grpc", logging.ERROR, "", 0, "", (), None))
