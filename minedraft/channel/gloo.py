"""TCP between two services by torch.distributed's gloo: the way between hosts without GPUs, and NCCL's twin on CPUs.

A payload is two messages: a header of fixed size, then exactly as many bytes as it says, because gloo aborts the
process of a receiver whose buffer is smaller than what is sent. One thread on each side does all sends, or all
receives, in order; the receiver always has a receive posted, so a payload is there when its reference comes, and one
whose reference was lost on the way is simply received too. Whatever fails ends the pair for good.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Final

import torch
from torch import Tensor

from minedraft.channel.base import RECEIVE_SECONDS, ChannelEnd, ReceiverEnd, SenderEnd, as_bytes, shaped
from minedraft.channel.gloo_pair import GlooPair
from minedraft.channel.payload_header import HEADER_BYTES, PayloadHeader
from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec, PayloadRef

SEND_SECONDS: Final = 10.0  # for one message
OWNER: Final = 0  # the ranks
GUEST: Final = 1


class GlooEnd(ChannelEnd):
    """What both ends share: a rank, and a thread once it is known. The owner is rank 0."""

    def __init__(self, spec: ChannelSpec, host: str) -> None:
        super().__init__(spec)
        self._host = host
        self._pair: GlooPair | None = None
        self._closed = False

    def offer(self) -> bytes:
        return self._begin(OWNER).start()

    def join(self, offer: bytes) -> bytes:
        pair = self._begin(GUEST)
        pair.give(offer)
        return pair.start()

    def seal(self, answer: bytes) -> None:
        pair = self._connected()
        pair.give(answer)
        pair.wait()

    def close(self) -> None:
        self._closed = True
        if self._pair is not None:
            self._pair.close()

    def _begin(self, rank: int) -> GlooPair:
        if self._pair is not None or self._closed:
            raise ChannelError("the gloo channel is closed, or was opened before")
        self._pair = GlooPair(rank, self._host)
        threading.Thread(target=self._work, args=(self._pair,), name="gloo channel", daemon=True).start()
        return self._pair

    def _connected(self) -> GlooPair:
        if self._pair is None or self._closed:
            raise ChannelError("the gloo channel is closed")
        return self._pair

    def _work(self, pair: GlooPair) -> None:
        """Do this end's messages until the pair ends."""
        raise NotImplementedError


class GlooSender(GlooEnd, SenderEnd):
    """Sends from buffers of its own, one a slot."""

    def __init__(self, spec: ChannelSpec, host: str) -> None:
        super().__init__(spec, host)
        self._buffers: dict[int, Tensor] = {}  # slot -> uint8 [slot_bytes], made at its first use
        self._outgoing: SimpleQueue[PayloadRef | None] = SimpleQueue()
        self._problem = ""

    def close(self) -> None:
        super().close()
        self._outgoing.put(None)

    def write(self, slot: int, tensor: Tensor, offset: int = 0) -> None:
        self._check_alive()
        flat = as_bytes(tensor)
        self._check_room(slot, offset + len(flat))
        buffer = self._buffers.get(slot)
        if buffer is None:
            buffer = self._buffers[slot] = torch.empty(self.spec.slot_bytes, dtype=torch.uint8)
        buffer[offset : offset + len(flat)].copy_(flat)

    def _publish(self, ref: PayloadRef) -> None:
        self._check_alive()
        self._outgoing.put(ref)

    def _check_alive(self) -> None:
        self._connected()
        if self._problem:
            raise ChannelError(self._problem)

    def _work(self, pair: GlooPair) -> None:
        try:
            pair.wait(2 * SEND_SECONDS)
            while (ref := self._outgoing.get()) is not None and not self._closed:
                pair.send(PayloadHeader.of(ref).pack(), SEND_SECONDS)
                if ref.nbytes:
                    pair.send(self._buffers[ref.slot][: ref.nbytes], SEND_SECONDS)
        except ChannelError as error:
            self._problem = str(error)
        pair.close()


class GlooReceiver(GlooEnd, ReceiverEnd):
    """Receives into buffers of its own, one a slot: the sender decides when a slot is used anew."""

    def __init__(self, spec: ChannelSpec, host: str) -> None:
        super().__init__(spec, host)
        self._changed = threading.Condition()  # guards what follows
        self._buffers: dict[int, Tensor] = {}  # slot -> uint8 [slot_bytes], made at its first use
        self._complete: dict[int, PayloadHeader] = {}  # slot -> what its buffer holds
        self._problem = ""

    def close(self) -> None:
        super().close()
        with self._changed:
            self._changed.notify_all()

    def receive(self, ref: PayloadRef) -> Tensor:
        self.check(ref)
        wanted = PayloadHeader.of(ref)
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or bool(self._problem) or self._complete.get(ref.slot) == wanted, RECEIVE_SECONDS
            )
            self._connected()
            if self._complete.get(ref.slot) != wanted:
                raise ChannelError(self._problem or f"payload {ref.sequence} did not arrive in slot {ref.slot}")
            return shaped(self._buffers[ref.slot], ref)

    def release(self, ref: PayloadRef) -> None:
        self.check(ref)
        self._connected()
        with self._changed:
            if self._complete.get(ref.slot) != PayloadHeader.of(ref):
                raise ChannelError(f"payload {ref.sequence} was overwritten while it was in use")

    def _work(self, pair: GlooPair) -> None:
        header = torch.empty(HEADER_BYTES, dtype=torch.uint8)
        try:
            pair.wait(2 * SEND_SECONDS)
            while not self._closed:
                pair.receive(header, None)
                self._take(pair, header)
        except ChannelError as error:
            with self._changed:
                self._problem = str(error)
                self._changed.notify_all()
        pair.close()

    def _take(self, pair: GlooPair, packed: Tensor) -> None:
        """Receive the payload that a header announces. Raises ChannelError."""
        header = PayloadHeader.unpack(packed)
        if header is None or not 0 <= header.slot < self.spec.slots or header.nbytes > self.spec.slot_bytes:
            raise ChannelError("a header does not fit the ring")
        with self._changed:
            self._complete.pop(header.slot, None)
            buffer = self._buffers.get(header.slot)
            if buffer is None:
                buffer = self._buffers[header.slot] = torch.empty(self.spec.slot_bytes, dtype=torch.uint8)
        if header.nbytes:
            pair.receive(buffer[: header.nbytes], SEND_SECONDS)
        with self._changed:
            self._complete[header.slot] = header
            self._changed.notify_all()
