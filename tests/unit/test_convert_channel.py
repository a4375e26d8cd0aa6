"""What tensor channels put on the wire survives it, and what makes no sense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minedraft.errors import ChannelError, ProtocolError
from minedraft.rpc import convert, convert_channel
from minedraft.types import (
    ChannelAction,
    ChannelAnswer,
    ChannelFault,
    ChannelKind,
    ChannelRequest,
    ChannelRole,
    ChannelSpec,
    Dense,
    HostFacts,
    ModelInfo,
    PayloadChunk,
    PayloadRef,
    Proposal,
    ServiceState,
    Welcome,
)
from minedraft.v1 import common_pb2 as common

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
short = st.text(max_size=8)
references = st.builds(
    PayloadRef,
    short,
    uint64,
    uint32,
    uint64,
    uint64,
    st.sampled_from(sorted(convert_channel.DTYPE_NUMBERS)),
    st.lists(uint32, max_size=4).map(tuple),
)
specs = st.builds(
    ChannelSpec,
    short,
    uint64,
    st.sampled_from(ChannelKind),
    st.integers(1, convert_channel.MOST_SLOTS),
    st.integers(1, 2**64 - 1),
)
requests = st.builds(
    ChannelRequest,
    specs,
    st.sampled_from(ChannelRole),
    st.sampled_from(ChannelAction),
    st.binary(max_size=20),
    st.none() | references,
)
facts = st.builds(HostFacts, short, short, short, short, short, st.lists(st.sampled_from(ChannelKind)).map(tuple))
MODEL = ModelInfo("m", "llama", 1, "", 1, 1, 1, "float32", "cpu", "sdpa")


@given(requests, uint64)
def test_requests(request: ChannelRequest, request_id: int) -> None:
    message = common.ChannelRequest.FromString(
        convert_channel.write_channel_request(request_id, request).SerializeToString()
    )
    assert message.request_id == request_id
    assert convert_channel.read_channel_request(message) == request


@given(st.builds(ChannelAnswer, st.binary(max_size=20), st.none() | references), uint64)
def test_answers(answer: ChannelAnswer, request_id: int) -> None:
    message = convert_channel.write_channel_answer(request_id, answer)
    assert message.request_id == request_id
    assert convert_channel.read_channel_answer(message) == answer


def test_a_failure_comes_back_as_an_error() -> None:
    message = convert_channel.write_channel_answer(3, ChannelError("no room"))
    with pytest.raises(ChannelError, match="no room"):
        convert_channel.read_channel_answer(message)


@given(st.builds(PayloadChunk, short, uint64, uint32, uint64, uint64, uint64, st.binary(max_size=30)))
def test_chunks(chunk: PayloadChunk) -> None:
    assert convert_channel.read_chunk(convert_channel.write_chunk(chunk)) == chunk


@given(st.builds(ChannelFault, short, uint64, short))
def test_faults(fault: ChannelFault) -> None:
    assert convert_channel.read_fault(convert_channel.write_fault(fault)) == fault


@given(st.builds(Welcome, st.just(MODEL), st.just(ServiceState("i", 1, 2)), facts, uint64))
def test_welcomes(welcome: Welcome) -> None:
    assert convert.read_welcome(convert.write_welcome(welcome)) == welcome


@given(references, uint64)
def test_dense_laws_by_reference(ref: PayloadRef, sequence_id: int) -> None:
    proposal = Proposal(sequence_id, (1, 2), Dense(ref))
    assert convert.read_proposal(convert.write_proposal(proposal)) == proposal


def test_kinds_of_a_later_version_are_left_out() -> None:
    assert convert_channel.read_host(common.HostFacts(kinds=[1, 99])).kinds == (ChannelKind.INLINE,)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (common.ChannelRequest(), "kind, role and action"),
        (
            common.ChannelRequest(
                spec=common.ChannelSpec(kind=common.CHANNEL_KIND_SHM, slots=0, slot_bytes=1),
                role=common.CHANNEL_ROLE_SENDER,
                action=common.CHANNEL_ACTION_OFFER,
            ),
            "slots",
        ),
        (
            common.ChannelRequest(
                spec=common.ChannelSpec(kind=common.CHANNEL_KIND_SHM, slots=2**32 - 1, slot_bytes=1),
                role=common.CHANNEL_ROLE_SENDER,
                action=common.CHANNEL_ACTION_OFFER,
            ),
            "slots",
        ),
    ],
    ids=["empty", "no slots", "slots without end"],
)
def test_requests_without_sense_are_refused(message: common.ChannelRequest, field: str) -> None:
    with pytest.raises(ProtocolError, match=field):
        convert_channel.read_channel_request(message)


def test_a_reference_without_a_type_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"reference\.dtype"):
        convert_channel.read_reference(common.PayloadRef())
