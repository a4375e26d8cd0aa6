"""What sampling parameters must be, for whoever computes with them.

The coordinator asks before it admits a request. The model services ask again: a number out of its range would spoil a
pass that other sequences share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from minedraft.errors import InvalidRequest
from minedraft.types import SamplingParams

MOST_DRAFTS: Final = 256  # of one proposal; each takes a row of logits in the verifier's pass
LARGEST_BIAS: Final = 100.0
LARGEST_TEMPERATURE: Final = 100.0
LARGEST_PENALTY: Final = 2.0
LARGEST_REPETITION: Final = 100.0
# Dividing logits by less would overflow float32, in a step that other requests share.
SMALLEST_TEMPERATURE: Final = 1e-3
SMALLEST_REPETITION: Final = 2**-6


def check_sampling(sampling: SamplingParams, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
    """Raises InvalidRequest, naming the field and the limit, for what no law can be computed from."""
    if sampling.temperature != 0:
        within("temperature", sampling.temperature, SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE, or_zero=True)
    within("top_p", sampling.top_p, 0, 1, above=True)
    within("min_p", sampling.min_p, 0, 1)
    within("repetition_penalty", sampling.repetition_penalty, SMALLEST_REPETITION, LARGEST_REPETITION)
    within("frequency_penalty", sampling.frequency_penalty, -LARGEST_PENALTY, LARGEST_PENALTY)
    within("presence_penalty", sampling.presence_penalty, -LARGEST_PENALTY, LARGEST_PENALTY)
    within("top_k", sampling.top_k, 0, 2**31 - 1)
    _check_tokens(sampling, vocab_size, eos_token_ids)


def within(name: str, value: float, least: float, most: float, *, above: bool = False, or_zero: bool = False) -> None:
    """Raises InvalidRequest unless `value` is in [least, most]; with `above` the least itself is out."""
    if not math.isfinite(value) or value > most or value < least or (above and value == least):
        wanted = f"{'(' if above else '['}{least}, {most}]{' and not 0' if or_zero else ''}"
        raise InvalidRequest(f"sampling.{name}", f"{value} is not in {wanted}")


def _check_tokens(sampling: SamplingParams, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
    if any(not 0 <= token < vocab_size for token in sampling.stop_token_ids):
        raise InvalidRequest("sampling.stop_token_ids", f"token ids must be in [0, {vocab_size})")
    if sampling.min_new_tokens and len({*sampling.stop_token_ids, *eos_token_ids}) >= vocab_size:
        raise InvalidRequest("sampling.min_new_tokens", "with these stop_token_ids no token would be allowed")
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < vocab_size:
            raise InvalidRequest("sampling.logit_bias", f"token ids must be in [0, {vocab_size})")
        if not -LARGEST_BIAS <= bias <= LARGEST_BIAS:  # false for NaN too
            raise InvalidRequest("sampling.logit_bias", f"must be in [{-LARGEST_BIAS:g}, {LARGEST_BIAS:g}]")
