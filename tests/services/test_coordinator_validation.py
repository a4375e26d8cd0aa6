"""Bad requests to the whole service: refused with the field and the limit, while good ones go on beside them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from minedraft.errors import InvalidRequest
from minedraft.generation import GenerateRequest, Output, TokenIds
from minedraft.types import SamplingParams
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import generation_pb2 as pb
from minedraft.v1 import generation_pb2_grpc as pb_grpc
from tests.cluster import Cluster, cluster
from tests.models import tiny_llama

VOCAB, BLOCKS, BLOCK_SIZE = 300, 16, 16
MAX_LEN = BLOCKS * BLOCK_SIZE  # a service announces what its cache holds, where the model could do more
GOOD = GenerateRequest(TokenIds((70, 71, 72)), SamplingParams(temperature=0, max_new_tokens=30, ignore_eos=True))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("models")
    target = tiny_llama(folder / "target", vocab_size=VOCAB, max_len=2 * MAX_LEN)
    draft = tiny_llama(folder / "draft", vocab_size=VOCAB, max_len=2 * MAX_LEN, noise=0.1)
    room = {"num_blocks": BLOCKS, "block_size": BLOCK_SIZE}
    async with cluster(target, draft, model=room, model_name="served", max_stop_strings=2, max_logprobs=5) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wanted(here: Cluster) -> Output:
    return await here.client.complete(GOOD)


def asked(**fields: Any) -> pb.GenerateRequest:
    if not fields.keys() & {"token_ids", "chat", "text"}:
        fields["text"] = "x"
    return pb.GenerateRequest(**fields)


def sampled(**fields: Any) -> pb.GenerateRequest:
    return asked(sampling=common.SamplingParams(**fields))


def tokens(*ids: int) -> pb.GenerateRequest:
    return asked(token_ids=pb.TokenIds(ids=ids))


def chat(*roles: str) -> pb.GenerateRequest:
    return asked(chat=pb.Chat(messages=[pb.ChatMessage(role=role, content="x") for role in roles]))


BAD = {
    "no input": (pb.GenerateRequest(), "input: one of text, chat and token_ids"),
    "empty text": (asked(text=""), "text: the prompt is empty; at least 1"),
    "no tokens": (tokens(), "token_ids: the prompt is empty; at least 1"),
    "no messages": (chat(), "chat.messages: at least 1"),
    "no role": (chat("user", ""), "chat.messages.role: must not be empty"),
    "unknown token": (tokens(1, VOCAB), f"token_ids: token ids must be in [0, {VOCAB})"),
    "huge token": (tokens(2**32 - 1), f"token_ids: token ids must be in [0, {VOCAB})"),
    "long tokens": (tokens(*[70] * MAX_LEN), f"token_ids: {MAX_LEN} tokens; at most {MAX_LEN - 1}"),
    "long text": (asked(text="x" * 5000), f"text: 5000 tokens; at most {MAX_LEN - 1}"),
    "model": (asked(model="other"), "model: 'other' is not served; served: served, target"),
    "long id": (asked(request_id="x" * 129), "request_id: at most 128"),
    "odd id": (asked(request_id="a\nb"), "request_id: at most 128 printable"),
    "length 0": (sampled(max_new_tokens=0), "sampling.max_new_tokens: must be at least 1"),
    "length": (sampled(max_new_tokens=2**31), "sampling.max_new_tokens: 2147483648 is not in [1, 2147483647]"),
    "min above max": (sampled(min_new_tokens=6, max_new_tokens=5), "sampling.min_new_tokens: 6 is not in [0, 5]"),
    "min above the default": (sampled(min_new_tokens=257), "sampling.min_new_tokens: 257 is not in [0, 256]"),
    "top_k": (sampled(top_k=2**32 - 1), "sampling.top_k: 4294967295 is not in [0, 2147483647]"),
    "top_p 0": (sampled(top_p=0.0), "sampling.top_p: 0.0 is not in (0, 1]"),
    "tiny temperature": (sampled(temperature=1e-20), "is not in [0.001, 100.0] and not 0"),
    "bias of an unknown token": (
        sampled(logit_bias={VOCAB: 1.0}),
        f"sampling.logit_bias: token ids must be in [0, {VOCAB})",
    ),
    "too many biases": (sampled(logit_bias=dict.fromkeys(range(1025), 1.0)), "sampling.logit_bias: at most 1024"),
    "empty stop": (sampled(stop=["a", ""]), "sampling.stop: each must have 1 to 256 characters"),
    "long stop": (sampled(stop=["x" * 257]), "sampling.stop: each must have 1 to 256 characters"),
    "too many stops": (sampled(stop=["a", "b", "c"]), "sampling.stop: 3 stop strings; at most 2"),
    "unknown stop token": (
        sampled(stop_token_ids=[VOCAB]),
        f"sampling.stop_token_ids: token ids must be in [0, {VOCAB})",
    ),
    "too many stop tokens": (sampled(stop_token_ids=[1] * 129), "sampling.stop_token_ids: at most 128"),
    "logprobs": (sampled(logprobs=6), "sampling.logprobs: must be in [0, 5]"),
} | {
    f"{name} {value}": (sampled(**{name: value}), f"sampling.{name}: {value} is not in {limits}")
    for name, limits, wrong in [
        ("temperature", "[0.001, 100.0] and not 0", (-1.0, 101.0)),
        ("top_p", "(0, 1]", (-0.5, 1.5)),
        ("min_p", "[0, 1]", (-0.5, 1.5)),
        ("repetition_penalty", "[0.015625, 100.0]", (-1.0, 0.0, 101.0)),
        ("frequency_penalty", "[-2.0, 2.0]", (-2.5, 2.5)),
        ("presence_penalty", "[-2.0, 2.0]", (-2.5, 2.5)),
    ]
    for value in (math.nan, math.inf, -math.inf, *wrong)
} | {
    f"bias {value}": (sampled(logit_bias={5: value}), "sampling.logit_bias: must be in [-100, 100]")
    for value in (math.nan, math.inf, -math.inf, 100.5)
}  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("request_", "words"), BAD.values(), ids=BAD)
async def test_a_bad_request_is_refused_by_both_calls(
    here: Cluster, wanted: Output, request_: pb.GenerateRequest, words: str
) -> None:
    async with grpc.aio.insecure_channel(here.client.address) as channel:
        stub = pb_grpc.GenerationServiceStub(channel)
        before = (await here.client.server_info()).speculation.rounds
        with pytest.raises(grpc.aio.AioRpcError) as whole:
            await stub.Complete(pb.CompleteRequest(generate=request_))
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await stub.Generate(request_).read()
        assert (await here.client.server_info()).speculation.rounds == before  # it reached no model
    for caught in (whole.value, streamed.value):
        assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = caught.details() or ""
        assert words in details
        assert len(details) < 200
    assert wanted.token_ids


@pytest.mark.asyncio(loop_scope="module")
async def test_good_requests_beside_bad_ones_are_unharmed(here: Cluster, wanted: Output) -> None:
    async with grpc.aio.insecure_channel(here.client.address) as channel:
        stub = pb_grpc.GenerationServiceStub(channel)
        good = [asyncio.create_task(here.client.complete(GOOD)) for _ in range(4)]
        bad = [stub.Complete(pb.CompleteRequest(generate=request)) for request, _ in BAD.values()]
        codes = [await call.code() for call in bad]
        outputs = await asyncio.gather(*good)
    assert set(codes) == {grpc.StatusCode.INVALID_ARGUMENT}
    assert {(output.token_ids, output.text) for output in outputs} == {(wanted.token_ids, wanted.text)}
    assert len(wanted.token_ids) == 30


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_just_allowed_is_served(here: Cluster) -> None:
    extreme = SamplingParams(
        temperature=1e-3,
        top_p=1e-6,
        top_k=2**31 - 1,
        min_p=1.0,
        repetition_penalty=100.0,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        logit_bias={0: -100.0, VOCAB - 1: 100.0},
        max_new_tokens=8,
        min_new_tokens=8,
        stop=("x" * 256, "\u20ac"),
        stop_token_ids=(VOCAB - 1,),
        seed=2**64 - 1,
        logprobs=5,
    )
    for temperature in (1e-3, 100.0):
        params = SamplingParams(temperature=temperature, repetition_penalty=2**-6, max_new_tokens=8, ignore_eos=True)
        assert len(await here.token_ids([70], params)) == 8
    output = await here.complete([70, 0, VOCAB - 1], extreme, model="served", request_id="\u20ac" * 128)
    assert len(output.token_ids) == 8
    assert output.request_id == "\u20ac" * 128
    assert all(len(entry.top_token_ids) == 5 and math.isfinite(entry.logprob) for entry in output.logprobs)
    longest = BLOCKS * BLOCK_SIZE
    full = await here.complete(
        [70] * (longest - 20), SamplingParams(temperature=0, max_new_tokens=20, ignore_eos=True), model="target"
    )
    assert len(full.token_ids) == 20


@pytest.mark.asyncio(loop_scope="module")
async def test_the_client_raises_the_same_refusal(here: Cluster) -> None:
    with pytest.raises(InvalidRequest, match=r"^sampling\.top_p: 2\.0 is not in \(0, 1\]") as caught:
        await here.token_ids([70], SamplingParams(top_p=2.0))
    assert caught.value.field == "sampling.top_p"
