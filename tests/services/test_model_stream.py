"""A model service over real loopback gRPC: leases, order, heartbeats, goodbyes, and messages that make no sense."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import drafter_service.__main__ as drafter_main
from drafter_service.service import FULL_NAME
from minedraft.config import DrafterSettings
from minedraft.errors import SetupError
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2 as pb
from minedraft.v1 import drafter_pb2_grpc as pb_grpc

PARAMS = common.SequenceParams(prompt_len=1, rule=common.ACCEPTANCE_RULE_MATCH)


def settings(**changes: Any) -> DrafterSettings:
    fields: dict[str, Any] = {"model": "ngram", "listen": "127.0.0.1:0", "grace_seconds": 0.5} | changes
    return DrafterSettings(**fields)


@asynccontextmanager
async def drafter() -> AsyncIterator[tuple[Any, grpc.aio.Channel]]:
    service = drafter_main.build(settings())
    address = await service.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield service, channel
    finally:
        await service.stop()


def step(number: int, sequence: int, tail: list[int], base: int = 0, drafts: int = 2) -> pb.DraftRequest:
    params = PARAMS if base == 0 else None
    item = pb.DraftItem(
        sequence_id=sequence, base_len=base, tail_token_ids=tail, params=params, max_draft_tokens=drafts
    )
    return pb.DraftRequest(step=pb.DraftStep(step_id=number, items=[item]))


async def sequences(channel: grpc.aio.Channel) -> int:
    info = await pb_grpc.DrafterServiceStub(channel).GetInfo(pb.DrafterServiceGetInfoRequest())
    return int(info.state.sequences)


async def opened(channel: grpc.aio.Channel) -> Any:
    call = pb_grpc.DrafterServiceStub(channel).Draft()
    welcome = await call.read()
    assert welcome.welcome.model.architecture == "ngram"
    return call


async def test_steps_and_releases_keep_their_order_and_the_end_frees_the_lease() -> None:
    async with drafter() as (_, channel):
        call = await opened(channel)
        for number in range(50):
            await call.write(step(number, number, [1, 2, 1]))
            await call.write(pb.DraftRequest(release=common.Release(sequence_ids=[number])))
        replies = [(await call.read()).reply for _ in range(50)]
        assert [reply.step_id for reply in replies] == list(range(50))
        assert all(list(reply.proposals[0].token_ids) == [2, 1] for reply in replies)
        assert await sequences(channel) == 0
        await call.write(step(99, 1, [1]))
        await call.read()
        assert await sequences(channel) == 1
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await sequences(channel) == 0


async def test_a_cancelled_stream_frees_its_lease_only() -> None:
    async with drafter() as (_, channel):
        one, two = await opened(channel), await opened(channel)
        for call in (one, two):
            await call.write(step(1, 1, [1, 2]))
            await call.read()
        one.cancel()
        while await sequences(channel) > 1:
            pass
        await two.write(step(2, 1, [3], base=2))
        assert (await two.read()).reply.proposals[0].status == common.ITEM_STATUS_OK


async def test_heartbeats_come_back() -> None:
    async with drafter() as (_, channel):
        call = await opened(channel)
        await call.write(pb.DraftRequest(heartbeat=common.Heartbeat(nonce=17)))
        assert (await call.read()).heartbeat.nonce == 17


@pytest.mark.parametrize(
    "message",
    [
        pb.DraftRequest(),
        pb.DraftRequest(step=pb.DraftStep(items=[pb.DraftItem(sequence_id=1)])),
        pb.DraftRequest(
            step=pb.DraftStep(items=[pb.DraftItem(tail_token_ids=[1], params=common.SequenceParams(prompt_len=1))])
        ),
    ],
    ids=["empty", "no tail", "no rule"],
)
async def test_a_message_without_sense_closes_that_stream_only(message: pb.DraftRequest) -> None:
    async with drafter() as (_, channel):
        good, bad = await opened(channel), await opened(channel)
        await bad.write(message)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bad.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await good.write(step(1, 1, [1]))
        assert (await good.read()).reply.step_id == 1


async def test_bytes_that_are_no_message_close_that_stream_only() -> None:
    async with drafter() as (_, channel):
        good = await opened(channel)
        raw = channel.stream_stream(
            f"/{FULL_NAME}/Draft", request_serializer=bytes, response_deserializer=pb.DraftResponse.FromString
        )()
        await raw.read()
        await raw.write(b"\xff\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError):
            await raw.read()
        await good.write(step(1, 1, [1]))
        assert (await good.read()).reply.step_id == 1


async def test_stopping_says_goodbye_and_finishes_what_was_asked() -> None:
    async with drafter() as (service, channel):
        call = await opened(channel)
        await call.write(step(1, 1, [1, 2, 1]))
        assert (await call.read()).reply.step_id == 1
        await service.stop()
        assert (await call.read()).WhichOneof("message") == "goodbye"


async def test_health_and_reflection() -> None:
    async with drafter() as (_, channel):
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", FULL_NAME):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub
        reflect = reflection(channel).ServerReflectionInfo()
        await reflect.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await reflect.read()).list_services_response.service}
        assert {FULL_NAME, "grpc.health.v1.Health"} <= listed
        reflect.cancel()


async def test_a_busy_port_is_a_setup_error() -> None:
    first = drafter_main.build(settings())
    address = await first.start()
    second = drafter_main.build(settings(listen=address))
    try:
        with pytest.raises(SetupError, match="--listen"):
            await second.start()
    finally:
        await second.stop()
        await first.stop()
