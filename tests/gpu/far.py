"""Channel ends in another process, behind the contract of `minedraft.channel.base`: each call is carried there.

So the conformance suite runs over kinds whose ends must not share a process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from minedraft.channel.base import DTYPE_NAMES, DTYPES, ChannelEnd, ReceiverEnd, SenderEnd
from minedraft.channel.place import Place, make_receiver, make_sender
from minedraft.errors import ChannelError, InternalError, MinedraftError
from minedraft.types import ChannelSpec, PayloadRef

PATIENCE = 120.0  # seconds for an answer of a process that may still be importing torch and opening a GPU
ERRORS: dict[str, type[MinedraftError]] = {kind.__name__: kind for kind in (ChannelError, InternalError)}


class FarProcess:
    """The other process. Ends in it are known by number."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """What the method of `_Ends` gives. Raises what it raises, and EOFError or OSError when the process is gone."""
        self._connection.send((method, arguments))
        assert self._connection.poll(PATIENCE), f"no answer to {method} in {PATIENCE:g} s"
        error, value = self._connection.recv()
        if error:
            raise ERRORS[error](value)
        return value

    def kill(self) -> None:
        """kill -9."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self.kill()
        self._connection.close()


class _FarEnd(ChannelEnd):
    """The handshake, and the number of the end."""

    def __init__(self, far: FarProcess, role: str, spec: ChannelSpec, place: Place) -> None:
        super().__init__(spec)
        self._far = far
        self._number: int = far.call("make", role, spec, place)

    def offer(self) -> bytes:
        return self._bytes("offer")

    def join(self, offer: bytes) -> bytes:
        return self._bytes("join", offer)

    def seal(self, answer: bytes) -> None:
        self._ask("seal", answer)

    def close(self) -> None:
        self._ask("close")

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._far.call(method, self._number, *arguments)

    def _bytes(self, method: str, *arguments: Any) -> bytes:
        answer: bytes = self._ask(method, *arguments)
        return answer


class FarSender(_FarEnd, SenderEnd):
    """A sender there. Tensors go as bytes."""

    def __init__(self, far: FarProcess, spec: ChannelSpec, place: Place) -> None:
        super().__init__(far, "sender", spec, place)

    def acquire(self) -> int | None:
        slot: int | None = self._ask("acquire")
        return slot

    def write(self, slot: int, tensor: Tensor, offset: int = 0) -> None:
        data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        self._ask("write", slot, data, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), offset)

    def publish(self, slot: int, dtype: torch.dtype, shape: tuple[int, ...]) -> PayloadRef:
        ref: PayloadRef = self._ask("publish", slot, DTYPE_NAMES[dtype], shape)
        return ref

    def reclaim(self, slot: int) -> None:
        self._ask("reclaim", slot)

    @property
    def free_slots(self) -> int:
        count: int = self._ask("free_slots")
        return count

    def _publish(self, ref: PayloadRef) -> None:
        raise NotImplementedError("publish is carried over as a whole")


class FarReceiver(_FarEnd, ReceiverEnd):
    """A receiver there. `receive` brings a copy here."""

    def __init__(self, far: FarProcess, spec: ChannelSpec, place: Place) -> None:
        super().__init__(far, "receiver", spec, place)

    def receive(self, ref: PayloadRef) -> Tensor:
        data: bytes = self._ask("receive", ref)
        return torch.frombuffer(bytearray(data), dtype=DTYPES[ref.dtype]).view(ref.shape)

    def release(self, ref: PayloadRef) -> None:
        self._ask("release", ref)


class _Ends:
    """What runs in the other process."""

    def __init__(self) -> None:
        self._devices: list[torch.device] = []
        self._ends: list[Any] = []

    def make(self, role: str, spec: ChannelSpec, place: Place) -> int:
        end = make_sender(spec, place, lambda _: None) if role == "sender" else make_receiver(spec, place)
        self._devices.append(place.device)
        self._ends.append(end)
        return len(self._ends) - 1

    def write(self, number: int, slot: int, data: bytes, dtype: str, shape: tuple[int, ...], offset: int) -> None:
        """As a drafter does: from a tensor on its device."""
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        self._ends[number].write(slot, flat.view(DTYPES[dtype]).view(shape).to(self._devices[number]), offset)

    def publish(self, number: int, slot: int, dtype: str, shape: tuple[int, ...]) -> PayloadRef:
        ref: PayloadRef = self._ends[number].publish(slot, DTYPES[dtype], shape)
        return ref

    def receive(self, number: int, ref: PayloadRef) -> bytes:
        tensor: Tensor = self._ends[number].receive(ref)
        return tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()

    def free_slots(self, number: int) -> int:
        count: int = self._ends[number].free_slots
        return count

    def other(self, method: str, number: int, *arguments: Any) -> Any:
        return getattr(self._ends[number], method)(*arguments)


def _run(connection: Connection) -> None:
    torch.set_num_threads(1)
    ends = _Ends()
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        own: Callable[..., Any] | None = getattr(ends, method, None)
        try:
            value = own(*arguments) if own else ends.other(method, *arguments)
            connection.send(("", value))
        except (ChannelError, InternalError) as error:
            connection.send((type(error).__name__, str(error)))


def place_of(device: torch.device, folder: Path) -> Place:
    return Place(folder, "127.0.0.1", device)
