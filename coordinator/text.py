"""Text to tokens and back, without torch: the `tokenizers` library, and chat templates in a Jinja sandbox."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from minedraft.errors import InvalidRequest
from minedraft.generation import Chat, ChatMessage, Prompt, Text, TokenIds
from minedraft.types import TokenizerFiles

BROKEN: Final = "\ufffd"  # what a decoder writes for bytes that are not, or not yet, a character
LONGEST_CHARACTER: Final = 8  # tokens that a character may be spread over; more are not a character
LONG_TEXT: Final = 16_384  # characters; longer prompts are tokenised beside the event loop


class TargetText:
    """The target's tokenizer and chat template."""

    def __init__(self, files: TokenizerFiles) -> None:
        self._tokenizer: Any = Tokenizer.from_str(files.tokenizer_json.decode())
        self._special_tokens = dict(files.special_tokens)
        self._template = _environment().from_string(files.chat_template) if files.chat_template else None

    async def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's tokens. Raises InvalidRequest for a chat that the model's template refuses."""
        match prompt:
            case TokenIds(ids):
                return ids
            case Chat(messages):
                return await self._encode(self.render(messages), special_tokens=False)
            case Text(text):
                return await self._encode(text, special_tokens=True)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation as the model's template writes it, up to where the assistant is to speak."""
        if self._template is None:
            raise InvalidRequest("chat", "this model has no chat template; send text or token_ids")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._special_tokens)
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest("chat", f"the model's template refuses it: {error}") from None

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens; special tokens have none."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    async def _encode(self, text: str, *, special_tokens: bool) -> tuple[int, ...]:
        def encode() -> tuple[int, ...]:
            return tuple(self._tokenizer.encode(text, add_special_tokens=special_tokens).ids)

        return encode() if len(text) < LONG_TEXT else await asyncio.to_thread(encode)


class Detokenizer:
    """Tokens to text, piece by piece: never half a character, at a bounded cost for each token.

    Decoding a token alone would lose what its neighbours decide (spaces, split characters), so a window of tokens that
    were already shown is decoded again and subtracted, as text-generation servers commonly do.
    """

    def __init__(self, text: TargetText) -> None:
        self._text = text
        self._window: list[int] = []
        self._shown = 0  # tokens of the window whose text was given out

    def push(self, token_id: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        self._window.append(token_id)
        before = self._text.decode(self._window[: self._shown])
        now = self._text.decode(self._window)
        unfinished = now.endswith(BROKEN) and len(self._window) - self._shown < LONGEST_CHARACTER
        if unfinished or len(now) <= len(before):
            return ""
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return now[len(before) :]

    def flush(self) -> str:
        """What is left at the end, broken characters included."""
        before = self._text.decode(self._window[: self._shown])
        now = self._text.decode(self._window)
        self._shown = len(self._window)
        return now[len(before) :]


class TextStream:
    """A request's output text: cut before the first stop string, and never showing the beginning of one."""

    def __init__(self, text: TargetText, stop: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(text)
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that is safe to show after one more token. Sets `stopped` when a stop string is complete."""
        return self._release(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """What was held back, at the end of the output."""
        shown = self._release(self._detokenizer.flush())
        held, self._held = self._held, ""
        return shown + held

    def _release(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers runs chat templates, so that models' own templates work."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().astimezone().strftime(form)
