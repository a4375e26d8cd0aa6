"""Losslessness, exactly: the joint law of two tokens is the target's, whatever law the drafts come from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

from minedraft.sampling import accept, verdict
from minedraft.sampling.draft import DraftLawKind
from minedraft.types import SamplingParams
from tests.unit.sampling.enumeration import World, total_variation

EXACT = 1e-12
PARAMS = {
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.3),
    "hot": SamplingParams(temperature=3.0),
    "top-k": SamplingParams(top_k=2),
    "top-p": SamplingParams(top_p=0.7),
    "min-p": SamplingParams(min_p=0.3),
    "repetition": SamplingParams(repetition_penalty=1.5),
    "frequency and presence": SamplingParams(frequency_penalty=1.2, presence_penalty=-0.7),
    "bias": SamplingParams(logit_bias={0: 2.0, 2: -1.5}),
    "no EOS yet": SamplingParams(min_new_tokens=2, stop_token_ids=(2,)),
    "all": SamplingParams(
        temperature=1.4, top_k=3, top_p=0.95, min_p=0.02, repetition_penalty=0.8, frequency_penalty=-0.5,
        presence_penalty=0.3, logit_bias={1: 0.5}, min_new_tokens=2,
    ),
    "greedy with penalties": SamplingParams(temperature=0.0, repetition_penalty=1.7, logit_bias={0: 0.4}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "top_m"),
    [(DraftLawKind.POINT_MASS, 1), (DraftLawKind.TOP_M, 1), (DraftLawKind.TOP_M, 3), (DraftLawKind.DENSE, 1)],
    ids=["point mass", "top 1", "top 3", "dense"],
)
@pytest.mark.parametrize("sampling", PARAMS.values(), ids=PARAMS)
def test_the_joint_law_of_two_tokens(
    sampling: SamplingParams, kind: DraftLawKind, top_m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(sampling, kind, top_m, monkeypatch)
    assert total_variation(world.joint_law(), world.target()) <= EXACT


def test_a_rule_that_keeps_too_much_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = accept.reject

    def biased(p: Tensor, ids: Tensor, lens: Tensor, q: Tensor, *rest: object) -> accept.Accepted:
        return exact(p, ids, lens, q * (1 - 1e-6), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(verdict, "reject", biased)
    world = World(SamplingParams(), DraftLawKind.TOP_M, 3, monkeypatch)
    assert 1e-8 < total_variation(world.joint_law(), world.target()) < 1e-5


def test_a_rule_without_the_residual_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "residual", lambda p, q: p)
    world = World(SamplingParams(), DraftLawKind.DENSE, 1, monkeypatch)
    assert total_variation(world.joint_law(), world.target()) > 0.01


def test_a_drafter_that_lies_about_its_law_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a law is rounded after the draw."""
    world = World(SamplingParams(), DraftLawKind.DENSE, 1, monkeypatch)
    honest = world._draw

    def lying(*given: object) -> object:
        return [replace(draft, dense=draft.dense**1.01) for draft in honest(*given)]  # type: ignore[arg-type,operator]

    monkeypatch.setattr(world, "_draw", lying)
    assert total_variation(world.joint_law(), world.target()) > 1e-5
