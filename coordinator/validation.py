"""What a request must be. Every refusal is an InvalidRequest that names the field and the limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from minedraft.config import CoordinatorSettings
from minedraft.errors import InvalidRequest
from minedraft.generation import Chat, GenerateRequest, Prompt, Text, TokenIds
from minedraft.types import ModelInfo, SamplingParams

LONGEST_STOP: Final = 256  # characters
LONGEST_REQUEST_ID: Final = 128  # characters
MOST_STOP_TOKENS: Final = 128
MOST_BIASES: Final = 1024
LARGEST_BIAS: Final = 100.0
LARGEST_TEMPERATURE: Final = 100.0
LARGEST_PENALTY: Final = 2.0
LARGEST_REPETITION: Final = 100.0
# Dividing logits by less would overflow float32, in a step that other requests share.
SMALLEST_TEMPERATURE: Final = 1e-3
SMALLEST_REPETITION: Final = 2**-6
LONGEST_ECHO: Final = 64  # characters of a wrong value that an error repeats


@dataclass(frozen=True, slots=True)
class Rules:
    """What this server accepts."""

    settings: CoordinatorSettings
    target: ModelInfo

    def check(self, request: GenerateRequest) -> SamplingParams:
        """The sampling parameters with the server's defaults. Raises InvalidRequest."""
        names = {self.settings.model_name, self.target.model_id} - {""}
        if request.model and request.model not in names:
            wrong = request.model[:LONGEST_ECHO]
            raise InvalidRequest("model", f"{wrong!r} is not served; served: {', '.join(sorted(names))}")
        _check_request_id(request.request_id)
        _check_input(request.prompt)
        sampling = request.sampling
        if sampling.max_new_tokens == 0:
            sampling = replace(sampling, max_new_tokens=self.settings.default_max_new_tokens)
        _check_numbers(sampling)
        self._check_stop(sampling)
        self._check_tokens(sampling)
        if sampling.logprobs is not None and not 0 <= sampling.logprobs <= self.settings.max_logprobs:
            raise InvalidRequest("sampling.logprobs", f"must be in [0, {self.settings.max_logprobs}]")
        return sampling

    def check_prompt(self, request: GenerateRequest, prompt_ids: Sequence[int]) -> None:
        """Raises InvalidRequest for a prompt without tokens, with unknown ones, or with too many."""
        field = {Chat: "chat", TokenIds: "token_ids"}.get(type(request.prompt), "text")
        if not prompt_ids:
            raise InvalidRequest(field, "the prompt is empty; at least 1 token is needed")
        if min(prompt_ids) < 0 or max(prompt_ids) >= self.target.vocab_size:
            raise InvalidRequest(field, f"token ids must be in [0, {self.target.vocab_size})")
        most = self.settings.max_prompt_tokens
        if most and len(prompt_ids) > most:
            raise InvalidRequest(field, f"{len(prompt_ids)} tokens; at most {most}, the limit max_prompt_tokens")
        if len(prompt_ids) >= self.target.max_len:
            raise InvalidRequest(
                field, f"{len(prompt_ids)} tokens; at most {self.target.max_len - 1} leave room for one more"
            )

    def _check_stop(self, sampling: SamplingParams) -> None:
        if len(sampling.stop) > self.settings.max_stop_strings:
            raise InvalidRequest(
                "sampling.stop", f"{len(sampling.stop)} stop strings; at most {self.settings.max_stop_strings}"
            )
        for stop in sampling.stop:
            if not 1 <= len(stop) <= LONGEST_STOP:
                raise InvalidRequest("sampling.stop", f"each must have 1 to {LONGEST_STOP} characters")

    def _check_tokens(self, sampling: SamplingParams) -> None:
        vocab = self.target.vocab_size
        if len(sampling.stop_token_ids) > MOST_STOP_TOKENS:
            raise InvalidRequest("sampling.stop_token_ids", f"at most {MOST_STOP_TOKENS}")
        if any(not 0 <= token < vocab for token in sampling.stop_token_ids):
            raise InvalidRequest("sampling.stop_token_ids", f"token ids must be in [0, {vocab})")
        if sampling.min_new_tokens and len({*sampling.stop_token_ids, *self.target.eos_token_ids}) >= vocab:
            raise InvalidRequest("sampling.min_new_tokens", "with these stop_token_ids no token would be allowed")
        if len(sampling.logit_bias) > MOST_BIASES:
            raise InvalidRequest("sampling.logit_bias", f"at most {MOST_BIASES} tokens")
        for token, bias in sampling.logit_bias.items():
            if not 0 <= token < vocab:
                raise InvalidRequest("sampling.logit_bias", f"token ids must be in [0, {vocab})")
            if not -LARGEST_BIAS <= bias <= LARGEST_BIAS:  # false for NaN too
                raise InvalidRequest("sampling.logit_bias", f"must be in [{-LARGEST_BIAS:g}, {LARGEST_BIAS:g}]")


def _check_numbers(sampling: SamplingParams) -> None:
    if sampling.temperature != 0:
        _within("temperature", sampling.temperature, SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE, or_zero=True)
    _within("top_p", sampling.top_p, 0, 1, above=True)
    _within("min_p", sampling.min_p, 0, 1)
    _within("repetition_penalty", sampling.repetition_penalty, SMALLEST_REPETITION, LARGEST_REPETITION)
    _within("frequency_penalty", sampling.frequency_penalty, -LARGEST_PENALTY, LARGEST_PENALTY)
    _within("presence_penalty", sampling.presence_penalty, -LARGEST_PENALTY, LARGEST_PENALTY)
    _within("top_k", sampling.top_k, 0, 2**31 - 1)
    _within("max_new_tokens", sampling.max_new_tokens, 1, 2**31 - 1)
    _within("min_new_tokens", sampling.min_new_tokens, 0, sampling.max_new_tokens)
    if sampling.seed is not None:
        _within("seed", sampling.seed, 0, 2**64 - 1)


def _within(name: str, value: float, least: float, most: float, *, above: bool = False, or_zero: bool = False) -> None:
    if not math.isfinite(value) or value > most or value < least or (above and value == least):
        wanted = f"{'(' if above else '['}{least}, {most}]{' and not 0' if or_zero else ''}"
        raise InvalidRequest(f"sampling.{name}", f"{value} is not in {wanted}")


def _check_request_id(request_id: str) -> None:
    if len(request_id) > LONGEST_REQUEST_ID or not request_id.isprintable():
        raise InvalidRequest("request_id", f"at most {LONGEST_REQUEST_ID} printable characters")


def _check_input(prompt: Prompt) -> None:
    match prompt:
        case Text(""):  # some tokenizers would make a token even of this
            raise InvalidRequest("text", "the prompt is empty; at least 1 character is needed")
        case Chat(()):
            raise InvalidRequest("chat.messages", "at least 1 message is needed")
        case Chat(messages) if any(not message.role for message in messages):
            raise InvalidRequest("chat.messages.role", "must not be empty")
