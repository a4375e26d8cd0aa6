"""What OpenAI's answers of both forms have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from minedraft.generation import FinishReason, Output

REASONS: Final = {FinishReason.EOS: "stop", FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}
LEAST_LOGPROB: Final = -9999.0  # OpenAI's sign for "very unlikely"; JSON has no infinity


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of one answer begins with."""

    id: str
    created: int  # Unix seconds
    model: str
    fingerprint: str

    def document(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": self.fingerprint,
        }


class Dialect(Protocol):
    """One of the two forms, for one request. It may keep count of what it has written of each choice."""

    whole_kind: str
    chunk_kind: str

    def whole(self, choice: int, output: Output) -> dict[str, Any]:
        """A complete choice."""

    def chunks(self, choice: int, piece: Output) -> list[dict[str, Any]]:
        """The parts of a stream that a piece of a choice becomes; none while there is nothing to tell."""


def usage(lasts: Sequence[Output], n: int) -> dict[str, Any]:
    """The token counts of a request from the last pieces of its choices. A prompt counts once for its n choices.

    OpenAI's accepted_prediction_tokens and rejected_prediction_tokens are not given: they count a prediction that the
    client sent, and rejected ones are billed as output. Drafts are neither, so they have an object of their own.
    """
    counts = [last.usage for last in lasts if last.usage is not None]
    prompt = sum(count.prompt_tokens for count in counts[::n])
    completion = sum(count.completion_tokens for count in counts)
    stats = [last.speculation for last in lasts if last.speculation is not None]
    rounds, emitted = sum(one.rounds for one in stats), sum(one.emitted_tokens for one in stats)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "minedraft": {
            "rounds": rounds,
            "draft_tokens": sum(one.draft_tokens for one in stats),
            "accepted_tokens": sum(one.accepted_tokens for one in stats),
            "acceptance_length": round(emitted / rounds, 4) if rounds else 0.0,
        },
    }


def finish_reason(output: Output) -> str | None:
    return None if output.finish_reason is None else REASONS[output.finish_reason]


def log_probability(value: float) -> float:
    """A log-probability that JSON can carry."""
    return value if value > LEAST_LOGPROB else LEAST_LOGPROB  # false for NaN


def to_json(document: object) -> bytes:
    """ASCII: some readers of event streams take U+2028 and its like for ends of lines."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
