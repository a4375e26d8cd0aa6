"""Two drafters and two verifiers behind one coordinator, over real loopback gRPC: pods that come, go, and drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import drafter_service.__main__ as drafter_main
import verifier_service.__main__ as verifier_main
from coordinator.discovery import Resolve, resolve
from coordinator.service import CoordinatorService
from minedraft.client import AsyncClient
from minedraft.config import CoordinatorSettings, DrafterSettings, VerifierSettings
from minedraft.generation import GenerateRequest, ServerInfo, TokenIds
from minedraft.process import Service
from minedraft.types import SamplingParams
from tests.models import tiny_llama

SAMPLING = SamplingParams(temperature=0.8, max_new_tokens=48, seed=5, ignore_eos=True)
PROMPTS = [tuple(range(3 + number, 11 + number)) for number in range(8)]
ENGINE: dict[str, Any] = {"grace_seconds": 0.2, "threads": 1, "self_check": False, "num_blocks": 512}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "target": tiny_llama(folder / "target"),
        "draft": tiny_llama(folder / "draft", noise=0.1),
        "another": tiny_llama(folder / "another", noise=0.3),
    }


async def verifier(model: Path, listen: str = "127.0.0.1:0") -> tuple[Service, str]:
    service = verifier_main.build(VerifierSettings(model=str(model), listen=listen, **ENGINE))
    return service, await service.start()


async def drafter(model: Path, listen: str = "127.0.0.1:0") -> tuple[Service, str]:
    service = drafter_main.build(DrafterSettings(model=str(model), listen=listen, **ENGINE))
    return service, await service.start()


@asynccontextmanager
async def coordinator(verifiers: str, drafters: str, lookup: Resolve = resolve) -> AsyncIterator[AsyncClient]:
    settings = CoordinatorSettings(
        listen="127.0.0.1:0",
        verifier=verifiers,
        drafter=drafters,
        lanes=2,
        draft_tokens=4,
        discovery_seconds=0.1,
        grace_seconds=0.2,
    )
    service = CoordinatorService(settings, lookup)
    async with AsyncClient(await service.start()) as client:
        try:
            yield client
        finally:
            await service.stop()


async def tokens(client: AsyncClient, prompt: tuple[int, ...]) -> tuple[int, ...]:
    return (await client.complete(GenerateRequest(TokenIds(prompt), SAMPLING))).token_ids


async def until(client: AsyncClient, condition: Callable[[ServerInfo], bool]) -> ServerInfo:
    async with asyncio.timeout(20):
        while not condition(info := await client.server_info()):
            await asyncio.sleep(0.02)
    return info


async def test_all_replicas_work_and_the_tokens_are_those_of_one_pair(models: dict[str, Path]) -> None:
    services = [await verifier(models["target"]) for _ in range(2)] + [await drafter(models["draft"]) for _ in range(2)]
    addresses = [address for _, address in services]
    try:
        async with coordinator(addresses[0], "none") as alone:
            await alone.wait_ready(20)
            right = [await tokens(alone, prompt) for prompt in PROMPTS]
        async with coordinator(",".join(addresses[:2]), ",".join(addresses[2:])) as client:
            await client.wait_ready(20, drafter=True)
            info = await until(
                client,
                lambda seen: {lane.drafter for lane in seen.lanes} == set(addresses[2:]) and len(seen.lanes) == 4,
            )
            assert sorted(lane.verifier for lane in info.lanes) == sorted(2 * addresses[:2])
            assert sorted(lane.drafter for lane in info.lanes) == sorted(2 * addresses[2:])
            assert await asyncio.gather(*(tokens(client, prompt) for prompt in PROMPTS)) == right
            info = await client.server_info()
            assert all(lane.rounds > 0 for lane in info.lanes)
            assert info.speculation.accepted_tokens > 0
            assert [peer.address for peer in (*info.verifiers, *info.drafters)] == addresses
    finally:
        for service, _ in reversed(services):
            await service.stop()


async def test_pods_that_come_and_go(models: dict[str, Path]) -> None:
    """A name whose addresses change: a new replica takes its part, one that ends hands its sequences over."""
    first, address = await verifier(models["target"], "127.0.0.1:0")
    port = int(address.rpartition(":")[2])
    helper, drafting = await drafter(models["draft"])
    found = ["127.0.0.1"]

    async def lookup(name: str, port: int) -> Sequence[str]:
        assert name == "verifiers.test"
        return [f"{host}:{port}" for host in found]

    async with coordinator(f"dns:verifiers.test:{port}", drafting, lookup) as client:
        await client.wait_ready(20, drafter=True)
        right = [await tokens(client, prompt) for prompt in PROMPTS]
        second, other = await verifier(models["target"], f"127.0.0.2:{port}")
        found.append("127.0.0.2")
        await until(client, lambda seen: sum(peer.connected for peer in seen.verifiers) == 2)
        running = [asyncio.create_task(tokens(client, prompt)) for prompt in PROMPTS]
        await until(client, lambda seen: any(lane.requests for lane in seen.lanes if lane.verifier == other))
        found.remove("127.0.0.1")
        await first.stop()
        assert await asyncio.gather(*running) == right
        info = await until(client, lambda seen: [peer.address for peer in seen.verifiers] == [other])
        assert {lane.verifier for lane in info.lanes} == {other}
        assert await tokens(client, PROMPTS[0]) == right[0]
    for service in (second, helper):
        await service.stop()


async def test_a_verifier_of_another_model_is_refused_and_the_others_serve(models: dict[str, Path]) -> None:
    good, one = await verifier(models["target"])
    stranger, two = await verifier(models["another"])
    try:
        async with coordinator(one, "none") as client:
            await client.wait_ready(20)
            right = await tokens(client, PROMPTS[0])
        async with coordinator(f"{one},{two}", "none") as client:
            await client.wait_ready(20)
            info = await until(client, lambda seen: any(peer.refusal for peer in seen.verifiers))
            used, refused = (
                next(peer for peer in info.verifiers if bool(peer.refusal) is wrong) for wrong in (False, True)
            )
            answers = await asyncio.gather(*(tokens(client, PROMPTS[0]) for _ in range(4)))
            assert len(set(answers)) == 1
            assert "another" in refused.refusal
            assert used.connected
            if used.address == one:
                assert answers[0] == right
    finally:
        for service in (good, stranger):
            await service.stop()
