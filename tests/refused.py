"""A call of gRPC that is cancelled in the very moment in which it fails."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import grpc


class RefusedCall:
    """Stands in for a stream or an answer: an await of it ends when it is cancelled, by saying how the call failed.

    grpcio does so for a call that was refused, when the refusal is there already and its own task has yet to run.
    """

    def __init__(self) -> None:
        self.awaited = asyncio.Event()

    async def read(self) -> NoReturn:
        self.awaited.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "connection refused"
            ) from None
        raise AssertionError("unreachable")

    def cancel(self) -> None:
        """There is nothing to cancel."""
