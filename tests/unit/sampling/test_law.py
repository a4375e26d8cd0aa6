"""From logits to laws, against plain numpy and against transformers' own warpers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from minedraft.errors import InternalError
from minedraft.sampling.law import FIRST_LOOK, Row, adjusted_logits, argmax, target_law
from minedraft.types import AcceptanceRule, SamplingParams, SequenceParams
from tests.unit.sampling import reference

VOCAB = 11
EOS = (0, 7)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=8)


def row(sampling: SamplingParams, prompt: list[int], output: list[int], drafts: list[int]) -> Row:
    params = SequenceParams(len(prompt), 0, AcceptanceRule.REJECTION, sampling)
    return Row(params, [*prompt, *output], drafts)


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    off = st.just(1.0)
    return SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 2.5])),
        top_p=draw(off | st.floats(0.05, 0.99)),
        top_k=draw(st.integers(0, VOCAB + 2)),
        min_p=draw(st.just(0.0) | st.floats(0.01, 1.0)),
        repetition_penalty=draw(off | st.floats(0.5, 2.0)),
        frequency_penalty=draw(st.just(0.0) | st.floats(-2, 2)),
        presence_penalty=draw(st.just(0.0) | st.floats(-2, 2)),
        logit_bias=draw(st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=3)),
        min_new_tokens=draw(st.integers(0, 4)),
        stop_token_ids=tuple(draw(st.lists(st.integers(1, VOCAB - 1), max_size=2))),
    )


@given(
    st.lists(st.tuples(sampling_params(), TOKENS, TOKENS, TOKENS), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
)
def test_a_batch_of_laws_is_the_reference_row_by_row(
    cases: list[tuple[SamplingParams, list[int], list[int], list[int]]], seed: int
) -> None:
    raw = np.random.default_rng(seed).normal(scale=3.0, size=(len(cases), VOCAB))
    logits = torch.from_numpy(raw)
    rows = [row(*case) for case in cases]
    adjusted = adjusted_logits(logits, rows, EOS)
    laws = target_law(adjusted, rows).numpy()
    assert np.array_equal(logits.numpy(), raw)  # the model's own logits are left alone: logprobs need them
    for index, (sampling, prompt, output, drafts) in enumerate(cases):
        wanted = reference.adjusted(raw[index], sampling, prompt, [*output, *drafts], EOS)
        np.testing.assert_allclose(adjusted[index], wanted, atol=1e-12)
        np.testing.assert_allclose(laws[index], reference.law(wanted, sampling), atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.7, 0.0), (7, 0.8, 0.05)])
def test_transformers_agrees(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 500, dtype=torch.float64) * 3
    tokens = [3, 4, 3, 499]
    sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=1.3)
    warpers: Any = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(temperature)])
    if min_p > 0:
        warpers.append(MinPLogitsWarper(min_p))
    if top_k > 0:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    theirs = warpers(torch.tensor([tokens]), logits.clone()).softmax(dim=1)
    rows = [row(sampling, tokens[:2], tokens[2:3], tokens[3:])]
    ours = target_law(adjusted_logits(logits, rows, ()), rows)
    assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("top_p", [0.5, 0.97, 0.9999])
def test_top_p_over_many_tokens(top_p: float) -> None:
    """The cut lies before and behind the tokens that are looked at first."""
    flat = torch.linspace(0, 1, 8 * FIRST_LOOK, dtype=torch.float64)[None]
    sampling = SamplingParams(top_p=top_p)
    ours = target_law(flat, [row(sampling, [1], [], [])])[0]
    np.testing.assert_allclose(ours, reference.law(flat[0].numpy(), sampling), atol=1e-15)


def test_ties_at_a_cut_are_all_kept() -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, 0.0]])
    for sampling, kept in (
        (SamplingParams(top_k=1), [1, 3]),
        (SamplingParams(top_k=3), [0, 1, 2, 3]),
        (SamplingParams(top_p=0.2), [1, 3]),
        (SamplingParams(min_p=1.0), [1, 3]),
    ):
        assert target_law(logits, [row(sampling, [1], [], [])])[0].nonzero().flatten().tolist() == kept


def test_float64_stays_and_the_rest_becomes_float32() -> None:
    one = [row(SamplingParams(), [1], [], [])]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert target_law(adjusted_logits(torch.zeros(1, 4, dtype=dtype), one, ()), one).dtype == torch.float32
    assert adjusted_logits(torch.zeros(1, 4, dtype=torch.float64), one, ()).dtype == torch.float64


def test_the_first_of_equals_wins() -> None:
    assert argmax(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])) == [1, 0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_an_error(wrong: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [wrong, wrong]])
    with pytest.raises(InternalError, match="not numbers"):
        target_law(logits, [row(SamplingParams(), [1], [], [])] * 2)
