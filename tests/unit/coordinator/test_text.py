"""Tokens, text and chat templates agree with what transformers makes of the same tokenizer."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from coordinator.chat import ChatTemplate
from coordinator.text import LONG_TEXT, TargetText, TextStream
from minedraft.errors import InvalidRequest
from minedraft.generation import Chat, ChatMessage, Text, TokenIds
from minedraft.model.byte_tokenizer import EOS_ID, byte_tokenizer
from minedraft.types import TokenizerFiles

CHATML = """\
{%- if messages[0]['role'] == 'system' %}
    {{- bos_token + messages[0]['content'] + '\n' }}
{%- else %}
    {{- bos_token }}
{%- endif %}
{% for message in messages %}
    {%- if message['role'] == 'ghost' %}{{ raise_exception('no ghosts: ' + message['content']) }}{% endif %}
    {%- if message.role == "skip" %}{% continue %}{% endif %}
    {%- if message.role == "assistant" %}
    {%- generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
    {%- else %}
{{ '<' + message['role'] + '>' + message['content'] | trim + eos_token }}
    {%- endif %}
{% endfor %}
{%- if tools is not none %}{{ tools | tojson }}{% endif %}
{{- {"a": "\u00e9<&>", "b": [1, 2]} | tojson(indent=2) }}
{{- strftime_now("%Y") }}
{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif %}
"""
TALK = (
    ChatMessage("system", "Be  brief.\n"),
    ChatMessage("user", "  Hello <&> \u20ac \n"),
    ChatMessage("skip", "x"),
    ChatMessage("assistant", "Hi {{ 7 * 7 }}"),
    ChatMessage("user", ""),
)


def wordy() -> Tokenizer:
    """Byte-level, with a BOS that its post-processor puts before every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 256)]
    )
    return tokenizer


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TEXT = TargetText(TokenizerFiles(wordy().to_str().encode(), CHATML, SPECIAL, ""))


@pytest.fixture(scope="module")
def stock() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=wordy(), chat_template=CHATML, **SPECIAL)


def turns(messages: tuple[ChatMessage, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


@pytest.mark.parametrize("messages", [TALK, TALK[1:], TALK[1:2]])
def test_chats_render_as_transformers_renders_them(stock: Any, messages: tuple[ChatMessage, ...]) -> None:
    wanted = stock.apply_chat_template(turns(messages), tokenize=False, add_generation_prompt=True)
    assert TEXT.render(messages) == wanted
    assert str(datetime.datetime.now().astimezone().year) in wanted


async def test_chats_tokenise_as_in_transformers_with_one_bos(stock: Any) -> None:
    wanted = stock.apply_chat_template(turns(TALK), add_generation_prompt=True, return_dict=False)
    ids = await TEXT.prompt_ids(Chat(TALK))
    assert list(ids) == wanted
    assert ids.count(256) == 1


async def test_text_is_tokenised_as_in_transformers(stock: Any) -> None:
    for text in ("Hello", " \u20ac</s>\n<tool>", "x" * (2 * LONG_TEXT)):
        assert list(await TEXT.prompt_ids(Text(text))) == stock(text)["input_ids"]


async def test_long_texts_are_tokenised_beside_the_event_loop() -> None:
    task = asyncio.create_task(TEXT.prompt_ids(Text("long " * LONG_TEXT)))
    await asyncio.sleep(0)
    assert not task.done()
    assert len(await task) == 1 + 5 * LONG_TEXT


async def test_token_ids_are_taken_as_they_are() -> None:
    assert await TEXT.prompt_ids(TokenIds((5, 256, 7))) == (5, 256, 7)


def test_decoding_is_that_of_transformers(stock: Any) -> None:
    ids = [*stock("Hi \u20ac <tool>")["input_ids"], 257, 65, 256]
    assert TEXT.decode(ids) == stock.decode(ids, skip_special_tokens=True)
    stream = TextStream(TEXT, ())
    assert "".join(stream.push(token) for token in ids) + stream.flush() == TEXT.decode(ids)
    assert "<tool>" in TEXT.decode(ids)


def test_a_template_that_refuses_is_a_wrong_request() -> None:
    with pytest.raises(InvalidRequest, match="chat: the model's chat template refuses it: no ghosts: boo"):
        TEXT.render((ChatMessage("ghost", "boo"),))


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ messages[0].content.nothing.at.all }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% for x in range(999999999) %}{% endfor %}",
        "{{ nothing() }}",
    ],
)
def test_a_template_can_do_no_harm(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^chat: the model's chat template refuses it: "):
        ChatTemplate(source, {}).render(TALK)


def test_a_template_that_cannot_be_read_hurts_chats_only() -> None:
    files = byte_tokenizer(256)
    text = TargetText(TokenizerFiles(files.tokenizer_json, "{% if %}", {}, ""))
    assert text.decode([65]) == "A"
    with pytest.raises(InvalidRequest, match="cannot be read"):
        text.render(TALK)


def test_a_model_without_a_template_takes_no_chats() -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        ChatTemplate("", {}).render(TALK)


def test_the_byte_tokenizers_end_of_text_is_silent() -> None:
    stream = TextStream(TargetText(byte_tokenizer(256)), ())
    assert [stream.push(token) for token in (65, EOS_ID, 66)] == ["A", "", "B"]


def test_a_trained_vocabulary() -> None:
    """Tokens of several characters each, and of parts of characters."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    corpus = [Path(__file__).read_text(encoding="utf-8")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=800, show_progress=False, initial_alphabet=alphabet)
    )
    text = TargetText(TokenizerFiles(trained.to_str().encode(), "", {}, ""))
    ids = trained.encode(corpus[0] + "\u20ac \U0001f600").ids
    stream = TextStream(text, ("\U0001f600",))
    assert "".join(stream.push(token) for token in ids) + stream.flush() == corpus[0] + "\u20ac "
    assert stream.stopped
