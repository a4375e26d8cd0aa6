"""Text to tokens and back with the target's own tokenizer, without torch: the `tokenizers` library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

from tokenizers import Tokenizer

from coordinator.chat import ChatTemplate
from coordinator.detokenizer import Detokenizer
from coordinator.stops import StopScanner
from minedraft.generation import Chat, ChatMessage, Prompt, Text, TokenIds
from minedraft.types import TokenizerFiles

LONG_TEXT: Final = 16_384  # characters; longer prompts are tokenised beside the event loop


class TargetText:
    """The target's tokenizer and chat template."""

    def __init__(self, files: TokenizerFiles) -> None:
        self._tokenizer: Any = Tokenizer.from_str(files.tokenizer_json.decode())
        self._template = ChatTemplate(files.chat_template, files.special_tokens)
        self._special_ids = frozenset(
            token_id for token_id, token in self._tokenizer.get_added_tokens_decoder().items() if token.special
        )
        self._byte_fallback = '"ByteFallback"' in json.dumps(json.loads(files.tokenizer_json).get("decoder"))

    async def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's tokens. Raises InvalidRequest for a chat that the model's template refuses."""
        match prompt:
            case TokenIds(ids):
                return ids
            case Chat(messages):  # the template writes the special tokens itself
                return await self._encode(self.render(messages), special_tokens=False)
            case Text(text):
                return await self._encode(text, special_tokens=True)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation as the model's template writes it, up to where the assistant is to speak."""
        return self._template.render(messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens; special tokens have none."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def detokenizer(self) -> Detokenizer:
        """A fresh detokenizer for one output."""
        return Detokenizer(self.decode, self._special_ids, byte_fallback=self._byte_fallback)

    async def _encode(self, text: str, *, special_tokens: bool) -> tuple[int, ...]:
        def encode() -> tuple[int, ...]:
            return tuple(self._tokenizer.encode(text, add_special_tokens=special_tokens).ids)

        return encode() if len(text) < LONG_TEXT else await asyncio.to_thread(encode)


class TextStream:
    """A request's output text: cut before the first stop string, and never showing the beginning of one."""

    def __init__(self, text: TargetText, stop: Sequence[str]) -> None:
        self._detokenizer = text.detokenizer()
        self._stops = StopScanner(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._stops.stopped

    def push(self, token_id: int) -> str:
        """The text that is safe to show after one more token."""
        return self._stops.feed(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """What was held back, at the end of the output. A stop string may still turn out to be complete."""
        return self._stops.feed(self._detokenizer.flush()) + self._stops.flush()
