"""The family of errors as gRPC codes, and back."""

from __future__ import annotations

from typing import Final

import grpc

from minedraft.errors import (
    ChannelError,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MinedraftError,
    NoSpace,
    Overloaded,
    PeerUnavailable,
    ProtocolError,
    RequestCancelled,
    Unauthenticated,
)

CODES: Final[dict[type[MinedraftError], grpc.StatusCode]] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NoSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    PeerUnavailable: grpc.StatusCode.UNAVAILABLE,
    ChannelError: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    RequestCancelled: grpc.StatusCode.CANCELLED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    InternalError: grpc.StatusCode.INTERNAL,
}
KINDS: Final[dict[grpc.StatusCode, type[MinedraftError]]] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: PeerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: RequestCancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,  # a proxy's word for the same
}


def code_of(error: MinedraftError) -> grpc.StatusCode:
    """The gRPC code that a client sees for this error."""
    return CODES.get(type(error), grpc.StatusCode.INTERNAL)


def error_of(error: grpc.RpcError) -> MinedraftError:
    """The error that a server meant, on the client's side."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        field, colon, problem = details.partition(": ")
        return InvalidRequest(field, problem) if colon else InvalidRequest("request", details)
    kind = KINDS.get(code)
    return kind(details) if kind else InternalError(f"{code.name}: {details}")
