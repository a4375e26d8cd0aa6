"""The real openai client against the real services: what it asks for and what it gets, token for token."""

from __future__ import annotations

import math
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from minedraft.generation import Chat, ChatMessage, GenerateRequest, Output, Prompt, Text, TokenIds
from minedraft.http.asked import derived_seed
from minedraft.types import SamplingParams
from tests.http.serving import Running

MODEL = "target"
HI: list[Any] = [{"role": "user", "content": "Hi there"}]
CHAT = Chat((ChatMessage("user", "Hi there"),))
LONG: dict[str, Any] = {"ignore_eos": True}


@pytest.fixture(scope="module")
def client(here: Running) -> OpenAI:
    return here.openai()


def expected(here: Running, prompt: Prompt, **sampling: Any) -> Output:
    return here.over_grpc(GenerateRequest(prompt, SamplingParams(**sampling)))


class TestChat:
    def test_says_what_grpc_says(self, here: Running, client: OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=HI, temperature=0, max_tokens=24)
        wanted = expected(here, CHAT, temperature=0, max_new_tokens=24)
        assert answer.choices[0].message.content == wanted.text
        assert answer.choices[0].message.role == "assistant"
        assert answer.object == "chat.completion"
        assert answer.id.startswith("chatcmpl-")
        assert answer.model == MODEL
        assert str(answer.system_fingerprint).startswith("fp_")
        assert answer.created > 1_600_000_000

    def test_streams_the_same(self, here: Running, client: OpenAI) -> None:
        wanted = expected(here, CHAT, temperature=0, max_new_tokens=24)
        chunks = list(
            client.chat.completions.create(model=MODEL, messages=HI, temperature=0, max_tokens=24, stream=True)
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted.text
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        assert len({chunk.id for chunk in chunks}) == 1
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}

    def test_the_stream_helper_of_the_client(self, here: Running, client: OpenAI) -> None:
        wanted = expected(here, CHAT, temperature=0, max_new_tokens=24)
        with client.chat.completions.stream(model=MODEL, messages=HI, temperature=0, max_tokens=24) as stream:
            text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert text == wanted.text

    async def test_the_async_client(self, here: Running) -> None:
        async with here.async_openai() as client:
            whole = await client.chat.completions.create(model=MODEL, messages=HI, temperature=0, max_tokens=8)
            stream = await client.chat.completions.create(
                model=MODEL, messages=HI, temperature=0, max_tokens=8, stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert whole.choices[0].message.content == text

    def test_parts_of_text_are_joined_and_developers_are_the_system(self, client: OpenAI) -> None:
        parts: list[Any] = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
        messages: list[Any] = [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": parts}]
        plain: list[Any] = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi there"}]
        one, other = (self.text(client, conversation) for conversation in (messages, plain))
        assert one == other
        assert one != self.text(client, HI)

    def test_an_answer_can_be_sent_back_as_it_came(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=HI, temperature=0, max_tokens=4)
        again: list[Any] = [*HI, answer.choices[0].message.model_dump(), HI[0]]
        assert client.chat.completions.create(model=MODEL, messages=again, max_tokens=4).choices

    def text(self, client: OpenAI, messages: list[Any]) -> str | None:
        answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=12)
        return answer.choices[0].message.content


class TestCompletions:
    def test_says_what_grpc_says_token_for_token(self, here: Running, client: OpenAI) -> None:
        for prompt in ("Once upon a time", "x", "\u00e9t\u00e9 \U0001f600"):
            answer = client.completions.create(
                model=MODEL, prompt=prompt, temperature=0, max_tokens=40, logprobs=0, extra_body=LONG
            )
            wanted = expected(here, Text(prompt), temperature=0, max_new_tokens=40, ignore_eos=True, logprobs=0)
            logprobs = answer.choices[0].logprobs
            assert answer.choices[0].text == wanted.text
            assert logprobs is not None
            assert logprobs.token_logprobs == pytest.approx([entry.logprob for entry in wanted.logprobs])
            assert len(logprobs.tokens or []) == len(wanted.token_ids) == 40

    def test_without_a_length_it_is_16_tokens(self, client: OpenAI) -> None:
        answer = client.completions.create(model=MODEL, prompt="Once", temperature=0, extra_body=LONG)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 16
        assert answer.choices[0].finish_reason == "length"
        assert answer.object == "text_completion"
        assert answer.id.startswith("cmpl-")

    def test_streams_the_same(self, here: Running, client: OpenAI) -> None:
        wanted = expected(here, Text("Once"), temperature=0, max_new_tokens=30, ignore_eos=True)
        stream = client.completions.create(
            model=MODEL, prompt="Once", temperature=0, max_tokens=30, stream=True, extra_body=LONG
        )
        assert "".join(chunk.choices[0].text for chunk in stream) == wanted.text

    def test_prompts_of_every_kind(self, here: Running, client: OpenAI) -> None:
        texts, tokens = ["Once", "Twice"], [[79, 110, 99, 101], [84, 119, 105, 99, 101]]
        alone = [expected(here, TokenIds(tuple(ids)), temperature=0, max_new_tokens=12).text for ids in tokens]
        for prompt in (texts, tokens):
            answer = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=12)
            assert [choice.text for choice in answer.choices] == alone
            assert [choice.index for choice in answer.choices] == [0, 1]
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == 9
        one = client.completions.create(model=MODEL, prompt=tokens[0], temperature=0, max_tokens=12)
        assert one.choices[0].text == alone[0]

    def test_echo(self, client: OpenAI) -> None:
        plain = client.completions.create(model=MODEL, prompt="Once", temperature=0).choices[0].text
        for prompt in ("Once", [79, 110, 99, 101]):
            whole = client.completions.create(model=MODEL, prompt=prompt, temperature=0, echo=True)
            stream = client.completions.create(model=MODEL, prompt=prompt, temperature=0, echo=True, stream=True)
            assert whole.choices[0].text == "Once" + plain
            assert "".join(chunk.choices[0].text for chunk in stream) == "Once" + plain


