"""Services in processes of their own on a GPU: dense laws over cuda_ipc, end to end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import AsyncClient, Client
from minedraft.generation import GenerateRequest, PeerInfo, TokenIds
from minedraft.types import SamplingParams
from tests.models import tiny_llama
from tests.services.test_law import IMPOSSIBLE, PROMPT, SAMPLING, law_of_pairs

PROMPTS = [(65 + i, 66 + i, 67 + i, 66) for i in range(8)]
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=60, ignore_eos=True)
CERTAIN = SamplingParams(temperature=1.0, top_k=1, max_new_tokens=60, ignore_eos=True)
"""One possible output, and yet drafts are drawn from dense laws and accepted by rejection sampling."""
SAMPLES = 2000
AT_ONCE = 50
SMALL_CACHE = ("--kv-cache-mib", "64")
RESTART_SECONDS = 90.0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "target", layers=1, dtype="float32")


@pytest.fixture(scope="module")
def stack(target: Path) -> Iterator[Stack]:
    """A verifier and a drafter on one GPU."""
    draft = tiny_llama(target.parent / "draft", layers=1, dtype="float32", noise=0.3)
    options = StackOptions(
        target=str(target), draft=str(draft), device="cuda", dtype="float32", draft_dtype="float32", draft_law="dense",
        channel="cuda_ipc", lane_size=AT_ONCE, verifier_flags=SMALL_CACHE, drafter_flags=SMALL_CACHE,
    )  # fmt: skip
    with Stack(options) as running:
        yield running


def drafter_of(stack: Stack) -> PeerInfo:
    with Client(stack.coordinator) as client:
        return client.wait_ready(RESTART_SECONDS, drafter=True).drafter


def outputs(stack: Stack, sampling: SamplingParams, drafts: int | None = None) -> list[tuple[int, ...]]:
    async def all_of_them() -> list[tuple[int, ...]]:
        async with AsyncClient(stack.coordinator) as client:
            requests = [GenerateRequest(TokenIds(prompt), sampling, max_draft_tokens=drafts) for prompt in PROMPTS]
            return [made.token_ids for made in await asyncio.gather(*map(client.complete, requests))]

    return asyncio.run(all_of_them())


def test_the_channel_is_the_one_that_was_asked_for(stack: Stack) -> None:
    drafter = drafter_of(stack)
    assert drafter.channel == "cuda_ipc", drafter
    assert drafter.model is not None
    assert drafter.model.device.startswith("cuda")


def test_output_equals_plain_decoding(stack: Stack) -> None:
    plain = outputs(stack, GREEDY, drafts=0)
    assert outputs(stack, GREEDY) == plain
    before = drafter_of(stack)
    assert outputs(stack, CERTAIN) == plain
    after = drafter_of(stack)
    assert after.payloads > before.payloads
    assert after.payloads_replaced == before.payloads_replaced


def test_sampled_output_follows_the_target(stack: Stack, target: Path) -> None:
    counts: Counter[tuple[int, int]] = Counter()

    async def ask() -> None:
        async with AsyncClient(stack.coordinator) as client:

            async def some() -> None:
                for _ in range(SAMPLES // AT_ONCE):
                    made = await client.complete(GenerateRequest(TokenIds(tuple(PROMPT)), SAMPLING))
                    first, second, *_ = made.token_ids
                    counts[first, second] += 1

            await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    asyncio.run(ask())
    wanted = law_of_pairs(target)
    assert set(counts) <= set(wanted)
    observed = np.array([counts[pair] for pair in wanted])
    expected = SAMPLES * np.array(list(wanted.values()))
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > IMPOSSIBLE


def test_a_killed_drafter_costs_no_token_and_the_channel_is_renewed(stack: Stack) -> None:
    plain = outputs(stack, GREEDY, drafts=0)
    before = drafter_of(stack)
    process = stack.drafter_process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert outputs(stack, CERTAIN) == plain
    deadline = time.monotonic() + RESTART_SECONDS
    while (now := drafter_of(stack)).channel_generation <= before.channel_generation or not now.channel:
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    assert now.channel == "cuda_ipc"
    assert outputs(stack, CERTAIN) == plain
    assert drafter_of(stack).payloads > now.payloads
