"""Errors as OpenAI tells them: a status, and {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from minedraft.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MinedraftError,
    NoSpace,
    Overloaded,
    PeerUnavailable,
    RequestCancelled,
)

CLIENT_GONE: Final = 499  # nobody reads it; it is for metrics and logs
RETRY_SECONDS: Final = "1"
INVALID: Final = "invalid_request_error"
WHOLE: Final = frozenset({"body", "request"})  # no parameter of the client's
NO_HEADERS: Final[Mapping[str, str]] = {}
# status -> (type, code) where they are not those of a wrong request
KINDS: Final = {
    401: (INVALID, "invalid_api_key"),
    413: (INVALID, "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "service_unavailable"),
    504: ("server_error", "deadline_exceeded"),
}


class ClientGone(RequestCancelled):
    """The client hung up before its answer was complete."""


class ModelNotFound(HTTPException):
    """The client asked for a model that is not served."""

    def __init__(self, name: str) -> None:
        super().__init__(404, f"the model {name[:100]!r} does not exist")


STATUSES: Final[dict[type[Exception], int]] = {
    InvalidRequest: 400,
    Overloaded: 429,
    NoSpace: 429,
    PeerUnavailable: 503,
    DeadlineExceeded: 504,
    ClientGone: CLIENT_GONE,
    ClientDisconnect: CLIENT_GONE,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error on its way to the client."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """What a client is told of an error. Faults of this software are told without their words."""
        match error:
            case ModelNotFound():
                return cls(404, error.detail, "model", "model_not_found")
            case HTTPException():
                return cls(error.status_code, error.detail, headers=error.headers or NO_HEADERS)
            case InvalidRequest():
                return cls(400, str(error), None if error.field in WHOLE else error.field)
            case MinedraftError() | ClientDisconnect() if type(error) in STATUSES:
                status = STATUSES[type(error)]
                return cls(status, str(error), headers={"Retry-After": RETRY_SECONDS} if status in (429, 503) else {})
            case _:
                return cls(500, "internal error; the server's log has more")

    def document(self) -> bytes:
        """The JSON. ASCII, since a message may repeat what the client sent."""
        kind, code = KINDS.get(self.status, (INVALID, None))
        content = {"message": self.message, "type": kind, "param": self.param, "code": self.code or code}
        return json.dumps({"error": content}).encode()

    def response(self) -> Response:
        return Response(self.document(), self.status, dict(self.headers), "application/json")