class TestStop:
    def test_a_string_or_several_end_the_text_before_them(self, here: Running, client: OpenAI) -> None:
        full = expected(here, Text("Once"), temperature=0, max_new_tokens=30, ignore_eos=True).text
        stop = full[10:12]
        for given in (stop, [stop], ["\x00never", stop]):
            answer = client.completions.create(
                model=MODEL, prompt="Once", temperature=0, max_tokens=30, stop=given, extra_body=LONG
            )
            assert answer.choices[0].text == full[: full.index(stop)]
            assert answer.choices[0].finish_reason == "stop"

    def test_in_a_chat_stream(self, here: Running, client: OpenAI) -> None:
        full = expected(here, CHAT, temperature=0, max_new_tokens=30, ignore_eos=True).text
        chunks = list(
            client.chat.completions.create(
                model=MODEL, messages=HI, temperature=0, max_tokens=30, stop=full[9:11], stream=True, extra_body=LONG
            )
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == full[: full.index(full[9:11])]
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_a_stop_token_and_a_least_length(self, here: Running, client: OpenAI) -> None:
        wanted = expected(here, Text("Once"), temperature=0, max_new_tokens=30, ignore_eos=True)
        first = wanted.token_ids[0]
        early = client.completions.create(
            model=MODEL, prompt="Once", temperature=0, max_tokens=30, extra_body=LONG | {"stop_token_ids": [first]}
        )
        later = client.completions.create(
            model=MODEL, prompt="Once", temperature=0, max_tokens=30,
            extra_body={"stop_token_ids": [first], "min_tokens": 5},
        )  # fmt: skip
        assert early.usage is not None
        assert later.usage is not None
        assert early.usage.completion_tokens == 1
        assert later.usage.completion_tokens >= 5


class TestLogprobs:
    def test_of_a_chat(self, here: Running, client: OpenAI) -> None:
        answer = client.chat.completions.create(
            model=MODEL, messages=HI, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3, extra_body=LONG
        )
        wanted = expected(here, CHAT, temperature=0, max_new_tokens=6, logprobs=3, ignore_eos=True)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        content = logprobs.content or []
        assert [entry.logprob for entry in content] == pytest.approx([entry.logprob for entry in wanted.logprobs])
        for entry, token_id in zip(content, wanted.token_ids, strict=True):
            assert entry.bytes == self.spelt(token_id)
            assert len(entry.top_logprobs) == 3
            assert entry.top_logprobs[0].token == entry.token  # greedy
            assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)
        assert all(math.exp(entry.logprob) <= 1 for entry in content)

    def test_in_a_stream_they_are_the_same(self, client: OpenAI) -> None:
        options: dict[str, Any] = {
            "model": MODEL, "messages": HI, "temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 2,
        }  # fmt: skip
        whole: ChatCompletion = client.chat.completions.create(**options)
        entries: list[Any] = []
        for chunk in client.chat.completions.create(**options, stream=True):
            if chunk.choices[0].logprobs is not None:
                entries += chunk.choices[0].logprobs.content or []
        logprobs = whole.choices[0].logprobs
        assert logprobs is not None
        assert [entry.model_dump() for entry in entries] == [entry.model_dump() for entry in logprobs.content or []]

    def test_of_completions_have_offsets(self, client: OpenAI) -> None:
        answer = client.completions.create(
            model=MODEL, prompt="Once", temperature=0, max_tokens=20, logprobs=2, extra_body=LONG
        )
        choice = answer.choices[0]
        assert choice.logprobs is not None
        tokens, offsets = choice.logprobs.tokens or [], choice.logprobs.text_offset or []
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
        for token, offset in zip(tokens, offsets, strict=True):
            assert token.startswith(("bytes:", "<|")) or choice.text[offset:].startswith(token)
        assert sum(not token.startswith(("bytes:", "<|")) for token in tokens) > 5
        assert all(2 <= len(table) <= 3 for table in choice.logprobs.top_logprobs or [])

    def test_are_absent_unless_asked_for(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=2)
        assert answer.choices[0].logprobs is None

    def spelt(self, token_id: int) -> list[int]:
        """The tests' tokenizer has one token a byte; later ids are written out."""
        names = {2: "<|start|>", 3: "<|end|>"}
        return [token_id] if token_id < 256 and token_id not in names else list(
            names.get(token_id, f"<{token_id}>").encode()
        )  # fmt: skip


