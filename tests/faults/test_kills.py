"""kill -9 under load: every request finishes with exactly the tokens of an undisturbed run."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import AsyncClient
from minedraft.generation import GenerateRequest, Output, ServerInfo, TokenIds
from minedraft.types import SamplingParams
from tests.models import tiny_llama

GREEDY = SamplingParams(temperature=0, max_new_tokens=150, ignore_eos=True)
SEEDED = SamplingParams(temperature=0.8, seed=7, max_new_tokens=150, ignore_eos=True)
REQUESTS = [
    GenerateRequest(TokenIds(tuple(65 + (7 * i + j) % 90 for j in range(5 + i))), SEEDED if i % 3 == 0 else GREEDY)
    for i in range(24)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_llama(folder / "target"), tiny_llama(folder / "draft", noise=0.1)


def options(models: tuple[Path, Path]) -> StackOptions:
    return StackOptions(
        target=str(models[0]), draft=str(models[1]), self_check=False, threads_verifier=1, lane_size=6, lanes=2,
        draft_tokens=4,
    )  # fmt: skip


async def outputs(client: AsyncClient) -> list[Output]:
    return await asyncio.gather(*(client.complete(request) for request in REQUESTS))


async def progressed(client: AsyncClient, rounds: int) -> ServerInfo:
    """The server once its lanes have run that many more rounds, and so are in the midst of things."""
    begun = await client.server_info()
    while True:
        info = await client.server_info()
        if info.speculation.rounds >= begun.speculation.rounds + rounds:
            return info
        await asyncio.sleep(0.005)


def under_way(info: ServerInfo) -> int:
    """Requests that run or wait."""
    return sum(lane.requests for lane in info.lanes) + info.queued_requests


async def test_kill_drafter_and_verifier_under_load(models: tuple[Path, Path]) -> None:
    with Stack(options(models)) as stack:
        async with AsyncClient(stack.coordinator) as client:
            await client.wait_ready(60)
            undisturbed = await outputs(client)
            before = await client.server_info()
            running = asyncio.create_task(outputs(client))
            for process in (stack.drafter_process, stack.verifier_process):
                await progressed(client, 20)
                assert process is not None
                assert process.pid is not None
                assert not running.done(), "the load ended before the kill"
                os.kill(process.pid, signal.SIGKILL)
            disturbed = await running
            after = await client.server_info()
            assert [output.token_ids for output in disturbed] == [output.token_ids for output in undisturbed]
            assert [output.text for output in disturbed] == [output.text for output in undisturbed]
            assert after.verifier.connections == before.verifier.connections + 1
            assert after.aborted_requests == 0
            while not (await client.server_info()).drafter.connected:
                await asyncio.sleep(0.05)
            again = await outputs(client)
            assert [output.token_ids for output in again] == [output.token_ids for output in undisturbed]
            info = await client.server_info()
            assert info.drafter.connections > before.drafter.connections
            assert info.speculation.accepted_tokens > after.speculation.accepted_tokens


async def test_a_stopped_verifier_is_noticed_and_requests_resume(models: tuple[Path, Path]) -> None:
    """SIGSTOP: the connection stays up and says nothing. Heartbeats notice; the process goes on later."""
    flags = ("--heartbeat-seconds", "0.2", "--heartbeat-misses", "3")
    with Stack(StackOptions(target=str(models[0]), draft="none", self_check=False, coordinator_flags=flags)) as stack:
        async with AsyncClient(stack.coordinator) as client:
            await client.wait_ready(60)
            undisturbed = await outputs(client)
            running = asyncio.create_task(outputs(client))
            await progressed(client, 10)
            pid = stack.verifier_process.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            while (await client.server_info()).verifier.connected:
                await asyncio.sleep(0.05)
            os.kill(pid, signal.SIGCONT)
            assert [output.token_ids for output in await running] == [output.token_ids for output in undisturbed]


async def test_clients_killed_in_the_midst_leave_nothing_behind(models: tuple[Path, Path]) -> None:
    with Stack(options(models)) as stack:
        async with AsyncClient(stack.coordinator) as client:
            await client.wait_ready(60)
            idle = await client.server_info()
            long = [replace(one, sampling=replace(one.sampling, max_new_tokens=450)) for one in REQUESTS]  # none ends
            running = [asyncio.create_task(client.complete(request)) for request in long]
            while under_way(await client.server_info()) < len(running):
                await asyncio.sleep(0.005)
            await progressed(client, 5)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await client.complete(REQUESTS[0])
            async with asyncio.timeout(10):
                while under_way(info := await client.server_info()) > 0:
                    await asyncio.sleep(0.02)
            assert info.aborted_requests == len(running)
            assert idle.verifier.model is not None
            assert idle.drafter.model is not None
    # What the services themselves hold after cancellations is counted in tests/services.
