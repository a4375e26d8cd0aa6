"""Both clients against a real loopback server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from minedraft.client import AsyncClient, Client
from minedraft.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MinedraftError,
    Overloaded,
    PeerUnavailable,
    RequestCancelled,
)
from minedraft.generation import Chat, ChatMessage, FinishReason, GenerateRequest, Output, PeerInfo, TokenIds, Usage
from minedraft.types import SamplingParams
from tests.refused import RefusedCall
from tests.unit.cli.fake_server import INFO, FakeService, pieces, serving

REQUEST = GenerateRequest(
    Chat((ChatMessage("user", "Hi"),)),
    SamplingParams(temperature=0.5, max_new_tokens=7, stop=("x",), logit_bias={3: 1.5}),
    request_id="mine",
    max_draft_tokens=0,
)
NOBODY = "127.0.0.1:9"  # discard: a port that nothing listens on here


async def streamed(address: str, **options: Any) -> list[Output]:
    async with AsyncClient(address) as client:
        return [piece async for piece in client.generate(REQUEST, **options)]


async def completed(address: str, **options: Any) -> list[Output]:
    async with AsyncClient(address) as client:
        return [await client.complete(REQUEST, **options)]


def streamed_sync(address: str, **options: Any) -> list[Output]:
    with Client(address) as client:
        return list(client.generate(REQUEST, **options))


def completed_sync(address: str, **options: Any) -> list[Output]:
    with Client(address) as client:
        return [client.complete(REQUEST, **options)]


CALLS: list[Callable[..., list[Output]]] = [
    lambda address, **options: asyncio.run(streamed(address, **options)),
    lambda address, **options: asyncio.run(completed(address, **options)),
    streamed_sync,
    completed_sync,
]


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_arrives_whole(call: Callable[..., list[Output]]) -> None:
    with serving() as here:
        whole = Output.merged(call(here.address))
        assert whole == Output.merged(pieces())
        assert whole.text == "Hello world"
        assert whole.finish_reason is FinishReason.EOS
        assert whole.usage == Usage(5, 3)
        assert here.service.requests == [REQUEST]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, PeerUnavailable),
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.CANCELLED, RequestCancelled),
    ],
)
def test_codes_become_the_family(
    call: Callable[..., list[Output]], code: grpc.StatusCode, kind: type[MinedraftError]
) -> None:
    with serving(FakeService(refusal=(code, "sampling.top_p: must be above 0"))) as here:
        with pytest.raises(MinedraftError, match="must be above 0") as raised:
            call(here.address)
        assert type(raised.value) is kind
        if isinstance(raised.value, InvalidRequest):
            assert raised.value.field == "sampling.top_p"


@pytest.mark.parametrize("call", CALLS)
def test_a_late_answer_is_a_deadline(call: Callable[..., list[Output]]) -> None:
    with serving(FakeService(delay=30)) as here, pytest.raises(DeadlineExceeded):
        call(here.address, timeout=0.1)


@pytest.mark.parametrize("call", CALLS)
def test_nobody_there(call: Callable[..., list[Output]]) -> None:
    with pytest.raises(PeerUnavailable, match=r"no server can be reached at 127.0.0.1:9"):
        call(NOBODY)


@pytest.mark.parametrize("call", CALLS)
def test_numbers_that_the_wire_cannot_carry(call: Callable[..., list[Output]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.cli.test_client.REQUEST", GenerateRequest(TokenIds((1,)), SamplingParams(seed=-1)))
    with serving() as here:
        with pytest.raises(InvalidRequest):
            call(here.address)
        assert here.service.requests == []


async def test_leaving_the_loop_cancels_at_the_server() -> None:
    with serving(FakeService(endless=True)) as here:
        async with AsyncClient(here.address) as client:
            stream = client.generate(REQUEST)
            assert (await anext(stream)).text == "Hello"
            await stream.aclose()  # type: ignore[attr-defined]
            assert await asyncio.to_thread(here.service.cancelled.wait, 5)


async def test_cancelling_the_reader_cancels_at_the_server() -> None:
    with serving(FakeService(endless=True)) as here:
        reading = asyncio.create_task(streamed(here.address))
        while not here.service.running:
            await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await asyncio.to_thread(here.service.cancelled.wait, 5)


def test_leaving_the_loop_cancels_at_the_server_sync() -> None:
    with serving(FakeService(endless=True)) as here, Client(here.address) as client:
        for piece in client.generate(REQUEST):
            assert piece.text == "Hello"
            break
        assert here.service.cancelled.wait(5)


async def test_server_info() -> None:
    with serving() as here:
        async with AsyncClient(here.address) as client:
            assert await client.server_info() == INFO
        with Client(here.address) as sync:
            assert sync.server_info() == INFO


def ready(address: str, wait: float, **options: Any) -> None:
    async def wait_ready() -> None:
        async with AsyncClient(address) as client:
            assert (await client.wait_ready(wait, **options)).verifier.connected

    asyncio.run(wait_ready())


def ready_sync(address: str, wait: float, **options: Any) -> None:
    with Client(address) as client:
        assert client.wait_ready(wait, **options).verifier.connected


@pytest.mark.parametrize("method", ["wait_ready", "server_info"])
async def test_a_cancelled_call_is_cancelled_even_in_the_moment_of_a_refusal(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient(NOBODY) as client:
        call = RefusedCall()
        for stub, name in ((client._health, "Check"), (client._service, "GetServerInfo")):
            monkeypatch.setattr(stub, name, lambda *_, **__: call.read())
        waiting = asyncio.create_task(getattr(client, method)())
        await call.awaited.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(20):
                await waiting


def absent(peer: PeerInfo, refusal: str = "") -> PeerInfo:
    return replace(peer, connected=False, refusal=refusal)


@pytest.mark.parametrize("wait", [ready, ready_sync])
class TestWaitReady:
    def test_a_ready_server(self, wait: Callable[..., None]) -> None:
        with serving() as here:
            wait(here.address, 10.0, drafter=True)

    def test_nobody_there(self, wait: Callable[..., None]) -> None:
        with pytest.raises(PeerUnavailable, match=r"127.0.0.1:9 is not ready after 0.3 s"):
            wait(NOBODY, 0.3)

    def test_not_healthy(self, wait: Callable[..., None]) -> None:
        with serving(healthy=False) as here, pytest.raises(PeerUnavailable, match="NOT_SERVING"):
            wait(here.address, 0.3)

    def test_without_a_verifier(self, wait: Callable[..., None]) -> None:
        service = FakeService(info=replace(INFO, verifiers=(absent(INFO.verifier, "no such target"),)))
        with serving(service) as here, pytest.raises(PeerUnavailable, match="here:1 is not connected: no such target"):
            wait(here.address, 0.3)

    def test_the_drafter_is_waited_for_only_when_asked(self, wait: Callable[..., None]) -> None:
        service = FakeService(info=replace(INFO, drafters=(absent(INFO.drafter),)))
        with serving(service) as here:
            wait(here.address, 10.0)
            with pytest.raises(PeerUnavailable, match="its drafter at here:2"):
                wait(here.address, 0.3, drafter=True)

    def test_a_refused_drafter_is_not_waited_for(self, wait: Callable[..., None]) -> None:
        service = FakeService(info=replace(INFO, drafters=(absent(INFO.drafter, "another tokenizer"),)))
        with serving(service) as here:
            wait(here.address, 10.0, drafter=True)


def test_a_server_that_comes_later_is_found() -> None:
    service = FakeService(info=replace(INFO, verifiers=(absent(INFO.verifier),)))
    with serving(service) as here, Client(here.address) as client:
        with pytest.raises(PeerUnavailable):
            client.wait_ready(0.2)
        service.info = INFO
        assert client.wait_ready(10).target == INFO.target
