"""What a verdict adds to a request: accepted drafts and the verifier's own token, cut at the request's end. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from minedraft.generation import FinishReason
from minedraft.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a request's tokens end of themselves."""

    eos_token_ids: Collection[int]
    stop_token_ids: Collection[int]
    room: int  # tokens that may still be committed, at least 1

    @classmethod
    def of(cls, sampling: SamplingParams, eos_token_ids: Collection[int], room: int) -> Ending:
        return cls(() if sampling.ignore_eos else eos_token_ids, sampling.stop_token_ids, room)


@dataclass(frozen=True, slots=True)
class Cut:
    """The tokens to commit, and why they are the last, if they are."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    hides_last: bool = False  # the last token is EOS or a stop token: it is no text


def cut(emitted: Sequence[int], ending: Ending) -> Cut:
    """Commit emitted tokens up to the first that ends the request."""
    for index, token in enumerate(emitted, start=1):
        if token in ending.stop_token_ids:
            return Cut(tuple(emitted[:index]), FinishReason.STOP, hides_last=True)
        if token in ending.eos_token_ids:
            return Cut(tuple(emitted[:index]), FinishReason.EOS, hides_last=True)
        if index == ending.room:
            return Cut(tuple(emitted[:index]), FinishReason.LENGTH)
    return Cut(tuple(emitted), None)
