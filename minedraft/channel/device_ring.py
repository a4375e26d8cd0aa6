"""A ring of slots in GPU memory outside torch's allocator: allocated by one process, mapped by another.

Memory is given back when the last tensor over it is gone: see `device_memory`. The owner's waits for the guest's lease
besides, since cuda.h leaves it undefined to free what an importer has open: see `ring_lease`. The primary context is
retained for as long as memory is held in it. Not yet run on a GPU.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from torch import Tensor

from minedraft.channel.cuda_driver import CudaDriver
from minedraft.channel.device_memory import DeviceMemory, DeviceSpan
from minedraft.channel.payload_header import HEADER_BYTES
from minedraft.channel.ring_lease import LeaseAddress, RingLease, take_lease
from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec

GRANULE: Final = 2 << 20  # allocations are rounded up to this: the driver exports whole blocks of it
ALIGNMENT: Final = 512  # of slots, bytes
NONCE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class RingExport:
    """How another process opens a ring."""

    handle: bytes  # HANDLE_BYTES of cuda_driver
    lease: LeaseAddress


class DeviceRing:
    """A mapped ring as tensors on its GPU."""

    def __init__(self, spec: ChannelSpec, flat: Tensor, ordinal: int) -> None:
        """`flat` is uint8 [ring_bytes(spec)] on cuda:ordinal."""
        head = NONCE_BYTES + spec.slots * HEADER_BYTES
        stride = _up(spec.slot_bytes, ALIGNMENT)
        start = _up(head, ALIGNMENT)
        self.ordinal = ordinal
        self.nonce = flat[:NONCE_BYTES]
        self.headers = flat[NONCE_BYTES:head].view(spec.slots, HEADER_BYTES)
        self.slots = flat[start : start + spec.slots * stride].view(spec.slots, stride)[:, : spec.slot_bytes]


def ring_bytes(spec: ChannelSpec) -> int:
    """The size of a ring's allocation."""
    head = _up(NONCE_BYTES + spec.slots * HEADER_BYTES, ALIGNMENT)
    return _up(head + spec.slots * _up(spec.slot_bytes, ALIGNMENT), GRANULE)


def allocate_ring(
    spec: ChannelSpec, driver: CudaDriver, memory: DeviceMemory, ordinal: int
) -> tuple[DeviceRing, RingExport]:
    """The owner's side. What is in the ring is not cleared. Raises ChannelError."""
    nbytes = ring_bytes(spec)
    lease = RingLease(f"minedraft-ring-{secrets.token_hex(8)}")
    try:
        address = _in_kept_context(driver, ordinal, partial(driver.allocate, nbytes))
    except ChannelError as error:
        lease.when_vacant(_nothing)
        raise ChannelError(f"no {nbytes >> 20} MiB on cuda:{ordinal} for {spec.slots} slots: {error}") from error
    span = DeviceSpan(address, nbytes, partial(_free, driver, ordinal, address, lease))
    with driver.context(ordinal):
        handle = driver.export(address)
    return DeviceRing(spec, memory.wrap(span, ordinal), ordinal), RingExport(handle, lease.address)


def open_ring(
    spec: ChannelSpec, export: RingExport, driver: CudaDriver, memory: DeviceMemory, ordinal: int
) -> DeviceRing:
    """The guest's side: the same memory, on the same GPU as the guest counts it. Raises ChannelError."""
    lease = take_lease(export.lease)
    try:
        address = _in_kept_context(driver, ordinal, partial(driver.open, export.handle))
    except ChannelError:
        os.close(lease)
        raise
    span = DeviceSpan(address, ring_bytes(spec), partial(_unmap, driver, ordinal, address, lease))
    return DeviceRing(spec, memory.wrap(span, ordinal), ordinal)


def _in_kept_context(driver: CudaDriver, ordinal: int, action: Callable[[], int]) -> int:
    """The result of `action` in the primary context, which stays retained when it succeeds."""
    driver.retain(ordinal)
    try:
        with driver.context(ordinal):
            return action()
    except ChannelError:
        _release(driver, ordinal)
        raise


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _free(driver: CudaDriver, ordinal: int, address: int, lease: RingLease) -> None:
    """The owner's end of a ring: synchronise, wait for the guest's lease, free. Never raises."""
    _wait_for_work(driver, ordinal)
    lease.when_vacant(partial(_free_now, driver, ordinal, address))


def _free_now(driver: CudaDriver, ordinal: int, address: int) -> None:
    # A ChannelError in any of these means that the context is lost, and its memory with it.
    with suppress(ChannelError), driver.context(ordinal):
        driver.free(address)
    _release(driver, ordinal)


def _unmap(driver: CudaDriver, ordinal: int, address: int, lease: int) -> None:
    """The guest's end of a ring: synchronise, close the handle, give up the lease. Never raises."""
    _wait_for_work(driver, ordinal)
    with suppress(ChannelError), driver.context(ordinal):
        driver.close(address)
    _release(driver, ordinal)
    os.close(lease)


def _wait_for_work(driver: CudaDriver, ordinal: int) -> None:
    with suppress(ChannelError), driver.context(ordinal):
        driver.synchronise()


def _release(driver: CudaDriver, ordinal: int) -> None:
    with suppress(ChannelError):
        driver.release(ordinal)


def _nothing() -> None:
    """There is nothing to free."""
