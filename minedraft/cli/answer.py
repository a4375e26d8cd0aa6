"""One answer as a client sees it: its text, its end, and when things happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from minedraft.errors import InternalError
from minedraft.generation import Output


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer. Times are seconds from the moment the request was sent."""

    output: Output  # all pieces as one
    first_token_seconds: float
    seconds: float  # until the last piece

    @property
    def tokens_per_second(self) -> float:
        """All tokens of the answer over its whole time, the prompt's included."""
        return len(self.output.token_ids) / self.seconds if self.seconds else 0.0

    def fields(self) -> dict[str, Any]:
        """What `minedraft generate --json` prints."""
        output = self.output
        usage, speculation = output.usage, output.speculation
        if usage is None or speculation is None or output.finish_reason is None:
            raise InternalError("the server ended an answer without its reason and statistics")
        fields: dict[str, Any] = {
            "text": output.text,
            "token_ids": list(output.token_ids),
            "finish_reason": output.finish_reason.name.lower(),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "acceptance_length": round(speculation.acceptance_length, 4),
            "ttft_ms": round(1000 * self.first_token_seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 3),
        }
        if output.logprobs:
            fields["logprobs"] = [
                {
                    "token_id": entry.token_id,
                    "logprob": entry.logprob,
                    "top": [
                        {"token_id": token_id, "logprob": logprob}
                        for token_id, logprob in zip(entry.top_token_ids, entry.top_logprobs, strict=True)
                    ],
                }
                for entry in output.logprobs
            ]
        return fields


def read_answer(pieces: Iterable[Output], show: Callable[[str], None]) -> Answer:
    """Read a stream to its end and give each piece of text to `show` as it comes. The clock starts with the call."""
    sent = time.perf_counter()
    first: float | None = None
    taken: list[Output] = []
    for piece in pieces:
        if first is None and piece.token_ids:
            first = time.perf_counter() - sent
        taken.append(piece)
        if piece.text:
            show(piece.text)
    seconds = time.perf_counter() - sent
    if not taken:
        raise InternalError("the server ended an answer before it began")
    return Answer(Output.merged(taken), seconds if first is None else first, seconds)
