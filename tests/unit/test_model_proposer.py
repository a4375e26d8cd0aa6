"""Proposals of a draft model: their tokens, their laws, and a vocabulary of the model's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drafter_service.proposers.model import ModelProposer
from minedraft.engine.build import open_model
from minedraft.engine.runner import Engine
from minedraft.model.draft_vocabulary import to_map
from minedraft.model.loader import load
from minedraft.sampling.draft import DraftLawKind
from minedraft.types import (
    AcceptanceRule,
    Dense,
    DraftItem,
    ItemStatus,
    PointMass,
    Proposal,
    SamplingParams,
    SequenceParams,
    TopM,
)
from tests.models import tiny_llama
from tests.unit.engine.test_draft_vocabulary import KNOWN, rewrite

PROMPT = (70, 71, 72, 73)
KINDS = {
    DraftLawKind.POINT_MASS: PointMass,
    DraftLawKind.TOP_M: TopM,
    DraftLawKind.DENSE: Dense,
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_llama(tmp_path_factory.mktemp("narrow") / "made", dtype="float32")
    tensors = load_file(made / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][KNOWN].contiguous()
    rewrite(made, tensors | {"d2t": to_map(KNOWN)}, draft_vocab_size=len(KNOWN))
    return made


def proposals(folder: Path, kind: DraftLawKind, *asked: SequenceParams) -> tuple[Proposal, ...]:
    model, _ = open_model(str(folder), self_check=False)
    proposer = ModelProposer(Engine(model, 64, 4, "test"), kind, top_m=5)
    return proposer.step("lease", [DraftItem(number, 0, PROMPT, params, 3) for number, params in enumerate(asked)])


def params(temperature: float, rule: AcceptanceRule = AcceptanceRule.REJECTION, **more: float) -> SequenceParams:
    return SequenceParams(len(PROMPT), 5, rule, SamplingParams(temperature=temperature, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DraftLawKind)
def test_a_model_that_knows_few_tokens_drafts_only_those(narrow: Path, kind: DraftLawKind) -> None:
    greedy, seeded, sampled = proposals(narrow, kind, params(0.0), params(1.0, AcceptanceRule.MATCH), params(1.0))
    known = set(KNOWN.tolist())
    for proposal in (greedy, seeded, sampled):
        assert proposal.status is ItemStatus.OK
        assert len(proposal.token_ids) == 3
        assert set(proposal.token_ids) <= known
    assert isinstance(greedy.law, PointMass)
    assert isinstance(seeded.law, PointMass)
    assert isinstance(sampled.law, KINDS[kind])
    if isinstance(sampled.law, Dense):
        assert sampled.law.weights.shape == (3, 300)
        assert set(np.flatnonzero(sampled.law.weights.sum(axis=0)).tolist()) <= known
    if isinstance(sampled.law, TopM):
        with_mass = sampled.law.token_ids[sampled.law.weights > 0]
        assert set(with_mass.tolist()) <= known


def test_greedy_alone_and_in_a_mixed_batch_are_the_same(narrow: Path) -> None:
    """The shortcut for batches of greedy sequences takes the same tokens as the laws do."""
    whole = narrow.with_name("whole")
    tiny_llama(whole, dtype="float32")
    for folder in (narrow, whole):
        (alone,) = proposals(folder, DraftLawKind.TOP_M, params(0.0))
        mixed, _ = proposals(folder, DraftLawKind.TOP_M, params(0.0), params(1.0))
        penalised, _ = proposals(folder, DraftLawKind.TOP_M, params(0.0, frequency_penalty=0.0), params(1.0))
        assert alone.token_ids == mixed.token_ids == penalised.token_ids


@torch.inference_mode()
def test_greedy_drafts_are_the_models_own(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", dtype="float64")
    model, _ = open_model(str(folder), self_check=False)
    (proposal,) = ModelProposer(Engine(model, 64, 4, "test"), DraftLawKind.TOP_M, 5).step(
        "lease", [DraftItem(1, 0, PROMPT, params(0.0), 4)]
    )
    module = load(folder)
    tokens = list(PROMPT)
    for _ in range(4):
        tokens.append(int(module(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    assert list(proposal.token_ids) == tokens[len(PROMPT) :]