class TestChoices:
    def test_a_seed_gives_the_same_output_twice_and_over_grpc(self, here: Running, client: OpenAI) -> None:
        wanted = expected(here, CHAT, temperature=0.9, seed=7, max_new_tokens=16)
        for _ in range(2):
            answer = client.chat.completions.create(model=MODEL, messages=HI, temperature=0.9, seed=7, max_tokens=16)
            assert answer.choices[0].message.content == wanted.text
        other = client.chat.completions.create(model=MODEL, messages=HI, temperature=0.9, seed=8, max_tokens=16)
        assert other.choices[0].message.content != wanted.text

    def test_a_negative_seed_is_one_of_64_bits(self, here: Running, client: OpenAI) -> None:
        wanted = expected(here, Text("Once"), seed=2**64 - 5, max_new_tokens=16)
        answer = client.completions.create(model=MODEL, prompt="Once", seed=-5)
        assert answer.choices[0].text == wanted.text

    def test_n_choices_have_derived_seeds(self, here: Running, client: OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=HI, n=3, seed=7, max_tokens=16)
        wanted = [expected(here, CHAT, seed=derived_seed(7, choice), max_new_tokens=16) for choice in range(3)]
        assert [choice.message.content for choice in answer.choices] == [output.text for output in wanted]
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert derived_seed(7, 0) == 7
        assert len({output.text for output in wanted}) == 3
        assert answer.usage is not None
        assert answer.usage.completion_tokens == sum(len(output.token_ids) for output in wanted)
        assert wanted[0].usage is not None
        assert answer.usage.prompt_tokens == wanted[0].usage.prompt_tokens

    def test_n_choices_of_each_prompt_in_a_stream(self, client: OpenAI) -> None:
        options: dict[str, Any] = {"model": MODEL, "prompt": ["Once", "Twice"], "n": 2, "seed": 3, "max_tokens": 12}
        whole = client.completions.create(**options)
        texts = [""] * 4
        ended = set()
        for chunk in client.completions.create(**options, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
            ended |= {chunk.choices[0].index} if chunk.choices[0].finish_reason else set()
        assert texts == [choice.text for choice in whole.choices]
        assert ended == {0, 1, 2, 3}

    def test_without_a_seed_choices_differ(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=HI, n=4, max_tokens=16, temperature=1.5)
        assert len({choice.message.content for choice in answer.choices}) > 1


class TestSampling:
    def test_every_parameter_reaches_the_model(self, here: Running, client: OpenAI) -> None:
        answer = client.chat.completions.create(
            model=MODEL, messages=HI, seed=11, temperature=0.8, top_p=0.9, frequency_penalty=0.5, presence_penalty=0.25,
            logit_bias={"65": 5, "66": -100}, max_completion_tokens=20,
            extra_body={"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 3, "max_draft_tokens": 1},
        )  # fmt: skip
        wanted = expected(
            here, CHAT, seed=11, temperature=0.8, top_p=0.9, frequency_penalty=0.5, presence_penalty=0.25,
            logit_bias={65: 5.0, 66: -100.0}, max_new_tokens=20, top_k=40, min_p=0.01, repetition_penalty=1.1,
            min_new_tokens=3,
        )  # fmt: skip
        assert answer.choices[0].message.content == wanted.text

    def test_a_bias_forces_a_token(self, client: OpenAI) -> None:
        answer = client.completions.create(
            model=MODEL, prompt="Once", logit_bias={"65": 100}, max_tokens=5, temperature=0
        )
        assert answer.choices[0].text == "AAAAA"

    def test_speculation_can_be_switched_off(self, client: OpenAI) -> None:
        for drafts, many in ((0, False), (4, True)):
            answer = client.completions.create(
                model=MODEL, prompt="Once", temperature=0, max_tokens=32, extra_body=LONG | {"max_draft_tokens": drafts}
            )
            assert answer.usage is not None
            speculation: Any = answer.usage.model_extra or {}
            assert (speculation["minedraft"]["draft_tokens"] > 0) == many
            assert (speculation["minedraft"]["accepted_tokens"] > 0) == many


class TestUsage:
    def test_counts_tokens(self, here: Running, client: OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=HI, temperature=0, max_tokens=9, extra_body=LONG)
        wanted = expected(here, CHAT, temperature=0, max_new_tokens=9, ignore_eos=True)
        assert answer.usage is not None
        assert wanted.usage is not None
        assert answer.usage.prompt_tokens == wanted.usage.prompt_tokens
        assert answer.usage.completion_tokens == 9
        assert answer.usage.total_tokens == wanted.usage.prompt_tokens + 9

    @pytest.mark.parametrize("wanted", [True, False])
    def test_ends_a_stream_when_asked_for(self, client: OpenAI, wanted: bool) -> None:
        chunks = list(
            client.completions.create(
                model=MODEL, prompt="Once", max_tokens=5, stream=True, stream_options={"include_usage": wanted},
                extra_body=LONG,
            )
        )  # fmt: skip
        assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert (chunks[-1].choices == []) == wanted
        if wanted:
            assert chunks[-1].usage is not None
            assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (4, 5)
        else:
            assert chunks[-1].usage is None


class TestModels:
    def test_are_listed_and_found(self, client: OpenAI) -> None:
        models = client.models.list().data
        assert [model.id for model in models] == [MODEL]
        assert client.models.retrieve(MODEL) == models[0]
        assert models[0].owned_by == "minedraft"

    def test_none_given_takes_the_served_one(self, here: Running) -> None:
        with here.http() as http:
            answer = http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 1})
        assert answer.status_code == 200
        assert answer.json()["model"] == MODEL
