"""The public nouns survive the wire."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minedraft.errors import InvalidRequest, ProtocolError
from minedraft.generation import (
    Activity,
    Chat,
    ChatMessage,
    ChoiceInfo,
    FinishReason,
    GenerateRequest,
    LaneInfo,
    Limits,
    Output,
    PeerInfo,
    ServerInfo,
    SpeculationStats,
    StepKind,
    Text,
    TimelinePage,
    TimelineStep,
    TokenIds,
    Usage,
)
from minedraft.rpc import convert_public as convert
from minedraft.types import ModelInfo, SamplingParams, ServiceState, StepTiming, TokenLogprobs
from minedraft.v1 import generation_pb2 as pb

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
float32 = st.floats(-100, 100, width=32)
double = st.floats(0, 1e9)
ids = st.lists(uint32, max_size=4).map(tuple)
counts = st.lists(uint64, max_size=4).map(tuple)
sampling = st.builds(
    SamplingParams,
    temperature=float32,
    top_p=float32,
    top_k=uint32,
    logit_bias=st.dictionaries(uint32, float32, max_size=3),
    max_new_tokens=uint32,
    min_new_tokens=uint32,
    stop=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    stop_token_ids=ids,
    ignore_eos=st.booleans(),
    seed=st.none() | uint64,
    logprobs=st.none() | uint32,
)
prompts = (
    st.builds(Text, st.text())
    | st.builds(TokenIds, ids)
    | st.builds(Chat, st.lists(st.builds(ChatMessage, st.text(), st.text()), max_size=3).map(tuple))
)
requests = st.builds(GenerateRequest, prompts, sampling, st.text(), st.text(), st.none() | uint32)
logprobs = st.builds(TokenLogprobs, uint32, float32, st.just((1, 2)), st.just((-0.5, -2.0)))
stats = st.builds(SpeculationStats, uint64, uint64, uint64, uint64, counts, counts, uint64)
outputs = st.builds(
    Output,
    st.text(),
    st.text(),
    ids,
    st.lists(logprobs, max_size=2).map(tuple),
    st.none() | st.sampled_from(FinishReason),
    st.none() | st.builds(Usage, uint32, uint32),
    st.none() | stats,
)
text = st.text(max_size=5)
target = st.builds(
    ModelInfo, text, text, uint32, text, uint32, uint32, uint32, text, text, text, ids, st.booleans(), text
)
peers = st.builds(
    PeerInfo,
    text,
    st.booleans(),
    st.none() | target,
    text,
    st.none() | st.builds(ServiceState, text, uint32, uint32),
    uint64,
    text,
)
choices = st.builds(
    ChoiceInfo,
    uint32,
    uint32,
    st.booleans(),
    st.booleans(),
    text,
    double,
    double,
    double,
    double,
    st.lists(double, max_size=3).map(tuple),
    uint64,
    uint64,
    double,
)
servers = st.builds(
    ServerInfo,
    text,
    st.none() | target,
    st.lists(peers, max_size=2).map(tuple),
    st.lists(peers, max_size=2).map(tuple),
    st.lists(st.builds(LaneInfo, uint32, uint32, uint64, text, text), max_size=3).map(tuple),
    st.builds(Limits, uint32, uint32, uint32, uint32, uint32, uint32),
    uint32,
    stats,
    st.builds(Activity, double, double, double, double, double, double, uint64, uint64),
    uint64,
    uint64,
    st.lists(choices, max_size=2).map(tuple),
)
steps = st.builds(
    TimelineStep,
    uint64,
    st.sampled_from(StepKind),
    uint32,
    text,
    uint64,
    uint32,
    st.builds(StepTiming, uint64, uint64, uint64, uint64),
    uint32,
    uint32,
    uint64,
)


@given(requests)
def test_requests(request: GenerateRequest) -> None:
    wire = pb.GenerateRequest.FromString(convert.write_request(request).SerializeToString())
    assert convert.read_request(wire) == request


@given(outputs)
def test_outputs(output: Output) -> None:
    wire = pb.GenerateResponse.FromString(convert.write_output(output).SerializeToString())
    assert convert.read_output(wire) == output


@given(servers)
def test_servers(info: ServerInfo) -> None:
    wire = pb.GetServerInfoResponse.FromString(convert.write_server(info).SerializeToString())
    assert convert.read_server(wire) == info


@given(st.builds(TimelinePage, st.lists(steps, max_size=3).map(tuple), uint64))
def test_timelines(page: TimelinePage) -> None:
    wire = pb.GetTimelineResponse.FromString(convert.write_timeline(page).SerializeToString())
    assert convert.read_timeline(wire) == page


def test_what_is_absent_takes_the_defaults() -> None:
    request = convert.read_request(pb.GenerateRequest(text="x"))
    assert request == GenerateRequest(Text("x"), SamplingParams(max_new_tokens=0))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.GenerateRequest(), "input"),
        (pb.GenerateRequest(text="x", sampling={"max_new_tokens": 0}), "sampling.max_new_tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(message: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert.read_request(message)
    assert caught.value.field == field


def test_an_unknown_finish_reason_is_refused() -> None:
    with pytest.raises(ProtocolError, match="finish_reason"):
        convert.read_output(pb.GenerateResponse(finish_reason=99))  # type: ignore[arg-type]
