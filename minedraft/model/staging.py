"""The way of small index arrays from the host to the model's device. Not yet run on a GPU.

A pass needs a handful of them (token ids, positions, slots, block tables), a few kilobytes. Copied one by one from
pageable memory, each costs a synchronous transfer; here all go in one asynchronous copy out of page-locked memory
(PyTorch, "CUDA semantics", Use pinned memory buffers). The copy is queued on the stream that computes: its first kernel
waits for it anyway, so a second stream would only add an event. On a CPU arrays are shared, nothing is copied.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RING: Final = 4  # buffers in turn: a pass uses two, so that no copy of the same pass is ever waited for
ALIGNMENT: Final = 16  # bytes
SMALLEST: Final = 1 << 16  # bytes of a buffer

NUMBERS: Final = {np.dtype(np.int64): torch.int64, np.dtype(np.int32): torch.int32}


class Fence(Protocol):
    """A point in a stream's work. `torch.cuda.Event` is one."""

    def synchronize(self) -> None:
        """Return once all work before the point is done."""


class CopyDevice(Protocol):
    """What staging asks of an accelerator."""

    def pinned(self, nbytes: int) -> Tensor:
        """Page-locked host memory: uint8 [nbytes]."""

    def copy(self, host: Tensor) -> tuple[Tensor, Fence]:
        """A copy of `host` on the device, queued, and the point after which `host` may be written again."""


class CudaCopies:
    """A `CopyDevice` over torch's current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def pinned(self, nbytes: int) -> Tensor:
        """See `CopyDevice.pinned`."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, host: Tensor) -> tuple[Tensor, Fence]:
        """See `CopyDevice.copy`."""
        copied = host.to(self._device, non_blocking=True)
        event: Any = torch.cuda.Event  # untyped
        fence = event()
        fence.record(torch.cuda.current_stream(self._device))
        return copied, fence


class Stager:
    """Sends arrays to one device. Used on the engine thread only."""

    def __init__(self, device: torch.device, copies: CopyDevice | None = None) -> None:
        self._copies = copies or (CudaCopies(device) if device.type == "cuda" else None)
        self._ring: list[tuple[Tensor, Fence | None]] = []
        self._next = 0

    def send(self, *arrays: NDArray[Any]) -> list[Tensor]:
        """The arrays on the device, int32 or int64, with the same shapes. On a CPU they share the arrays' memory."""
        if self._copies is None:
            return [torch.from_numpy(array) for array in arrays]
        ends = np.cumsum([padded(array.nbytes) for array in arrays])
        host, place = self._buffer(int(ends[-1]))
        flat = host.numpy()
        for array, end in zip(arrays, ends, strict=True):
            start = int(end) - padded(array.nbytes)
            flat[start : start + array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
        copied, fence = self._copies.copy(host[: int(ends[-1])])
        self._ring[place] = (host, fence)
        return [_piece(copied, int(end) - padded(array.nbytes), array) for array, end in zip(arrays, ends, strict=True)]

    def _buffer(self, nbytes: int) -> tuple[Tensor, int]:
        """A host buffer that no copy reads any more, and its place in the ring."""
        if self._copies is None:
            return torch.empty(nbytes, dtype=torch.uint8), 0
        place, self._next = self._next, (self._next + 1) % RING
        if place == len(self._ring):
            self._ring.append((self._copies.pinned(max(nbytes, SMALLEST)), None))
        host, fence = self._ring[place]
        if fence is not None:
            fence.synchronize()
        if host.nbytes < nbytes:
            host = self._copies.pinned(2 * nbytes)
        return host, place


def padded(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment of pieces."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _piece(copied: Tensor, start: int, array: NDArray[Any]) -> Tensor:
    return copied[start : start + array.nbytes].view(NUMBERS[array.dtype]).view(array.shape)
