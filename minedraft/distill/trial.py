"""How a pair does in the real services: acceptance, and tokens a second against the same services without drafts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from minedraft.client import Client
from minedraft.generation import Chat, ChatMessage, GenerateRequest, Output
from minedraft.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Trial:
    """Sums over all prompts, one after the other."""

    temperature: float
    acceptance_length: float  # emitted tokens a verification that had drafts
    acceptance_by_position: tuple[float, ...]
    tokens_per_second: float
    plain_tokens_per_second: float  # with K=0, the same prompts in turn with the drafted ones
    equal_answers: int | None  # prompts with the same tokens with drafts and without; None without a seed
    prompts: int
    tokens: int


def measure(
    client: Client,
    prompts: Sequence[str],
    temperature: float,
    max_new_tokens: int,
    progress: Callable[[], None] = lambda: None,
    *,
    seed: int | None = None,
) -> Trial:
    """Ask each prompt twice, with drafts and without, one request at a time. A seed means the rule MATCH."""
    seconds, tokens = [0.0, 0.0], [0, 0]
    emitted = rounds = equal = 0
    kept, drafted = [0] * 64, [0] * 64
    sampling = SamplingParams(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    for text in prompts:
        request = GenerateRequest(Chat((ChatMessage("user", text),)), sampling)
        outputs: list[Output] = []
        for index, asked in enumerate((request, replace(request, max_draft_tokens=0))):
            begun = time.perf_counter()
            outputs.append(client.complete(asked))
            seconds[index] += time.perf_counter() - begun
            tokens[index] += len(outputs[-1].token_ids)
        equal += outputs[0].token_ids == outputs[1].token_ids
        stats = outputs[0].speculation
        if stats is not None:
            # The round that prefills has no drafts, and emits one token.
            emitted += stats.emitted_tokens - (stats.rounds - stats.drafted_rounds)
            rounds += stats.drafted_rounds
            for place, (good, all_) in enumerate(
                zip(stats.accepted_by_position, stats.drafted_by_position, strict=True)
            ):
                kept[place] += good
                drafted[place] += all_
        progress()
    return Trial(
        temperature=temperature,
        acceptance_length=emitted / max(1, rounds),
        acceptance_by_position=tuple(good / all_ for good, all_ in zip(kept, drafted, strict=True) if all_),
        tokens_per_second=tokens[0] / seconds[0],
        plain_tokens_per_second=tokens[1] / seconds[1],
        equal_answers=equal if temperature == 0 or seed is not None else None,
        prompts=len(prompts),
        tokens=tokens[0],
    )
