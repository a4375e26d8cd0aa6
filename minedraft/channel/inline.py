"""The channel that always works: payloads travel in chunks over the gRPC streams, through the coordinator."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from minedraft.channel.base import RECEIVE_SECONDS, ReceiverEnd, SenderEnd, as_bytes, shaped
from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec, PayloadChunk, PayloadRef

CHUNK_BYTES: Final = 1 << 20


class InlineSender(SenderEnd):
    """Keeps each slot in memory of its own, and hands published payloads to `send` chunk by chunk."""

    def __init__(self, spec: ChannelSpec, send: Callable[[PayloadChunk], None]) -> None:
        super().__init__(spec)
        self._send = send
        self._buffers: dict[int, Tensor] = {}  # slot -> uint8 [slot_bytes], made at its first use
        self._closed = False

    def offer(self) -> bytes:
        return b""

    def join(self, offer: bytes) -> bytes:
        return b""

    def seal(self, answer: bytes) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        self._closed = True

    def write(self, slot: int, tensor: Tensor, offset: int = 0) -> None:
        self._check_open()
        flat = as_bytes(tensor)
        self._check_room(slot, offset + len(flat))
        buffer = self._buffers.get(slot)
        if buffer is None:
            buffer = self._buffers[slot] = torch.empty(self.spec.slot_bytes, dtype=torch.uint8)
        buffer[offset : offset + len(flat)].copy_(flat)

    def _publish(self, ref: PayloadRef) -> None:
        self._check_open()
        for offset in range(0, max(ref.nbytes, 1), CHUNK_BYTES):
            end = min(offset + CHUNK_BYTES, ref.nbytes)
            data = self._buffers[ref.slot][offset:end].numpy().tobytes() if end else b""
            self._send(PayloadChunk(ref.channel_id, ref.generation, ref.slot, ref.sequence, ref.nbytes, offset, data))

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelError("the inline channel is closed")


class _Arriving:
    """One slot's newest payload, complete or not."""

    def __init__(self, sequence: int, nbytes: int) -> None:
        self.sequence = sequence
        # Chunks may overlap and leave holes, through which nothing of this process's past may show.
        self.data = torch.zeros(nbytes, dtype=torch.uint8)
        self.missing = nbytes


class InlineReceiver(ReceiverEnd):
    """Puts chunks together. `take` is called by another thread than the rest."""

    def __init__(self, spec: ChannelSpec) -> None:
        super().__init__(spec)
        self._changed = threading.Condition()  # guards what follows
        self._slots: dict[int, _Arriving] = {}
        self._closed = False

    def offer(self) -> bytes:
        return b""

    def join(self, offer: bytes) -> bytes:
        return b""

    def seal(self, answer: bytes) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._slots.clear()
            self._changed.notify_all()

    def take(self, chunk: PayloadChunk) -> None:
        """A chunk came. Those of other generations are ignored; raises ChannelError for one that cannot be."""
        spec = self.spec
        if (chunk.channel_id, chunk.generation) != (spec.channel_id, spec.generation):
            return
        end = chunk.offset + len(chunk.data)
        if not 0 <= chunk.slot < spec.slots or not 0 <= end <= chunk.nbytes <= spec.slot_bytes:
            raise ChannelError(f"a chunk of {end} of {chunk.nbytes} bytes for slot {chunk.slot} does not fit the ring")
        with self._changed:
            arriving = self._slots.get(chunk.slot)
            if self._closed or (arriving is not None and arriving.sequence > chunk.sequence):
                return
            if arriving is None or arriving.sequence != chunk.sequence or len(arriving.data) != chunk.nbytes:
                arriving = self._slots[chunk.slot] = _Arriving(chunk.sequence, chunk.nbytes)
            if chunk.data:
                arriving.data[chunk.offset : end].copy_(torch.frombuffer(bytearray(chunk.data), dtype=torch.uint8))
            arriving.missing -= len(chunk.data)
            self._changed.notify_all()

    def receive(self, ref: PayloadRef) -> Tensor:
        self.check(ref)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_here(ref), RECEIVE_SECONDS)
            if self._closed:
                raise ChannelError("the inline channel is closed")
            if not self._is_here(ref):
                raise ChannelError(f"payload {ref.sequence} did not arrive in slot {ref.slot}")
            return shaped(self._slots[ref.slot].data, ref)

    def release(self, ref: PayloadRef) -> None:
        """A payload has memory of its own: nothing can have overwritten it."""

    def _is_here(self, ref: PayloadRef) -> bool:
        arriving = self._slots.get(ref.slot)
        return (
            arriving is not None
            and arriving.sequence == ref.sequence
            and len(arriving.data) == ref.nbytes
            and arriving.missing == 0
        )
