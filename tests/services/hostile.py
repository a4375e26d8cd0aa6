"""Messages as an enemy would send them: right ones, right ones changed, random ones of the right type, and bytes.

All is drawn from one `random.Random`, so that a session can be had again from its number.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

VOCAB: Final = 256
NUMBERS: Final = (0, 0, 1, 1, 2, 3, 5, 16, 64, VOCAB - 1, VOCAB, 1000, 65536, 2**31 - 1, 2**31, 2**32 - 1)
LARGE: Final = (*NUMBERS, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS: Final = (
    *(0.0, -0.0, 0.5, 1.0, 1.0, 2.0, -1.0, 1e-3, 9e-4, 100.0, 101.0, 1e-45, 3.4e38),
    *(float("nan"), float("inf"), float("-inf")),
)
TEXTS: Final = (
    *("", "", "a", "Hi", "\x00", "\n", "\u2028", "\U0001f600", "{{ 1/0 }}", "{% for %}", "../../etc/passwd"),
    *("system", "simulated-target", "x" * 129, "\u0130" * 5000, "c1", "minedraft-" + "0" * 32),
)
SIGNED: Final = frozenset({FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_INT64})
WIDE: Final = frozenset({FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64})
DEEPEST: Final = 8


def arbitrary(rng: Random, descriptor: Any, depth: int = 0) -> Any:
    """A message of the type with any of its fields set to anything."""
    message = GetMessageClass(descriptor)()
    groups = [group for group in descriptor.oneofs if len(group.fields) > 1]
    chosen = {group.name: rng.choice(group.fields) for group in groups if rng.random() < 0.9}
    for field in descriptor.fields:
        group = field.containing_oneof
        if group is not None and group.name in {one.name for one in groups}:
            wanted = chosen.get(group.name) is field
        else:
            wanted = rng.random() < 0.6
        if wanted and depth < DEEPEST:
            put(rng, message, field, depth)
    return message


def put(rng: Random, message: Any, field: Any, depth: int = 0) -> None:
    """Set one field to anything."""
    message.ClearField(field.name)
    here = getattr(message, field.name)
    if _is_map(field):
        for _ in range(rng.choice((0, 1, 3))):
            entry = field.message_type.fields_by_name
            here[scalar(rng, entry["key"])] = scalar(rng, entry["value"])
    elif field.is_repeated:
        for _ in range(rng.choice((0, 1, 1, 2, 4, 300 if field.message_type is None else 9))):
            if field.message_type is None:
                here.append(scalar(rng, field))
            else:
                here.add().CopyFrom(arbitrary(rng, field.message_type, depth + 1))
    elif field.message_type is not None:
        here.CopyFrom(arbitrary(rng, field.message_type, depth + 1))
        here.SetInParent()
    else:
        setattr(message, field.name, scalar(rng, field))


def scalar(rng: Random, field: Any) -> Any:
    """Any value that the field's type can hold."""
    match field.type:
        case FieldDescriptor.TYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            return rng.choice(FLOATS)
        case FieldDescriptor.TYPE_STRING:
            return rng.choice(TEXTS)
        case FieldDescriptor.TYPE_BYTES:
            return rng.choice((b"", b"\0" * 64, b"[" * 20_000, rng.randbytes(rng.choice((1, 4, 64, 200, 4097)))))
        case FieldDescriptor.TYPE_ENUM:
            return rng.choice((*(value.number for value in field.enum_type.values), 99, 2**31 - 1, -1))
        case kind if kind in WIDE:
            return rng.choice(LARGE)
        case kind if kind in SIGNED:
            return rng.choice((-1, 0, 1, 2**31 - 1))
        case _:
            return rng.choice(NUMBERS)


def changed(rng: Random, message: Any) -> None:
    """Change one place of a message: another value, none, or one twice."""
    places = list(_places(message))
    if not places:
        if message.DESCRIPTOR.fields:
            put(rng, message, rng.choice(message.DESCRIPTOR.fields))
        return
    owner, field = rng.choice(places)
    here = getattr(owner, field.name)
    match rng.randrange(4):
        case 0:
            owner.ClearField(field.name)
        case 1 if field.is_repeated and not _is_map(field) and len(here):
            here.append(here[0]) if field.message_type is None else here.add().CopyFrom(here[0])
        case 2 if field.is_repeated and not _is_map(field) and len(here) and field.message_type is None:
            here[rng.randrange(len(here))] = scalar(rng, field)
        case _:
            put(rng, owner, rng.choice((field, rng.choice(owner.DESCRIPTOR.fields))))


def damaged(rng: Random, data: bytes) -> bytes:
    """The bytes with some of them changed, cut out or doubled."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, length = rng.randint(0, len(data)), rng.choice((0, 1, 1, 4))
        new = rng.choice((b"", rng.randbytes(1), rng.randbytes(4), data[place : place + 20], b"\xff" * 9))
        data = data[:place] + new + data[place + length :]
    return data


def on_the_wire(rng: Random, right: Any, rightness: float = 0.3) -> bytes:
    """What is sent in place of a right message: the message itself with probability `rightness`."""
    whole: bytes = right.SerializeToString()
    if rng.random() < rightness:
        return whole
    match rng.choices(("changed", "arbitrary", "damaged", "bytes"), (50, 22, 17, 11))[0]:
        case "changed":
            for _ in range(rng.choice((1, 1, 2, 3))):
                changed(rng, right)
            return bytes(right.SerializeToString())
        case "arbitrary":
            return bytes(arbitrary(rng, right.DESCRIPTOR).SerializeToString())
        case "damaged":
            return damaged(rng, whole)
        case _:
            return rng.randbytes(rng.choice((1, 2, 7, 40, 1000)))


def _places(message: Any) -> list[tuple[Any, Any]]:
    """Every field that is set in the message or in one inside of it."""
    found: list[tuple[Any, Any]] = []
    for field, value in message.ListFields():
        found.append((message, field))
        if field.message_type is not None and not _is_map(field):
            for inner in value if field.is_repeated else [value]:
                found += _places(inner)
    return found


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)
