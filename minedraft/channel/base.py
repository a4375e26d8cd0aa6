"""What every tensor channel does. A channel has one sender, one receiver, and a ring of slots of one size.

Tensors go through slots; only references to them (`PayloadRef`) travel over gRPC. The life of a channel:

1. The coordinator names it (`ChannelSpec`) and carries three messages between its ends: the owner's `offer`, the
   guest's `join`, and the owner's `seal`. The owner is the verifier, which lives longer; either end may be the sender.
2. A payload: the sender takes a slot (`acquire`), fills it (`write`), and makes a reference to it (`publish`). The
   reference reaches the receiver over gRPC, which is also what orders memory between the two: no reference is sent
   before the bytes are in place. `receive` gives the payload as a tensor, `release` says that it is not used any more.
3. The sender takes the slot back (`reclaim`) when control messages tell that the payload was used or never will be:
   a sequence's slot is free again when the sequence is drafted for anew, or released.
4. `close`, at the end of either peer or after any failure. A channel never heals: a new one, of a later generation,
   takes its place. A payload that cannot be had costs its sequence the drafts of one step and nothing else.

All failures are `ChannelError`. An end is used by one thread at a time: the handshake by a helper thread, so that no
step waits for a peer, and the rest by the engine thread. Only `close` may be called by any thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from minedraft.channel.slots import SlotTable
from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec, PayloadRef

DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "uint8": torch.uint8}
DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
HANDSHAKE_SECONDS: Final = 5.0  # for each of offer, join and seal
RECEIVE_SECONDS: Final = 2.0  # for a payload whose reference is here already


class ChannelEnd(ABC):
    """One side of a channel, before and after it is open."""

    def __init__(self, spec: ChannelSpec) -> None:
        self.spec = spec

    @abstractmethod
    def offer(self) -> bytes:
        """The owner's first message: where its memory is, or how to call it. Raises ChannelError."""

    @abstractmethod
    def join(self, offer: bytes) -> bytes:
        """The guest's answer to an offer. Returns without waiting for the owner. Raises ChannelError."""

    @abstractmethod
    def seal(self, answer: bytes) -> None:
        """The owner's last part, after which both ends may be used. Raises ChannelError within HANDSHAKE_SECONDS."""

    @abstractmethod
    def close(self) -> None:
        """Free what this end holds. Never raises, never waits for the peer, may be called twice and by any thread."""


class Link(Protocol):
    """What both kinds of end of a channel do alike: the handshake, and the end."""

    def offer(self) -> bytes: ...

    def join(self, offer: bytes) -> bytes: ...

    def seal(self, answer: bytes) -> None: ...

    def close(self) -> None: ...


L = TypeVar("L", bound=Link)


class LinkedEnd(ChannelEnd, Generic[L]):
    """An end that leaves handshake and end to its link. To be named before SenderEnd or ReceiverEnd."""

    def __init__(self, spec: ChannelSpec, link: L) -> None:
        super().__init__(spec)
        self._link = link

    def offer(self) -> bytes:
        return self._link.offer()

    def join(self, offer: bytes) -> bytes:
        return self._link.join(offer)

    def seal(self, answer: bytes) -> None:
        self._link.seal(answer)

    def close(self) -> None:
        self._link.close()


class SenderEnd(ChannelEnd):
    """The side that writes."""

    def __init__(self, spec: ChannelSpec) -> None:
        super().__init__(spec)
        self._slots = SlotTable(spec.slots)

    def acquire(self) -> int | None:
        """A free slot; None when all are in use, which is no failure."""
        return self._slots.acquire()

    @abstractmethod
    def write(self, slot: int, tensor: Tensor, offset: int = 0) -> None:
        """Copy a tensor of any dtype, shape and device into an acquired slot, `offset` bytes from its start.

        Raises ChannelError when it does not fit, or the channel is closed.
        """

    def publish(self, slot: int, dtype: torch.dtype, shape: tuple[int, ...]) -> PayloadRef:
        """A reference to what was written. When this returns, the bytes are where the receiver can get them, or on
        their way. Raises ChannelError."""
        nbytes = prod(shape) * dtype.itemsize
        self._check_room(slot, nbytes)
        sequence = self._slots.publish(slot)
        spec = self.spec
        ref = PayloadRef(spec.channel_id, spec.generation, slot, sequence, nbytes, DTYPE_NAMES[dtype], shape)
        self._publish(ref)
        return ref

    def reclaim(self, slot: int) -> None:
        """The payload in this slot was used, or never will be."""
        self._slots.reclaim(slot)

    @property
    def free_slots(self) -> int:
        return self._slots.free

    @abstractmethod
    def _publish(self, ref: PayloadRef) -> None:
        """Make the payload reachable: write its header, record its event, or send it."""

    def _check_room(self, slot: int, end: int) -> None:
        if end > self.spec.slot_bytes:
            raise ChannelError(f"{end} bytes do not fit into slot {slot} of {self.spec.slot_bytes} bytes")


class ReceiverEnd(ChannelEnd):
    """The side that reads."""

    @abstractmethod
    def receive(self, ref: PayloadRef) -> Tensor:
        """The payload, with the reference's dtype and shape. It may be a view of the slot: valid until `release`, to be
        read only. Waits RECEIVE_SECONDS at most for bytes that are on their way.

        Raises ChannelError when the reference is another channel's or generation's, does not fit the ring, or does not
        agree with what is in the slot.
        """

    @abstractmethod
    def release(self, ref: PayloadRef) -> None:
        """The payload is not used any more. Raises ChannelError when it was overwritten while it was in use."""

    def check(self, ref: PayloadRef) -> None:
        """Raises ChannelError for a reference that cannot be to a payload of this channel."""
        spec = self.spec
        if ref.channel_id != spec.channel_id or ref.generation != spec.generation:
            raise ChannelError(
                f"a payload of channel {ref.channel_id}, generation {ref.generation}; "
                f"open is {spec.channel_id}, generation {spec.generation}"
            )
        if not 0 <= ref.slot < spec.slots or not 0 <= ref.nbytes <= spec.slot_bytes:
            raise ChannelError(
                f"slot {ref.slot} with {ref.nbytes} bytes in a ring of {spec.slots} slots of {spec.slot_bytes} bytes"
            )
        dtype = DTYPES.get(ref.dtype)
        if dtype is None or prod(ref.shape) * dtype.itemsize != ref.nbytes:
            raise ChannelError(f"{ref.nbytes} bytes are not {list(ref.shape)} of {ref.dtype or 'no dtype'}")


def as_bytes(tensor: Tensor) -> Tensor:
    """A tensor's elements in order, as uint8 [nbytes], without a copy where it is contiguous."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def shaped(flat: Tensor, ref: PayloadRef) -> Tensor:
    """uint8 [at least nbytes] -> the payload as its reference describes it, without a copy. Raises ChannelError."""
    try:
        return flat[: ref.nbytes].view(DTYPES[ref.dtype]).view(ref.shape)
    except (RuntimeError, OverflowError) as error:  # extents that torch cannot count, beside one that is 0
        raise ChannelError(f"no tensor has the shape {list(ref.shape)}") from error
