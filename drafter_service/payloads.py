"""The slots that hold the dense laws of proposals on their way to the verifier. Used on the engine thread only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from minedraft.channel.base import SenderEnd
from minedraft.channel.step import StepChannels
from minedraft.errors import ChannelError
from minedraft.types import Dense


@dataclass(frozen=True, slots=True)
class Parcel:
    """A slot taken for one sequence's proposal."""

    sender: SenderEnd
    slot: int

    def send(self, rows: Sequence[Tensor], channels: StepChannels) -> Dense | None:
        """Send the rows, [V] each, as one payload [drafts, V]; None, and a fault noted, when that fails."""
        shape = (len(rows), *rows[0].shape)
        try:
            for place, row in enumerate(rows):
                self.sender.write(self.slot, row, offset=place * prod(row.shape) * row.dtype.itemsize)
            return Dense(self.sender.publish(self.slot, rows[0].dtype, shape))
        except ChannelError as error:
            channels.failed(self.sender.spec, error)
            return None


class Payloads:
    """Which slot each sequence holds. A slot is free again when its sequence is drafted for anew, or released: by then
    the verifier has read it, or never will."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], Parcel] = {}  # (lease, sequence)

    def take(self, lease: str, sequence_id: int, nbytes: int, sender: SenderEnd | None) -> Parcel | None:
        """A slot for this sequence's next proposal; None when there is no channel, or no room in it."""
        self.drop(lease, [sequence_id])
        if sender is None or nbytes > sender.spec.slot_bytes:
            return None
        slot = sender.acquire()
        if slot is None:
            return None
        parcel = self._held[lease, sequence_id] = Parcel(sender, slot)
        return parcel

    def drop(self, lease: str, sequence_ids: Iterable[int]) -> None:
        """These sequences need their slots no more."""
        for sequence_id in sequence_ids:
            parcel = self._held.pop((lease, sequence_id), None)
            if parcel is not None:
                parcel.sender.reclaim(parcel.slot)

    def drop_lease(self, lease: str) -> None:
        """A stream ended, and its channels with it."""
        self.drop(lease, [sequence_id for owner, sequence_id in self._held if owner == lease])
