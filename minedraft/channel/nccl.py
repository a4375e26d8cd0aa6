"""The nccl channel: from one GPU to another, of this host or of another one.

Each payload is two messages, a header of 64 bytes and then the payload's bytes, in this order and in the order of
sequence numbers. The sender enqueues both as one group when it publishes. The receiver posts a receive only when it has
a reference, which says that the peer sends; it takes the header first, because only that says how many bytes follow,
and NCCL leaves a count that does not match undefined. The ring of the receiver mirrors the sender's: the header names
the slot. References that were dropped on their way leave payloads behind, which the next `receive` takes off the line.

A send stays on the sender's stream until the receiver comes for it, and reads its slot as late as that. So a slot whose
reference was dropped stays out of use until its send is done. When no slot is left and such a send has waited for
RECEIVE_SECONDS, nobody comes for it: the channel fails then, and a new one takes its place. Until then its kernel waits
on the GPU, and so does whatever waits for the whole device, as cudaMalloc and cudaFree may.

Not yet run on a GPU.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Final

import torch
from torch import Tensor

from minedraft.channel.base import RECEIVE_SECONDS, LinkedEnd, ReceiverEnd, SenderEnd, as_bytes, shaped
from minedraft.channel.nccl_library import Nccl4py, NcclCommunicator, NcclLibrary
from minedraft.channel.nccl_link import NcclLink
from minedraft.channel.payload_header import HEADER_BYTES, PayloadHeader
from minedraft.channel.side_stream import CudaSideStream, Mark, SideStream
from minedraft.channel.slots import SlotState
from minedraft.errors import ChannelError, InternalError
from minedraft.types import ChannelSpec, PayloadRef

WARM_UP: Final = 0  # the sequence number of the payload that both ends exchange while they open


class NcclSender(LinkedEnd[NcclLink], SenderEnd):
    """Keeps a ring on its own GPU and sends from there."""

    def __init__(
        self,
        spec: ChannelSpec,
        device: torch.device,
        library: NcclLibrary | None = None,
        stream: SideStream | None = None,
    ) -> None:
        """`device` is this end's GPU. NCCL is nccl4py's unless another is given. Raises ChannelError."""
        super().__init__(spec, NcclLink(spec, library or Nccl4py(), stream or CudaSideStream(device)))
        self._link.warm_up_by(self._warm_up)
        self._ring = _ring(spec, self._link)
        self._headers = _headers(spec.slots, self._link)
        self._marks: dict[int, Mark] = {}  # by slot, of sends that may not be done
        self._waiting: dict[int, float] = {}  # slots that were reclaimed while their send was under way, and since when

    def acquire(self) -> int | None:
        self._sweep()
        return super().acquire()

    def reclaim(self, slot: int) -> None:
        if slot in self._waiting:
            raise InternalError(f"slot {slot} is reclaimed already")
        if self._slots.state(slot) is SlotState.PUBLISHED and not self._sent(slot):
            self._waiting[slot] = time.monotonic()
        else:
            super().reclaim(slot)

    @property
    def free_slots(self) -> int:
        self._sweep()
        return super().free_slots

    def write(self, slot: int, tensor: Tensor, offset: int = 0) -> None:
        self._link.check()
        source = as_bytes(tensor)
        self._check_room(slot, offset + source.numel())
        self._ring[slot, offset : offset + source.numel()].copy_(source)

    def _publish(self, ref: PayloadRef) -> None:
        self._link.wait_open(RECEIVE_SECONDS)
        self._marks[ref.slot] = self._send(PayloadHeader.of(ref), time.monotonic() + RECEIVE_SECONDS)

    def _send(self, header: PayloadHeader, deadline: float) -> Mark:
        self._headers[header.slot].copy_(header.pack())
        pieces = [self._headers[header.slot], self._ring[header.slot, : header.nbytes]]
        stream = self._link.stream.handle
        send = partial(_post_send, pieces if header.nbytes else pieces[:1], stream)
        return self._link.post(send, deadline)

    def _warm_up(self, deadline: float) -> None:
        spec = self.spec
        mark = self._send(PayloadHeader(0, spec.generation, WARM_UP, spec.slot_bytes), deadline)
        self._link.wait(mark, deadline)

    def _sent(self, slot: int) -> bool:
        """Whether the slot's send is over, or never will be because the channel is."""
        try:
            self._link.check()
            return slot not in self._marks or self._marks[slot].done()
        except ChannelError:
            return True

    def _sweep(self) -> None:
        """Free the slots whose late sends are done. Give the channel up when one is late and no slot is left."""
        self._free_sent()
        if self._waiting and not super().free_slots:
            late = time.monotonic() - min(self._waiting.values())
            if late > RECEIVE_SECONDS:
                self._link.fail(f"no slot is free, and for {late:.1f} s nobody has taken a payload")
                self._free_sent()

    def _free_sent(self) -> None:
        for slot in [slot for slot in self._waiting if self._sent(slot)]:
            del self._waiting[slot]
            super().reclaim(slot)


