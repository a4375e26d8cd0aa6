"""The cuda_ipc channel: a ring in one GPU's memory that both processes map.

The owner allocates the ring once, outside torch's allocator, and exports it; the guest opens it once. After that only
references travel. The design is that of TensorPipe's cuda_ipc channel, but for its events: a sender here waits for its
own stream before it publishes, so that no GPU ever waits for another process, which may be dead.

Each slot's header stands in the ring itself: whoever can read the payload reads its header the same way, and a sender
on another GPU cannot write one without the other arriving in its order. It is wiped before the first byte of a payload
is written and set after the last, so a receiver that reads it before and after use sees any overrun.

Payloads come on the ring's GPU, which is the owner's; a guest on another GPU sees it by peer access. `close` unmaps the
ring once no payload is in use any more, and the owner's memory is freed once the guest has let go: see `device_ring`.
Not yet run on a GPU.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch
from torch import Tensor

from minedraft.channel.base import LinkedEnd, ReceiverEnd, SenderEnd, as_bytes, shaped
from minedraft.channel.cuda_driver import HANDLE_BYTES, CudaDriver, installed_driver
from minedraft.channel.device_memory import CudaMemory, DeviceMemory
from minedraft.channel.device_message import decode, encode
from minedraft.channel.device_ring import NONCE_BYTES, DeviceRing, RingExport, allocate_ring, open_ring, ring_bytes
from minedraft.channel.payload_header import PayloadHeader
from minedraft.channel.ring_lease import LeaseAddress
from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec, PayloadRef


@dataclass(frozen=True, slots=True)
class Offer:
    """The owner's first message."""

    handle: str  # 64 bytes as hexadecimal
    nbytes: int  # of the allocation
    gpu: str  # UUID
    process: int  # the owner's, as the driver sees it
    lease_pid: int
    lease_fd: int
    lease_name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The guest's: what it read in the ring, as proof that both map the same memory."""

    nonce: str  # hexadecimal


class CudaIpcLink:
    """What the sender and the receiver of this kind have in common: the ring, from handshake to close."""

    def __init__(self, spec: ChannelSpec, device: torch.device, driver: CudaDriver, memory: DeviceMemory) -> None:
        self._spec = spec
        self._ordinal = device.index or 0  # torch's own default where no index is given
        self._driver = driver
        self._memory = memory
        self._ring: DeviceRing | None = None
        self._nonce = b""

    @property
    def ring(self) -> DeviceRing:
        """Raises ChannelError when the channel is not open. A ring in hand stays mapped whatever `close` does."""
        ring = self._ring
        if ring is None:
            raise ChannelError("the cuda_ipc channel is closed, or not open yet")
        return ring

    def offer(self) -> bytes:
        driver = self._driver
        ring, export = allocate_ring(self._spec, driver, self._memory, self._ordinal)
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        ring.headers.zero_()
        ring.nonce.copy_(torch.frombuffer(bytearray(self._nonce), dtype=torch.uint8))
        self._memory.synchronise(self._ordinal)
        self._ring = ring
        message = Offer(
            handle=export.handle.hex(),
            nbytes=ring_bytes(self._spec),
            gpu=driver.device_uuid(self._ordinal),
            process=driver.process_id,
            lease_pid=export.lease.pid,
            lease_fd=export.lease.fd,
            lease_name=export.lease.name,
        )
        return encode(message, self._spec)

    def join(self, offer: bytes) -> bytes:
        found = decode(Offer, offer, self._spec)
        handle = _hexadecimal(found.handle, HANDLE_BYTES)
        if found.nbytes != ring_bytes(self._spec):
            raise ChannelError(f"a ring of {found.nbytes} bytes, this channel's has {ring_bytes(self._spec)}")
        if found.process == self._driver.process_id:
            raise ChannelError("CUDA IPC works between processes, and both ends are in this one")
        ordinal = self._driver.ordinal_of(found.gpu)
        export = RingExport(handle, LeaseAddress(found.lease_pid, found.lease_fd, found.lease_name))
        self._ring = open_ring(self._spec, export, self._driver, self._memory, ordinal)
        return encode(Answer(self._ring.nonce.cpu().numpy().tobytes().hex()), self._spec)

    def seal(self, answer: bytes) -> None:
        found = decode(Answer, answer, self._spec)
        if not self._nonce or _hexadecimal(found.nonce, NONCE_BYTES) != self._nonce:
            raise ChannelError("the peer read something else in the ring than was written there")

    def close(self) -> None:
        self._ring = None  # the last tensor over the ring gives it back: this one, unless a payload is in use

    def settle(self) -> None:
        """Wait until what was written is in the ring."""
        self._memory.synchronise(self.ring.ordinal)


class CudaIpcSender(LinkedEnd[CudaIpcLink], SenderEnd):
    """Writes payloads into the ring, from any device."""

    def __init__(
        self,
        spec: ChannelSpec,
        device: torch.device,
        driver: CudaDriver | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        """`device` is this end's GPU. The driver is this machine's unless another is given. Raises ChannelError."""
        link = CudaIpcLink(spec, device, driver or installed_driver(), memory or CudaMemory())
        super().__init__(spec, link)
        self._begun: set[int] = set()  # slots whose header is wiped

    def write(self, slot: int, tensor: Tensor, offset: int = 0) -> None:
        ring = self._link.ring
        source = as_bytes(tensor)
        self._check_room(slot, offset + source.numel())
        self._begin(ring, slot)
        ring.slots[slot, offset : offset + source.numel()].copy_(source)

    def _publish(self, ref: PayloadRef) -> None:
        ring = self._link.ring
        self._begin(ring, ref.slot)
        ring.headers[ref.slot].copy_(PayloadHeader.of(ref).pack())
        self._begun.discard(ref.slot)
        self._link.settle()

    def _begin(self, ring: DeviceRing, slot: int) -> None:
        if slot not in self._begun:
            ring.headers[slot].zero_()
            self._begun.add(slot)


class CudaIpcReceiver(LinkedEnd[CudaIpcLink], ReceiverEnd):
    """Reads payloads where they are, on the owner's GPU."""

    def __init__(
        self,
        spec: ChannelSpec,
        device: torch.device,
        driver: CudaDriver | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        """See CudaIpcSender."""
        link = CudaIpcLink(spec, device, driver or installed_driver(), memory or CudaMemory())
        super().__init__(spec, link)

    def receive(self, ref: PayloadRef) -> Tensor:
        self.check(ref)
        ring = self._link.ring
        self._confirm(ring, ref, "its slot does not hold it")
        return shaped(ring.slots[ref.slot], ref)

    def release(self, ref: PayloadRef) -> None:
        # Reading the header waits for the calling thread's stream, and so for its work on the payload.
        self.check(ref)
        self._confirm(self._link.ring, ref, "it was overwritten while it was in use")

    def _confirm(self, ring: DeviceRing, ref: PayloadRef, problem: str) -> None:
        if PayloadHeader.unpack(ring.headers[ref.slot]) != PayloadHeader.of(ref):
            raise ChannelError(f"payload {ref.sequence} in slot {ref.slot}: {problem}")


def _hexadecimal(text: str, nbytes: int) -> bytes:
    """Raises ChannelError when the text is anything else than so many bytes."""
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise ChannelError("the handshake's bytes are not hexadecimal") from error
    if len(data) != nbytes:
        raise ChannelError(f"the handshake has {len(data)} bytes where {nbytes} belong")
    return data
