"""Answers of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minedraft.generation import Output
from minedraft.http.answers import finish_reason, log_probability
from minedraft.http.vocabulary import Vocabulary
from minedraft.types import TokenLogprobs


class ChatAnswers:
    """A `Dialect`."""

    id_prefix = "chatcmpl-"
    whole_kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, vocabulary: Vocabulary, *, logprobs: bool) -> None:
        self._vocabulary = vocabulary
        self._logprobs = logprobs
        self._opened: set[int] = set()

    def whole(self, choice: int, output: Output) -> dict[str, Any]:
        message = {"role": "assistant", "content": output.text, "refusal": None}
        return {
            "index": choice,
            "message": message,
            "logprobs": self._entries(output.logprobs),
            "finish_reason": finish_reason(output),
        }

    def chunks(self, choice: int, piece: Output) -> list[dict[str, Any]]:
        """Before a choice's first text there is a part that names the role."""
        parts = []
        if choice not in self._opened:
            self._opened.add(choice)
            parts.append(_part(choice, {"role": "assistant", "content": "", "refusal": None}, None, None))
        if piece.text or piece.finish_reason is not None or (self._logprobs and piece.logprobs):
            delta = {"content": piece.text} if piece.text else {}
            parts.append(_part(choice, delta, self._entries(piece.logprobs), finish_reason(piece)))
        return parts

    def _entries(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """One entry a token, those that have no text included; None unless asked for."""
        if not self._logprobs:
            return None
        content = [
            {
                **self._token(entry.token_id, entry.logprob),
                "top_logprobs": [
                    self._token(token_id, logprob)
                    for token_id, logprob in zip(entry.top_token_ids, entry.top_logprobs, strict=True)
                ],
            }
            for entry in entries
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text, content = self._vocabulary.token(token_id)
        bytes_of = None if content is None else list(content)
        return {"token": text, "logprob": log_probability(logprob), "bytes": bytes_of}


def _part(choice: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