class NcclReceiver(LinkedEnd[NcclLink], ReceiverEnd):
    """Takes payloads into a ring on its own GPU."""

    def __init__(
        self,
        spec: ChannelSpec,
        device: torch.device,
        library: NcclLibrary | None = None,
        stream: SideStream | None = None,
    ) -> None:
        """See NcclSender."""
        super().__init__(spec, NcclLink(spec, library or Nccl4py(), stream or CudaSideStream(device)))
        self._link.warm_up_by(self._warm_up)
        self._ring = _ring(spec, self._link)
        self._header = _headers(1, self._link)[0]
        self._taken = WARM_UP  # the last sequence number that came
        self._in_slot: dict[int, PayloadHeader] = {}

    def receive(self, ref: PayloadRef) -> Tensor:
        self.check(ref)
        deadline = time.monotonic() + RECEIVE_SECONDS
        self._link.wait_open(RECEIVE_SECONDS)
        while self._taken < ref.sequence:
            header = self._take(self._taken + 1, deadline)
            self._in_slot[header.slot] = header
            self._taken = header.sequence
        self._confirm(ref, "its slot does not hold it")
        return shaped(self._ring[ref.slot], ref)

    def release(self, ref: PayloadRef) -> None:
        self.check(ref)
        self._link.check()
        self._confirm(ref, "it was overwritten while it was in use")

    def _take(self, sequence: int, deadline: float) -> PayloadHeader:
        """The next payload, whatever it is, into its slot."""
        self._recv(self._header, deadline)
        header = self._next_header(sequence)
        if header.nbytes:
            self._recv(self._ring[header.slot, : header.nbytes], deadline)
        return header

    def _recv(self, piece: Tensor, deadline: float) -> None:
        mark = self._link.post(partial(_post_recv, piece, self._link.stream.handle), deadline)
        self._link.wait(mark, deadline)

    def _next_header(self, sequence: int) -> PayloadHeader:
        """What came, which must be this payload. After anything else the ends are out of step for good."""
        spec = self.spec
        try:
            header = PayloadHeader.unpack(self._header)
            if header is None or (header.generation, header.sequence) != (spec.generation, sequence):
                raise ChannelError(f"the peer sent {header} where payload {sequence} belongs")
            if not 0 <= header.slot < spec.slots or header.nbytes > spec.slot_bytes:
                raise ChannelError(f"the peer sent {header}, which does not fit the ring")
        except ChannelError as error:
            self._link.fail(str(error))
            raise
        return header

    def _warm_up(self, deadline: float) -> None:
        self._take(WARM_UP, deadline)

    def _confirm(self, ref: PayloadRef, problem: str) -> None:
        if self._in_slot.get(ref.slot) != PayloadHeader.of(ref):
            raise ChannelError(f"payload {ref.sequence} in slot {ref.slot}: {problem}")


def _ring(spec: ChannelSpec, link: NcclLink) -> Tensor:
    """uint8 [slots, slot_bytes] on the link's GPU."""
    return link.hold(link.stream.empty(spec.slots * spec.slot_bytes)).view(spec.slots, spec.slot_bytes)


def _headers(count: int, link: NcclLink) -> Tensor:
    """uint8 [count, HEADER_BYTES] on the link's GPU."""
    return link.hold(link.stream.empty(count * HEADER_BYTES)).view(count, HEADER_BYTES)


def _post_send(pieces: list[Tensor], stream: int, communicator: NcclCommunicator) -> None:
    communicator.send(pieces, stream)


def _post_recv(piece: Tensor, stream: int, communicator: NcclCommunicator) -> None:
    communicator.recv(piece, stream)
