"""Dense laws over tensor channels between real services: chosen, used, renewed after failures, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from coordinator import channel as keeper
from minedraft.channel.shm import ShmReceiver, ShmSender
from minedraft.errors import ChannelError
from minedraft.generation import PeerInfo
from minedraft.types import PayloadRef, SamplingParams
from tests.cluster import Cluster, cluster
from tests.models import tiny_llama

SAMPLED = SamplingParams(temperature=1.0, max_new_tokens=40, ignore_eos=True)
CERTAIN = SamplingParams(temperature=1.0, top_k=1, max_new_tokens=40, ignore_eos=True)
"""One possible output, and yet drafts are drawn from dense laws and accepted by rejection sampling."""
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=40, ignore_eos=True)
PROMPTS = [[65 + i, 66 + i, 67 + i, 66] for i in range(6)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_llama(folder / "target"), tiny_llama(folder / "draft", noise=0.1)


def services(models: tuple[Path, Path], channel: str, folder: Path, **more: Any) -> Any:
    return cluster(
        *models, model={"shm_dir": folder}, drafter={"draft_law": "dense"}, channel=channel, log_level="warning", **more
    )


async def drafter(here: Cluster) -> PeerInfo:
    return (await here.client.wait_ready(20, drafter=True)).drafter


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await what():
            await asyncio.sleep(0.02)


async def all_outputs(here: Cluster, sampling: SamplingParams) -> list[tuple[int, ...]]:
    return await asyncio.gather(*(here.token_ids(prompt, sampling) for prompt in PROMPTS))


@pytest.mark.parametrize("channel", ["inline", "shm", "gloo"])
async def test_dense_laws_take_the_channel_that_was_asked_for(
    models: tuple[Path, Path], channel: str, tmp_path: Path
) -> None:
    async with services(models, channel, tmp_path) as here:
        assert (await drafter(here)).channel == channel
        greedy = await all_outputs(here, GREEDY)
        assert await all_outputs(here, CERTAIN) == greedy
        await all_outputs(here, SAMPLED)
        info = await here.client.server_info()
    assert info.drafter.channel_generation == 1
    assert info.drafter.payloads > 100
    assert info.drafter.payloads_replaced == 0
    assert info.speculation.accepted_tokens > 100
    assert not list(tmp_path.iterdir())


async def test_auto_takes_shared_memory_on_one_host(models: tuple[Path, Path], tmp_path: Path) -> None:
    async with services(models, "auto", tmp_path) as here:
        info = await drafter(here)
        assert info.channel == "shm"
        assert "cuda_ipc" in info.channel_note  # and why it is not that


async def test_auto_opens_nothing_for_laws_that_need_nothing(models: tuple[Path, Path]) -> None:
    async with cluster(*models, log_level="warning") as here:
        info = await drafter(here)
        assert (info.channel, info.channel_note) == ("", "the draft law sends no tensors")
        await all_outputs(here, SAMPLED)
        assert (await drafter(here)).payloads == 0


async def test_a_channel_that_cannot_work_is_an_error_and_not_another_channel(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    async with services(models, "cuda_ipc", tmp_path) as here:
        info = await drafter(here)
        assert not info.connected
        assert info.refusal == "--channel cuda_ipc cannot work: cuda_ipc: the drafter cannot open it"
        assert len((await all_outputs(here, GREEDY))[0]) == 40  # plain decoding goes on


async def test_auto_passes_over_what_fails_its_trial(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ShmReceiver) -> bytes:
        raise ChannelError("the folder is full")

    monkeypatch.setattr(ShmReceiver, "offer", full)
    async with services(models, "auto", tmp_path) as here:
        info = await drafter(here)
        assert info.channel == "gloo"
        assert "shm: the folder is full" in info.channel_note


async def test_a_channel_that_brings_other_bytes_is_not_used(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ShmReceiver.receive
    monkeypatch.setattr(ShmReceiver, "receive", lambda self, ref: honest(self, ref) + 1)
    async with services(models, "shm", tmp_path) as here:
        assert "other bytes" in (await drafter(here)).refusal


async def test_what_failed_its_trial_is_tried_again(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, offers = ShmReceiver.offer, [0]

    def offer(self: ShmReceiver) -> bytes:
        offers[0] += 1
        if offers[0] == 1:
            raise ChannelError("the folder is full")
        return honest(self)

    monkeypatch.setattr(ShmReceiver, "offer", offer)
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.3)
    async with services(models, "shm", tmp_path) as here:
        assert "the folder is full" in (await drafter(here)).refusal
        await until(lambda: _renewed(here, 2))
        assert (await drafter(here)).connected


async def test_a_lost_payload_costs_drafts_and_the_channel_is_renewed(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, lost = ShmReceiver.receive, [0]

    def receive(self: ShmReceiver, ref: PayloadRef) -> Tensor:
        lost[0] += ref.dtype == "float16"
        if lost[0] == 20:
            raise ChannelError("gone")
        return honest(self, ref)

    async with services(models, "shm", tmp_path) as here:
        await drafter(here)
        greedy = await all_outputs(here, GREEDY)
        monkeypatch.setattr(ShmReceiver, "receive", receive)
        assert await all_outputs(here, CERTAIN) == greedy
        await until(lambda: _renewed(here, 2))
        before = (await drafter(here)).payloads
        assert await all_outputs(here, CERTAIN) == greedy
        assert (await drafter(here)).payloads > before


async def test_an_overwritten_payload_is_judged_without_drafts(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, released = ShmReceiver.release, [0]

    def release(self: ShmReceiver, ref: PayloadRef) -> None:
        honest(self, ref)
        released[0] += ref.dtype == "float16"
        if released[0] == 15:
            raise ChannelError("overwritten")

    async with services(models, "shm", tmp_path) as here:
        await drafter(here)
        greedy = await all_outputs(here, GREEDY)
        monkeypatch.setattr(ShmReceiver, "release", release)
        assert await all_outputs(here, CERTAIN) == greedy
        await until(lambda: _renewed(here, 2))


async def test_a_sender_that_fails_loses_its_proposal_only(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, written = ShmSender.write, [0]

    def write(self: ShmSender, slot: int, tensor: Tensor, offset: int = 0) -> None:
        written[0] += 1
        if written[0] == 40:
            raise ChannelError("broken")
        honest(self, slot, tensor, offset)

    async with services(models, "shm", tmp_path) as here:
        await drafter(here)
        greedy = await all_outputs(here, GREEDY)
        monkeypatch.setattr(ShmSender, "write", write)
        assert await all_outputs(here, CERTAIN) == greedy
        await until(lambda: _renewed(here, 2))


async def test_a_drafter_that_comes_back_gets_a_new_channel(models: tuple[Path, Path], tmp_path: Path) -> None:
    async with services(models, "shm", tmp_path) as here:
        await drafter(here)
        greedy = await all_outputs(here, GREEDY)
        await here.stop_drafter()
        assert await all_outputs(here, CERTAIN) == greedy
        assert (await here.client.server_info()).drafter.channel == ""
        await here.start_drafter()
        await until(lambda: _renewed(here, 2))
        await all_outputs(here, CERTAIN)
        await here.restart_verifier()
        await until(lambda: _renewed(here, 3))
        before = (await drafter(here)).payloads
        assert await all_outputs(here, CERTAIN) == greedy
        assert (await drafter(here)).payloads > before
    assert not list(tmp_path.iterdir())


async def _renewed(here: Cluster, generation: int) -> bool:
    info = (await here.client.server_info()).drafter
    return info.channel_generation >= generation and info.channel == "shm"
