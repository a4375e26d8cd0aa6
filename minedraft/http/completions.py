"""Answers of /v1/completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, Final

from minedraft.errors import InvalidRequest
from minedraft.generation import Output, Text, TokenIds
from minedraft.http.answers import finish_reason, log_probability
from minedraft.http.asked import Asked
from minedraft.http.vocabulary import Vocabulary
from minedraft.types import TokenLogprobs

CONTINUES_FROM: Final = 0x80  # bytes of UTF-8 that go on with a character
CONTINUES_BELOW: Final = 0xC0


class CompletionAnswers:
    """A `Dialect`."""

    id_prefix = "cmpl-"
    whole_kind = "text_completion"
    chunk_kind = "text_completion"

    def __init__(self, vocabulary: Vocabulary, asked: Asked) -> None:
        """Raises InvalidRequest when a prompt of token ids is to be echoed and the tokens' texts are not known."""
        self._vocabulary = vocabulary
        self._asks_logprobs = asked.sampling.logprobs is not None
        prompts = [_echoed(prompt, vocabulary) for prompt in asked.prompts] if asked.echo else [""] * len(asked.prompts)
        self._echoes = {choice: prompts[choice // asked.n] for choice in range(asked.choices)}
        self._offsets = {choice: TextOffsets() for choice in range(asked.choices)}

    def whole(self, choice: int, output: Output) -> dict[str, Any]:
        return self._part(choice, self._echoes[choice] + output.text, output)

    def chunks(self, choice: int, piece: Output) -> list[dict[str, Any]]:
        """An echoed prompt goes with the choice's first part."""
        text = self._echoes.pop(choice, "") + piece.text
        if text or piece.finish_reason is not None or (self._asks_logprobs and piece.logprobs):
            return [self._part(choice, text, piece)]
        return []

    def _part(self, choice: int, text: str, output: Output) -> dict[str, Any]:
        logprobs = self._columns(output.logprobs, self._offsets[choice]) if self._asks_logprobs else None
        return {"text": text, "index": choice, "logprobs": logprobs, "finish_reason": finish_reason(output)}

    def _columns(self, entries: Sequence[TokenLogprobs], offsets: TextOffsets) -> dict[str, list[Any]]:
        """One place a token in each list; the alternatives include the token itself."""
        return {
            "tokens": [self._vocabulary.token(entry.token_id)[0] for entry in entries],
            "token_logprobs": [log_probability(entry.logprob) for entry in entries],
            "top_logprobs": [self._alternatives(entry) for entry in entries],
            "text_offset": [offsets.take(self._vocabulary.shown(entry.token_id)) for entry in entries],
        }

    def _alternatives(self, entry: TokenLogprobs) -> dict[str, float]:
        """Text -> log-probability, the likeliest first. Of tokens with the same text the likeliest counts."""
        found: dict[str, float] = {}
        for token_id, logprob in zip(
            (*entry.top_token_ids, entry.token_id), (*entry.top_logprobs, entry.logprob), strict=True
        ):
            found.setdefault(self._vocabulary.token(token_id)[0], log_probability(logprob))
        return found


class TextOffsets:
    """Where each token begins in the text, in characters. A character in several tokens begins with the first."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def take(self, shown: bytes) -> int:
        """The place of the next token, whose text is `shown`."""
        if shown and not CONTINUES_FROM <= shown[0] < CONTINUES_BELOW:  # what is unfinished stays so: one broken sign
            self._length += len(self._decoder.decode(b"", final=True))
            self._decoder.reset()
        begin = self._length
        self._length += len(self._decoder.decode(shown))
        return begin


def _echoed(prompt: object, vocabulary: Vocabulary) -> str:
    match prompt:
        case Text(text):
            return text
        case TokenIds(ids) if (decoded := vocabulary.text(ids)) is not None:
            return decoded
        case _:
            raise InvalidRequest("echo", "of token ids needs the door's --tokenizer; send text")
