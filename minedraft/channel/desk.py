"""What a model service asks of its tensor channels. Torch-free: a drafter without a model has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from minedraft.channel.step import StepChannels
from minedraft.errors import ChannelError
from minedraft.types import ChannelAnswer, ChannelRequest, HostFacts, PayloadChunk

SendChunk = Callable[[PayloadChunk], None]


class ChannelDesk(Protocol):
    """The channel ends that a service holds, by stream. Every method may be called by any thread."""

    @property
    def facts(self) -> HostFacts:
        """Where this service runs, and what it can open."""

    def open_lease(self, lease: str) -> None:
        """A stream began."""

    def end_lease(self, lease: str) -> None:
        """A stream ended: close its ends."""

    def act(self, lease: str, request: ChannelRequest, send: SendChunk) -> ChannelAnswer:
        """Do this service's part. Blocks for seconds at worst: not for the event loop. Raises ChannelError.

        `send` takes the chunks of an inline channel, on whatever thread publishes.
        """

    def for_step(self, lease: str, channel_id: str = "") -> StepChannels:
        """What a step of this stream may use; `channel_id` names the channel to send through."""

    def take(self, lease: str, chunk: PayloadChunk) -> None:
        """A piece of a payload came with the stream. One that fits no open channel is dropped."""


class NoChannels:
    """The desk of a service that sends and reads no tensors."""

    facts = HostFacts()

    def open_lease(self, lease: str) -> None:
        """Nothing to do."""

    def end_lease(self, lease: str) -> None:
        """Nothing to do."""

    def act(self, lease: str, request: ChannelRequest, send: SendChunk) -> ChannelAnswer:
        raise ChannelError("this service sends and reads no tensors")

    def for_step(self, lease: str, channel_id: str = "") -> StepChannels:
        return StepChannels()

    def take(self, lease: str, chunk: PayloadChunk) -> None:
        """Dropped."""
