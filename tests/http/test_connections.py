"""Streams on the wire, clients that hang up, and the door's own end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from minedraft.config import HttpSettings
from minedraft.errors import SetupError
from minedraft.http.service import HttpService
from tests.http.fake_coordinator import FakeCoordinator, asking, door
from tests.http.serving import Running, serving

LONG: dict[str, Any] = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "temperature": 0}


def until(what: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            pytest.fail("it did not come to pass")
        time.sleep(0.02)


def busy(here: Running) -> int:
    """Requests that the coordinator has in its lanes or its queue."""
    info = here.info()
    return info.queued_requests + sum(lane.requests for lane in info.lanes)


class TestEvents:
    def test_are_data_lines_that_end_with_done(self, here: Running) -> None:
        with here.http() as client:
            answer = client.post("/v1/completions", json=LONG | {"stream": True, "max_tokens": 12})
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        events = answer.text.removesuffix("\n\n").split("\n\n")
        assert all(event.startswith("data: ") for event in events)
        assert events[-1] == "data: [DONE]"
        assert answer.text.isascii()
        assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-1])

    def test_come_while_the_model_works(self, here: Running) -> None:
        with here.http() as client, client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            assert busy(here) == 1
        until(lambda: busy(here) == 0)

    def test_pieces_carry_the_clients_request_id(self, here: Running) -> None:
        with here.http() as client:
            mine = client.post("/v1/completions", json=LONG | {"max_tokens": 1}, headers={"X-Request-Id": "mine-1"})
            made = client.post("/v1/completions", json=LONG | {"max_tokens": 1}, headers={"X-Request-Id": "x" * 101})
        assert mine.headers["x-request-id"] == "mine-1"
        assert len(made.headers["x-request-id"]) == 32


class TestClientsThatHangUp:
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("n", [1, 3])
    def test_free_their_generations_at_once(self, here: Running, stream: bool, n: int) -> None:
        before = here.info().aborted_requests
        body = json.dumps(LONG | {"stream": stream, "n": n}).encode()
        host, _, port = here.address.rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if stream:
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
            until(lambda: busy(here) == n)
        until(lambda: busy(here) == 0)
        assert here.info().aborted_requests == before + n
        until(lambda: b'generations_total{finished_reason="cancelled"}' in metrics(here))

    def test_a_hundred_of_them_leave_nothing_behind(self, here: Running) -> None:
        async def ask(client: httpx.AsyncClient, number: int) -> None:
            body = LONG | {"stream": number % 2 == 0}
            with contextlib.suppress(httpx.TimeoutException):
                await client.post("/v1/completions", json=body, timeout=0.01 * (number % 20))

        async def ask_all() -> None:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=here.url, limits=limits) as client:
                await asyncio.gather(*(ask(client, number) for number in range(1, 101)))

        asyncio.run(ask_all())
        until(lambda: busy(here) == 0)
        with here.http() as client:
            assert client.post("/v1/completions", json=LONG | {"max_tokens": 2}).status_code == 200
        until(lambda: b"minedraft_http_requests_in_flight 1.0" in metrics(here))  # this one


def metrics(here: Running) -> bytes:
    with here.http() as client:
        return client.get("/metrics").content


class TestTheDoorsEnd:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_ends_what_runs_too_long(self, stream: bool) -> None:
        upstream = FakeCoordinator()
        upstream.held = asyncio.Event()
        app = door(upstream)
        async with asking(app) as client:
            running = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x", "stream": stream}))
            while upstream.running < 1:
                await asyncio.sleep(0.01)
            app.leaving.set()
            answer = await running
            assert answer.status_code == (200 if stream else 503)
            assert "shutting down" in answer.text
            assert upstream.running == 0
            assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 503
            assert (await client.get("/health")).status_code == 503

    @pytest.mark.parametrize(("grace_seconds", "whole"), [(20.0, True), (0.1, False)])
    def test_lets_answers_finish_within_the_grace_period(
        self, pair: tuple[Path, Path], grace_seconds: float, whole: bool
    ) -> None:
        with (
            serving(pair[0], None, http={"grace_seconds": grace_seconds}, log_level="error") as here,
            here.http() as client,
            client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            ending = asyncio.run_coroutine_threadsafe(here.door.stop(), here.loop)
            last = [line for line in lines if line][-1]
            ending.result(30)
            assert (last == "data: [DONE]") == whole
            assert ("shutting down" in last) != whole
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{here.url}/health")

    async def test_a_port_that_is_taken_is_told(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            service = HttpService(HttpSettings(listen=f"127.0.0.1:{taken.getsockname()[1]}"))
            with pytest.raises(SetupError, match="cannot listen on"):
                await service.start()
            await service.stop()
