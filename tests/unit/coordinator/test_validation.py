"""Every bad input is refused with its field and its limit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from coordinator.validation import Rules
from minedraft.config import CoordinatorSettings
from minedraft.errors import InvalidRequest
from minedraft.generation import Chat, ChatMessage, GenerateRequest, Text, TokenIds
from minedraft.types import ModelInfo, SamplingParams

TARGET = ModelInfo(
    model_id="target",
    architecture="llama",
    vocab_size=100,
    tokenizer_fingerprint="",
    max_len=64,
    block_size=16,
    num_blocks=100,
    dtype="float32",
    device="cpu",
    attention_backend="sdpa",
    eos_token_ids=(2,),
)
RULES = Rules(CoordinatorSettings(model_name="served", max_stop_strings=2, max_logprobs=5), TARGET)
GOOD = GenerateRequest(TokenIds((1, 2)), SamplingParams())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": math.nan}, "sampling.temperature: nan is not in"),
        ({"temperature": math.inf}, "sampling.temperature: inf"),
        ({"temperature": -0.1}, "sampling.temperature: -0.1 is not in [0.001, 100.0] and not 0"),
        ({"temperature": 1e-30}, "sampling.temperature: 1e-30"),
        ({"temperature": 101}, "sampling.temperature: 101"),
        ({"top_p": 0.0}, "sampling.top_p: 0.0 is not in (0, 1]"),
        ({"top_p": 1.1}, "sampling.top_p: 1.1"),
        ({"top_p": math.nan}, "sampling.top_p: nan"),
        ({"top_k": -1}, "sampling.top_k: -1"),
        ({"min_p": -0.1}, "sampling.min_p: -0.1 is not in [0, 1]"),
        ({"min_p": 1.1}, "sampling.min_p: 1.1"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty: 0.0 is not in"),
        ({"repetition_penalty": math.inf}, "sampling.repetition_penalty: inf"),
        ({"frequency_penalty": 2.1}, "sampling.frequency_penalty: 2.1 is not in [-2.0, 2.0]"),
        ({"frequency_penalty": math.nan}, "sampling.frequency_penalty: nan"),
        ({"presence_penalty": -2.1}, "sampling.presence_penalty: -2.1"),
        ({"logit_bias": {100: 1.0}}, "sampling.logit_bias: token ids must be in [0, 100)"),
        ({"logit_bias": {1: math.nan}}, "sampling.logit_bias: must be in [-100, 100]"),
        ({"logit_bias": {1: 100.5}}, "sampling.logit_bias: must be in [-100, 100]"),
        ({"logit_bias": dict.fromkeys(range(1025), 0.0)}, "sampling.logit_bias: at most 1024"),
        ({"max_new_tokens": -1}, "sampling.max_new_tokens: -1 is not in [1, "),
        ({"min_new_tokens": 11, "max_new_tokens": 10}, "sampling.min_new_tokens: 11 is not in [0, 10]"),
        ({"min_new_tokens": -1}, "sampling.min_new_tokens: -1"),
        ({"min_new_tokens": 1, "stop_token_ids": tuple(range(100))}, "sampling.min_new_tokens: with these"),
        ({"stop": ("",)}, "sampling.stop: each must have 1 to 256 characters"),
        ({"stop": ("x" * 257,)}, "sampling.stop: each must have 1 to 256 characters"),
        ({"stop": ("a", "b", "c")}, "sampling.stop: 3 stop strings; at most 2"),
        ({"stop_token_ids": (100,)}, "sampling.stop_token_ids: token ids must be in [0, 100)"),
        ({"stop_token_ids": (1,) * 129}, "sampling.stop_token_ids: at most 128"),
        ({"logprobs": 6}, "sampling.logprobs: must be in [0, 5]"),
        ({"seed": -1}, "sampling.seed: -1"),
        ({"seed": 2**64}, "sampling.seed: 18446744073709551616"),
    ],
)
def test_sampling(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RULES.check(replace(GOOD, sampling=SamplingParams(**change)))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{caught.value.field}: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other"}, "model: 'other' is not served; served: served, target"),
        ({"model": "x" * 10_000}, "is not served"),
        ({"request_id": "x" * 129}, "request_id: at most 128"),
        ({"request_id": "a\nb"}, "request_id: at most 128 printable"),
        ({"request_id": "a\x7fb"}, "request_id: at most 128 printable"),
        ({"prompt": Text("")}, "text: the prompt is empty"),
        ({"prompt": Chat(())}, "chat.messages: at least 1"),
        ({"prompt": Chat((ChatMessage("user", "x"), ChatMessage("", "x")))}, "chat.messages.role: must not be empty"),
    ],
)
def test_request(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RULES.check(replace(GOOD, **change))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ((), "token_ids: the prompt is empty"),
        ((1, 100), "token_ids: token ids must be in [0, 100)"),
        ((-1,), "token_ids: token ids must be in [0, 100)"),
        ((1,) * 64, "token_ids: 64 tokens; at most 63 leave room for one more"),
    ],
)
def test_prompt(ids: tuple[int, ...], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RULES.check_prompt(GOOD, ids)
    assert words in str(caught.value)


def test_the_field_of_a_prompt_is_the_one_that_was_given() -> None:
    for prompt, field in ((Text("x"), "text"), (Chat((ChatMessage("user", "x"),)), "chat")):
        with pytest.raises(InvalidRequest) as caught:
            RULES.check_prompt(replace(GOOD, prompt=prompt), ())
        assert caught.value.field == field


def test_what_is_good_passes() -> None:
    extreme = SamplingParams(
        temperature=100,
        top_p=1e-9,
        top_k=2**31 - 1,
        min_p=1,
        repetition_penalty=100,
        frequency_penalty=-2,
        presence_penalty=2,
        logit_bias={0: -100.0, 99: 100.0},
        max_new_tokens=10,
        min_new_tokens=10,
        stop=("x" * 256, "\u20ac"),
        stop_token_ids=(0, 99),
        seed=2**64 - 1,
        logprobs=5,
    )
    assert RULES.check(replace(GOOD, sampling=extreme, model="served", request_id="a" * 128)) == extreme
    RULES.check_prompt(GOOD, (1,) * 63)
    for model in ("", "target"):
        RULES.check(replace(GOOD, model=model))
    RULES.check(replace(GOOD, sampling=SamplingParams(temperature=0)))


def test_the_servers_length_is_the_default() -> None:
    assert RULES.check(replace(GOOD, sampling=SamplingParams(max_new_tokens=0))).max_new_tokens == 256
