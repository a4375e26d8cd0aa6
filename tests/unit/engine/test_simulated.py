"""Simulated models: their specification, their answers, their place behind the real engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minedraft.engine.runner import Feed
from minedraft.errors import SetupError
from minedraft.model.byte_tokenizer import EOS_ID
from minedraft.model.simulated import FIRST_TOKEN, SimulatedModel, simulated_draft, simulated_target, sleep_until
from minedraft.model.simulated_spec import SimulationSpec
from tests.unit.engine.helpers import begun, engine, feed, item

INSTANT = "drafter=0us,verifier=0ms,accept=0.8"


def test_parse() -> None:
    assert SimulationSpec.parse("drafter=5ms,verifier=25ms,accept=0.8") == SimulationSpec(0.005, 0.025, 0.8, 256, 32768)
    text = " accept=1 , verifier=.1s,drafter=250us, vocab=50000 ,max_len=100"
    spec = SimulationSpec.parse(text)
    assert spec.drafter == pytest.approx(0.00025)
    assert (spec.verifier, spec.accept, spec.vocab, spec.max_len) == (0.1, 1.0, 50000, 100)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not one of drafter, verifier"),
        ("drafter=5ms", "verifier, accept must be given, as in drafter=5ms"),
        ("drafter=5ms,verifier=25ms,accept=0.8,speed=3", "'speed=3' is not one of"),
        ("drafter,verifier=25ms,accept=0.8", "'drafter' is not one of"),
        ("drafter=5,verifier=25ms,accept=0.8", "drafter=5 is not a time"),
        ("drafter=-5ms,verifier=25ms,accept=0.8", "is not a time"),
        ("drafter=1e3ms,verifier=25ms,accept=0.8", "is not a time"),
        ("drafter=61s,verifier=25ms,accept=0.8", "longer than 60s"),
        ("drafter=5ms,verifier=25ms,accept=1.1", "accept=1.1 is not a number between 0 and 1"),
        ("drafter=5ms,verifier=25ms,accept=nan", "between 0 and 1"),
        ("drafter=5ms,verifier=25ms,accept=often", "between 0 and 1"),
        ("drafter=5ms,verifier=25ms,accept=0.8,vocab=255", "at least 256"),
        ("drafter=5ms,verifier=25ms,accept=0.8,vocab=many", "whole number"),
        ("drafter=5ms,verifier=25ms,accept=0.8,vocab=³", "whole number"),
        ("drafter=5ms,verifier=25ms,accept=0.8,max_len=0", "at least 1"),
        ("drafter=5ms,drafter=5ms,verifier=25ms,accept=0.8", "drafter is given twice"),
    ],
)
def test_parse_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(SetupError, match=problem):
        SimulationSpec.parse(text)


def pair(text: str = INSTANT) -> tuple[SimulatedModel, SimulatedModel]:
    spec = SimulationSpec.parse(text)
    return simulated_target(spec), simulated_draft(spec)


@pytest.mark.parametrize("vocab", [256, 1000])
@pytest.mark.parametrize("accept", [0.0, 0.3, 0.8, 1.0])
def test_the_drafter_agrees_as_often_as_asked(accept: float, vocab: int) -> None:
    target, draft = pair(f"drafter=0us,verifier=0us,accept={accept},vocab={vocab}")
    rng = np.random.default_rng(0)
    previous, positions = rng.integers(0, vocab, 20000), rng.integers(0, 5000, 20000)
    wanted, drafted = target.choose(previous, positions), draft.choose(previous, positions)
    for tokens in (wanted, drafted):
        assert tokens.min() >= FIRST_TOKEN
        assert tokens.max() < vocab
        assert EOS_ID not in tokens
    agree = wanted == drafted
    assert agree.mean() == pytest.approx(accept, abs=0.015)
    if 0 < accept < 1:  # neighbours agree independently
        assert np.corrcoef(agree[:-1], agree[1:])[0, 1] == pytest.approx(0, abs=0.03)


def test_agreement_along_a_generation_is_independent() -> None:
    target, draft = pair()
    token, agree = np.array([65]), []
    for position in range(4000):
        where = np.array([position])
        drafted, token = draft.choose(token, where), target.choose(token, where)
        agree.append(bool(drafted[0] == token[0]))
    assert np.mean(agree) == pytest.approx(0.8, abs=0.03)
    assert np.corrcoef(agree[:-1], agree[1:])[0, 1] == pytest.approx(0, abs=0.06)


def test_tokens_spread_over_the_vocabulary() -> None:
    target, _ = pair()
    tokens = target.choose(np.full(24000, 7), np.arange(24000))
    counts = np.bincount(tokens, minlength=256)[FIRST_TOKEN:]
    assert counts.min() > 50
    assert counts.max() < 160


def test_sampling_at_temperature_one_follows_it() -> None:
    target, _ = pair("drafter=0us,verifier=0us,accept=0.8,vocab=200000")
    logits = feed(engine(target), item(1, 0, (1, 2, 3)))
    law = logits.softmax(dim=1)
    assert float(law.max()) == 1.0
    assert int(law.argmax()) == int(target.choose(np.array([3]), np.array([3]))[0])


def test_behind_the_engine_the_answer_depends_on_nothing_else() -> None:
    target, _ = pair()
    on = engine(target)
    alone = feed(on, item(1, 0, (5, 6, 7)), (8, 9))
    first, second = begun(on, item(2, 0, (5, 6))), begun(on, item(3, 0, (9, 9, 9)))
    on.forward([Feed(second, second.feed, 1), Feed(first, first.feed, 0)])
    later = feed(on, item(2, 2, (7, 8, 9)))
    assert torch.equal(alone[-1:], later)
    assert alone.dtype == torch.float32
    on.release_lease("lease")
    on.check_integrity()
    assert on.state().free_blocks == 64


def test_info_says_that_it_is_simulated() -> None:
    target, draft = pair("drafter=0us,verifier=0us,accept=0.8,max_len=100")
    info = engine(target).info
    assert info.simulated
    assert (info.architecture, info.vocab_size, info.max_len) == ("simulated", 256, 100)
    assert info.eos_token_ids == (EOS_ID,)
    assert info.tokenizer_fingerprint == target.tokenizer.fingerprint == draft.tokenizer.fingerprint


def test_a_pass_takes_its_time_and_counts_as_forward() -> None:
    spec = SimulationSpec.parse("drafter=1ms,verifier=20ms,accept=1")
    on = engine(simulated_target(spec))
    feed(on, item(1, 0, (5, 6, 7)))
    assert on.take_forward_ns() >= 20_000_000
    on = engine(simulated_draft(spec))
    feed(on, item(1, 0, (5, 6, 7)))
    assert on.take_forward_ns() >= 1_000_000


def test_a_deadline_in_the_past_returns_at_once() -> None:
    sleep_until(0.0)


def test_a_pass_without_logits() -> None:
    on = engine(pair()[0])
    sequence = begun(on, item(1, 0, (5, 6)))
    assert on.forward([Feed(sequence, sequence.feed, 0)]).shape == (0, 256)
