"""Judging a batch: laws of all kinds side by side, greedy by argmax, logprobs, and proposals that cannot be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minedraft.errors import InternalError, InvalidRequest
from minedraft.sampling.accept import inverse_cdf, residual
from minedraft.sampling.draft_law import read_law
from minedraft.sampling.verdict import Judged, check_proposal, judge
from minedraft.types import AcceptanceRule, Dense, DraftLaw, PointMass, SamplingParams, SequenceParams, TopM

VOCAB = 7
EOS = (6,)


@st.composite
def judged(draw: st.DrawFn) -> Judged:
    sampling = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.8])),
        top_k=draw(st.sampled_from([0, 3])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.4])),
        min_new_tokens=draw(st.integers(0, 3)),
        logprobs=draw(st.none() | st.integers(0, 3)),
    )
    params = SequenceParams(2, draw(st.integers(0, 2**64 - 1)), draw(st.sampled_from(AcceptanceRule)), sampling)
    drafts = tuple(draw(st.lists(st.integers(0, VOCAB - 1), max_size=3)))
    return Judged(params, (1, 2, *draw(st.lists(st.integers(0, 5), max_size=3))), drafts, read_law(draw(law(drafts))))


@st.composite
def law(draw: st.DrawFn, drafts: tuple[int, ...]) -> DraftLaw:
    weights = st.floats(0.015625, 1, width=16)
    match draw(st.integers(0, 2)) if drafts else 0:
        case 1:
            ids = [[token, *[t for t in range(VOCAB) if t != token][:2]] for token in drafts]
            masses = [[draw(weights) for _ in row] for row in ids]
            return TopM(np.array(ids, np.int32), np.array(masses, np.float32))
        case 2:
            return Dense(np.array([[draw(weights) for _ in range(VOCAB)] for _ in drafts], np.float16))
        case _:
            return PointMass()


@given(st.lists(judged(), min_size=1, max_size=6), st.integers(0, 2**32 - 1), st.randoms())
def test_batch_mates_do_not_matter(batch: list[Judged], seed: int, random: object) -> None:
    logits = [
        torch.randn(len(one.draft_ids) + 1, VOCAB, generator=torch.manual_seed(seed + i)) for i, one in enumerate(batch)
    ]
    alone = [judge(rows, [one], EOS)[0] for rows, one in zip(logits, batch, strict=True)]
    order = sorted(range(len(batch)), key=lambda _: random.random())  # type: ignore[attr-defined]
    together = judge(torch.cat([logits[i] for i in order]), [batch[i] for i in order], EOS)
    for place, i in enumerate(order):
        assert replace(together[place], logprobs=()) == replace(alone[i], logprobs=())
        for found, wanted in zip(together[place].logprobs, alone[i].logprobs, strict=True):
            assert found.token_id == wanted.token_id
            assert found.logprob == pytest.approx(wanted.logprob, abs=1e-5)


@given(st.lists(st.integers(0, VOCAB - 1), max_size=3), st.integers(0, 1000), st.sampled_from(AcceptanceRule))
def test_greedy_is_the_argmax(drafts: list[int], seed: int, rule: AcceptanceRule) -> None:
    logits = torch.randn(len(drafts) + 1, VOCAB, generator=torch.manual_seed(seed))
    best = logits.argmax(dim=1).tolist()
    for sampling in (SamplingParams(temperature=0.0), SamplingParams(temperature=0.0, logit_bias={0: 0.0})):
        params = SequenceParams(1, 0, rule, sampling)
        found = judge(logits, [Judged(params, (1,), drafts)], EOS)[0]
        wanted = next((place for place, token in enumerate(drafts) if token != best[place]), len(drafts))
        assert (found.accepted_len, found.next_token_id) == (wanted, best[wanted])


def test_logprobs_are_the_target_s_before_anything_is_done_to_them() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, 3.0]])
    sampling = SamplingParams(temperature=0.0, logit_bias={0: 100.0}, logprobs=2)
    params = SequenceParams(1, 0, AcceptanceRule.REJECTION, sampling)
    found = judge(logits, [Judged(params, (1,), (0,))], EOS)[0]
    assert (found.accepted_len, found.next_token_id) == (1, 0)
    wanted = logits.log_softmax(dim=1)
    assert [entry.token_id for entry in found.logprobs] == [0, 0]
    assert [entry.logprob for entry in found.logprobs] == pytest.approx(wanted[:, 0].tolist())
    assert [entry.top_token_ids for entry in found.logprobs] == [(1, 0), (2, 0)]
    assert found.logprobs[1].top_logprobs == pytest.approx([wanted[1, 2].item(), wanted[1, 0].item()])
    none = replace(params, sampling=replace(sampling, logprobs=0))
    assert judge(logits, [Judged(none, (1,), (0,))], EOS)[0].logprobs[0].top_token_ids == ()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(wrong: float, temperature: float) -> None:
    params = SequenceParams(1, 0, AcceptanceRule.REJECTION, SamplingParams(temperature=temperature))
    with pytest.raises(InternalError, match="not numbers"):
        judge(torch.full((1, VOCAB), wrong), [Judged(params, (1,))], EOS)


def top_m(ids: list[list[int]], weights: list[list[float]]) -> TopM:
    return TopM(np.array(ids, np.int32), np.array(weights, np.float32))


GOOD_LAW = top_m([[1, 2], [3, 0]], [[0.5, 0.5], [1.0, 0.0]])
BAD_LAWS: dict[str, tuple[tuple[int, ...], DraftLaw, str]] = {
    "token too large": ((1, VOCAB), PointMass(), "proposal.token_ids"),
    "token negative": ((-1,), PointMass(), "proposal.token_ids"),
    "too few rows": ((1, 3), top_m([[1, 2]], [[0.5, 0.5]]), "proposal.top_m"),
    "shapes differ": ((1,), top_m([[1, 2]], [[0.5, 0.25, 0.25]]), "proposal.top_m"),
    "law's token too large": ((1,), top_m([[1, VOCAB]], [[0.5, 0.5]]), "proposal.top_m.token_ids"),
    "law's token negative": ((1,), top_m([[1, -1]], [[0.5, 0.5]]), "proposal.top_m.token_ids"),
    "repeated token": ((1,), top_m([[1, 1]], [[0.5, 0.5]]), "proposal.top_m.token_ids"),
    "negative weight": ((1,), top_m([[1, 2]], [[0.5, -0.5]]), "proposal.law"),
    "NaN weight": ((1,), top_m([[1, 2]], [[0.5, math.nan]]), "proposal.law"),
    "infinite weight": ((1,), top_m([[1, 2]], [[math.inf, 0.5]]), "proposal.law"),
    "no mass": ((1,), top_m([[1, 2]], [[0.0, 0.0]]), "proposal.law"),
    "draft of mass zero": ((2,), top_m([[1, 2]], [[1.0, 0.0]]), "proposal.law"),
    "draft not in its law": ((5,), top_m([[1, 2]], [[0.5, 0.5]]), "proposal.law"),
    "dense of another vocabulary": ((1,), Dense(np.ones((1, VOCAB + 1), np.float16)), "proposal.dense"),
    "dense rows": ((1, 2), Dense(np.ones((1, VOCAB), np.float16)), "proposal.dense"),
    "dense without mass": ((1,), Dense(np.zeros((1, VOCAB), np.float16)), "proposal.law"),
    "dense NaN": ((1,), Dense(np.full((1, VOCAB), np.nan, np.float16)), "proposal.law"),
}


def test_a_good_law_passes() -> None:
    check_proposal((1, 3), read_law(GOOD_LAW), VOCAB)
    check_proposal((), read_law(PointMass()), VOCAB)
    check_proposal((4,), read_law(Dense(np.ones((1, VOCAB), np.float16))), VOCAB)


@pytest.mark.parametrize(("drafts", "wrong", "field"), BAD_LAWS.values(), ids=BAD_LAWS)
def test_a_law_that_nobody_can_have_drawn_from_is_refused(drafts: tuple[int, ...], wrong: DraftLaw, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_proposal(drafts, read_law(wrong), VOCAB)
    assert caught.value.field == field


def test_no_token_without_mass_is_ever_drawn() -> None:
    law = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).expand(3, -1)
    assert inverse_cdf(law, torch.tensor([0.0, 0.2, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 1, 3]


def test_a_residual_that_rounding_emptied_is_the_target() -> None:
    p = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    assert residual(p, p).tolist() == [[0.25, 0.75]]
    assert residual(p, torch.tensor([[0.5, 0.5]], dtype=torch.float64)).tolist() == [[0.0, 0.25]]


@pytest.mark.parametrize("vocab", [2048, 2049, 3000, 152_064])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_large_laws_are_drawn_from_block_by_block_as_small_ones_are(vocab: int, dtype: torch.dtype) -> None:
    law = torch.rand(3, vocab, generator=torch.manual_seed(vocab), dtype=torch.float64) ** 8
    law[1, : vocab - 700] = 0  # mass in the last blocks only
    law[2, torch.arange(vocab) % 7 > 0] = 0
    law = law.to(dtype)
    cdf = torch.cat([torch.zeros(3, 1, dtype=torch.float64), law.double().cumsum(dim=1)], dim=1)
    for u in (0.0, 1e-12, 0.1, 0.5, 0.999, 1 - 2**-53):
        tokens = inverse_cdf(law, torch.full((3,), u, dtype=torch.float64))
        for row, token in enumerate(tokens.tolist()):
            assert law[row, token] > 0
            below, above = (cdf[row, token + end] / cdf[row, -1] for end in (0, 1))
            assert below - 1e-14 <= u <= above + 1e-14
