"""Device memory that torch did not allocate, as tensors. Not yet run on a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from minedraft.errors import ChannelError


class DeviceSpan:
    """A piece of device memory. It is given back when the last tensor over it is gone, not before.

    That order is what keeps a `close` by another thread from unmapping memory under a kernel: whoever uses the memory
    holds a tensor, every tensor holds the span, and `give_back` begins by waiting for the device.
    """

    def __init__(self, address: int, nbytes: int, give_back: Callable[[], None]) -> None:
        """`give_back` must not refer to the span. It may be called by any thread."""
        self.address = address
        self.nbytes = nbytes
        # Not at exit: the driver tears down what is left, and torch's own shutdown may have begun.
        weakref.finalize(self, give_back).atexit = False


class DeviceMemory(Protocol):
    """What the cuda_ipc channel asks of torch. The tests have a CPU twin."""

    def wrap(self, span: DeviceSpan, ordinal: int) -> Tensor:
        """The span as uint8 [nbytes] on the device, without a copy. The tensor's storage holds the span."""

    def synchronise(self, ordinal: int) -> None:
        """Wait for what the calling thread enqueued on the device. Raises ChannelError."""


class CudaMemory:
    """DeviceMemory of a real GPU."""

    def wrap(self, span: DeviceSpan, ordinal: int) -> Tensor:
        # torch.as_tensor keeps a reference to the object until the storage is gone (tensor_numpy.cpp in torch).
        try:
            return torch.as_tensor(_CudaArray(span), device=torch.device("cuda", ordinal))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ChannelError(f"torch cannot use {span.nbytes} bytes on cuda:{ordinal}: {error}") from error

    def synchronise(self, ordinal: int) -> None:
        try:
            torch.cuda.current_stream(ordinal).synchronize()
        except RuntimeError as error:
            raise ChannelError(f"cuda:{ordinal} failed: {error}") from error


class _CudaArray:
    """A span as numba's CUDA array interface describes memory: flat bytes, writable."""

    def __init__(self, span: DeviceSpan) -> None:
        self.span = span

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.span.nbytes,),
            "typestr": "|u1",
            "data": (self.span.address, False),
            "strides": None,
            "version": 2,
        }
