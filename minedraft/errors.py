"""One closed family of errors. `minedraft.rpc.status` maps each to one gRPC code; `SetupError` is exit code 2."""

from __future__ import annotations


class MinedraftError(Exception):
    """The root of the family. Its message is one sentence for the person who can mend it."""


class InvalidRequest(MinedraftError):
    """The caller's input is wrong: INVALID_ARGUMENT. The message names the field and the limit."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Overloaded(MinedraftError):
    """The queue is full: RESOURCE_EXHAUSTED. Trying again later may work."""


class PeerUnavailable(MinedraftError):
    """A model service is gone, late or refused: UNAVAILABLE."""


class DeadlineExceeded(MinedraftError):
    """The request's time is up: DEADLINE_EXCEEDED."""


class RequestCancelled(MinedraftError):
    """The client went away: CANCELLED."""


class ProtocolError(MinedraftError):
    """A peer sent what the protocol forbids: its stream is closed with INVALID_ARGUMENT, the process goes on."""


class ChannelError(MinedraftError):
    """A tensor channel failed or cannot be opened: UNAVAILABLE. What went through it is lost, and drafts with it."""


class NoSpace(MinedraftError):
    """No KV blocks are free: RESOURCE_EXHAUSTED. Inside a service it becomes the item status NO_SPACE."""


class InternalError(MinedraftError):
    """A fault of this software: INTERNAL."""


class SetupError(MinedraftError):
    """The process cannot start as configured: one line on stderr that says what to do, exit code 2."""


class Unauthenticated(SetupError):
    """The caller showed no token, a wrong one or an expired one: UNAUTHENTICATED. Never repeats what was shown."""
