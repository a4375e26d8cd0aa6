"""A toy target whose next token is a function of the tokens before it, and what a request to it must come to."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.text import TargetText
from minedraft.generation import FinishReason
from minedraft.model.byte_tokenizer import EOS_ID, byte_tokenizer
from minedraft.types import SamplingParams

VOCAB = 256
TEXT = TargetText(byte_tokenizer(VOCAB))


def next_token(tokens: Sequence[int]) -> int:
    """The greedy pick after `tokens`; the end of text about once in 60."""
    mixed = tokens[-1] * 31 + tokens[max(len(tokens) - 3, 0)] * 17 + len(tokens) * 7 + 11
    return EOS_ID if mixed % 61 == 0 else 32 + mixed % 90


def guess(tokens: Sequence[int]) -> int:
    """What the toy drafter takes for the next token: right three times in four."""
    return next_token(tokens) if (len(tokens) * 5 + tokens[-1]) % 4 else 33


def expected(
    prompt: Sequence[int], sampling: SamplingParams, max_len: int
) -> tuple[tuple[int, ...], str, FinishReason]:
    """Tokens, text and finish reason of a request, computed plainly."""
    tokens = list(prompt)
    while True:
        token = next_token(tokens)
        tokens.append(token)
        new = tokens[len(prompt) :]
        if token in sampling.stop_token_ids:
            return tuple(new), TEXT.decode(new[:-1]), FinishReason.STOP
        if token == EOS_ID and not sampling.ignore_eos:
            return tuple(new), TEXT.decode(new[:-1]), FinishReason.EOS
        text = TEXT.decode(new)
        ends = [(text.find(stop) + len(stop), -len(stop)) for stop in sampling.stop if stop in text]
        if ends:
            end, length = min(ends)
            return tuple(new), text[: end + length], FinishReason.STOP
        if len(new) == sampling.max_new_tokens or len(tokens) == max_len:
            return tuple(new), text, FinishReason.LENGTH
