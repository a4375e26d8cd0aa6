"""The server's side of model streams. A stream is a lease: its end frees the sequences that were opened on it.

One coroutine writes each stream: two that write to one aio stream at once hang its client. Steps run in the order of
arrival; heartbeats are echoed by the event loop whatever the engine is doing.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from minedraft.errors import InternalError, MinedraftError, ProtocolError
from minedraft.v1 import common_pb2 as common


class StreamRequest(Protocol):
    """DraftRequest or VerifyRequest."""

    step: Any
    release: common.Release
    heartbeat: common.Heartbeat
    channel: common.ChannelRequest

    def WhichOneof(self, oneof_group: Any) -> str | None: ...  # noqa: N802  # protobuf's name


Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class Duties(Generic[Response]):
    """What a model service does for its streams. All are called on the event loop and return at once."""

    response: Callable[..., Response]  # DraftResponse or VerifyResponse
    step: Callable[[str, Any], Awaitable[Response]]
    """(lease, step message): queue it at the engine before returning. Raises ProtocolError."""
    release: Callable[[str, Sequence[int]], None]
    begin: Callable[[str], None]
    end: Callable[[str], None]
    channel: Callable[[str, common.ChannelRequest, Callable[[Response], None]], Awaitable[Response]]
    """(lease, request, post): do a part for a tensor channel. `post` sends a message, from any thread. Raises
    ProtocolError."""
    chunk: Callable[[str, common.PayloadChunk], None]
    """(lease, chunk): a piece of a payload came. Raises ProtocolError."""


class Streams(Generic[Response]):
    """All open streams of one model service."""

    def __init__(self, duties: Duties[Response]) -> None:
        self._duties = duties
        self._open: set[asyncio.Queue[Response | MinedraftError | None]] = set()

    async def serve(
        self,
        requests: AsyncIterator[StreamRequest],
        write: Callable[[Response], Awaitable[None]],
        welcome: common.Welcome,
    ) -> None:
        """Answer one stream until the peer is done and every step is answered, then free its sequences.

        Raises ProtocolError after a message without sense, and whatever a step raises.
        """
        lease = uuid.uuid4().hex
        outgoing: asyncio.Queue[Response | MinedraftError | None] = asyncio.Queue()
        self._open.add(outgoing)
        self._duties.begin(lease)
        reader = asyncio.create_task(self._read(lease, requests, outgoing))
        try:
            await write(self._duties.response(welcome=welcome))
            while (message := await outgoing.get()) is not None:
                if isinstance(message, MinedraftError):
                    raise message
                await write(message)
        finally:
            reader.cancel()
            self._open.discard(outgoing)
            self._duties.end(lease)

    def goodbye(self, reason: str) -> None:
        """Tell every peer that its stream is about to end; it answers its steps and closes."""
        for outgoing in self._open:
            outgoing.put_nowait(self._duties.response(goodbye=common.Goodbye(reason=reason)))

    async def _read(
        self,
        lease: str,
        requests: AsyncIterator[StreamRequest],
        outgoing: asyncio.Queue[Response | MinedraftError | None],
    ) -> None:
        """Act on what arrives, in order. `outgoing` ends with an error, or with None once all is answered."""
        pending: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()

        def post(message: Response) -> None:
            with suppress(RuntimeError):  # a loop that is closed has no stream to post to
                loop.call_soon_threadsafe(outgoing.put_nowait, message)

        def await_answer(answer: Awaitable[Response]) -> None:
            task = asyncio.create_task(_answer(answer, outgoing))
            pending.add(task)
            task.add_done_callback(pending.discard)

        try:
            async for request in requests:
                match request.WhichOneof("message"):
                    case "step":
                        await_answer(self._duties.step(lease, request.step))
                    case "release":
                        self._duties.release(lease, tuple(request.release.sequence_ids))
                    case "heartbeat":
                        outgoing.put_nowait(self._duties.response(heartbeat=request.heartbeat))
                    case "channel":
                        await_answer(self._duties.channel(lease, request.channel, post))
                    case "chunk":
                        carrying: Any = request  # only a VerifyRequest has chunks
                        self._duties.chunk(lease, carrying.chunk)
                    case _:
                        raise ProtocolError("message: empty, or of a kind that this version does not know")
            if pending:
                await asyncio.wait(pending)
            outgoing.put_nowait(None)
        except Exception as error:
            outgoing.put_nowait(_of_the_family(error))


async def _answer(answer: Awaitable[Response], outgoing: asyncio.Queue[Response | MinedraftError | None]) -> None:
    try:
        outgoing.put_nowait(await answer)
    except Exception as error:
        outgoing.put_nowait(_of_the_family(error))


def _of_the_family(error: Exception) -> MinedraftError:
    if isinstance(error, MinedraftError):
        return error
    fault = InternalError(f"{type(error).__name__}: {error}")
    fault.__cause__ = error
    return fault
