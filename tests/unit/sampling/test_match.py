"""Rule MATCH: what comes out is a function of seed and target alone, it follows the target's law, and drafts help."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy import stats

from minedraft.sampling.accept import match, race
from minedraft.sampling.draft import DraftLawKind, draw, picks
from minedraft.sampling.law import Row
from minedraft.sampling.uniforms import exponentials
from minedraft.sampling.verdict import Judged, judge
from minedraft.types import AcceptanceRule, SamplingParams, SequenceParams

VOCAB, TOKENS = 3, 4
PROMPT = (1, 2)
SAMPLING = SamplingParams(temperature=1.3, top_p=0.97, repetition_penalty=1.2, presence_penalty=0.3)


def params(seed: int, sampling: SamplingParams = SAMPLING) -> SequenceParams:
    return SequenceParams(len(PROMPT), seed, AcceptanceRule.MATCH, sampling)


def logits(emitted: tuple[int, ...], vocab: int = VOCAB) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([7, *emitted]).normal(scale=2, size=vocab))


def step(seed: int, emitted: tuple[int, ...], drafts: tuple[int, ...]) -> tuple[int, ...]:
    """What one verification emits."""
    rows = torch.stack([logits((*emitted, *drafts[:place])) for place in range(len(drafts) + 1)])
    verdict = judge(rows, [Judged(params(seed), (*PROMPT, *emitted), drafts)], ())[0]
    return (*drafts[: verdict.accepted_len], verdict.next_token_id)


def plain(seed: int) -> tuple[int, ...]:
    emitted: tuple[int, ...] = ()
    while len(emitted) < TOKENS + 1:
        emitted += step(seed, emitted, ())
    return emitted


def test_no_proposal_changes_the_output() -> None:
    """Every proposal of up to three drafts, at every place."""
    for seed in range(12):
        wanted = plain(seed)
        for length in range(4):
            for place in range(TOKENS - length + 1):
                for drafts in product(range(VOCAB), repeat=length):
                    out = step(seed, wanted[:place], drafts)
                    assert out == wanted[place : place + len(out)]


def test_a_drafter_that_is_the_target_is_always_kept() -> None:
    for seed in range(50):
        drafts: tuple[int, ...] = ()
        for _ in range(3):
            row = Row(params(seed), PROMPT, drafts)
            drafts += (draw(logits(drafts)[None], [row], (), [DraftLawKind.TOP_M], 2)[0].token_id,)
        assert step(seed, (), drafts)[:3] == drafts


def test_the_winner_of_a_race_follows_the_law() -> None:
    law = torch.tensor([0.5, 0.25, 0.125, 0.12, 0.005, 0.0], dtype=torch.float64)
    seeds = torch.arange(200_000)
    winners = race(law.expand(len(seeds), -1), exponentials(seeds, torch.full_like(seeds, 9), len(law)))
    counts = torch.bincount(winners, minlength=len(law)).numpy()
    assert counts[-1] == 0
    assert stats.chisquare(counts[:-1], law[:-1].numpy() * len(seeds)).pvalue > 1e-6


def test_tokens_at_several_positions_follow_the_joint_law() -> None:
    """Positions share a seed; their clocks must not."""
    seeds = torch.arange(60_000)
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    columns = [
        race(law.expand(len(seeds), -1), exponentials(seeds, torch.full_like(seeds, place), 3)) for place in (4, 5)
    ]
    counts = torch.bincount(3 * columns[0] + columns[1], minlength=9).numpy()
    assert stats.chisquare(counts, torch.outer(law, law).flatten().numpy() * len(seeds)).pvalue > 1e-6


def test_laws_that_are_alike_mostly_pick_alike() -> None:
    """With distance d between two laws the picks differ in at most 2d / (1 + d) of all cases."""
    target, close = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.45, 0.35, 0.2]).log()
    rows = [Row(params(seed, SamplingParams()), PROMPT) for seed in range(20_000)]
    ours, theirs = (picks(law.expand(len(rows), -1), rows) for law in (target, close))
    different = sum(a != b for a, b in zip(ours, theirs, strict=True)) / len(rows)
    assert 0.03 < different < 2 * 0.05 / 1.05 + 0.01


def test_match_keeps_up_to_the_first_difference() -> None:
    assert match([5, 6, 7], [5, 6]) == (2, 7)
    assert match([5, 6, 7], [5, 9]) == (1, 6)
    assert match([5, 6, 7], [9, 6]) == (0, 5)
    assert match([5], []) == (0, 5)
