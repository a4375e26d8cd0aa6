"""An enemy of all three services for a few seconds. benchmarks/fuzz_grpc.py is the long version."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from minedraft.rpc.endings import is_departure
from minedraft.rpc.malformed import WRONG
from tests.cluster import Cluster, cluster
from tests.services.fuzzing import DRAFTER, GENERATION, METHODS, SIMULATED, VERIFIER, Fuzz

MESSAGES = 2500
MODEL = {"simulate": SIMULATED, "num_blocks": 330, "max_channel_mib": 1}


def enemy_of(here: Cluster) -> Fuzz:
    drafter, verifier = here.drafter_settings, here.verifier_settings
    assert drafter is not None
    return Fuzz({GENERATION: here.client.address, DRAFTER: drafter.listen, VERIFIER: verifier.listen})


async def test_no_message_harms_a_service(caplog: pytest.LogCaptureFixture) -> None:
    async with cluster("", "ngram", model=MODEL, drafter={"draft_law": "dense"}) as here:
        fuzz = enemy_of(here)
        await asyncio.to_thread(fuzz.run, MESSAGES)
    assert not fuzz.faults
    assert len({one.split()[0] for one in fuzz.codes}) == len(METHODS)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert not [record for record in errors if not is_departure(record)]


@pytest.mark.parametrize(("service", "method"), [(service, method) for service, method, _ in METHODS])
async def test_bytes_of_no_message_are_the_callers_fault(service: str, method: str) -> None:
    async with cluster("", "ngram", model=MODEL) as here:
        async with grpc.aio.insecure_channel(enemy_of(here).addresses[service]) as channel:
            anything: Any = channel.stream_stream(f"/{service}/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in anything(iter([b"\xff\xff\xff"])):
                    pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == WRONG
