"""Work that is done only as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from minedraft.errors import PeerUnavailable
from minedraft.http.errors import ClientGone

T = TypeVar("T")


async def while_connected(receive: Receive, leaving: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up or the server must go.

    `receive` is the ASGI channel of a request whose body has been read. Raises ClientGone, or PeerUnavailable once
    `leaving` is set, or what `work` raises.
    """
    working = asyncio.create_task(work)
    gone, left = asyncio.create_task(_disconnected(receive)), asyncio.create_task(leaving.wait())
    tasks: tuple[asyncio.Task[Any], ...] = (working, gone, left)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("the client has hung up") if gone.done() else PeerUnavailable("the server is shutting down")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
