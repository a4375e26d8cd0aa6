"""The public service over loopback gRPC, in front of toy model services."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
import structlog

from coordinator.coordinator import Coordinator
from coordinator.service import FULL_NAME, GenerationServicer
from minedraft.client import AsyncClient
from minedraft.config import CoordinatorSettings
from minedraft.errors import DeadlineExceeded, InternalError, InvalidRequest, Overloaded, PeerUnavailable
from minedraft.generation import Chat, ChatMessage, GenerateRequest, Output, Text
from minedraft.rpc.server import Server
from minedraft.types import SamplingParams
from minedraft.v1 import generation_pb2 as pb
from minedraft.v1 import generation_pb2_grpc as pb_grpc
from tests.unit.coordinator.fakes import FakeDrafter, FakeVerifier
from tests.unit.coordinator.harness import asking, check, coordinating

LONG = asking([50] * 4, 400, ignore_eos=True)


@asynccontextmanager
async def serving(
    delay: float = 0.0005, **settings: Any
) -> AsyncIterator[tuple[AsyncClient, Coordinator, FakeVerifier]]:
    verifier, drafter = FakeVerifier(delay=lambda: delay), FakeDrafter(delay=lambda: delay)
    server = Server(CoordinatorSettings(listen="127.0.0.1:0"), [FULL_NAME])
    servicer = GenerationServicer("toy:1")
    server.add(servicer.register)
    await server.start()
    async with coordinating(verifier, drafter, **settings) as coordinator:
        servicer.coordinator = coordinator
        await server.serving()
        async with AsyncClient(server.address) as client:
            await client.wait_ready(10)
            yield client, coordinator, verifier
        await server.stop(1)


async def test_streams_and_whole_answers_agree() -> None:
    async with serving() as (client, _, _):
        pieces = [piece async for piece in client.generate(LONG)]
        assert len(pieces) > 1
        check(Output.merged(pieces), LONG)
        check(await client.complete(LONG), LONG)


async def test_text_and_chats() -> None:
    sampling = SamplingParams(temperature=0, max_new_tokens=5)
    async with serving() as (client, _, _):
        text = await client.complete(GenerateRequest(Text("user: Hi\nassistant: "), sampling))
        chat = await client.complete(GenerateRequest(Chat((ChatMessage("user", "Hi"),)), sampling))
    assert text.token_ids == chat.token_ids
    assert text.usage == chat.usage


async def test_errors_have_their_codes() -> None:
    async with serving(lanes=1, lane_size=1, queue_size=0) as (client, _, _):
        with pytest.raises(InvalidRequest, match=r"^sampling\.temperature: nan"):
            await client.complete(GenerateRequest(Text("x"), SamplingParams(temperature=float("nan"))))
        with pytest.raises(InvalidRequest, match=r"^model: "):
            await client.complete(replace(LONG, model="other"))
        running = asyncio.create_task(client.complete(LONG))
        while not (await client.server_info()).lanes[0].requests:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded):
            await client.complete(LONG)
        check(await running, LONG)


async def test_a_request_without_input_is_refused() -> None:
    async with serving() as (client, _, _), grpc.aio.insecure_channel(client.address) as channel:
        stub = pb_grpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Complete(pb.CompleteRequest())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "input: one of text, chat and token_ids must be given"


async def test_a_client_that_leaves_frees_its_request() -> None:
    async with serving(delay=0.01) as (client, coordinator, verifier):
        async for _ in client.generate(LONG):
            break
        while coordinator.info().aborted_requests < 1:
            await asyncio.sleep(0.001)
        stopped = asyncio.create_task(client.complete(LONG))
        while not any(lane.requests for lane in coordinator.info().lanes):
            await asyncio.sleep(0.001)
        stopped.cancel()
        while coordinator.info().aborted_requests < 2 or verifier.sequences:
            await asyncio.sleep(0.001)


async def test_a_clients_deadline() -> None:
    async with serving(delay=0.05) as (client, coordinator, verifier):
        with pytest.raises(DeadlineExceeded):
            await client.complete(LONG, timeout=0.2)
        while coordinator.info().aborted_requests < 1 or verifier.sequences:
            await asyncio.sleep(0.001)


async def test_an_unknown_fault_is_internal_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (client, coordinator, _):
        monkeypatch.setattr(coordinator, "_admit", None)
        with structlog.testing.capture_logs() as logs, pytest.raises(InternalError, match="internal error: TypeError"):
            await client.complete(LONG)
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["request failed"]


@pytest.fixture
def talkative() -> Iterator[None]:
    """Logs from INFO on; the tests' own level is higher."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("talkative")
async def test_one_log_line_a_request_without_its_words() -> None:
    async with serving() as (client, _, _):
        with structlog.testing.capture_logs() as logs:
            await client.complete(
                GenerateRequest(
                    Text("secret words"), SamplingParams(temperature=0, max_new_tokens=3), request_id="mine"
                )
            )
    lines = [entry for entry in logs if entry["event"] == "request over"]
    assert len(lines) == 1
    assert lines[0]["request_id"] == "mine"
    assert lines[0]["completion_tokens"] == 3
    assert lines[0]["ended"] == "length"
    assert "secret" not in str(logs)


async def test_before_a_verifier_was_seen_requests_are_unavailable() -> None:
    server = Server(CoordinatorSettings(listen="127.0.0.1:0"), [FULL_NAME])
    server.add(GenerationServicer("nowhere:1").register)
    await server.start()
    async with AsyncClient(server.address) as client:
        with pytest.raises(PeerUnavailable, match="no verifier has been seen yet at nowhere:1"):
            await client.complete(LONG)
        info = await client.server_info()
        assert info.target is None
        assert info.verifier.address == "nowhere:1"
    await server.stop(0)


def test_the_coordinator_is_light() -> None:
    heavy = "torch", "transformers", "minedraft.engine", "minedraft.model"
    program = f"import sys, coordinator.__main__; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
