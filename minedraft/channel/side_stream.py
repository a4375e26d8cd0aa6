"""A stream of its own for a channel's transfers, beside the one that the model runs on. Not yet run on a GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from minedraft.errors import ChannelError


class Mark(Protocol):
    """A point in a stream."""

    def done(self) -> bool:
        """Whether everything enqueued before it is finished. Raises ChannelError when the device failed."""


class SideStream(Protocol):
    """What the nccl channel asks of torch. The tests have a CPU twin."""

    @property
    def handle(self) -> int:
        """The cudaStream_t."""

    @property
    def gpu(self) -> str:
        """The UUID of the stream's GPU."""

    def on_device(self) -> AbstractContextManager[object]:
        """The stream's GPU is the calling thread's current one within."""

    def empty(self, nbytes: int) -> Tensor:
        """New memory, uint8 [nbytes], on the GPU. Raises ChannelError."""

    def follow(self) -> None:
        """What is enqueued here from now on runs after what the calling thread's stream has been given so far."""

    def mark(self) -> Mark:
        """This point in the stream."""

    def synchronise(self) -> None:
        """Wait until the stream is empty. Raises ChannelError."""


class CudaSideStream:
    """SideStream of a real GPU."""

    def __init__(self, device: torch.device) -> None:
        """Raises ChannelError when this is no GPU of this process."""
        try:
            self._device = torch.device("cuda", device.index or 0)
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._gpu = str(torch.cuda.get_device_properties(self._device).uuid)
        except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
            raise ChannelError(f"no stream on {device}: {error}") from error

    @property
    def handle(self) -> int:
        return int(self._stream.cuda_stream)

    @property
    def gpu(self) -> str:
        return self._gpu

    def on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._device)

    def empty(self, nbytes: int) -> Tensor:
        try:
            return torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        except RuntimeError as error:
            raise ChannelError(f"no {nbytes >> 20} MiB on {self._device}: {error}") from error

    def follow(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def mark(self) -> Mark:
        return CudaMark(self._stream.record_event())

    def synchronise(self) -> None:
        try:
            self._stream.synchronize()
        except RuntimeError as error:
            raise ChannelError(f"{self._device} failed: {error}") from error


class CudaMark:
    """Mark of a real GPU."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def done(self) -> bool:
        try:
            return bool(self._event.query())  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ChannelError(f"the GPU failed: {error}") from error
