"""A thousand requests over loopback, a third of them cancelled at any moment: nothing stays behind anywhere."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc
import pytest

from minedraft.generation import GenerateRequest, Output, TokenIds
from minedraft.types import SamplingParams
from minedraft.v1.drafter_pb2 import DrafterServiceGetInfoRequest
from minedraft.v1.drafter_pb2_grpc import DrafterServiceStub
from minedraft.v1.verifier_pb2 import VerifierServiceGetInfoRequest
from minedraft.v1.verifier_pb2_grpc import VerifierServiceStub
from tests.cluster import Cluster, cluster
from tests.models import tiny_llama

REQUESTS = 1000
AT_ONCE = 200
BLOCKS = 1024


def request(number: int) -> GenerateRequest:
    prompt = tuple(65 + (number + place) % 90 for place in range(3 + number % 40))
    return GenerateRequest(TokenIds(prompt), SamplingParams(temperature=0, max_new_tokens=8, ignore_eos=True))


async def ask(here: Cluster, number: int, dice: random.Random) -> Output | None:
    """The output; None for a request that was cancelled, at any time from its sending to its last token."""
    asked = asyncio.create_task(here.client.complete(request(number)))
    if number % 3:
        return await asked
    await asyncio.sleep(dice.expovariate(1 / 0.5))
    asked.cancel()
    try:
        return await asked
    except asyncio.CancelledError:
        return None


async def test_nothing_stays_behind(tmp_path: Path) -> None:
    target, draft = tiny_llama(tmp_path / "target"), tiny_llama(tmp_path / "draft", noise=0.1)
    dice = random.Random(1)
    async with cluster(
        target, draft, model={"num_blocks": BLOCKS}, lane_size=16, queue_size=REQUESTS, log_level="error"
    ) as here:
        expected = await here.client.complete(request(1))
        gate = asyncio.Semaphore(AT_ONCE)

        async def gated(number: int) -> Output | None:
            async with gate:
                return await ask(here, number, dice)

        outputs = await asyncio.gather(*(gated(number) for number in range(REQUESTS)))
        assert outputs[1] is not None
        assert outputs[1].token_ids == expected.token_ids
        assert all(output is not None for number, output in enumerate(outputs) if number % 3)
        cancelled = sum(output is None for output in outputs)
        assert cancelled > REQUESTS / 6

        async with asyncio.timeout(10):  # what was cancelled last is still on its way out
            while await held(here) != [(0, BLOCKS)] * 2:
                await asyncio.sleep(0.02)
        info = await here.client.server_info()
        assert info.queued_requests == 0
        assert [lane.requests for lane in info.lanes] == [0, 0]


async def held(here: Cluster) -> list[tuple[int, int]]:
    """(sequences, free blocks) of verifier and drafter, as they say themselves."""
    if here.drafter_settings is None or here.verifier_settings is None:
        pytest.fail("this cluster has both services")
    async with (
        grpc.aio.insecure_channel(here.verifier_settings.listen) as verifier,
        grpc.aio.insecure_channel(here.drafter_settings.listen) as drafter,
    ):
        states: list[Any] = [
            (await VerifierServiceStub(verifier).GetInfo(VerifierServiceGetInfoRequest())).state,
            (await DrafterServiceStub(drafter).GetInfo(DrafterServiceGetInfoRequest())).state,
        ]
    return [(state.sequences, state.free_blocks) for state in states]
