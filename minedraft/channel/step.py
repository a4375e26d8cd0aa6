"""What one step of a model service may use of the tensor channels, and what went wrong with them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from minedraft.errors import ChannelError
from minedraft.types import ChannelFault, ChannelSpec, PayloadRef

if TYPE_CHECKING:  # a drafter without a model runs without torch
    from torch import Tensor

    from minedraft.channel.base import ReceiverEnd, SenderEnd


class StepChannels:
    """Lives for one step. Made on the event loop, used on the engine thread.

    No method raises ChannelError: what fails is noted in `fault`, and the step goes on without the payload.
    """

    def __init__(self, sender: SenderEnd | None = None, receivers: Mapping[str, ReceiverEnd] | None = None) -> None:
        self.sender = sender  # None: dense laws have no way to the verifier
        self.fault: ChannelFault | None = None
        self._receivers = receivers or {}

    def receive(self, ref: PayloadRef) -> Tensor | None:
        """The payload, to be released; None when it cannot be had."""
        receiver = self._receivers.get(ref.channel_id)
        if receiver is None:
            self.fault = ChannelFault(ref.channel_id, ref.generation, "this channel is not open here")
            return None
        try:
            return receiver.receive(ref)
        except ChannelError as error:
            self.fault = ChannelFault(ref.channel_id, ref.generation, str(error))
            return None

    def release(self, ref: PayloadRef) -> bool:
        """Whether the payload stayed as it was while it was in use."""
        try:
            self._receivers[ref.channel_id].release(ref)
        except ChannelError as error:
            self.fault = ChannelFault(ref.channel_id, ref.generation, str(error))
            return False
        return True

    def failed(self, spec: ChannelSpec, error: ChannelError) -> None:
        """The sender failed."""
        self.fault = ChannelFault(spec.channel_id, spec.generation, str(error))
