"""Proposals of a draft model: their tokens, their laws, and a vocabulary of the model's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drafter_service.proposers.model import ModelProposer
from minedraft.channel.inline import InlineReceiver, InlineSender
from minedraft.channel.step import StepChannels
from minedraft.engine.opening import open_model
from minedraft.engine.runner import Engine
from minedraft.model.draft_vocabulary import to_map
from minedraft.model.loader import load
from minedraft.sampling.draft import DraftLawKind
from minedraft.types import (
    AcceptanceRule,
    ChannelKind,
    ChannelSpec,
    Dense,
    DraftItem,
    DraftLaw,
    ItemStatus,
    PayloadRef,
    PointMass,
    Proposal,
    SamplingParams,
    SequenceParams,
    TopM,
)
from tests.models import tiny_llama
from tests.unit.engine.helpers import engine, feed, item
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
    """With dense laws fetched from the channel that they went through."""
    proposer = make(folder, kind)
    sender, receiver = channel(slots=len(asked))
    channels = StepChannels(sender)
    items = [DraftItem(number, 0, PROMPT, params, 3) for number, params in enumerate(asked)]
    found = proposer.step("lease", items, channels)
    assert channels.fault is None
    return tuple(replace(one, law=fetched(one.law, receiver)) for one in found)


def make(folder: Path, kind: DraftLawKind) -> ModelProposer:
    model, _ = open_model(str(folder), self_check=False)
    return ModelProposer(Engine(model, 64, 4, "test"), kind, top_m=5)


def channel(slots: int, slot_bytes: int = 4096) -> tuple[InlineSender, InlineReceiver]:
    spec = ChannelSpec("channel", 1, ChannelKind.INLINE, slots, slot_bytes)
    receiver = InlineReceiver(spec)
    sender = InlineSender(spec, receiver.take)
    receiver.seal(sender.join(receiver.offer()))
    return sender, receiver


def fetched(law: DraftLaw, receiver: InlineReceiver) -> DraftLaw:
    if isinstance(law, Dense) and isinstance(law.weights, PayloadRef):
        return Dense(receiver.receive(law.weights).numpy())
    return law


def params(temperature: float, rule: AcceptanceRule = AcceptanceRule.REJECTION, **more: Any) -> SequenceParams:
    return SequenceParams(len(PROMPT), 5, rule, SamplingParams(temperature=temperature, **more))


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
        assert isinstance(sampled.law.weights, np.ndarray)
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
        through_laws, _ = proposals(folder, DraftLawKind.TOP_M, params(0.0, logit_bias={0: 0.0}), params(1.0))
        assert alone.token_ids == mixed.token_ids == through_laws.token_ids


@torch.inference_mode()
def test_greedy_drafts_are_the_models_own(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", dtype="float64")
    model, _ = open_model(str(folder), self_check=False)
    (proposal,) = ModelProposer(Engine(model, 64, 4, "test"), DraftLawKind.TOP_M, 5).step(
        "lease", [DraftItem(1, 0, PROMPT, params(0.0), 4)], StepChannels()
    )
    module = load(folder)
    tokens = list(PROMPT)
    for _ in range(4):
        tokens.append(int(module(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    assert list(proposal.token_ids) == tokens[len(PROMPT) :]


def test_without_a_channel_or_a_slot_the_law_is_top_m(narrow: Path) -> None:
    proposer = make(narrow, DraftLawKind.DENSE)
    sampled = [DraftItem(number, 0, PROMPT, params(1.0), 3) for number in range(3)]
    assert all(isinstance(one.law, TopM) for one in proposer.step("lease", sampled, StepChannels()))
    sender, _ = channel(slots=2)
    laws = [one.law for one in proposer.step("lease", sampled, StepChannels(sender))]
    assert [type(law) for law in laws] == [Dense, Dense, TopM]
    small, _ = channel(slots=3, slot_bytes=100)
    assert isinstance(proposer.step("lease", sampled[:1], StepChannels(small))[0].law, TopM)


def test_a_slot_is_free_again_when_its_sequence_is_drafted_for_or_released(narrow: Path) -> None:
    proposer = make(narrow, DraftLawKind.DENSE)
    sampled = [DraftItem(number, 0, PROMPT, params(1.0), 3) for number in range(3)]
    sender, _ = channel(slots=3)
    for _ in range(4):
        laws = [one.law for one in proposer.step("lease", sampled, StepChannels(sender))]
        assert [type(law) for law in laws] == [Dense, Dense, Dense]
    proposer.release("lease", [0])
    assert sender.free_slots == 1
    proposer.release_lease("lease")
    assert sender.free_slots == 3


def test_a_channel_that_fails_costs_the_drafts(narrow: Path) -> None:
    proposer = make(narrow, DraftLawKind.DENSE)
    sender, _ = channel(slots=2)
    sender.close()
    channels = StepChannels(sender)
    (proposal,) = proposer.step("lease", [DraftItem(0, 0, PROMPT, params(1.0), 3)], channels)
    assert (proposal.status, proposal.token_ids) == (ItemStatus.OK, ())
    assert channels.fault is not None
    assert channels.fault.generation == 1


def test_a_proposal_ends_before_a_draft_of_too_little_chance(narrow: Path) -> None:
    """Greedy sequences only, whatever else is in the batch; what is proposed is what would have been."""
    every = proposals(narrow, DraftLawKind.TOP_M, params(0.0))[0].token_ids
    probabilities = [_largest(narrow, (*PROMPT, *every[:count])) for count in range(3)]
    for wanted in range(4):
        through = [float(np.prod(probabilities[: count + 1])) for count in range(3)]
        least = through[wanted - 1] * 0.999 if wanted else min(through[0] * 1.001, 1.0)
        greedy = DraftItem(0, 0, PROMPT, params(0.0), 3, least)
        others = [
            DraftItem(1, 0, PROMPT, params(1.0), 3, 1.0),
            DraftItem(2, 0, PROMPT, params(0.0), 3),
            DraftItem(3, 0, PROMPT, params(0.0, logit_bias={0: 0.0}), 3, 1.0),
        ]
        for batch in ([greedy], [greedy, *others]):
            found = make(narrow, DraftLawKind.TOP_M).step("lease", batch, StepChannels())
            assert found[0].token_ids == every[:wanted]
            assert found[0].status is ItemStatus.OK
            assert all(len(one.token_ids) == 3 for one in found[1:])


def test_a_drafter_learns_what_its_probabilities_are_worth(tmp_path: Path) -> None:
    """Drafts that turn out right are proposed in the end, though the model is not sure of them."""
    unsure = tiny_llama(tmp_path / "model", dtype="float32")
    proposer = make(unsure, DraftLawKind.TOP_M)
    lengths = []
    for number in range(40):
        first = DraftItem(number, 0, PROMPT, params(0.0), 1, 0.5)
        (whole,) = proposer.step("other", [replace(first, least_chance=0.0)], StepChannels())
        (proposal,) = proposer.step("lease", [first], StepChannels())
        lengths.append(len(proposal.token_ids))
        second = replace(first, tail_token_ids=(*PROMPT, *whole.token_ids), max_draft_tokens=0)
        proposer.step("lease", [second], StepChannels())
        proposer.release("lease", [number])
        proposer.release("other", [number])
    assert lengths[0] == 0
    assert lengths[-1] == 1


def _largest(folder: Path, tokens: tuple[int, ...]) -> float:
    """The largest probability of what follows."""
    model, _ = open_model(str(folder), self_check=False)
    return float(feed(engine(model), item(1, 0, tokens)).softmax(dim=1).amax())
