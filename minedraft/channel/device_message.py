"""The offers and answers of the channels between GPUs: JSON objects of strings and numbers, checked field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_type_hints

from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

VERSION: Final = 1
MAX_BYTES: Final = 4096

Message = TypeVar("Message", bound="DataclassInstance")


def encode(message: DataclassInstance, spec: ChannelSpec) -> bytes:
    """A flat dataclass of str and int fields, with the channel that it is of."""
    return json.dumps({**_common(spec), **asdict(message)}).encode("ascii")


def decode(message: type[Message], data: bytes, spec: ChannelSpec) -> Message:
    """The inverse. Raises ChannelError when it is malformed, of another version, or of another channel."""
    if len(data) > MAX_BYTES:
        raise ChannelError(f"a handshake of {len(data)} bytes")
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ChannelError("the handshake is not JSON") from error
    if not isinstance(parsed, dict):
        raise ChannelError("the handshake is no JSON object")
    for name, expected in _common(spec).items():
        if parsed.get(name) != expected:
            raise ChannelError(f"the peer's {name} is {parsed.get(name)!r}, this end's is {expected!r}")
    return message(**_values(message, parsed))


def _values(message: type[Message], parsed: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(message)
    values = {}
    for field in fields(message):
        value = parsed.get(field.name)
        if type(value) is not hints[field.name]:  # a bool is no int here
            raise ChannelError(f"the handshake's {field.name} is not of type {hints[field.name].__name__}")
        values[field.name] = value
    return values


def _common(spec: ChannelSpec) -> dict[str, str | int]:
    return {
        "version": VERSION,
        "kind": spec.kind.value,
        "channel_id": spec.channel_id,
        "generation": spec.generation,
        "slots": spec.slots,
        "slot_bytes": spec.slot_bytes,
    }
