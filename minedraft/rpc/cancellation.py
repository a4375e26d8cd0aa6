"""What gRPC may leave out: that an await was cancelled."""

from __future__ import annotations

import asyncio


def raise_if_cancelled() -> None:
    """Raise CancelledError where the running task has been asked to end.

    An await of `grpc.aio` that is cancelled in the very moment in which its call fails may raise how the call failed
    instead (grpcio 1.78: a call cancels its own tasks, which return as usual when their status is there already). A
    task that calls again after a failure has to ask, or it never ends.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
