"""What a model service says to a coordinator that asks what cannot be: each of these once harmed it, or its stream."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import verifier_service.__main__ as verifier_main
from minedraft.channel.ends import MOST_CHANNELS
from minedraft.config import VerifierSettings
from minedraft.ranges import MOST_DRAFTS
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import verifier_pb2 as pb
from minedraft.v1 import verifier_pb2_grpc as pb_grpc

SIMULATED = "drafter=0ms,verifier=0ms,accept=1"


@asynccontextmanager
async def stream() -> AsyncIterator[Any]:
    """A Verify stream after its welcome."""
    service = verifier_main.build(
        VerifierSettings(listen="127.0.0.1:0", simulate=SIMULATED, num_blocks=64, threads=1, max_channel_mib=1)
    )
    address = await service.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            call = pb_grpc.VerifierServiceStub(channel).Verify()
            assert (await call.read()).HasField("welcome")
            yield call
            call.cancel()
    finally:
        await service.stop()


def step(sequence: int, **sampling: Any) -> pb.VerifyRequest:
    params = common.SequenceParams(
        prompt_len=1, rule=common.ACCEPTANCE_RULE_REJECTION, sampling=common.SamplingParams(**sampling)
    )
    item = pb.VerifyItem(sequence_id=sequence, tail_token_ids=[70], params=params, emit=True)
    return pb.VerifyRequest(step=pb.VerifyStep(step_id=sequence, items=[item]))


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        ({"temperature": math.nan}, "sampling.temperature"),
        ({"temperature": 1e-30}, "sampling.temperature"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"min_p": math.inf}, "sampling.min_p"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty"),
        ({"presence_penalty": math.nan}, "sampling.presence_penalty"),
        ({"top_k": 2**32 - 1}, "sampling.top_k"),
        ({"logit_bias": {256: 1.0}}, "sampling.logit_bias"),
        ({"logit_bias": {1: math.inf}}, "sampling.logit_bias"),
        ({"stop_token_ids": [2**31], "min_new_tokens": 1}, "sampling.stop_token_ids"),
        ({"stop_token_ids": range(256), "min_new_tokens": 1}, "sampling.min_new_tokens"),
    ],
)
async def test_parameters_out_of_range_are_rejected_and_harm_no_other_sequence(
    sampling: dict[str, Any], named: str
) -> None:
    async with stream() as call:
        wrong, right = step(1, **sampling), step(2, temperature=1.0)
        wrong.step.items.extend(right.step.items)
        await call.write(wrong)
        verdicts = (await call.read()).reply.verdicts
    assert [one.status for one in verdicts] == [common.ITEM_STATUS_REJECTED, common.ITEM_STATUS_OK]
    assert verdicts[0].reason.startswith(f"params.{named}: ")
    assert verdicts[1].HasField("next_token_id")


async def test_a_proposal_without_end_closes_its_stream() -> None:
    async with stream() as call:
        request = step(1)
        request.step.items[0].proposal.token_ids.extend([70] * (MOST_DRAFTS + 1))
        await call.write(request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def channel(action: str, **fields: Any) -> pb.VerifyRequest:
    spec = {"channel_id": "c", "generation": 1, "kind": "CHANNEL_KIND_INLINE", "slots": 2, "slot_bytes": 64}
    spec |= fields.pop("spec", {})
    request: dict[str, Any] = {"role": "CHANNEL_ROLE_SENDER", "spec": spec, **fields}
    return pb.VerifyRequest(channel=common.ChannelRequest(action=f"CHANNEL_ACTION_{action}", **request))


async def told(call: Any, request: pb.VerifyRequest) -> str:
    """The error of a channel's answer; empty when there was none."""
    await call.write(request)
    answer = await call.read()
    assert answer.HasField("channel")
    return str(answer.channel.error)


async def test_a_verifier_sends_no_chunks() -> None:
    async with stream() as call:
        assert await told(call, channel("OFFER")) == ""
        for data in (b"", b"probe"):
            assert "sends no payloads" in await told(call, channel("PROBE_WRITE", data=data))


async def test_a_channel_is_no_larger_and_no_more_than_the_service_allows() -> None:
    async with stream() as call:
        error = await told(call, channel("OFFER", spec={"slot_bytes": 2**62}))
        assert "larger than 1 MiB: raise --max-channel-mib here" in error
        for number in range(MOST_CHANNELS):
            assert await told(call, channel("OFFER", spec={"channel_id": str(number)})) == ""
        assert "channels are open, at most" in await told(call, channel("OFFER"))
        assert await told(call, channel("CLOSE", spec={"channel_id": "0"})) == ""
        assert await told(call, channel("OFFER")) == ""


@pytest.mark.parametrize("offer", [b"[" * 100_000, b'{"version": "\\ud800", "name": 1, "nbytes": 2}', b"\xff"])
async def test_an_offer_of_nonsense_is_refused(offer: bytes) -> None:
    async with stream() as call:
        error = await told(call, channel("JOIN", data=offer, spec={"kind": "CHANNEL_KIND_SHM"}))
        assert error
        await call.write(step(1))
        assert (await call.read()).HasField("reply")
