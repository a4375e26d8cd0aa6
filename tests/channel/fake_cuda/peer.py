"""The other end of a cuda_ipc channel in a real process of its own, which can be killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch

from minedraft.channel.cuda_ipc import CudaIpcReceiver, CudaIpcSender
from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec, PayloadRef
from tests.channel.fake_cuda.machine import FakeMachine, HostMemory

PROCESS: Final = 2
PATIENCE: Final = 60.0  # seconds for an answer of a process that may still be importing torch


class Peer:
    """Runs in the other process: one end, and one method for each thing that a test asks of it."""

    def __init__(self, folder: Path, spec: ChannelSpec, sends: bool) -> None:
        torch.set_num_threads(1)
        self._driver = FakeMachine(folder).driver(PROCESS)
        device = torch.device("cuda", 0)
        kind = CudaIpcSender if sends else CudaIpcReceiver
        self._end: CudaIpcSender | CudaIpcReceiver = kind(spec, device, self._driver, HostMemory())

    def offer(self) -> bytes:
        return self._end.offer()

    def join(self, offer: bytes) -> bytes:
        return self._end.join(offer)

    def seal(self, answer: bytes) -> None:
        self._end.seal(answer)

    def send(self, values: list[float]) -> PayloadRef:
        assert isinstance(self._end, CudaIpcSender)
        slot = self._end.acquire()
        assert slot is not None
        tensor = torch.tensor(values)
        self._end.write(slot, tensor)
        return self._end.publish(slot, tensor.dtype, tuple(tensor.shape))

    def receive(self, ref: PayloadRef) -> list[float]:
        assert isinstance(self._end, CudaIpcReceiver)
        values: list[float] = self._end.receive(ref).tolist()
        self._end.release(ref)
        return values

    def close(self) -> None:
        self._end.close()

    def held(self) -> tuple[int, int, int]:
        held = self._driver.held()
        return held.allocated, held.opened, held.retained


def serve(connection: Connection, folder: Path, spec: ChannelSpec, sends: bool) -> None:
    """Answer (method, arguments) with the result or the ChannelError until the pipe closes."""
    peer = Peer(folder, spec, sends)
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        method: Callable[..., Any] = getattr(peer, name)
        try:
            connection.send(method(*arguments))
        except ChannelError as error:
            connection.send(error)


class PeerProcess:
    """Runs in the test: the peer by remote control."""

    def __init__(self, machine: FakeMachine, spec: ChannelSpec, sends: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, machine.folder, spec, sends)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, name: str, *arguments: object) -> Any:
        """The result of a method of `Peer`, or its ChannelError raised here."""
        self._connection.send((name, arguments))
        if not self._connection.poll(PATIENCE):
            raise TimeoutError(name)
        answer = self._connection.recv()
        if isinstance(answer, ChannelError):
            raise answer
        return answer

    def kill(self) -> None:
        """SIGKILL, and wait for it."""
        self._process.kill()
        self._process.join()
        self._connection.close()
