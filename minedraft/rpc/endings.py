"""How a server ends a call with an error, whose client may leave in that very moment.

gRPC can send nothing then, and takes that for a fault of the server's: it raises an error of its own kind, or logs one.
Calls with a deadline meet it now and then, since both sides watch that: of thousands one in some 200 did.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc

from minedraft.errors import MinedraftError
from minedraft.rpc.status import code_of


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: MinedraftError) -> NoReturn:
    """`abort` with an error's code and message."""
    await abort(context, code_of(error), str(error))


async def abort(context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, details: str) -> NoReturn:
    """End a call. Raises grpc.aio.AbortError, or CancelledError as gRPC itself does where the client has left."""
    try:
        await context.abort(code, details)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError("the client has left") from None


def is_departure(record: logging.LogRecord) -> bool:
    """Whether gRPC complains that it could not send the end of a call that no handler ended."""
    return record.exc_info is not None and isinstance(record.exc_info[1], grpc.aio.InternalError)
