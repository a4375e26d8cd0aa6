"""Losslessness through the whole service: greedy equals `generate`; a seed gives one output whatever is drafted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from minedraft.types import SamplingParams
from tests.cluster import cluster
from tests.models import tiny_llama

PROMPTS = [[65 + (7 * i + j * j) % 90 for j in range(1 + (i * 5) % 23)] for i in range(16)]
TOKENS = 40


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("draft"), noise=0.1)


@pytest.fixture(scope="module")
def wanted(target: Path) -> list[tuple[int, ...]]:
    """What transformers' own `generate` makes of each prompt."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float64).eval()
    outputs = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        outputs.append(tuple(out[0, len(prompt) :].tolist()))
    return outputs


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize(("proposer", "drafts"), [("none", 0), ("model", 1), ("model", 4), ("ngram", 4), ("model", 8)])
async def test_greedy_equals_generate(
    target: Path, draft: Path, wanted: list[tuple[int, ...]], lanes: int, proposer: str, drafts: int
) -> None:
    folder = {"none": None, "model": draft, "ngram": "ngram"}[proposer]
    async with cluster(target, folder, lanes=lanes, draft_tokens=drafts, lane_size=4, prefill_chunk=8) as here:
        sampling = SamplingParams(temperature=0, max_new_tokens=TOKENS)
        outputs = await asyncio.gather(*(here.complete(prompt, sampling) for prompt in PROMPTS))
        info = await here.client.server_info()
    assert [output.token_ids for output in outputs] == wanted
    if proposer == "model":
        assert info.speculation.accepted_tokens > 0


SEEDED = SamplingParams(
    temperature=0.9, top_p=0.95, seed=1234, max_new_tokens=TOKENS, frequency_penalty=0.3, min_p=0.01
)


async def test_a_seed_gives_one_output_whatever_happens(target: Path, draft: Path) -> None:
    outputs = set()
    for lanes in (1, 2, 3):
        for drafts in (0, 3):
            async with cluster(target, draft, lanes=lanes, draft_tokens=drafts) as here:
                outputs.add(await here.token_ids(PROMPTS[3], SEEDED))
                crowd = [here.complete(prompt, SamplingParams(max_new_tokens=TOKENS)) for prompt in PROMPTS[:15]]
                alone, *_ = await asyncio.gather(here.complete(PROMPTS[3], SEEDED), *crowd)
                outputs.add(alone.token_ids)
                assert alone.speculation is not None
                assert (alone.speculation.accepted_tokens > 0) == (drafts > 0)
    async with cluster(target, "ngram", draft_tokens=4) as here:
        outputs.add(await here.token_ids(PROMPTS[3], SEEDED))
    assert len(outputs) == 1


async def test_a_seed_gives_one_output_with_a_drafter_restarted_in_between(target: Path, draft: Path) -> None:
    async with cluster(target, draft) as here:
        wanted = await here.token_ids(PROMPTS[3], SEEDED)
        running = asyncio.create_task(here.complete(PROMPTS[3], SEEDED))
        await asyncio.sleep(0.05)
        await here.stop_drafter()
        await asyncio.sleep(0.05)
        await here.start_drafter()
        assert (await running).token_ids == wanted
        while not (await here.client.server_info()).drafter.connected:
            await asyncio.sleep(0.01)
        again = await here.complete(PROMPTS[3], SEEDED)
        assert again.token_ids == wanted
        assert again.speculation is not None
        assert again.speculation.accepted_tokens > 0


async def test_other_seeds_give_other_outputs(target: Path) -> None:
    async with cluster(target, None) as here:
        outputs = {
            await here.token_ids([70, 71], SamplingParams(seed=seed, max_new_tokens=20)) for seed in (1, 2, 2**64 - 1)
        }
    assert len(outputs) == 3
