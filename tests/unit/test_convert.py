"""Nouns survive the wire, and what the protocol forbids is refused with the field's name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minedraft.errors import ProtocolError
from minedraft.ranges import MOST_DRAFTS
from minedraft.rpc import convert, convert_steps
from minedraft.types import (
    AcceptanceRule,
    Dense,
    DraftItem,
    DraftReply,
    ItemStatus,
    PointMass,
    Proposal,
    SamplingParams,
    SequenceParams,
    ServiceState,
    StepTiming,
    TokenLogprobs,
    TopM,
    Verdict,
    VerifyItem,
    VerifyReply,
)
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2, verifier_pb2

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
float32 = st.floats(-100, 100, width=32)
ids = st.lists(uint32, max_size=5).map(tuple)
sampling = st.builds(
    SamplingParams,
    temperature=float32,
    top_p=float32,
    top_k=uint32,
    min_p=float32,
    repetition_penalty=float32,
    frequency_penalty=float32,
    presence_penalty=float32,
    logit_bias=st.dictionaries(uint32, float32, max_size=3),
    max_new_tokens=uint32,
    min_new_tokens=uint32,
    stop=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    stop_token_ids=ids,
    ignore_eos=st.booleans(),
    seed=st.none() | uint64,
    logprobs=st.none() | uint32,
)
params = st.builds(SequenceParams, uint32, uint64, st.sampled_from(AcceptanceRule), sampling)
point_mass = st.builds(Proposal, uint64, ids, st.just(PointMass()), st.sampled_from(ItemStatus), uint32, st.text())
chances = st.floats(0.0, 1.0, width=32)
tail = st.lists(uint32, min_size=1, max_size=5).map(tuple)
timing = st.builds(StepTiming, uint64, uint64, uint64, uint64)
state = st.builds(ServiceState, st.text(max_size=5), uint32, uint32)


def unique_by_id(items: list[Any]) -> tuple[Any, ...]:
    return tuple({item.sequence_id: item for item in items}.values())


@given(
    st.lists(st.builds(DraftItem, uint64, uint32, tail, st.none() | params, st.integers(0, MOST_DRAFTS), chances)).map(
        unique_by_id
    ),
    uint64,
    uint32,
)
def test_draft_steps(items: tuple[DraftItem, ...], step_id: int, lane: int) -> None:
    wire = convert_steps.write_draft_step(step_id, lane, items).SerializeToString()
    step = drafter_pb2.DraftRequest.FromString(wire).step
    assert (step.step_id, step.lane) == (step_id, lane)
    assert convert_steps.read_draft_items(step) == items


@given(
    st.lists(
        st.builds(VerifyItem, uint64, uint32, tail, st.none() | params, st.none() | point_mass, st.booleans())
    ).map(unique_by_id)
)
def test_verify_steps(items: tuple[VerifyItem, ...]) -> None:
    wire = convert_steps.write_verify_step(1, 2, items).SerializeToString()
    assert convert_steps.read_verify_items(verifier_pb2.VerifyRequest.FromString(wire).step) == items


logprobs = st.builds(
    lambda token, value, top: TokenLogprobs(token, value, tuple(t for t, _ in top), tuple(v for _, v in top)),
    uint32,
    float32,
    st.lists(st.tuples(uint32, float32), max_size=3),
)
verdict = st.builds(
    Verdict,
    uint64,
    uint32,
    st.none() | uint32,
    st.lists(logprobs, max_size=2).map(tuple),
    st.sampled_from(ItemStatus),
    uint32,
    st.text(max_size=5),
)


@given(st.builds(VerifyReply, uint64, st.lists(verdict, max_size=3).map(tuple), timing, state))
def test_verify_replies(reply: VerifyReply) -> None:
    wire = convert_steps.write_verify_reply(reply).SerializeToString()
    assert convert_steps.read_verify_reply(verifier_pb2.VerifyResponse.FromString(wire).reply) == reply


@given(st.builds(DraftReply, uint64, st.lists(point_mass, max_size=3).map(tuple), timing, state))
def test_draft_replies(reply: DraftReply) -> None:
    wire = convert_steps.write_draft_reply(reply).SerializeToString()
    assert convert_steps.read_draft_reply(drafter_pb2.DraftResponse.FromString(wire).reply) == reply


def over_the_wire(proposal: Proposal) -> Proposal:
    return convert.read_proposal(common.Proposal.FromString(convert.write_proposal(proposal).SerializeToString()))


def test_laws_with_arrays() -> None:
    top = TopM(np.array([[1, 2], [3, 4]], np.int32), np.array([[0.5, 0.25], [1, 0]], np.float32))
    got = over_the_wire(Proposal(1, (1, 3), top)).law
    assert isinstance(got, TopM)
    np.testing.assert_array_equal(got.token_ids, top.token_ids)
    np.testing.assert_array_equal(got.weights, top.weights)
    weights = [[0.5, 0.25, 0.25]]
    for dense in (Dense(np.array(weights, np.float16)), Dense(np.array(weights, np.float32))):
        back = over_the_wire(Proposal(1, (0,), dense)).law
        assert isinstance(back, Dense)
        assert isinstance(back.weights, np.ndarray)
        assert isinstance(dense.weights, np.ndarray)
        assert back.weights.dtype == dense.weights.dtype
        np.testing.assert_array_equal(back.weights, dense.weights)


def proposal_with(**dense: Any) -> common.Proposal:
    fields: dict[str, Any] = {"dtype": common.D_TYPE_FLOAT32, "shape": [1, 2], "data": bytes(8)} | dense
    array = common.Array(**fields)
    return common.Proposal(token_ids=[1], status=common.ITEM_STATUS_OK, dense=common.Dense(inline=array))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (common.Proposal(token_ids=[1], status=common.ITEM_STATUS_OK), "proposal.law"),
        (common.Proposal(point_mass=common.PointMass()), "status"),
        (proposal_with(data=bytes(7)), "array.data"),
        (proposal_with(shape=[2]), "array.shape"),
        (proposal_with(dtype=common.D_TYPE_INT32), "array.dtype"),
        (proposal_with(dtype=common.D_TYPE_UNSPECIFIED), "array.dtype"),
        (common.Proposal(token_ids=[1], dense=common.Dense()), "proposal.dense"),
    ],
)
def test_forbidden_proposals_name_the_field(message: common.Proposal, field: str) -> None:
    with pytest.raises(ProtocolError, match=field):
        convert.read_proposal(message)


def test_forbidden_steps_name_the_field() -> None:
    item = drafter_pb2.DraftItem(sequence_id=1, tail_token_ids=[1])
    with pytest.raises(ProtocolError, match="twice"):
        convert_steps.read_draft_items(drafter_pb2.DraftStep(items=[item, item]))
    with pytest.raises(ProtocolError, match="tail_token_ids"):
        convert_steps.read_draft_items(drafter_pb2.DraftStep(items=[drafter_pb2.DraftItem()]))
    greedy = drafter_pb2.DraftItem(tail_token_ids=[1], max_draft_tokens=MOST_DRAFTS + 1)
    with pytest.raises(ProtocolError, match="max_draft_tokens"):
        convert_steps.read_draft_items(drafter_pb2.DraftStep(items=[greedy]))
    for chance in (-0.1, 1.5, math.nan):
        unlikely = drafter_pb2.DraftItem(tail_token_ids=[1], least_chance=chance)
        with pytest.raises(ProtocolError, match="least_chance"):
            convert_steps.read_draft_items(drafter_pb2.DraftStep(items=[unlikely]))
    with pytest.raises(ProtocolError, match=r"params\.rule"):
        convert.read_params(common.SequenceParams())
