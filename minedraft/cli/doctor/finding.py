"""The nouns of the doctor: what a check found, and what it is asked to look at. Torch-free, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from minedraft.errors import MinedraftError, SetupError

NO_GPU: Final = "not run: no GPU here"


class Result(Enum):
    """What came of a check."""

    OK = "ok"
    NOT_HERE = "not_here"
    """This machine lacks what it needs, so it was not run."""
    BROKEN = "broken"
    """What it needs is here, and it does not work; or nobody knows, because the check itself failed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row. Travels between processes as JSON."""

    name: str  # stable, for programs: "channel.shm"
    title: str
    result: Result
    found: str  # the figure, or the reason
    mend: str = ""  # what to do, in one line; "" when there is nothing to mend
    values: Mapping[str, Any] = field(default_factory=dict)  # the figures for programs: numbers, texts, lists

    @property
    def is_ok(self) -> bool:
        return self.result is Result.OK

    def as_fields(self) -> dict[str, Any]:
        """The finding as it stands in JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "result": self.result.value,
            "found": self.found,
            "mend": self.mend,
            "values": dict(self.values),
        }

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Finding:
        """What `as_fields` gave."""
        return cls(
            str(fields["name"]),
            str(fields["title"]),
            Result(fields["result"]),
            str(fields["found"]),
            str(fields["mend"]),
            dict(fields["values"]),
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """What the doctor is asked to look at: the command's options. Travels between processes as JSON."""

    target: str = ""  # a path, "" for none
    draft: str = ""  # a path, "ngram", "none" or "auto", "" when nobody asked
    device: str = "auto"
    channel: str = "auto"
    attention: str = "auto"
    address: str = ""
    shm_dir: str = "/dev/shm"  # noqa: S108  # the services' own default
    seconds: float = 120.0  # a check that takes longer is given up
    token_file: str = ""  # these five: how the server is called. Paths travel, secrets do not
    tls_ca: str = ""
    tls_client_cert: str = ""
    tls_client_key: str = ""
    tls_server_name: str = ""


def ok(name: str, title: str, found: str, /, **values: Any) -> Finding:
    """A check that was run and did what it should."""
    return Finding(name, title, Result.OK, found, values=values)


def not_here(name: str, title: str, found: str, mend: str, /, **values: Any) -> Finding:
    """A check that was not run for want of what it needs."""
    return Finding(name, title, Result.NOT_HERE, found, mend, values)


def broken(name: str, title: str, found: str, mend: str, /, **values: Any) -> Finding:
    """A check that was run and failed."""
    return Finding(name, title, Result.BROKEN, found, mend, values)


def failed(name: str, title: str, error: BaseException, mend: str = "") -> Finding:
    """A check that raised. Errors of this project's family end in their own advice; others are told by their kind."""
    text = one_line(str(error))
    if isinstance(error, SetupError) and not mend:
        problem, colon, advice = text.rpartition(": ")
        return broken(name, title, problem if colon else text, advice if colon else "see the reason")
    if not isinstance(error, MinedraftError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return broken(
        name, title, text, mend or "this check should not fail like this: report it with `minedraft doctor --json`"
    )


def one_line(text: str, limit: int = 300) -> str:
    """The text on one line, shortened."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
