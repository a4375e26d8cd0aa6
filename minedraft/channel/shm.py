"""Shared memory between two processes or containers of one host: a ring of slots in one mapped file.

The file begins with a word of the guest; then come a header for each slot, and the slots, each at a page of its own. A
payload is written once and read in place. There are no fences and no locks: one side writes a slot, the other reads it,
and the gRPC message that carries the reference orders the two.
"""

from __future__ import annotations

import json
import secrets
import threading
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from minedraft.channel.base import LinkedEnd, ReceiverEnd, SenderEnd, as_bytes, shaped
from minedraft.channel.payload_header import HEADER_BYTES, PayloadHeader
from minedraft.channel.segment import PAGE, Segment, sweep
from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec, PayloadRef

VERSION: Final = 1
WORD_BYTES: Final = 64  # of the guest, at the begin of the file


class ShmRing:
    """The mapped file as both ends see it. `close` may be called by any thread, the rest by one."""

    def __init__(self, spec: ChannelSpec, directory: Path) -> None:
        self._spec = spec
        self._directory = directory
        self._stride = -(-spec.slot_bytes // PAGE) * PAGE
        self._first = -(-(WORD_BYTES + spec.slots * HEADER_BYTES) // PAGE) * PAGE
        self._nbytes = self._first + spec.slots * self._stride
        self._gate = threading.Lock()  # guards what follows
        self._segment: Segment | None = None
        self._closed = False

    def offer(self) -> bytes:
        """Make the file. Removes those of earlier owners first."""
        sweep(self._directory)
        segment = self._hold(Segment.create(self._directory, self._nbytes))
        return json.dumps({"version": VERSION, "name": segment.name, "nbytes": self._nbytes}).encode()

    def join(self, offer: bytes) -> bytes:
        """Map the owner's file and leave a word in it."""
        try:
            fields = json.loads(offer)
            version, name, nbytes = fields["version"], str(fields["name"]), fields["nbytes"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ChannelError("the offer of a shared memory channel makes no sense") from error
        if version != VERSION or nbytes != self._nbytes:
            raise ChannelError(f"the peer's ring is not of version {VERSION} with {self._nbytes} bytes")
        word = secrets.token_bytes(WORD_BYTES)
        segment = self._hold(Segment.open(self._directory, name, self._nbytes))
        segment.bytes[:WORD_BYTES].copy_(torch.frombuffer(bytearray(word), dtype=torch.uint8))
        return word

    def seal(self, answer: bytes) -> None:
        """The guest has mapped the file: from here on it needs no name."""
        segment = self._open()
        if len(answer) != WORD_BYTES or segment.bytes[:WORD_BYTES].numpy().tobytes() != answer:
            raise ChannelError("the peer has mapped another file: give both services the same --shm-dir")
        segment.unlink()

    def close(self) -> None:
        with self._gate:
            segment, self._segment, self._closed = self._segment, None, True
        if segment is not None:
            segment.unlink()
            segment.close()

    def header(self, slot: int) -> Tensor:
        """uint8 [HEADER_BYTES], a view."""
        start = WORD_BYTES + slot * HEADER_BYTES
        return self._open().bytes[start : start + HEADER_BYTES]

    def slot(self, slot: int) -> Tensor:
        """uint8 [slot_bytes], a view."""
        start = self._first + slot * self._stride
        return self._open().bytes[start : start + self._spec.slot_bytes]

    def _hold(self, segment: Segment) -> Segment:
        with self._gate:
            if not self._closed and self._segment is None:
                self._segment = segment
                return segment
        segment.unlink()
        segment.close()
        raise ChannelError("the shared memory channel is closed, or was opened before")

    def _open(self) -> Segment:
        segment = self._segment
        if segment is None:
            raise ChannelError("the shared memory channel is closed")
        return segment


class ShmSender(LinkedEnd[ShmRing], SenderEnd):
    """The side that writes."""

    def __init__(self, spec: ChannelSpec, directory: Path) -> None:
        super().__init__(spec, ShmRing(spec, directory))

    def write(self, slot: int, tensor: Tensor, offset: int = 0) -> None:
        flat = as_bytes(tensor)
        self._check_room(slot, offset + len(flat))
        header = self._link.header(slot)
        if offset == 0:
            header.zero_()  # whoever still reads the former payload learns that it is over
        self._link.slot(slot)[offset : offset + len(flat)].copy_(flat)

    def _publish(self, ref: PayloadRef) -> None:
        self._link.header(ref.slot).copy_(PayloadHeader.of(ref).pack())


class ShmReceiver(LinkedEnd[ShmRing], ReceiverEnd):
    """The side that reads, in place."""

    def __init__(self, spec: ChannelSpec, directory: Path) -> None:
        super().__init__(spec, ShmRing(spec, directory))

    def receive(self, ref: PayloadRef) -> Tensor:
        self.check(ref)
        self._check_header(ref, "is not in its slot")
        return shaped(self._link.slot(ref.slot), ref)

    def release(self, ref: PayloadRef) -> None:
        self.check(ref)
        self._check_header(ref, "was overwritten while it was in use")

    def _check_header(self, ref: PayloadRef, otherwise: str) -> None:
        if PayloadHeader.unpack(self._link.header(ref.slot)) != PayloadHeader.of(ref):
            raise ChannelError(f"payload {ref.sequence} {otherwise}")
