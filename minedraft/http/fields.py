"""One JSON object of a request, taken apart field by field. Every refusal is an InvalidRequest that names the field."""

from __future__ import annotations

from typing import Final, TypeGuard

from minedraft.errors import InvalidRequest

UINT32: Final = 2**32 - 1
LONGEST_NAME: Final = 64  # characters of a client's own name for a field that an error repeats
KINDS: Final = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer"}


class Fields:
    """The fields of one object; null counts as absent. What is taken is gone: `end` refuses whatever is left."""

    def __init__(self, value: object, path: str = "") -> None:
        """`path` is the object's own name, "" for the body."""
        if not isinstance(value, dict):
            raise InvalidRequest(path or "body", f"must be an object, not {kind_of(value)}")
        self._left = {name: field for name, field in value.items() if field is not None}
        self._path = path

    def take(self, name: str) -> object:
        """The field as it is; None when it is absent."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a string", value)
        return value

    def flag(self, name: str) -> bool | None:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "a boolean", value)
        return value

    def whole(self, name: str, least: int = 0, most: int = UINT32) -> int | None:
        """An integer in [least, most]."""
        value = self.take(name)
        if value is None:
            return None
        if not is_whole(value):
            raise self.wrong(name, "an integer", value)
        if not least <= value <= most:
            raise InvalidRequest(self.named(name), f"must be in [{least}, {most}]")
        return value

    def number(self, name: str) -> float | None:
        value = self.take(name)
        return None if value is None else as_number(value, self.named(name))

    def items(self, name: str) -> list[object] | None:
        value = self.take(name)
        if value is not None and not isinstance(value, list):
            raise self.wrong(name, "an array", value)
        return value

    def named(self, name: str) -> str:
        """The field's full name, for errors."""
        return f"{self._path}.{name}" if self._path else name

    def wrong(self, name: str, wanted: str, value: object) -> InvalidRequest:
        return InvalidRequest(self.named(name), f"must be {wanted}, not {kind_of(value)}")

    def drop(self, names: frozenset[str]) -> None:
        """Ignore fields that do not change the answer."""
        for name in names & self._left.keys():
            del self._left[name]

    def end(self) -> None:
        """Raises InvalidRequest when a field was not taken."""
        for name in self._left:
            raise InvalidRequest(self.named(name[:LONGEST_NAME]), "unrecognized request argument")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a JSON value is an integer; Python counts booleans among them."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_number(value: object, name: str) -> float:
    """Raises InvalidRequest for what is no number, and for integers beyond a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(name, f"must be a number, not {kind_of(value)}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidRequest(name, "is too large") from None


def as_tokens(values: list[object], name: str) -> tuple[int, ...]:
    """Token ids that the wire can carry; whether the model has them is the coordinator's to say."""
    tokens = tuple(value for value in values if type(value) is int and 0 <= value <= UINT32)
    if len(tokens) != len(values):
        raise InvalidRequest(name, f"must hold token ids, integers in [0, {UINT32}]")
    return tokens


def kind_of(value: object) -> str:
    """A JSON value's type in words."""
    return "null" if value is None else KINDS.get(type(value), "a number")
