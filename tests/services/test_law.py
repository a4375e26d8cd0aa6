"""The whole service at temperature > 0 against the target's own law, by chi-square; a biased rule must fail it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import AutoModelForCausalLM

from minedraft.sampling import accept, verdict
from minedraft.types import SamplingParams
from tests.cluster import cluster
from tests.models import tiny_llama

PROMPT = [70, 71, 72]
TOP_K = 5
SAMPLING = SamplingParams(temperature=1.2, top_k=TOP_K, max_new_tokens=3, ignore_eos=True, logit_bias={3: -100.0})
IMPOSSIBLE = 1e-9  # a right service is below this once in a thousand million runs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return (
        tiny_llama(folder / "target", layers=1, dtype="float32"),
        tiny_llama(folder / "draft", layers=1, dtype="float32", noise=0.3),
    )


def law_of_pairs(folder: Path) -> dict[tuple[int, int], float]:
    """The target's own law of the second and third new token's predecessors: the first two new tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()

    def next_law(tokens: list[int]) -> dict[int, float]:
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, -1]
        logits[3] -= 100.0
        top = (logits / SAMPLING.temperature).topk(TOP_K)
        return dict(zip(top.indices.tolist(), top.values.softmax(0).tolist(), strict=True))

    first = next_law(PROMPT)
    return {(a, b): p * q for a, p in first.items() for b, q in next_law([*PROMPT, a]).items()}


async def p_value(models: tuple[Path, Path], law: str, samples: int) -> float:
    """Of the first two tokens of unseeded requests; three are asked for, so that both may come from drafts."""
    wanted = law_of_pairs(models[0])
    counts: Counter[tuple[int, int]] = Counter()
    settings = {"draft_law": law, "top_m": 4, "num_blocks": 4096}
    async with cluster(
        models[0], models[1], model={"num_blocks": 4096}, drafter=settings, lane_size=256, log_level="warning"
    ) as here:
        await here.client.wait_ready(20, drafter=True)

        async def some(count: int) -> None:
            for _ in range(count):
                first, second, *_ = await here.token_ids(PROMPT, SAMPLING)
                counts[first, second] += 1

        await asyncio.gather(*(some(samples // 200) for _ in range(200)))
        info = await here.client.server_info()
    if law == "dense":
        assert info.drafter.channel == "shm"
        assert info.drafter.payloads > 10 * info.drafter.payloads_replaced
    assert info.speculation.accepted_tokens > samples / 10
    assert set(counts) <= set(wanted)
    observed = np.array([counts[pair] for pair in wanted])
    expected = np.array([samples * mass for mass in wanted.values()])
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize(("law", "samples"), [("top_m", 20_000), ("point_mass", 2_000), ("dense", 2_000)])
async def test_sampled_output_follows_the_target(models: tuple[Path, Path], law: str, samples: int) -> None:
    assert await p_value(models, law, samples) > IMPOSSIBLE


async def test_a_biased_rule_fails(models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept twice as often as is right, all else the real code."""
    exact = accept.reject

    def biased(p: Tensor, ids: Tensor, lens: Tensor, q: Tensor, *rest: object) -> accept.Accepted:
        return exact(p, ids, lens, q / 2, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(verdict, "reject", biased)
    assert await p_value(models, "top_m", 4_000) < IMPOSSIBLE
