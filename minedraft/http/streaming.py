"""Answers as server-sent events: one `data:` line a part, `data: [DONE]` at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Self

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from minedraft.errors import MinedraftError
from minedraft.generation import Output
from minedraft.http.answers import Dialect, Head, to_json, usage
from minedraft.http.asked import Asked
from minedraft.http.connection import while_connected
from minedraft.http.errors import Problem
from minedraft.http.generations import Generations

STATUS: Final = "minedraft.status"  # in the scope: how a stream ended whose status line is long gone
# Proxies must neither keep the events nor hold them back.
HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
DONE: Final = b"[DONE]"


async def events(head: Head, dialect: Dialect, generations: Generations, asked: Asked) -> AsyncGenerator[bytes]:
    """The events of an answer, in the order in which tokens come."""
    last: dict[int, Output] = {}
    async with aclosing(generations.pieces()) as pieces:
        async for choice, piece in pieces:
            if piece.finish_reason is not None:
                last[choice] = piece
            for part in dialect.chunks(choice, piece):
                yield _event(to_json(_document(head, dialect, [part], asked.include_usage)))
    if asked.include_usage:
        counts = usage([last[choice] for choice in sorted(last)], asked.n)
        yield _event(to_json(head.document(dialect.chunk_kind, []) | {"usage": counts}))
    yield _event(DONE)


class EventStream(StreamingResponse):
    """An event stream whose first event is there. It ends at once when the client hangs up.

    An error after the first event becomes an event of its own, `{"error": ...}`, and the last: no `[DONE]` follows.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], leaving: asyncio.Event) -> None:
        super().__init__(rest, headers=HEADERS, media_type="text/event-stream")
        self._first = first
        self._rest = rest
        self._leaving = leaving

    @classmethod
    async def begun(cls, source: AsyncGenerator[bytes], receive: Receive, leaving: asyncio.Event) -> Self:
        """Wait for the first event, so that a request that is refused gets a status of its own."""
        return cls(await while_connected(receive, leaving, _next(source)), source, leaving)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await while_connected(receive, self._leaving, self._send_all(send))
        except Exception as error:
            if not isinstance(error, MinedraftError):
                structlog.get_logger().exception("stream failed")
            problem = Problem.of(error)
            scope[STATUS] = problem.status
            await _send_event(send, _event(problem.document()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._rest) as rest:
            await _send_event(send, self._first)
            async for event in rest:
                await _send_event(send, event)


def _document(head: Head, dialect: Dialect, choices: list[dict[str, Any]], with_usage: bool) -> dict[str, Any]:
    """Only the last part has usage; where it was asked for, the others say that they have none."""
    return head.document(dialect.chunk_kind, choices) | ({"usage": None} if with_usage else {})


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


async def _next(source: AsyncGenerator[bytes]) -> bytes:
    return await anext(source)


async def _send_event(send: Send, event: bytes) -> None:
    await send({"type": "http.response.body", "body": event, "more_body": True})
