"""Chat templates: a conversation as the model wants to read it. Jinja in a sandbox, set up as transformers does."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from minedraft.errors import InvalidRequest
from minedraft.generation import ChatMessage

LONGEST_REASON: Final = 300  # characters of a template's complaint that are passed on


class ChatTemplate:
    """A model's own template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`source` "" is a model without a template. `special_tokens` are names such as "bos_token" and their text."""
        self._special_tokens = dict(special_tokens)
        self._problem = "" if source else "this model has no chat template; send text or token_ids"
        self._template: Template | None = None
        if source:
            try:
                self._template = _environment().from_string(source)
            except TemplateError as error:  # other prompts can be served all the same
                self._problem = f"the model's chat template cannot be read: {_reason(error)}"

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation up to where the assistant is to speak. Raises InvalidRequest when it is refused."""
        if self._template is None:
            raise InvalidRequest("chat", self._problem)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=turns, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise InvalidRequest("chat", f"the model's chat template refuses it: {_reason(error)}") from None


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for training; here only they count."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which a model never saw."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().astimezone().strftime(form)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:LONGEST_REASON]
