"""The messages of a chat request: texts, with a role each. Whatever else OpenAI's messages can hold is refused."""

from __future__ import annotations

from typing import Final

from minedraft.errors import InvalidRequest
from minedraft.generation import Chat, ChatMessage
from minedraft.http.fields import Fields, kind_of

# OpenAI's later name for the system role; chat templates know the earlier one.
ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Assistant messages that a client sends back as it got them have these, empty.
EMPTY: Final = ("refusal", "tool_calls", "function_call", "audio", "annotations", "name")


def read_chat(value: object) -> Chat:
    """The conversation. Raises InvalidRequest that names the message."""
    if not isinstance(value, list):
        raise InvalidRequest("messages", "is required" if value is None else f"must be an array, not {kind_of(value)}")
    return Chat(tuple(_read_message(message, f"messages[{index}]") for index, message in enumerate(value)))


def _read_message(value: object, path: str) -> ChatMessage:
    fields = Fields(value, path)
    asked = fields.text("role")
    role = ROLES.get(asked or "")
    if role is None:
        raise InvalidRequest(f"{path}.role", f"must be one of {', '.join(ROLES)}")
    content = _read_content(fields.take("content"), f"{path}.content")
    for name in EMPTY:
        if fields.take(name) not in (None, [], ""):
            raise InvalidRequest(f"{path}.{name}", "is not supported")
    fields.end()
    return ChatMessage(role, content)


def _read_content(value: object, path: str) -> str:
    """A string, or the text of text parts, joined without a separator."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidRequest(path, f"must be a string or an array of text parts, not {kind_of(value)}")
    return "".join(_read_part(part, f"{path}[{index}]") for index, part in enumerate(value))


def _read_part(value: object, path: str) -> str:
    fields = Fields(value, path)
    if fields.text("type") != "text":
        raise InvalidRequest(f"{path}.type", "only parts of type text are supported")
    text = fields.text("text")
    if text is None:
        raise InvalidRequest(f"{path}.text", "is required")
    fields.end()
    return text
