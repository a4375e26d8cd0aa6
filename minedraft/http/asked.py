"""What one HTTP request asks for, whichever of OpenAI's two forms it came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from minedraft.errors import InvalidRequest, MinedraftError
from minedraft.generation import GenerateRequest, Prompt, Text, TokenIds
from minedraft.http.errors import ModelNotFound
from minedraft.types import ModelInfo, SamplingParams

SEED_STEP: Final = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio, odd: multiples of it are far apart
SEEDS: Final = 2**64
SAMPLING: Final = "sampling."


@dataclass(frozen=True, slots=True)
class Asked:
    """`len(prompts) * n` generations. Choices are numbered prompt by prompt, as OpenAI numbers them."""

    model: str | None  # None takes whatever is served
    prompts: tuple[Prompt, ...]
    n: int
    sampling: SamplingParams
    max_draft_tokens: int | None
    stream: bool
    include_usage: bool  # in a stream
    echo: bool
    names: Mapping[str, str]  # the coordinator's field -> the client's, where they differ

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.n

    def check(self, target: ModelInfo) -> None:
        """Raises InvalidRequest for a prompt that the coordinator would refuse, as far as that shows here.

        In a stream of several prompts the coordinator's refusal of one could come after the first words of another.
        """
        for index, prompt in enumerate(self.prompts):
            name = f"prompt[{index}]" if len(self.prompts) > 1 else "prompt"
            match prompt:
                case Text("") | TokenIds(()):
                    raise InvalidRequest(name, "must not be empty")
                case TokenIds(ids) if max(ids) >= target.vocab_size:
                    raise InvalidRequest(name, f"token ids must be in [0, {target.vocab_size})")
                case TokenIds(ids) if len(ids) >= target.max_len:
                    raise InvalidRequest(
                        name, f"{len(ids)} tokens; at most {target.max_len - 1} leave room for one more"
                    )

    def requests(
        self, model: str, request_id: str, trace_headers: tuple[tuple[str, str], ...] = ()
    ) -> list[GenerateRequest]:
        """One request for each choice. `model` is the name that the coordinator knows."""
        return [
            GenerateRequest(
                prompt=prompt,
                sampling=replace(self.sampling, seed=derived_seed(self.sampling.seed, choice)),
                model=model,
                request_id=f"{request_id}-{index * self.n + choice}" if self.choices > 1 else request_id,
                max_draft_tokens=self.max_draft_tokens,
                trace_headers=trace_headers,
            )
            for index, prompt in enumerate(self.prompts)
            for choice in range(self.n)
        ]

    def in_its_words(self, error: MinedraftError) -> Exception:
        """The coordinator's refusal with the client's name for the field; other errors as they are."""
        if not isinstance(error, InvalidRequest):
            return error
        if error.field == "model":
            return ModelNotFound(self.model or "")
        problem = str(error).removeprefix(f"{error.field}: ")
        return InvalidRequest(self.names.get(error.field, error.field.removeprefix(SAMPLING)), problem)


def derived_seed(seed: int | None, choice: int) -> int | None:
    """The seed of one of n choices: that of choice 0 is the request's own, so n = 1 is a plain request."""
    return None if seed is None else (seed + choice * SEED_STEP) % SEEDS
