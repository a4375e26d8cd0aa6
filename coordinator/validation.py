"""What a request must be. Every refusal is an InvalidRequest that names the field and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from minedraft.config import CoordinatorSettings
from minedraft.errors import InvalidRequest
from minedraft.generation import Chat, GenerateRequest, Prompt, Text, TokenIds
from minedraft.ranges import check_sampling, within
from minedraft.types import ModelInfo, SamplingParams

LONGEST_STOP: Final = 256  # characters
LONGEST_REQUEST_ID: Final = 128  # characters
MOST_STOP_TOKENS: Final = 128
MOST_BIASES: Final = 1024
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
        _check_lengths(sampling)
        check_sampling(sampling, self.target.vocab_size, self.target.eos_token_ids)
        self._check_stop(sampling)
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


def _check_lengths(sampling: SamplingParams) -> None:
    within("max_new_tokens", sampling.max_new_tokens, 1, 2**31 - 1)
    within("min_new_tokens", sampling.min_new_tokens, 0, sampling.max_new_tokens)
    if sampling.seed is not None:
        within("seed", sampling.seed, 0, 2**64 - 1)
    if len(sampling.stop_token_ids) > MOST_STOP_TOKENS:
        raise InvalidRequest("sampling.stop_token_ids", f"at most {MOST_STOP_TOKENS}")
    if len(sampling.logit_bias) > MOST_BIASES:
        raise InvalidRequest("sampling.logit_bias", f"at most {MOST_BIASES} tokens")


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
